"""Which pictures a version learned from and was measured on, by the hashes of their files.

A version carries them in `pictures.json`. One that was registered before that has them in DVC's cache, as long as that
holds the splits and the faces that its dvc.lock names.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from styleblend.config.tracking import Tracking
from styleblend.errors import reason_of
from styleblend.registry import lineage, versions
from styleblend.registry.mlflow_store import TrackingError

FILE = "pictures.json"
SPLITS = ("train", "val", "test")
_DIGITS = 16
"""Of each SHA-256: enough to tell the pictures of a data set apart, in a quarter of the space."""


@dataclass(frozen=True)
class Use:
    """How many of some pictures a version learned from, and how many its probe and its evaluation saw.

    unknown: why that cannot be said; empty where it can.
    """

    version: versions.Version
    learned: int = 0
    measured: int = 0
    unknown: str = ""


def write(faces: Path, splits: Path, file: Path) -> Path:
    """Write the file for a version, from what the stages align and split wrote.

    Returns:
        `file`: the first digits of each picture's SHA-256, by split.
    """
    manifest = pd.read_parquet(faces / "manifest.parquet", columns=["face_id", "raw_sha256"])
    tables = {split: pd.read_parquet(splits / f"{split}.parquet", columns=["face_id"]) for split in SPLITS}
    found = {
        split: sorted({digest[:_DIGITS] for digest in manifest.merge(table, on="face_id")["raw_sha256"]})
        for split, table in tables.items()
    }
    file.write_text(json.dumps(found) + "\n")
    return file


def uses(cfg: Tracking, pictures: frozenset[str], person: str | None, cache: Path | None) -> list[Use]:
    """For each version of the registry, oldest first, its use of the pictures of these hashes and of this person.

    Args:
        person: label of a person whose pictures of then count, too, also where they are not among the data any more.
        cache: of DVC; None where there is none.
    Raises:
        TrackingError: the registry cannot be asked.
    """
    return [_use(cfg, version, pictures, person, cache) for version in versions.all_versions(cfg)]


def _use(
    cfg: Tracking, version: versions.Version, pictures: frozenset[str], person: str | None, cache: Path | None
) -> Use:
    digits = {digest[:_DIGITS] for digest in pictures}
    with tempfile.TemporaryDirectory() as scratch:
        try:
            carried = json.loads(versions.fetch_part(cfg, version, FILE, Path(scratch)).read_text())
        except (TrackingError, OSError, ValueError):
            carried = None
        # Of a person the cache knows more than a list of hashes: pictures of then that are gone now.
        if carried is None or person is not None:
            found = _of_cache(cfg, version, digits, person, cache, Path(scratch))
            if isinstance(found, Use) or carried is None:
                return found if isinstance(found, Use) else Use(version, unknown=found)
    split = {name: len(digits & set(carried.get(name, ()))) for name in SPLITS}
    if person is not None and not any(split.values()):
        # No person stands in two splits, so one picture would have been enough to tell.
        return Use(version, unknown="for pictures of that person that left the data before are in DVC's cache no more")
    return Use(version, split["train"], split["val"] + split["test"])


def _of_cache(
    cfg: Tracking, version: versions.Version, digits: set[str], person: str | None, cache: Path | None, scratch: Path
) -> Use | str:
    """From the tables that the version's dvc.lock names; else why they cannot be read."""
    try:
        lock = yaml.safe_load(versions.fetch_part(cfg, version, lineage.LOCK, scratch).read_text())
        deps = {dep["path"]: str(dep.get("md5")) for dep in lock["stages"]["train_encoder"]["deps"]}
        splits, faces = (_listing(cache, deps[path]) for path in ("data/splits", "data/faces"))
        manifest = pd.read_parquet(_place(cache, faces["manifest.parquet"]))
        tables = {name: pd.read_parquet(_place(cache, splits[f"{name}.parquet"])) for name in SPLITS}
    except TrackingError as error:
        return reason_of(error)
    except (OSError, ValueError, KeyError, TypeError):
        return f"it carries no {FILE}, and its data are in DVC's cache no more"
    chosen = manifest["raw_sha256"].str[:_DIGITS].isin(digits)
    if person is not None:
        chosen |= manifest["person"] == person
    rows = manifest[chosen]
    counts = {name: int(rows["face_id"].isin(table["face_id"]).sum()) for name, table in tables.items()}
    return Use(version, counts["train"], counts["val"] + counts["test"])


def _listing(cache: Path | None, digest: str) -> Mapping[str, str]:
    listed: list[dict[str, Any]] = json.loads(_place(cache, digest).read_text())
    return {each["relpath"]: each["md5"] for each in listed}


def _place(cache: Path | None, digest: str) -> Path:
    if cache is None:
        raise FileNotFoundError(digest)
    return cache / "files/md5" / digest[:2] / digest[2:]
