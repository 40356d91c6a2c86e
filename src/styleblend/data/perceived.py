"""The table of what the frozen networks see in each face: written once, read by training and evaluation.

What was seen in a face is kept by its picture's content and by all that the result depends on, so that a killed run
goes on and a later run looks at new faces alone (`system.kept`). For that, a face must have the same row whichever
faces are looked at with it: batches always have the same size, the last one filled up, since kernels are chosen by it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn
from tqdm import tqdm

from styleblend.config.data import WHERE, Perceive
from styleblend.data import quality
from styleblend.data.manifest import read_manifest
from styleblend.errors import StyleBlendError
from styleblend.faces.pixels import from_8bit
from styleblend.perception import attributes, identity, landmarks
from styleblend.perception.identity import FaceNetwork
from styleblend.perception.mesh import MeshLandmarks, to_68
from styleblend.system import ray_data
from styleblend.system.code import code_fingerprint
from styleblend.system.files import fingerprint, sha256, whole_file
from styleblend.system.kept import Kept, kept
from styleblend.system.libraries import versions
from styleblend.system.parallel import cores, spread
from styleblend.system.ray_data import Cluster
from styleblend.weights import frozen

Item = TypeVar("Item")

VECTORS = ("identity", "judge", "landmarks", "expression")
NUMBERS = ("yaw_deg", "pitch_deg", "roll_deg", "sharpness")
MESH = pa.field("mesh", pa.list_(pa.float32()))
"""All points of a mesh, x, y and depth one after the other; only where the landmark network is a mesh."""

PERCEIVED = pa.schema(
    [("face_id", pa.string()), ("identity_metric", pa.string())]
    + [(name, pa.list_(pa.float32())) for name in VECTORS]
    + [(name, pa.float64()) for name in (*NUMBERS, *quality.EXPOSURE, quality.COVERED)]
    + [(quality.HASH, pa.string())]
)

PACKAGE = Path(__file__).parents[1]
CODE = (
    "data/perceived.py",
    "data/quality.py",
    "faces/mean_box.py",
    "faces/pixels.py",
    "perception",
    "weights/formats",
    "weights/frozen.py",
)
"""What decides what is seen in a face: other code leaves kept results as they are."""
ROLES = ("identity", "identity_judge", "landmarks", "attributes_judge")
LIBRARIES = ("pillow", "numpy", "opencv-python", "scipy", "torch", "onnxruntime", "onnxruntime-gpu", "insightface")


@dataclass(frozen=True)
class Networks:
    """The frozen networks that look at faces, as perception's modules define them."""

    identity: FaceNetwork
    judge: nn.Module
    landmarks: nn.Module
    attributes: nn.Module


@dataclass(frozen=True)
class PerceiveTask:
    """Faces that are looked at together: their pictures, and the keys of what is kept of them in the folder `store`."""

    files: tuple[Path, ...]
    keys: tuple[str, ...]
    size: int
    networks: Path
    device: str
    store: Path

    def reads(self) -> tuple[Path, ...]:
        """See system.ray_data."""
        return self.files

    def moved(self, files: tuple[Path, ...], networks: Path, store: Path) -> PerceiveTask:
        """See system.ray_data."""
        return replace(self, files=files, networks=networks, store=store)


def load_networks(folder: Path, device: str, threads: int = 0) -> Networks:
    """Load the networks that the stage pretrained put into `folder`.

    Args:
        threads: of ONNX Runtime on the CPU; 0 lets it take all cores.
    """
    return Networks(
        identity=identity.load(folder, "identity").to(device),
        judge=identity.load(folder, "identity_judge").to(device),
        landmarks=landmarks.load(folder).to(device),
        attributes=attributes.load(folder, "attributes_judge", threads).to(device),
    )


