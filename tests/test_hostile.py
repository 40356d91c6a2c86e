"""Hostile files: each ends in exactly one of the two tables with a reason, and none ends the run."""

from __future__ import annotations

from pathlib import Path

import hostile_files
import hostile_run
from hostile_faces import LOOKS, PROFILE

SEED, FILES = 20, 80
# The largest picture that is let in takes seconds; benchmarks/hostile.py has it.
KINDS = tuple(kind for kind in hostile_files.KINDS if kind != "huge")


def test_each_hostile_file_ends_in_one_table(tmp_path: Path) -> None:
    """Every mutation, several times; whole pictures give a face, and outside data/ nothing is written or changed."""
    found = hostile_run.run(tmp_path, FILES, SEED, KINDS, workers=1)
    files = found.files
    assert len(files) == FILES and files["raw_path"].is_unique and found.wrong.empty
    plain = ("plain", "no end mark", "damaged or long text", "16 bit", "turned by EXIF")
    whole = files[files["mutation"].isin([*plain, *LOOKS, PROFILE])]
    refused = whole[whole["faces"] == 0]
    assert refused.empty, refused[["mutation", "raw_path", "reason"]].to_string()
    nothing = files[files["mutation"].isin(["zero bytes", "no picture"])]
    assert (nothing["faces"] == 0).all()
    assert not found.touched


def test_covered_carved_drawn_and_turned_faces_end_in_one_table(tmp_path: Path, yunet_file: Path) -> None:
    """A detector takes them for faces or not; those that it does not take have one of the documented reasons."""
    found = hostile_run.run(tmp_path, 12, SEED, (*LOOKS, PROFILE, "plain"), workers=1, detector=yunet_file)
    assert found.wrong.empty and not found.touched
    assert (found.files.loc[found.files["mutation"] == "plain", "faces"] == 1).all()
    refused = found.files[found.files["refusals"] == 1]
    assert refused["reason"].str.match("(turned|cut by the border|too small|not a face): |no face found").all()
