"""The gate: limits, baselines and the champion decide on a version's pairs, and say with which figures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from styleblend.config.registry import Gate
from styleblend.errors import StyleBlendError
from styleblend.evaluation import protocol
from styleblend.reporting.comparison import Contender
from styleblend.reporting.gate import Champion, Decision, decide

NOBODY = Champion(None, "no version has the alias champion yet")
METHODS = {"model": (0.6, 3.0), "copy_target": (0.0, 0.0), "copy_source": (1.0, 20.0), "warp_blend": (0.59, 3.05)}


def contender(folder: Path, title: str = "version 2", better: float = 0.0, judge: str = "one") -> Contender:
    """Figures of forty pairs: similarity and pose error of each method, the model's better by some amount."""
    random, flat, tables = np.random.default_rng(0), {"network_judge": judge, "network_attributes": "a"}, []
    ids = [f"face-{k}" for k in range(41)]
    for method, (likeness, pose) in METHODS.items():
        own = better * (method == "model")
        table = pd.DataFrame({"source_id": ids[:40], "target_id": ids[1:], "source_rank": 1, "target_rank": 9})
        table["id_similarity_source"] = likeness + own + random.normal(0, 0.1, 40)
        table["pose_error_deg"] = pose - 10 * own + random.normal(0, 0.5, 40)
        for name, row in protocol.summarise(table, 200, 0).iterrows():
            key = str(name) if method == "model" else f"{method}/{name}"
            flat |= {key: row["value"], f"{key}_low": row["low"], f"{key}_high": row["high"]}  # type: ignore[dict-item]
        tables.append(table.assign(method=method))
    folder.mkdir()
    pd.concat(tables).to_parquet(folder / "pairs.parquet")
    return Contender(title, {}, folder, folder, flat)


def judged(gate: Gate, new: Contender, old: Contender | None = None) -> Decision:
    return decide(gate, new, NOBODY if old is None else Champion(old), {})


def test_limits_hold_or_are_missed_with_their_figures(tmp_path: Path) -> None:
    """Both kinds in both directions; a metric that was not measured is an error, and NaN misses its limit."""
    new = contender(tmp_path / "new")
    value = new.pairs()["id_similarity_source"].mean()
    held = judged(Gate(min={"id_similarity_source": 0.5}, max={"pose_error_deg": 4}), new)
    assert held.passed and held.held[0] == f"id_similarity_source is {value:.4g}, at least 0.5"
    assert held.sentence.startswith("The gate passed. It held: id_similarity_source is")
    missed = judged(Gate(min={"id_similarity_source": 0.9}, max={"pose_error_deg": 1}), new)
    assert not missed.passed and "below 0.9" in missed.reasons[0] and "above 1" in missed.reasons[1]
    assert missed.sentence.startswith("The gate failed: id_similarity_source is")
    with pytest.raises(StyleBlendError, match="'ssim_true_swap', which was not measured: correct"):
        judged(Gate(min={"ssim_true_swap": 0}), new)
    broken = Contender(new.title, {}, new.swapper, new.evaluation, {**new.metrics, "pose_error_deg": float("nan")})
    for gate in (Gate(min={"pose_error_deg": 0}), Gate(max={"pose_error_deg": 100})):
        assert not judged(gate, broken).passed


def test_a_baseline_must_be_clearly_worse(tmp_path: Path) -> None:
    """In the direction of the metric, by the paired interval, which a small lead does not leave; and it must be there.

    The reference is the t interval of the same differences.
    """
    new = contender(tmp_path / "new")
    gate = Gate(baselines={"id_similarity_source": ("copy_target", "warp_blend"), "pose_error_deg": ("copy_source",)})
    decision = judged(gate, new)
    assert [text.split(" (")[0].split(", ")[1].split(" than")[0] for text in decision.held] == ["clearly better"] * 2
    (reason,) = decision.reasons
    assert "not clearly better than" in reason and "warp_blend" in reason
    lead = new.pairs()["id_similarity_source"] - new.pairs("warp_blend")["id_similarity_source"]
    assert abs(lead.mean()) < 2.02 * lead.std() / 40**0.5
    assert judged(gate, contender(tmp_path / "better", better=0.2)).passed
    absent = judged(Gate(baselines={"pose_error_deg": ("half_mask",)}), new)
    assert absent.reasons == ["pose_error_deg of half_mask was not measured, take it out of register.gate.baselines"]


def test_a_version_may_not_be_clearly_worse_than_the_champion(tmp_path: Path) -> None:
    """A little worse passes, clearly worse does not; without a champion there is nothing to compare with."""
    gate = Gate(champion=("id_similarity_source", "pose_error_deg"))
    old = contender(tmp_path / "old", "version 1")
    assert judged(gate, contender(tmp_path / "same", better=0.0), old).passed
    worse = judged(gate, contender(tmp_path / "worse", better=-0.2), old)
    assert len(worse.reasons) == 2 and ", clearly worse than 0.5" in worse.reasons[0]
    assert all(text.endswith("of the champion, version 1") for text in worse.reasons)
    assert judged(gate, contender(tmp_path / "better", better=0.2), old).passed
    alone = judged(gate, old)
    assert alone.passed and "no version has the alias champion yet" in alone.held[0]


def test_figures_of_other_judges_pass_nobody(tmp_path: Path) -> None:
    """Neither do figures of a champion that cannot be read: a person decides. Without the limit neither matters."""
    gate = Gate(champion=("pose_error_deg",))
    new, old = contender(tmp_path / "new"), contender(tmp_path / "old", "version 1", judge="another")
    other = judged(gate, new, old)
    assert "network_judge: one and another" in other.reasons[0] and "promote by hand" in other.reasons[0]
    lost = Champion(None, "the champion, version 1, cannot be read (gone)", refused=True)
    assert "cannot be read (gone)" in decide(gate, new, lost, {}).reasons[0]
    assert judged(Gate(), new, old).passed and decide(Gate(), new, lost, {}).passed
    older = Contender(old.title, {}, old.swapper, old.evaluation, {"network_judge": "one", "network_attributes": "a"})
    assert "is not known of the champion" in judged(gate, new, older).held[0]


def test_an_alarm_shuts_an_open_gate(tmp_path: Path) -> None:
    """Whatever the figures."""
    decision = decide(Gate(min={"id_similarity_source": 0.5}), contender(tmp_path / "new"), NOBODY, {"x": "it burns"})
    assert decision.reasons == ["alarm, it burns"] and decision.held
