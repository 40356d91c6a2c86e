"""From raw pictures to aligned faces: every input ends in the manifest, or in quarantine with a reason.

Each picture is read and decoded once. What came of it is kept by its content and by all that the result depends on, so
that a killed run goes on and a later run does what is new (`system.kept`).
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pandas as pd
from PIL import Image

from styleblend.config.base import Finder
from styleblend.config.data import WHERE, Align
from styleblend.data.index import read_index, write_rows
from styleblend.data.manifest import MANIFEST, QUARANTINE, face_id, read_manifest, read_quarantine
from styleblend.errors import StyleBlendError, shown
from styleblend.face_detector import loader
from styleblend.face_detector.detection import Detection, annotated
from styleblend.face_detector.finder import FaceFinder, Found, confirmed
from styleblend.faces.alignment import AlignedFace, AlignmentError, align_face
from styleblend.faces.pictures import UnusablePicture, open_picture
from styleblend.provenance import save_picture
from styleblend.system import ray_data
from styleblend.system.code import code_fingerprint
from styleblend.system.files import fingerprint, sha256, whole_file, whole_folder
from styleblend.system.kept import Kept, kept, linked
from styleblend.system.libraries import versions
from styleblend.system.parallel import cores, spread
from styleblend.system.ray_data import Cluster
from styleblend.weights import frozen

if TYPE_CHECKING:
    from styleblend.perception.mesh import FaceMesh


PACKAGE = Path(__file__).parents[1]
CODE = (
    "data/align.py",
    "face_detector",
    "faces/alignment.py",
    "faces/damage.py",
    "faces/mean_box.py",
    "faces/picture_kinds.py",
    "faces/pictures.py",
    "faces/pixels.py",
    "faces/template.py",
    "perception/fan.py",
    "perception/layers.py",
    "perception/mesh.py",
    "weights/formats",
    "weights/frozen.py",
)
"""What decides what becomes of a picture: other code leaves kept results as they are."""
LIBRARIES = (
    "pillow", "numpy", "opencv-python", "torch", "onnxruntime", "onnxruntime-gpu", "insightface", "face-alignment",
)  # fmt: skip


@dataclass(frozen=True)
class AlignTask:
    """One raw picture: its row of the index, and where to read and write.

    networks: folder that holds the detector. store: folder of the kept results.
    """

    row: dict[str, Any]
    raw: Path
    out: Path
    networks: Path
    store: Path
    cfg: Align

    def reads(self) -> tuple[Path, ...]:
        """See system.ray_data."""
        return (self.raw / self.row["path"],)

    def moved(self, files: tuple[Path, ...], networks: Path, store: Path) -> AlignTask:
        """See system.ray_data; `out` stays, so it can be looked at elsewhere, but not placed."""
        (file,) = files
        row = self.row | {"path": file.name}
        return replace(self, row=row, raw=file.parent, networks=networks, store=store)


@dataclass(frozen=True)
class AlignedPicture:
    """What became of one raw picture: manifest rows, or the reason why there are none; and the kept files of it."""

    faces: list[dict[str, Any]]
    reason: str | None
    used: tuple[str, ...] = ()


def align_faces(
    raw: Path, networks: Path, out: Path, cfg: Align, state: Path | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Write aligned faces, manifest.parquet and quarantine.parquet to `out`; return both tables.

    They are bit for bit the same whether results of earlier runs are used or not.

    Args:
        state: folder of what earlier runs finished; None does everything anew.
    Raises:
        StyleBlendError: there is no index, the detector's file is missing, or no picture gives a face.
    """
    index = read_index(raw)
    _finder.cache_clear()
    _mesh.cache_clear()
    # A missing or wrong file is reported once, before any process starts.
    if cfg.detector != "annotations" and index["landmarks"].isna().any():
        _finder(cfg.detector, networks, cfg.min_score, cfg.min_face_px)
    else:
        _mesh(networks)
    with whole_folder(out) as partial, kept(state, "align", _made_by(networks, cfg), out) as (store, used):
        (partial / "images").mkdir()
        rows: list[dict[str, Any]] = index.astype(object).where(index.notna(), None).to_dict("records")  # type: ignore[assignment]
        tasks = [AlignTask(row, raw, partial, networks, store.folder, cfg) for row in rows]
        if cfg.ray_address is not None:
            new = [task for task in tasks if task.row["refused"] is None and _kept(store, _key(task.row)) is None]
            cluster = Cluster(cfg.ray_address, "align.ray_address")
            ray_data.fill(store, look_at_picture, new, networks, cluster, "align on the cluster")
        faces: list[dict[str, Any]] = []
        refused: list[dict[str, Any]] = []
        outcomes = spread(align_picture, tasks, cfg.workers or cores(), "align")
        for row, outcome in zip(rows, outcomes, strict=True):
            used.update(outcome.used)
            faces += outcome.faces
            if outcome.reason is not None:
                told = {"reason": outcome.reason, "is_picture": row.get("is_picture") in (None, True)}
                refused.append({"source": row["source"], "raw_path": row["path"], **told})
        if not faces:
            raise StyleBlendError(
                f"no face found in any of the {len(rows)} pictures of {raw} (the first, "
                f"{refused[0]['raw_path']}: {refused[0]['reason']}): give photographs that show faces, "
                f"or lower align.min_score {cfg.min_score} or align.min_face_px {cfg.min_face_px}"
            )
        write_rows(faces, MANIFEST, partial / "manifest.parquet")
        write_rows(refused, QUARANTINE, partial / "quarantine.parquet")
    return read_manifest(out), read_quarantine(out)


