"""The two tables of aligned faces: the manifest, and the quarantine of pictures that gave none."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pandas as pd
import pyarrow as pa

from styleblend.errors import StyleBlendError

MANIFEST = pa.schema(
    [(name, pa.string()) for name in ("face_id", "source", "path", "raw_path", "raw_sha256")]
    + [(name, pa.int64()) for name in ("raw_width", "raw_height")]
    + [(name, pa.string()) for name in ("url", "licence", "terms", "person", "detector")]
    + [("score", pa.float64()), ("quad", pa.list_(pa.float32()))]
    + [(name, pa.int64()) for name in ("size_px", "render_seed", "render_person", "render_picture")]
    + [("author", pa.string()), ("weight", pa.float64()), ("notes", pa.string())]
)
"""`notes`: what was assumed or lost while the picture was read, as damage outside its pixels; null: nothing."""

QUARANTINE = pa.schema(
    [("source", pa.string()), ("raw_path", pa.string()), ("reason", pa.string()), ("is_picture", pa.bool_())]
)
"""`is_picture` is false for files that are no pictures by their endings: they count in no share."""


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
