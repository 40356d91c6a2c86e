"""Alarms of a run: what a probe shows of training that goes where nobody wants it.

An alarm is on while its condition holds at the last IN_A_ROW probes. It changes nothing of the training: a person reads
it in the log while the run can still be stopped, and a run that ends with one gives no candidate (reporting.alarms).
Probes count once swaps are at least half of what is learned from: before that a run is right to give the target back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from styleblend.config.training import Training

Row = Mapping[str, float]
"""What one probe saw, see probe.look, with its `step`."""

WORDS = {
    "copies_source": "copies the source",
    "copies_target": "copies the target",
    "identity_flat": "the likeness to the source does not rise",
    "judge_gap": "the training network is fooled: likeness rises for it and not for the judge",
    "discriminator_wins": "the discriminator tells every swap from a picture",
    "saturated": "pictures are saturated",
    "non_finite": "values are not finite",
}
"""Every alarm, of training or of the evaluation, by its name in files: what it says."""

IN_A_ROW = 2
"""One probe may be a chance; a third that copies the target is a collapse already (loop.DOUBTFUL_PROBES)."""
ENOUGH_SWAPS = 0.5
"""Largest P(same person) of the curriculum at which a probe counts."""
IDENTITY_RISE = 0.02
"""Least rise of the likeness since training began, as a share of what two pictures of one person have. Probes of 32
pairs scatter by about that much."""
IDENTITY_REACHED = 0.7
"""Likeness, as the same share, that need not rise any more: true swaps of rendered faces have 0.83, for other hair and
light are not the source's, and who goes on training a good model is not to be alarmed."""
GAP_GROWTH = 0.15
"""Growth of the judge gap since training began. At its end a good model's is 0.1 at most; what grows by half as much
again was learned from the training network's faults."""
GAP_SHARE = 0.5
"""The judge's likeness must have risen by less than this share of the training network's: where both rise well, the
rest is a difference between two networks."""
DISCRIMINATOR_LOSS = 0.1
"""V's hinge loss (Eq. 6 and 7), 2 for a V that knows nothing. Below this nearly every patch is judged with more margin
than the loss asks for, so V learns nothing, and G is pushed and not led."""
SATURATED = 0.1
"""Share of colour values at 0 or 255 beyond that of the targets; a sound swap differs from them by a hundredth."""


@dataclass(frozen=True)
class _Rule:
    """Whether a row fulfils an alarm's condition, and the figures that say so; `start` is training's first probe.

    needs: figures without which the rule is not judged, as those of V where no adversarial term trains.
    """

    needs: tuple[str, ...]
    holds: Callable[[Row, Row], bool]
    says: Callable[[Row, Row], str]


def _gap(row: Row) -> float:
    return row["identity_share"] - row["judge_share"]


def _fooled(row: Row, start: Row) -> bool:
    rise, seen = (row[name] - start[name] for name in ("identity_share", "judge_share"))
    return rise > 0 and _gap(row) - _gap(start) > GAP_GROWTH and seen < GAP_SHARE * rise


def _flat(row: Row, start: Row) -> bool:
    share = row["identity_share"]
    return share - start["identity_share"] < IDENTITY_RISE and share < IDENTITY_REACHED


_RULES = {
    "copies_source": _Rule(
        ("pose_error_source_deg", "pose_error_deg"),
        lambda row, start: row["pose_error_source_deg"] < row["pose_error_deg"],
        lambda row, start: (
            f"the pose is {row['pose_error_source_deg']:.1f} degrees from the source's,"
            f" {row['pose_error_deg']:.1f} from the target's"
        ),
    ),
    "copies_target": _Rule(
        ("copies_target",),
        lambda row, start: row["copies_target"] > 0,
        lambda row, start: (
            f"similarity is {row['identity_to_target']:.2f} to the target, {row['identity_to_source']:.2f} to the"
            " source, and no more than the target itself has"
        ),
    ),
    "identity_flat": _Rule(
        ("identity_share",),
        _flat,
        lambda row, start: (
            f"it was {start['identity_share']:.2f} of that of two pictures of one person, and is"
            f" {row['identity_share']:.2f}"
        ),
    ),
    "judge_gap": _Rule(
        ("identity_share", "judge_share"),
        _fooled,
        lambda row, start: (
            f"from {start['identity_share']:.2f} to {row['identity_share']:.2f}, by the judge from"
            f" {start['judge_share']:.2f} to {row['judge_share']:.2f}"
        ),
    ),
    "discriminator_wins": _Rule(
        ("discriminator_loss", "fooled_share"),
        lambda row, start: row["discriminator_loss"] < DISCRIMINATOR_LOSS,
        lambda row, start: (
            f"its loss is {row['discriminator_loss']:.3f} and {row['fooled_share']:.0%} of the swaps pass for real"
        ),
    ),
    "saturated": _Rule(
        ("saturated", "saturated_target"),
        lambda row, start: row["saturated"] - row["saturated_target"] > SATURATED,
        lambda row, start: (
            f"{row['saturated']:.0%} of the colour values are at their limits, {row['saturated_target']:.0%} of the"
            " targets'"
        ),
    ),
}


def raised(rows: Sequence[Row], start: Row, cfg: Training) -> dict[str, str]:
    """Alarms that are on after the last of a stage's probes.

    Args:
        rows: of the stage. start: the first probe of the whole training, of its first stage.
    Returns:
        by name, a sentence with the figures of the last probe.
    """
    last = rows[-IN_A_ROW:]
    if len(last) < IN_A_ROW or not all(_counts(row, cfg) for row in last):
        return {}
    found = {}
    for name, rule in _RULES.items():
        measured = all(need in row for row in (*last, start) for need in rule.needs)
        if measured and all(rule.holds(row, start) for row in last):
            found[name] = f"{WORDS[name]}: {rule.says(last[-1], start)}"
    return found


def _counts(row: Row, cfg: Training) -> bool:
    step = row["step"]
    if step >= cfg.curriculum_steps:
        return step > 0
    way = cfg.curriculum_end - cfg.curriculum_start
    return step > 0 and cfg.curriculum_start + way * step / cfg.curriculum_steps <= ENOUGH_SWAPS
