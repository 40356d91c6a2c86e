"""Hostile files: each ends in exactly one of the two tables with a reason, and none ends the run."""

from __future__ import annotations

from pathlib import Path

import hostile_files
import hostile_run

SEED, FILES = 20, 75
# The largest picture that is let in takes seconds; benchmarks/hostile.py has it.
KINDS = tuple(kind for kind in hostile_files.MUTATIONS if kind != "huge")


def test_each_hostile_file_ends_in_one_table(tmp_path: Path) -> None:
    """Every mutation, several times; whole pictures give a face, and outside data/ nothing is written or changed."""
    found = hostile_run.run(tmp_path, FILES, SEED, KINDS, workers=1, detector=None)
    files = found.files
    assert len(files) == FILES and files["raw_path"].is_unique and found.wrong.empty
    whole = files[files["mutation"].isin(["plain", "no end mark", "damaged or long text", "16 bit", "turned by EXIF"])]
    refused = whole[whole["faces"] == 0]
    assert refused.empty, refused[["mutation", "raw_path", "reason"]].to_string()
    nothing = files[files["mutation"].isin(["zero bytes", "no picture"])]
    assert (nothing["faces"] == 0).all()
    assert not found.touched
