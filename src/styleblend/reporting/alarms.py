"""Alarms of a finished run: those that training ended with, and those that its evaluation raises.

Whatever its figures, a version with an alarm is registered without an alias: somebody must look at it first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from styleblend.training.alarms import SATURATED, WORDS
from styleblend.training.record import Record

PREFIX = "alarm/"
JUDGE_GAP = 0.2
"""Twice the judge gap that a good model may have."""


def found(metrics: Mapping[str, Any], training: Record) -> dict[str, str]:
    """Alarms that are on, by name a sentence.

    Args:
        metrics: of the model, by their names in metrics.json. training: of the model's folder.
    """
    return {**training.alarms, **of_figures(metrics)}


def of_figures(metrics: Mapping[str, Any]) -> dict[str, str]:
    """What the evaluation raises. Where a figure has an interval, all of it must lie on the wrong side."""

    def figure(name: str) -> float:
        return float(metrics.get(name, float("nan")))

    on = {}
    if figure("pose_nearer_target_high") < 0.5:
        on["copies_source"] = f"the pose is nearer the target's in {figure('pose_nearer_target'):.0%} of the pairs only"
    if figure("id_similarity_target_low") > figure("id_similarity_source_high"):
        on["copies_target"] = (
            f"similarity is {figure('id_similarity_target'):.2f} to the target,"
            f" {figure('id_similarity_source'):.2f} to the source"
        )
    if figure("judge_gap_low") > JUDGE_GAP:
        on["judge_gap"] = f"the judge gap is {figure('judge_gap'):.2f}, above {JUDGE_GAP:g}"
    if figure("saturated") - figure("copy_target/saturated") > SATURATED:
        on["saturated"] = (
            f"{figure('saturated'):.0%} of the colour values are at their limits,"
            f" {figure('copy_target/saturated'):.0%} of the targets'"
        )
    broken = [name for name, value in metrics.items() if isinstance(value, float) and value != value]
    if broken:
        on["non_finite"] = f"{', '.join(broken[:3])} of {len(broken)} figures are not numbers"
    return {name: f"{WORDS[name]}: {text}" for name, text in on.items()}


def figures(on: Mapping[str, str]) -> dict[str, Any]:
    """Entries of metrics.json: every alarm as 0 or 1, and the names of those that are on."""
    return {**{f"{PREFIX}{name}": int(name in on) for name in WORDS}, "alarms": ", ".join(on) or "none"}