def _made_by(networks: Path, cfg: Align) -> str:
    """A name for all that decides what becomes of a picture, apart from the picture and its row."""
    files = [file for role in ("detector", "landmarks") for file in frozen.files_of(networks, role)]
    named: list[Path | str] = [*files, *(file.name for file in files)]
    code = code_fingerprint(*(PACKAGE / name for name in CODE))
    return fingerprint(cfg.model_dump_json(exclude=WHERE), versions(LIBRARIES), *named, code)


def align_picture(task: AlignTask) -> AlignedPicture:
    """Give the faces of one raw picture their names and places: kept ones, or else those that are found now."""
    record = look_at_picture(task)
    if isinstance(record, str):
        return AlignedPicture([], record)
    store, key = Kept(task.store), _key(task.row)
    faces = [_placed(task, store, record, each) for each in record["faces"]]
    used = (key, *(f"{key}{_suffix(each)}" for each in record["faces"]))
    return AlignedPicture(faces, record["reason"], used)


def look_at_picture(task: AlignTask) -> dict[str, Any] | str:
    """The record of a raw picture's faces, a kept one or else one that is kept now; or why nothing is looked at."""
    row = task.row
    if row.get("refused") is not None:
        return str(row["refused"])
    try:
        content = (task.raw / row["path"]).read_bytes()
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if hashlib.sha256(content).hexdigest() != row["sha256"]:
        return "changed since the download: its SHA-256 is not the index's"
    store, key = Kept(task.store), _key(row)
    record = _kept(store, key)
    if record is None:
        record, lasts = _looked_at(task, content, key)
        if lasts:
            store.put(key, json.dumps(record).encode())
    return record


def _key(row: dict[str, Any]) -> str:
    """What decides the faces of a picture beside `_made_by`: not its name, so a copy or a moved picture is known."""
    points = b"" if row["landmarks"] is None else np.asarray(row["landmarks"], dtype=np.float32).tobytes()
    rendered = row["render_seed"] is not None  # such faces are marked
    return hashlib.sha256(f"{row['sha256']} {rendered} ".encode() + points).hexdigest()


def _suffix(face: dict[str, Any]) -> str:
    return f"-{face['number']}.png"


def _kept(store: Kept, key: str) -> dict[str, Any] | None:
    """The record of a finished picture, if it and all its faces are there and undamaged."""
    content = store.get(key)
    if content is None:
        return None
    record: dict[str, Any] = json.loads(content)
    for face in record["faces"]:
        file = store.file(key, _suffix(face))
        if not file.is_file() or sha256(file) != face["sha256"]:
            return None
    return record


def _looked_at(task: AlignTask, content: bytes, key: str) -> tuple[dict[str, Any], bool]:
    """Find, cut out and save the faces of a picture: a record of them or of the reason, and whether it would recur."""
    cv2.setNumThreads(1)  # the processes are the parallelism
    try:
        picture = open_picture(io.BytesIO(content), task.cfg.max_pixels)
        image, notes = picture.opaque(), "; ".join(picture.notes) or None
        del picture  # a large one is held once
        with _contained():
            seen = faces_of(task, image)
        faces = [_saved(task, key, *each) for each in seen]
    except (UnusablePicture, AlignmentError) as reason:
        # Not the picture's fault, though it is refused now.
        passing = isinstance(reason.__context__, MemoryError)
        return {"faces": [], "reason": shown(" ".join(str(reason).split()))}, not passing
    return {"faces": faces, "reason": None, "width": image.width, "height": image.height, "notes": notes}, True


