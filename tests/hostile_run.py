"""A collection of hostile files through download and align, and what every file came to."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

import hostile_files
from hostile_faces import Face, rendered
from styleblend.config.data import Align
from styleblend.config.sources import Download, FolderSource
from styleblend.data import sources
from styleblend.data.align import align_faces
from styleblend.data.index import INDEX, read_index, write_rows
from styleblend.errors import shown
from styleblend.system.files import safe_name, sha256


@dataclass(frozen=True)
class Outcome:
    """A row a file: `mutation`, `raw_path`, `faces` and `refusals` (its rows in the two tables), and the `reason`."""

    files: pd.DataFrame
    touched: set[str]
    """Files outside `data` that are new, gone or changed since the originals were written."""

    @property
    def wrong(self) -> pd.DataFrame:
        """Files that are in neither table or in both, or whose reason is no line of words."""
        told = self.files["reason"].map(lambda text: not text or (len(text) > 8 and shown(text) == text))
        once = (self.files["faces"] > 0) ^ (self.files["refusals"] == 1)
        return self.files[~(once & told)]


def run(
    work: Path,
    count: int,
    seed: int,
    kinds: tuple[str, ...],
    workers: int,
    detector: Path | None = None,
    mesh: Path | None = None,
    faces: Sequence[Face] = (),
) -> Outcome:
    """Make the files in `work`/photographs and take them through both stages, into `work`/data.

    Args:
        detector: file of YuNet; None: the faces' own landmarks stand in the index, as those of a published set.
        mesh: file of the second opinion. faces: of which files are made; none: a rendered one.
    """
    photographs, raw, networks = work / "photographs", work / "data/raw", work / "data/networks"
    faces = faces or (rendered(),)
    written = [hostile_files.write(photographs, faces, number, seed, kinds) for number in range(count)]
    paths = [f"hostile/images/{safe_name(file.relative_to(photographs)).as_posix()}" for file, *_ in written]
    before = _outside(work)
    source = FolderSource(kind="folder", name="hostile", path=photographs, licence="none", terms="made for a test")
    cfg = Download(sources=(source,), origin=photographs, workers=workers)
    sources.gather(cfg, raw, work / "data/.state")
    networks.mkdir(parents=True)
    if detector is None:
        rows = read_index(raw).astype(object)
        of_path = {path: landmarks for path, (*_, landmarks) in zip(paths, written, strict=True)}
        listed = rows.where(rows.notna(), None).to_dict("records")
        known = [{**row, "landmarks": of_path[row["path"]]} for row in listed]
        write_rows(known, INDEX, raw / "hostile/index.parquet")
    else:
        (networks / "detector.onnx").write_bytes(detector.read_bytes())
    if mesh is not None:
        (networks / "landmarks.tflite").write_bytes(mesh.read_bytes())
        (networks / "networks.json").write_text(json.dumps({"landmarks": {"file": "landmarks.tflite"}}))
    align = Align(detector="annotations" if detector is None else "yunet", workers=workers, size_px=32, min_face_px=16)
    manifest, quarantine = align_faces(raw, networks, work / "data/faces", align)
    given = manifest["raw_path"].value_counts()
    refused = quarantine["raw_path"].value_counts()
    reasons = dict(zip(quarantine["raw_path"], quarantine["reason"], strict=True))
    return Outcome(
        pd.DataFrame(
            {
                "mutation": [kind for _, kind, _ in written],
                "raw_path": paths,
                "faces": [int(given.get(path, 0)) for path in paths],
                "refusals": [int(refused.get(path, 0)) for path in paths],
                "reason": [reasons.get(path, "") for path in paths],
            }
        ),
        {name for name, _ in before ^ _outside(work)},
    )


def _outside(work: Path) -> set[tuple[str, str]]:
    """All files below a folder but those in its `data`, with the hashes of their contents."""
    files = (path for path in work.rglob("*") if path.is_file() and path.relative_to(work).parts[0] != "data")
    return {(str(path), sha256(path)) for path in files}
