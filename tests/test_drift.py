"""data.drift: what moved since the champion learned, by standard measures, from what its version carries."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ks_2samp

from styleblend.config.tracking import Tracking
from styleblend.data import drift
from styleblend.data.selection import MEASURES
from styleblend.registry import runs, versions


def data(count: int, seed: int, yaw: float = 10.0, new: float = 0.0) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Manifest, perceived and selection of faces whose yaw spreads by `yaw`; a share `new` is of another source."""
    random = np.random.default_rng(seed)
    ids = [f"face-{number}" for number in range(count)]
    sources = np.where(np.arange(count) < new * count, "new", "old")
    manifest = pd.DataFrame({"face_id": ids, "score": 0.9, "source": sources, "licence": "mine"})
    perceived = pd.DataFrame({"face_id": ids, "roll_deg": random.normal(size=count)})
    measures = {name: random.normal(size=count) for name in MEASURES} | {"yaw_deg": random.normal(0, yaw, count)}
    persons = [f"p{number // 3}" for number in range(count)]
    return manifest, perceived, pd.DataFrame({"face_id": ids, "person": persons, "kept": True, **measures})


def test_distances_are_those_of_the_whole_samples() -> None:
    """From profiles alone: SciPy's statistic of all values within a quantile's step, and exact shares."""
    one, two = data(3000, 0), data(5000, 1, yaw=20, new=0.25)
    table = drift.compare(drift.profile(*two), drift.profile(*one)).set_index("column")
    wanted = ks_2samp(one[2]["yaw_deg"], two[2]["yaw_deg"]).statistic
    assert table.loc["yaw_deg", "distance"] == pytest.approx(wanted, abs=2 / drift.QUANTILES)
    assert wanted > 0.15 and table.loc["source", "distance"] == pytest.approx(0.25, abs=1e-4)
    assert set(table.index[table["distance"] > 0]) == {"yaw_deg", "source"}
    assert table.loc["source", ["here", "champion"]].tolist() == ["old", "old"]


def test_what_chance_explains_is_no_drift() -> None:
    """Two samples of 40 of the same kind differ a lot, and nothing moved; the same difference of 4000 is one."""
    assert (drift.compare(drift.profile(*data(40, 2)), drift.profile(*data(40, 3)))["distance"] == 0).all()
    moved = drift.compare(drift.profile(*data(4000, 2, yaw=13)), drift.profile(*data(4000, 3)))
    assert moved.loc[moved["distance"] > 0, "column"].tolist() == ["yaw_deg"]


def test_faces_that_are_not_used_and_missing_values_count_for_nothing() -> None:
    """A profile is of the kept faces; columns without a value are left out of a comparison."""
    manifest, perceived, chosen = data(100, 0)
    chosen.loc[:49, "kept"] = False
    perceived["roll_deg"] = np.nan
    found = drift.profile(manifest, perceived, chosen)
    assert found["faces"] == 50 and found["numbers"]["yaw_deg"]["count"] == 50
    assert "roll_deg" not in set(drift.compare(found, found)["column"])
    assert len(json.dumps(found)) < 100_000


def test_the_champion_carries_the_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No champion, a champion of an earlier kind and one with a profile are told apart, in a real registry."""
    monkeypatch.chdir(tmp_path)
    track = Tracking()
    assert drift.of_champion(track) == (None, "no version has the alias champion yet")
    (tmp_path / "swapper").mkdir()
    (tmp_path / "swapper/model.json").write_text("{}")
    profile = drift.profile(*data(30, 0))
    (tmp_path / versions.PROFILE).write_text(json.dumps(profile))
    parent = runs.start_pipeline(track, "p", {})
    for key, files in (("old", {}), ("new", {versions.PROFILE: tmp_path / versions.PROFILE})):
        with runs.child_run(track, parent, "register", key, {}) as run:
            versions.register_version(track, tmp_path / "swapper", {}, {}, files, "champion", run=run, key=key)
        found, words = drift.of_champion(track)
        if key == "old":
            assert (found, words) == (None, "the champion, version 1, was registered without a profile of its data")
    assert (found, words) == (profile, "the champion, version 2")