def perceive_folder(
    faces: Path, networks: Path, out: Path, cfg: Perceive, device: str = "cpu", state: Path | None = None
) -> pd.DataFrame:
    """Measure every face of the manifest and write one row a face, in the manifest's order.

    The table is bit for bit the same whether results of earlier runs are used or not, and with any number of workers.

    Args:
        networks: folder that the stage pretrained filled. state: of what earlier runs finished; None starts anew.
    Raises:
        StyleBlendError: a network, the manifest or a face's picture is missing or damaged.
    """
    manifest = read_manifest(faces)
    files = [faces / path for path in manifest["path"]]
    landmarks_file = frozen.foreign(networks, "landmarks")
    mesh = landmarks_file is not None and landmarks_file.suffix == ".tflite"
    _networks.cache_clear()
    with kept(state, "perceive", _made_by(networks, cfg, device), out) as (store, used):
        keys = [_key(file) for file in files]
        used.update(keys)
        unseen = {key: file for key, file in zip(keys, files, strict=True) if store.get(key) is None}
        tasks = [
            PerceiveTask(
                tuple(unseen[key] for key in some), tuple(some), cfg.batch_size, networks, device, store.folder
            )
            for some in _chunks(tuple(unseen), cfg.batch_size)
        ]
        if cfg.ray_address is not None:
            cluster = Cluster(cfg.ray_address, "perceive.ray_address", cfg.gpus_per_worker)
            ray_data.fill(store, perceive_batch, tasks, networks, cluster, "perceive on the cluster")
            tasks = [task for task in tasks if any(store.get(key) is None for key in task.keys)]
        # One process feeds a GPU; its networks would stand there once a process.
        workers = cfg.workers or (cores() if device == "cpu" else 1)
        for _ in spread(perceive_batch, tasks, workers, "perceive"):
            pass
        _write(manifest, keys, store, out, PERCEIVED.append(MESH) if mesh else PERCEIVED, cfg.batch_size)
    return pd.read_parquet(out)


@torch.inference_mode()
def perceive_faces(faces: Path, networks: Networks, out: Path, cfg: Perceive, device: str = "cpu") -> pd.DataFrame:
    """As `perceive_folder`, by networks that are loaded, in this process, and nothing is kept.

    Raises:
        StyleBlendError: the manifest or a face's picture is missing or unreadable.
    """
    manifest = read_manifest(faces)
    starts = range(0, len(manifest), cfg.batch_size)
    # Written batch by batch: all rows at once would take gigabytes for a large data set.
    schema = PERCEIVED.append(MESH) if isinstance(networks.landmarks, MeshLandmarks) else PERCEIVED
    with whole_file(out) as partial, pq.ParquetWriter(partial, schema) as writer:
        for start in tqdm(starts, desc="perceive", unit="batch", disable=None):
            batch = manifest.iloc[start : start + cfg.batch_size]
            columns = _seen([faces / path for path in batch["path"]], networks, device)
            columns["face_id"] = batch["face_id"].tolist()
            writer.write_table(pa.Table.from_pydict(columns, schema=schema))
    return pd.read_parquet(out)


@torch.inference_mode()
def perceive_batch(task: PerceiveTask) -> None:
    """Look at the faces of a task, and keep a row of each."""
    threads = torch.get_num_threads()
    if task.device == "cpu":
        torch.set_num_threads(1)  # the processes are the parallelism
    try:
        networks = _networks(task.networks, task.device)
        columns = _seen(task.files, networks, task.device, task.size)
    finally:
        torch.set_num_threads(threads)
    schema = PERCEIVED.append(MESH) if "mesh" in columns else PERCEIVED
    table = pa.Table.from_pydict(columns, schema=schema.remove(schema.get_field_index("face_id")))
    for number, key in enumerate(task.keys):
        row = pa.BufferOutputStream()
        with pa.ipc.new_stream(row, table.schema) as stream:
            stream.write_table(table.slice(number, 1))
        Kept(task.store).put(key, row.getvalue().to_pybytes())


@lru_cache(maxsize=1)
def _networks(folder: Path, device: str) -> Networks:
    return load_networks(folder, device, threads=1)


