"""data.expectations: Great Expectations passes good data and says what is wrong with bad data."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from styleblend.config.data import Keep, Validate
from styleblend.data import drift, quality
from styleblend.data.expectations import Report, check, tables
from styleblend.data.selection import select

# Great Expectations 1.24 imports modules of the standard library that Python 3.11 calls deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:module 'sre_.*' is deprecated:DeprecationWarning")

Tables = dict[str, pd.DataFrame]
CFG = Validate(min_faces=20, mostly=0.9)


def good(folder: Path, n: int = 40) -> Tables:
    """Tables of n faces as the stages write them: manifest, quarantine, perceived."""
    random = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    ids = [f"face-{number:03d}" for number in range(n)]
    for name in ids:
        Image.new("RGB", (16, 16), "gray").save(folder / "images" / f"{name}.png")
    vectors = random.normal(size=(n, 8))
    unit = list((vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32))
    manifest = pd.DataFrame(
        {
            "face_id": ids,
            "path": [f"images/{name}.png" for name in ids],
            "raw_path": [f"raw/{name}.jpg" for name in ids],
            "raw_sha256": ids,
            "source": "raw",
            "person": [f"p{number // 4}" for number in range(n)],
            "quad": [np.float32([0, 0, 0, 30, 30, 30, 30, 0])] * n,
            "licence": "mine",
            "terms": "agreed",
            "score": 0.9,
            "size_px": 16,
        }
    )
    perceived = pd.DataFrame(
        {
            "face_id": ids,
            "identity_metric": "cosine",
            "identity": unit,
            "judge": unit,
            "landmarks": list(random.uniform(0.1, 0.9, (n, 136)).astype(np.float32)),
            "expression": list(random.normal(size=(n, 7)).astype(np.float32)),
            "yaw_deg": random.normal(0, 20, n),
            "pitch_deg": random.normal(0, 10, n),
            "roll_deg": random.normal(0, 10, n),
            "sharpness": random.uniform(50, 500, n),
            **quality.columns(random.integers(0, 255, (n, 16, 16, 3), dtype=np.uint8), np.zeros((n, 68, 2))),
        }
    )
    quarantine = pd.DataFrame({"source": ["raw"], "raw_path": ["raw/x.jpg"], "reason": ["no face"]})
    return {"manifest": manifest, "quarantine": quarantine, "perceived": perceived}


def judge(folder: Path, given: Tables, docs: Path, cfg: Validate = CFG) -> Report:
    chosen = given.get("chosen")
    if chosen is None:
        chosen = select(folder, given["manifest"], given["perceived"], cfg.keep)
    parts = (given["manifest"], given["quarantine"], given["perceived"], chosen, given.get("drift"))
    return check(tables(folder, *parts), cfg, docs)


def test_good_data_passes(tmp_path: Path) -> None:
    """All expectations hold, the report is JSON, and the data docs stand where they were asked for."""
    report = judge(tmp_path / "faces", good(tmp_path / "faces"), tmp_path / "docs")
    assert report.failures == () and report.checked > 25
    written = json.loads(json.dumps(report.as_json()))
    assert written["success"] is True
    assert set(written["suites"]) == {"manifest", "perceived", "used", "pictures", "run"}
    assert (tmp_path / "docs" / "index.html").is_file()
    assert os.environ["GX_ANALYTICS_ENABLED"] == "False"


def test_identities_have_the_length_that_their_metric_asks_for(tmp_path: Path) -> None:
    """Vectors that are compared by distance have lengths of their own; a vector of zeros is still a fault."""
    data = good(tmp_path / "faces")
    lengths = np.linspace(1.2, 1.6, len(data["perceived"]))
    data["perceived"]["identity"] = [
        np.float32(vector * length) for vector, length in zip(data["perceived"]["identity"], lengths, strict=True)
    ]
    data["perceived"]["identity_metric"] = "distance"
    assert judge(tmp_path / "faces", data, tmp_path / "docs").failures == ()
    data["perceived"].at[3, "identity"] = np.zeros(8, np.float32)
    report = judge(tmp_path / "faces", data, tmp_path / "docs")
    assert by_column(report) == {"perceived: identity_length": ("face-003",)}


def by_column(report: Report) -> dict[str, tuple[str, ...]]:
    """Examples of each failure by its suite and column."""
    return {f"{failure.suite}: {failure.column}": failure.examples for failure in report.failures}


def test_single_faults_are_found_and_named(tmp_path: Path) -> None:
    """One wrong face a column fails that column's expectation, which names the number and the very face."""
    given = good(tmp_path / "faces")
    manifest, perceived = given["manifest"], given["perceived"]
    manifest.at[3, "licence"] = " "
    manifest.at[4, "terms"] = None
    manifest.at[5, "path"] = "images/absent.png"
    (tmp_path / "faces" / manifest.at[6, "path"]).write_bytes(b"damaged")
    Image.new("RGB", (8, 8)).save(tmp_path / "faces" / manifest.at[7, "path"])
    manifest.at[8, "score"] = 1.5
    perceived.at[9, "face_id"] = "face-999"
    perceived.at[10, "identity"] = np.full(8, 3.0, dtype=np.float32)
    perceived.at[11, "judge"] = np.full(8, np.nan, dtype=np.float32)
    perceived.at[12, "expression"] = np.full(7, np.inf, dtype=np.float32)
    perceived.at[13, "pitch_deg"] = np.nan
    perceived.at[14, "light"] = np.nan
    report = judge(tmp_path / "faces", given, tmp_path / "docs")
    assert report.as_json()["success"] is False
    expected = {
        "manifest: licence": ("face-003",),
        "manifest: terms": ("face-004",),
        "manifest: picture": ("face-005", "face-006", "face-007"),
        "manifest: score": ("face-008",),
        "manifest: is_perceived": ("face-009",),
        "perceived: is_in_manifest": ("face-999",),
        "perceived: identity_length": ("face-010",),
        "perceived: judge_length": ("face-011",),
        "perceived: expression_largest": ("face-012",),
        "perceived: pitch_deg": ("face-013",),
        "perceived: light": ("face-014",),
    }
    assert by_column(report) == expected


