"""The table of what the frozen networks see in each face: written once, read by training and evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

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

from styleblend.config.data import Perceive
from styleblend.data import quality
from styleblend.data.manifest import read_manifest
from styleblend.errors import StyleBlendError
from styleblend.faces.pixels import from_8bit
from styleblend.perception import attributes, identity, landmarks
from styleblend.perception.identity import FaceNetwork
from styleblend.perception.mesh import MeshLandmarks, to_68
from styleblend.system.files import whole_file

VECTORS = ("identity", "judge", "landmarks", "expression")
NUMBERS = ("yaw_deg", "pitch_deg", "roll_deg", "sharpness")
MESH = pa.field("mesh", pa.list_(pa.float32()))
"""All points of a mesh, x, y and depth one after the other; only where the landmark network is a mesh."""

PERCEIVED = pa.schema(
    [("face_id", pa.string()), ("identity_metric", pa.string())]
    + [(name, pa.list_(pa.float32())) for name in VECTORS]
    + [(name, pa.float64()) for name in (*NUMBERS, *quality.EXPOSURE)]
    + [(quality.HASH, pa.string())]
)


@dataclass(frozen=True)
class Networks:
    """The frozen networks that look at faces, as perception's modules define them."""

    identity: FaceNetwork
    judge: nn.Module
    landmarks: nn.Module
    attributes: nn.Module


def load_networks(folder: Path, device: str) -> Networks:
    """Load the networks that the stage pretrained put into `folder`."""
    return Networks(
        identity=identity.load(folder, "identity").to(device),
        judge=identity.load(folder, "identity_judge").to(device),
        landmarks=landmarks.load(folder).to(device),
        attributes=attributes.load(folder, "attributes_judge").to(device),
    )


@torch.inference_mode()
def perceive_faces(faces: Path, networks: Networks, out: Path, cfg: Perceive, device: str = "cpu") -> pd.DataFrame:
    """Measure every face of the manifest and write one row a face, in the manifest's order.

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
            writer.write_table(pa.Table.from_pydict(_seen(batch, faces, networks, device), schema=schema))
    return pd.read_parquet(out)


def _seen(batch: pd.DataFrame, faces: Path, networks: Networks, device: str) -> dict[str, Any]:
    """What the networks say of a batch of the manifest's rows: the columns of PERCEIVED."""
    pixels = np.stack([_pixels(faces / path) for path in batch["path"]])
    images = from_8bit(torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2))
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
    columns: dict[str, Any] = {name: value.float().cpu().tolist() for name, value in seen.items()}
    columns["face_id"] = batch["face_id"].tolist()
    # Who reads the table alone must know how its vectors are compared, and whether they have unit length.
    columns["identity_metric"] = [networks.identity.metric] * len(batch)
    columns |= dict(zip(NUMBERS, angles.float().cpu().T.tolist(), strict=False))
    columns["sharpness"] = [sharpness(picture) for picture in pixels]
    columns |= quality.columns(pixels)
    return columns


def sharpness(pixels: NDArray[np.uint8]) -> float:
    """Variance of the Laplacian of the grey picture in [0, 255]; pixels [H, W, 3]."""
    return float(cv2.Laplacian(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), cv2.CV_64F).var())


def _pixels(path: Path) -> NDArray[np.uint8]:
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except OSError as error:
        raise StyleBlendError(f"face {path} cannot be read ({error}): run the stage align again") from None