def _made_by(networks: Path, cfg: Perceive, device: str) -> str:
    """A name for all that decides what is seen in a face, apart from its picture."""
    files = [file for role in ROLES for file in frozen.files_of(networks, role)]
    named: list[Path | str] = [*files, *(file.name for file in files)]
    code = code_fingerprint(*(PACKAGE / name for name in CODE))
    return fingerprint(cfg.model_dump_json(exclude=WHERE), device, versions(LIBRARIES), *named, code)


def _key(file: Path) -> str:
    try:
        return sha256(file)
    except OSError as error:
        raise _unreadable(file, error) from None


def _write(manifest: pd.DataFrame, keys: list[str], store: Kept, out: Path, schema: pa.Schema, size: int) -> None:
    """Write the kept rows in the manifest's order, batch by batch: all at once would take gigabytes."""
    with whole_file(out) as partial, pq.ParquetWriter(partial, schema) as writer:
        for names, some in zip(_chunks(manifest["face_id"].tolist(), size), _chunks(keys, size), strict=True):
            rows = []
            for key in some:
                content = store.get(key)
                if content is None:
                    raise StyleBlendError(f"{store.file(key)} was damaged a moment ago: run the stage perceive again")
                rows.append(pa.ipc.open_stream(content).read_all())
            table = pa.concat_tables(rows).combine_chunks()
            columns = {name: table[name] for name in table.column_names} | {"face_id": pa.array(names, pa.string())}
            writer.write_table(pa.table([columns[field.name] for field in schema], schema=schema))


def _chunks(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _seen(files: Sequence[Path], networks: Networks, device: str, size: int = 0) -> dict[str, Any]:
    """What the networks say of the faces in some files: the columns of PERCEIVED, without `face_id`.

    Args:
        size: to which the batch is filled up with its last face.
    """
    pixels = _pictures(files, 1 if device == "cpu" else cores())
    filled = np.concatenate([pixels, pixels[-1:].repeat(max(0, size - len(pixels)), axis=0)])
    images = from_8bit(torch.from_numpy(filled).to(device).permute(0, 3, 1, 2))
    angles, expression = networks.attributes(images)
    meshes = {}
    if isinstance(networks.landmarks, MeshLandmarks):
        meshes["mesh"] = networks.landmarks.mesh(images)
        points = to_68(meshes["mesh"])[..., :2]
    else:
        points = networks.landmarks(images)
    seen = {
        "identity": networks.identity(images),
        "judge": networks.judge(images),
        "landmarks": points.flatten(1),
        "expression": expression,
        **{name: each.flatten(1) for name, each in meshes.items()},
    }
    count = len(pixels)
    columns: dict[str, Any] = {name: value[:count].float().cpu().tolist() for name, value in seen.items()}
    # Who reads the table alone must know how its vectors are compared, and whether they have unit length.
    columns["identity_metric"] = [networks.identity.metric] * count
    columns |= dict(zip(NUMBERS, angles[:count].float().cpu().T.tolist(), strict=False))
    columns["sharpness"] = [sharpness(picture) for picture in pixels]
    columns |= quality.columns(pixels, points[:count].float().cpu().reshape(count, -1, 2).numpy())
    return columns


def sharpness(pixels: NDArray[np.uint8]) -> float:
    """Variance of the Laplacian of the grey picture in [0, 255]; pixels [H, W, 3]."""
    return float(cv2.Laplacian(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), cv2.CV_64F).var())


def _pictures(files: Sequence[Path], threads: int) -> NDArray[np.uint8]:
    """Pixels [N, S, S, 3] of pictures of one size, decoded by several threads."""
    if threads == 1:
        return np.stack([_pixels(file) for file in files])
    with ThreadPoolExecutor(threads) as pool:
        return np.stack(list(pool.map(_pixels, files)))


def _pixels(path: Path) -> NDArray[np.uint8]:
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: OSError) -> StyleBlendError:
    return StyleBlendError(f"face {path} cannot be read ({error}): run the stage align again")