def test_wrong_tables_are_found_and_named(tmp_path: Path) -> None:
    """Ranges that most faces miss, doubled ids, too few faces and too much quarantine are all in the list."""
    given = good(tmp_path / "faces")
    manifest, perceived = given["manifest"], given["perceived"]
    manifest.at[1, "face_id"] = "face-000"
    perceived["landmarks"] = list(np.full((40, 136), 5.0, dtype=np.float32))
    perceived["yaw_deg"] = 170.0
    perceived["sharpness"] = 0.0
    given["quarantine"] = pd.concat([given["quarantine"]] * 20)
    strict = CFG.model_copy(update={"min_faces": 41, "min_sharpness": 1.0})
    report = judge(tmp_path / "faces", given, tmp_path / "docs", strict)
    assert set(by_column(report)) == {
        "manifest: face_id",
        "perceived: is_in_manifest",
        "perceived: landmark_largest",
        "perceived: yaw_deg",
        "perceived: sharpness",
        "used: face_id",
        "run: faces",
        "run: quarantined",
    }
    texts = " | ".join(str(failure) for failure in report.failures)
    assert "40 of 40 faces" in texts and "it is 40" in texts and "\n" not in texts


def test_a_few_odd_measurements_are_allowed(tmp_path: Path) -> None:
    """`mostly` lets single faces leave a measured range, and min_sharpness is the limit that is set."""
    given = good(tmp_path / "faces")
    given["perceived"].loc[:1, "yaw_deg"] = 150.0
    assert judge(tmp_path / "faces", given, tmp_path / "docs").failures == ()
    strict = CFG.model_copy(update={"min_sharpness": 400.0})
    failures = judge(tmp_path / "faces", given, tmp_path / "docs", strict).failures
    assert [failure.column for failure in failures] == ["sharpness"]


