"""The two tables of aligned faces: the manifest, and the quarantine of pictures that gave none."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pandas as pd
import pyarrow as pa

from styleblend.errors import StyleBlendError

MANIFEST = pa.schema(
    [
        ("face_id", pa.string()),
        ("source", pa.string()),
        ("path", pa.string()),
        ("raw_path", pa.string()),
        ("raw_sha256", pa.string()),
        ("raw_width", pa.int64()),
        ("raw_height", pa.int64()),
        ("url", pa.string()),
        ("licence", pa.string()),
        ("terms", pa.string()),
        ("person", pa.string()),
        ("detector", pa.string()),
        ("score", pa.float64()),
        ("quad", pa.list_(pa.float32())),
        ("size_px", pa.int64()),
        ("render_seed", pa.int64()),
        ("render_person", pa.int64()),
        ("render_picture", pa.int64()),
        ("author", pa.string()),
        ("weight", pa.float64()),
    ]
)

QUARANTINE = pa.schema([("source", pa.string()), ("raw_path", pa.string()), ("reason", pa.string())])


def read_manifest(faces: Path) -> pd.DataFrame:
    """The faces of a folder that the stage align wrote.

    Raises:
        StyleBlendError: it is not there.
    """
    return _read(faces / "manifest.parquet")


def read_quarantine(faces: Path) -> pd.DataFrame:
    """The pictures that gave no face, with the reasons.

    Raises:
        StyleBlendError: it is not there.
    """
    return _read(faces / "quarantine.parquet")


def _read(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise StyleBlendError(f"{path} is missing: run the stage align first")
    return pd.read_parquet(path)


def face_id(source: str, raw_path: str, number: int) -> str:
    """Stable name of the `number`-th face (the largest is 0) of a raw picture."""
    return f"{source}-{hashlib.sha256(f'{raw_path}#{number}'.encode()).hexdigest()[:12]}"
