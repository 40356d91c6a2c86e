"""Hostile files: each ends in exactly one of the two tables with a reason, and none ends the run."""

from __future__ import annotations

import hashlib
from pathlib import Path

import hostile_files
import hostile_run

SEED, FILES = 20, 165
# The largest picture that is let in takes seconds; benchmarks/hostile.py has it.
KINDS = tuple(kind for kind in hostile_files.MUTATIONS if kind != "huge")


def everything(folder: Path, without: str) -> dict[str, str]:
    """All files below a folder by the hash of their content, but those below `without`."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.relative_to(folder).parts[0] != without)
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_each_hostile_file_ends_in_one_table(tmp_path: Path) -> None:
    """Every mutation, several times; whole pictures give a face, and outside data/ nothing is written or changed."""
    (tmp_path / "data").mkdir()
    found = hostile_run.run(tmp_path, FILES, SEED, KINDS, workers=1, detector=None)
    files = found.files
    assert len(files) == FILES and files["raw_path"].is_unique and found.wrong.empty
    whole = files[files["mutation"].isin(["plain", "no end mark", "damaged or long text", "16 bit", "turned by EXIF"])]
    refused = whole[whole["faces"] == 0]
    assert refused.empty, refused[["mutation", "raw_path", "reason"]].to_string()
    nothing = files[files["mutation"].isin(["zero bytes", "no picture"])]
    assert (nothing["faces"] == 0).all()
    after = everything(tmp_path, without="data")
    (tmp_path / "again").mkdir()
    picture, _ = hostile_run.face()
    for number in range(FILES):
        hostile_files.write(tmp_path / "again", picture, number, SEED, KINDS)
    again = everything(tmp_path / "again", without="")
    assert sorted(again.values()) == sorted(after.values()), (
        "the originals are what they were, and nothing else is there"
    )