def test_no_perceived_face_is_a_failure_and_no_crash(tmp_path: Path) -> None:
    """An empty perceived table fails the manifest's suite."""
    given = good(tmp_path / "faces")
    given["perceived"] = given["perceived"].head(0)
    failures = judge(tmp_path / "faces", given, tmp_path / "docs").failures
    assert any(f.column == "is_perceived" and "40 of 40" in str(f) for f in failures)


def test_copies_under_several_labels_are_too_many_or_named(tmp_path: Path) -> None:
    """Three files that each stand under two labels are 3 of 37 pictures; over the limit they are named."""
    given = good(tmp_path / "faces")
    given["manifest"].loc[[37, 38, 39], "raw_sha256"] = ["face-000", "face-001", "face-002"]
    few = CFG.model_copy(update={"max_two_labels": 0.1})
    assert judge(tmp_path / "faces", given, tmp_path / "docs", few).failures == ()
    strict = CFG.model_copy(update={"max_duplicates": 0.05})
    report = judge(tmp_path / "faces", given, tmp_path / "docs", strict)
    assert set(by_column(report)) == {"pictures: labels", "run: duplicates"}
    assert "3 of 37 pictures" in str(report.failures[0]) and "it is 0.075" in str(report.failures[1])
    kept = select(tmp_path / "faces", given["manifest"], given["perceived"], Keep())
    named = set(kept.loc[kept["kept"] & kept["picture"].isin([0, 1, 2]), "raw_path"])
    assert set(by_column(report)["pictures: labels"]) == named


def test_a_picture_that_is_used_twice_or_misses_a_limit_is_found(tmp_path: Path) -> None:
    """The suite on the faces that are used looks at them itself, whatever marked them as kept."""
    given = good(tmp_path / "faces")
    given["manifest"].loc[39, "raw_sha256"] = "face-000"
    chosen = select(tmp_path / "faces", given["manifest"], given["perceived"], Keep())
    chosen["kept"] = True
    chosen.loc[5, "face_px"] = 12.0
    cfg = CFG.model_copy(update={"keep": Keep(min_face_px=20, max_light=0.5, max_dark=0.5), "max_two_labels": 0.1})
    report = judge(tmp_path / "faces", given | {"chosen": chosen}, tmp_path / "docs", cfg)
    assert set(by_column(report)) == {"used: content", "used: picture", "used: face_px"}
    assert by_column(report)["used: picture"] == ("face-000", "face-039")
    assert by_column(report)["used: face_px"] == ("face-005",)


def test_columns_that_moved_since_the_champion_warn_or_fail(tmp_path: Path) -> None:
    """Data that got darker and come from another source: these columns are named, no others; a warning unless asked."""
    given = good(tmp_path / "faces", 200)
    old = drift.profile(given["manifest"], given["perceived"], select(*selected(tmp_path, given)))
    given["perceived"]["brightness"] -= 20
    given["manifest"]["source"] = "elsewhere"
    new = drift.profile(given["manifest"], given["perceived"], select(*selected(tmp_path, given)))
    given["drift"] = drift.compare(new, old)
    report = judge(tmp_path / "faces", given, tmp_path / "docs")
    assert report.failures == () and [failure.suite for failure in report.warnings] == ["drift"]
    assert set(report.warnings[0].examples) == {"brightness", "source"} and len(report.as_json()["warned"]) == 1
    failed = judge(tmp_path / "faces", given, tmp_path / "docs", CFG.model_copy(update={"on_drift": "fail"}))
    assert failed.warnings == () and "2 of 13 columns" in str(failed.failures[0])


def selected(folder: Path, given: Tables) -> tuple[Path, pd.DataFrame, pd.DataFrame, Keep]:
    return folder / "faces", given["manifest"], given["perceived"], Keep()
