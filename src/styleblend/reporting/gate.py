"""The gate: whether a measured version may become a candidate, and on which figures that was decided."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from styleblend.config.registry import Gate
from styleblend.errors import StyleBlendError
from styleblend.evaluation.metrics import METRICS
from styleblend.reporting import comparison
from styleblend.reporting.comparison import Contender
from styleblend.reporting.figures import with_interval


@dataclass(frozen=True)
class Champion:
    """The version to be measured against, or in `missing` why there is none to measure against.

    refused: `missing` is a mistake to mend, not merely a registry without a champion.
    """

    contender: Contender | None
    missing: str = ""
    refused: bool = False


@dataclass(frozen=True)
class Decision:
    """Clauses that hold and clauses that do not, with their figures; `alarms` are sentences."""

    held: list[str]
    missed: list[str]
    alarms: list[str]

    @property
    def reasons(self) -> list[str]:
        """Why there is no alias; empty where the gate passes."""
        return [*(f"alarm, {text}" for text in self.alarms), *self.missed]

    @property
    def passed(self) -> bool:
        return not self.reasons

    @property
    def sentence(self) -> str:
        """For cards and pages."""
        decided = "The gate passed." if self.passed else f"The gate failed: {'; '.join(self.reasons)}."
        return f"{decided} It held: {'; '.join(self.held)}." if self.held else decided


def decide(gate: Gate, new: Contender, champion: Champion, alarms: Mapping[str, str]) -> Decision:
    """Judge a version.

    Args:
        new: the version, whose folder `evaluation` has its pairs. alarms: that are on, by name.
    Raises:
        StyleBlendError: a limit names a metric that was not measured.
    """
    clauses = [*_limits(gate, new.metrics), *_baselines(gate, new), *_champion(gate, new, champion)]
    held, missed = ([text for holds, text in clauses if holds is wanted] for wanted in (True, False))
    return Decision(held, missed, list(alarms.values()))


def _limits(gate: Gate, metrics: Mapping[str, Any]) -> Iterator[tuple[bool, str]]:
    """Absolute limits; a metric that is NaN misses its own."""
    numbers = {name: value for name, value in metrics.items() if not isinstance(value, str)}
    for name in (*gate.min, *gate.max):
        if name not in numbers:
            near = get_close_matches(name, numbers, n=3)
            hint = f", did you mean {' or '.join(near)}" if near else ""
            raise StyleBlendError(f"register.gate names '{name}', which was not measured{hint}: correct params.yaml")
    for name, limit in gate.min.items():
        holds = bool(numbers[name] >= limit)
        yield holds, f"{name} is {numbers[name]:.4g}, {'at least' if holds else 'below'} {limit:g}"
    for name, limit in gate.max.items():
        holds = bool(numbers[name] <= limit)
        yield holds, f"{name} is {numbers[name]:.4g}, {'at most' if holds else 'above'} {limit:g}"


def _baselines(gate: Gate, new: Contender) -> Iterator[tuple[bool, str]]:
    """Clearly better: the 95 % interval of the difference, pair by pair, lies on the better side of zero."""
    if not any(gate.baselines.values()):
        return
    own = new.pairs()
    for method in dict.fromkeys(each for methods in gate.baselines.values() for each in methods):
        other = new.pairs(method)
        apart = comparison.paired(own, other) if len(other) else {}
        for name, methods in gate.baselines.items():
            if method not in methods:
                continue
            if name not in apart:
                yield False, f"{name} of {method} was not measured, take it out of register.gate.baselines"
                continue
            low, high = apart[name]
            holds = low > 0 if METRICS[name].better == "up" else high < 0
            words = "clearly better than" if holds else "not clearly better than"
            figures = f"{new.metrics[name]:.4g}, {words} {new.metrics[f'{method}/{name}']:.4g} of {method}"
            yield holds, f"{name} is {figures} (difference {low:.3g} to {high:.3g})"


def _champion(gate: Gate, new: Contender, champion: Champion) -> Iterator[tuple[bool, str]]:
    """Not clearly worse, as `comparison.differences` has it. Figures of other judges say nothing: a person decides."""
    if not gate.champion:
        return
    old = champion.contender
    if old is None:
        yield not champion.refused, f"{champion.missing}, so {', '.join(gate.champion)} were not compared with one"
        return
    against = comparison.other_judges(new, old)
    if against:
        remedy = "promote by hand, and the next is measured against it"
        yield False, f"not comparable with the champion, {old.title}: {' '.join(against)} To go on, {remedy}"
        return
    by_name = {each.name: each for each in comparison.differences(new, old)}
    for name in gate.champion:
        each = by_name.get(name)
        if each is None:
            missing = "was not measured" if name not in new.metrics else f"is not known of the champion, {old.title}"
            yield name in new.metrics, f"{name} {missing}"
            continue
        holds = each.better != old.title
        words = "not clearly worse than" if holds else "clearly worse than"
        theirs = f"{with_interval(*each.second)} of the champion, {old.title}"
        yield holds, f"{name} is {with_interval(*each.first)}, {words} {theirs}"
