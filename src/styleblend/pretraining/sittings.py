"""What sittings of the starter's recipe leave to the next: prepared photographs, and trainings; and what to forget."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pandas as pd

from styleblend.data.forgotten import Forgotten
from styleblend.system.lock import hold

STATE = Path(".state/pretrain_faces")
"""Photographs as they were prepared, and checkpoints."""

_PARTS = ("train", "val", "test")


def alone(state: Path) -> AbstractContextManager[int]:
    """Hold the state of the recipe, which one process at a time may change.

    Raises:
        Locked: another process is at it.
    """
    return hold(state / "recipe.lock", "another process runs pretrain_faces", state)


def prepared(state: Path) -> list[Path]:
    """Folders of aligned faces that earlier sittings prepared."""
    return sorted(folder / "faces" for folder in state.glob("data-*"))


def forget(state: Path, without: Forgotten) -> set[str]:
    """Remove what sittings prepared, wherever it holds what is to be forgotten; returns the ids of such faces.

    A folder goes as a whole and at once, so that what is left of it is never taken for finished. The next sitting
    prepares the others again, mostly from kept results.
    """
    gone, hit = state / "forgotten", set[str]()
    shutil.rmtree(gone, ignore_errors=True)
    for folder in sorted(state.glob("data-*")) if without.size else ():
        faces = _held(folder.glob("faces/manifest.parquet"), "raw_sha256", "face_id", without)
        if faces or _held(folder.glob("raw/*/index.parquet"), "sha256", "path", without):
            hit |= faces
            folder.rename(gone)
            shutil.rmtree(gone)
    return hit


def _held(tables: Iterable[Path], digest: str, name: str, without: Forgotten) -> set[str]:
    rows = (row for file in tables for row in pd.read_parquet(file, columns=[name, digest, "person"]).to_numpy())
    return {str(named) for named, sha256, person in rows if without.holds({"sha256": sha256, "person": person})}


def dealt_in(training: Path) -> list[str]:
    """Ids of the faces of a training's splits, sorted."""
    files = (training / f"splits/{part}.parquet" for part in _PARTS)
    return ids(pd.read_parquet(file) for file in files if file.is_file())


def ids(tables: Iterable[pd.DataFrame]) -> list[str]:
    """Ids of the faces of several tables, sorted."""
    return sorted(str(face) for table in tables for face in table["face_id"])


def learned_from(state: Path, faces: set[str]) -> Iterator[Path]:
    """Folders of trainings that were dealt one of these faces."""
    return (folder for folder in sorted(state.glob("training-*")) if not faces.isdisjoint(dealt_in(folder)))
