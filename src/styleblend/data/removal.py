"""Pictures taken out of what the stages wrote: raw files, aligned faces, what was perceived, splits and pairs.

Nothing runs again here. DVC finds the outputs changed, as the list of what is forgotten is, and makes them anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

from styleblend.errors import StyleBlendError
from styleblend.system.files import sha256, whole_file

RAW, FACES, SPLITS = Path("data/raw"), Path("data/faces"), Path("data/splits")
PERCEIVED = Path("data/perceived.parquet")


@dataclass(frozen=True)
class Named:
    """What somebody named: the hashes of the pictures that the data have of it now.

    person: the label by which the data know it; None where pictures are meant.
    """

    words: str
    pictures: frozenset[str]
    person: str | None = None


def find(project: Path, name: str, others: Sequence[Path] = ()) -> Named:
    """What a name stands for: a picture's file, a path in data/raw, a face's id, or a person's name.

    Args:
        others: folders of aligned faces that are no stage's; they are asked for persons where the data have none.
        name: a file is looked for in the current folder; persons are the labels of the sources, or the clusters that
            the splits name where there are no labels.
    Raises:
        StyleBlendError: nothing has that name.
    """
    index, manifest = _index(project), _table(project / FACES / "manifest.parquet")
    file = Path(name)
    if manifest is not None:
        face = manifest[(manifest["face_id"] == name) | (manifest["face_id"] == file.stem)]
        if len(face) and (not file.is_file() or file.resolve().is_relative_to((project / FACES).resolve())):
            return Named(f"picture {name}", frozenset(face["raw_sha256"]))
    if file.is_file():
        return Named(f"picture {name}", frozenset({sha256(file)}))
    if index is not None:
        rows = index[index["path"] == name]
        if len(rows):
            return Named(f"picture {name}", frozenset(rows["sha256"]))
        rows = index[index["person"] == name]
        if len(rows):
            return Named("person", frozenset(rows["sha256"]), name)
    for folder in others:
        table = _table(folder / "manifest.parquet")
        if table is not None and len(rows := table[table["person"] == name]):
            return Named("person", frozenset(rows["raw_sha256"]), name)
    members = _members(project, name)
    if manifest is not None and members:
        rows = manifest[manifest["face_id"].isin(members)]
        return Named("person without a label", frozenset(rows["raw_sha256"]))
    raise StyleBlendError(
        f"'{name}' is neither a picture's file nor a person of the data: give the path of a picture, or a name from "
        f"the column person of {RAW}/*/index.parquet or {SPLITS}/*.parquet"
    )


def remove(project: Path, pictures: frozenset[str], person: str | None) -> dict[str, int]:
    """Take the pictures of these hashes, and of this label, out of the data; returns what was removed, by words.

    Tables are written whole, the index of a source last, so that a removal that was broken off can be repeated.
    """
    manifest = _table(project / FACES / "manifest.parquet")
    gone: set[str] = set()
    if manifest is not None:
        rows = manifest[_of(manifest, "raw_sha256", pictures, person)]
        gone = set(rows["face_id"])
        for path in rows["path"]:
            (project / FACES / path).unlink(missing_ok=True)
    counts = {"pairs": 0, "rows of splits": 0, "faces": len(gone), "raw pictures": 0}
    for table in sorted((project / SPLITS).glob("*.parquet")):
        columns = [name for name in pq.read_schema(table).names if name in ("face_id", "source_id", "target_id")]
        kind = "rows of splits" if columns == ["face_id"] else "pairs"
        counts[kind] += _drop(table, {name: gone for name in columns})
    if (project / PERCEIVED).is_file():
        _drop(project / PERCEIVED, {"face_id": gone})
    raw_paths: set[str] = set()
    indexes = sorted((project / RAW).glob("*/index.parquet"))
    for each in indexes:
        index = pd.read_parquet(each)
        raw_paths |= set(index[_of(index, "sha256", pictures, person)]["path"])
    quarantine = project / FACES / "quarantine.parquet"
    if quarantine.is_file():
        _drop(quarantine, {"raw_path": raw_paths})
    if manifest is not None:
        _drop(project / FACES / "manifest.parquet", {"face_id": gone})
    for path in raw_paths:
        (project / RAW / path).unlink(missing_ok=True)
    for each in indexes:
        counts["raw pictures"] += _drop(each, {"path": raw_paths})
    return counts


def _of(table: pd.DataFrame, column: str, pictures: frozenset[str], person: str | None) -> pd.Series:
    chosen = table[column].isin(pictures)
    return chosen if person is None else chosen | (table["person"] == person)


def _drop(file: Path, without: Mapping[str, set[str]]) -> int:
    """Write a table again without the rows that have one of these values; returns how many these were."""
    table = pq.read_table(file)
    keep = pd.Series(True, index=range(table.num_rows))
    for column, values in without.items():
        if column in table.column_names:
            keep &= ~table.column(column).to_pandas().isin(values).to_numpy()
    dropped = int((~keep).sum())
    if dropped:
        with whole_file(file) as partial:
            pq.write_table(table.filter(keep.to_numpy()), partial)
    return dropped


def _index(project: Path) -> pd.DataFrame | None:
    found = [pd.read_parquet(file) for file in sorted((project / RAW).glob("*/index.parquet"))]
    return pd.concat(found, ignore_index=True) if found else None


def _table(file: Path) -> pd.DataFrame | None:
    return pd.read_parquet(file) if file.is_file() else None


def _members(project: Path, person: str) -> set[str]:
    tables = [_table(project / SPLITS / f"{name}.parquet") for name in ("train", "val", "test")]
    return {face for table in tables if table is not None for face in table[table["person"] == person]["face_id"]}