_CutOut = tuple[int, Detection, AlignedFace]
"""Number of a face in its picture, where it was found, and the aligned picture."""


def faces_of(task: AlignTask, image: Image.Image) -> list[_CutOut]:
    """The faces of an upright RGB picture, each cut out; at least one.

    Raises:
        UnusablePicture, AlignmentError: there is none that can be used; the message is the reason.
    """
    found = enumerate(_choose(task, image))
    return [(number, each, align_face(image, each.points_px, task.cfg.size_px)) for number, each in found]


@contextmanager
def _contained() -> Iterator[None]:
    """What a library stumbles over in one picture costs that picture, not the run; a full disk, say, does end it."""
    try:
        yield
    except (UnusablePicture, AlignmentError, StyleBlendError, OSError):
        raise
    except Exception as error:
        raise UnusablePicture(f"cannot be looked at ({type(error).__name__}: {error})") from error


@lru_cache(maxsize=1)
def _finder(kind: Finder, networks: Path, min_score: float, min_face_px: int) -> FaceFinder:
    return loader.load_finder(kind, networks, min_score, threads=1, min_face_px=min_face_px, mesh=_mesh(networks))


@lru_cache(maxsize=1)
def _mesh(networks: Path) -> FaceMesh | None:
    return loader.load_mesh(networks)


def _found(task: AlignTask, image: Image.Image) -> Found:
    """The faces of a picture, checked; what is no face in the eyes of the run's mesh no stage can use."""
    cfg = task.cfg
    if task.row["landmarks"] is not None:
        return confirmed(_mesh(task.networks), image, [annotated(task.row["landmarks"])])
    if cfg.detector == "annotations":
        raise UnusablePicture("no annotated landmarks: set align.detector to yunet")
    return _finder(cfg.detector, task.networks, cfg.min_score, cfg.min_face_px).find(image)


def _choose(task: AlignTask, image: Image.Image) -> list[Detection]:
    """The faces to use, the largest first; at least one."""
    cfg = task.cfg
    found = _found(task, image)
    if not found.faces:
        raise UnusablePicture(found.problem or f"no face found with a score of at least {cfg.min_score}")
    large = [face for face in found.faces if face.side_px >= cfg.min_face_px]
    if not large:
        side_px = max(face.side_px for face in found.faces)
        raise UnusablePicture(f"largest face is {side_px:.0f} px, under align.min_face_px {cfg.min_face_px}")
    if cfg.several_faces == "quarantine" and len(large) > 1:
        raise UnusablePicture(f"{len(large)} faces, and align.several_faces is quarantine")
    return large if cfg.several_faces == "all" else large[:1]


def _saved(task: AlignTask, key: str, number: int, found: Detection, aligned: AlignedFace) -> dict[str, Any]:
    """Keep the picture of a face; what the manifest will say of it."""
    face: dict[str, Any] = {"number": number, "score": found.score, "quad": aligned.quad.flatten().tolist()}
    file = Kept(task.store).file(key, _suffix(face))
    if task.row["render_seed"] is not None:
        save_picture(aligned.picture, file, model="styleblend.synthetic", kind="rendered", lasting=False)
    else:
        with whole_file(file, lasting=False) as partial:
            aligned.picture.save(partial)
    return {**face, "sha256": sha256(file)}


def _placed(task: AlignTask, store: Kept, record: dict[str, Any], face: dict[str, Any]) -> dict[str, Any]:
    """Lay a kept face among the aligned faces; its row of the manifest."""
    row = task.row
    name = face_id(row["source"], row["path"], face["number"])
    path = Path("images") / f"{name}.png"
    linked(store.file(_key(row), _suffix(face)), task.out / path)
    copied = ("source", "url", "licence", "terms", "person", "author", "weight")
    return {
        **{key: row[key] for key in (*copied, "render_seed", "render_person", "render_picture")},
        "face_id": name,
        "path": path.as_posix(),
        "raw_path": row["path"],
        "raw_sha256": row["sha256"],
        "raw_width": record["width"],
        "raw_height": record["height"],
        "detector": task.cfg.detector if row["landmarks"] is None else "annotations",
        "score": face["score"],
        "quad": face["quad"],
        "size_px": task.cfg.size_px,
        "notes": record["notes"],
    }
