"""What a training costs, on paper: the largest batch that a card takes, and hours by the number of GPUs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from styleblend.commands.step_memory import Needs
from styleblend.errors import StyleBlendError
from styleblend.reporting.table import columns

CARDS_GB = (11, 24, 80, 141)
"""Memory of common cards, in 10^9 bytes."""
GPUS = (1, 2, 4, 8, 16, 32, 64)
_USED = 0.8
"""Share of a card's memory that the estimate may take; the rest is for what it does not know."""
_FEWEST_PAIRS = 1


@dataclass(frozen=True)
class Cost:
    """How long a step is taken to last.

    tflops: rate of a card in 10^12 operations a second, a multiply-add being two. share: of it that a step reaches.
    link_gb: 10^9 bytes a second that a GPU sends while it receives as many. seconds_per_step: measured, of the first
    stage with the pairs of one GPU, in place of rate and share.

    Raises:
        StyleBlendError: a number that cannot be; names it.
    """

    tflops: float = 100
    share: float = 0.3
    link_gb: float = 10
    seconds_per_step: float | None = None

    def __post_init__(self) -> None:
        given = {"--tflops": self.tflops, "--link": self.link_gb, "--seconds-per-step": self.seconds_per_step}
        for name, value in given.items():
            if value is not None and not value > 0:
                raise StyleBlendError(f"{name} is {value:g}: it must be above 0")
        if not 0 < self.share <= 1:
            raise StyleBlendError(f"--share is {self.share:g}: it must be above 0 and at most 1")

    def rate(self, first: Needs) -> float:
        """Operations a second of one GPU.

        Args:
            first: the first stage as it was described, whose step the measured time is of.
        """
        if self.seconds_per_step is None:
            return self.tflops * 1e12 * self.share
        return 2 * first.multiply_adds / self.seconds_per_step


@dataclass(frozen=True)
class Hours:
    """A whole stage on a number of GPUs.

    pairs: a step and GPU. step_s: seconds of a step's operations; exchange_s: those of its exchange of gradients, taken
    as if they came one after the other.
    """

    gpus: int
    pairs: int
    step_s: float
    exchange_s: float
    steps: int

    @property
    def hours(self) -> float:
        return self.steps * (self.step_s + self.exchange_s) / 3600


def largest_batches(described: Needs, count: Callable[[int], Needs]) -> dict[int, int]:
    """Gigabytes of each card to the most pairs a step whose estimated memory leaves a fifth of it free; 0 for none.

    The estimate at each number of pairs is the largest of several that grow evenly, so it lies below the straight line
    between two numbers: it is followed for one pair and for more than the largest card takes, and between them that
    line is taken, which gives no more pairs than there are.

    Args:
        described: the stage with some number of pairs. count: the same with another number.
    """
    budgets = {card: int(_USED * card * 1e9) for card in CARDS_GB}
    one = described if described.pictures_per_gpu == _FEWEST_PAIRS else count(_FEWEST_PAIRS)
    few = count(_FEWEST_PAIRS + 1) if one is described else described
    each = max((few.activations - one.activations) / (few.pictures_per_gpu - _FEWEST_PAIRS), 1.0)
    room = max(budgets.values()) - one.held
    most = max(few.pictures_per_gpu + 1, _FEWEST_PAIRS + int((room - one.activations) / each) + 1)
    many = count(most)
    slope = (many.memory - one.memory) / (most - _FEWEST_PAIRS)
    found = {}
    for card, budget in budgets.items():
        fits = int(_FEWEST_PAIRS + (budget - one.memory) / slope) if slope > 0 else most
        found[card] = min(most, fits) if budget >= one.memory else 0
    return found


def hours(stage: Needs, first: Needs, cost: Cost) -> list[Hours]:
    """A stage on each number of GPUs, with the preset's steps; a GPU takes one pair at least.

    Its operations are those of the described step, by pair. Gradients of G and V are summed around a ring, where each
    GPU sends 2 (n - 1) / n of their bytes.
    """
    operations = 2 * stage.multiply_adds / stage.pictures_per_gpu
    found = []
    for gpus in GPUS:
        pairs = max(_FEWEST_PAIRS, -(-stage.batch // gpus))
        sent = 2 * (gpus - 1) / gpus * stage.gradients
        found.append(
            Hours(gpus, pairs, pairs * operations / cost.rate(first), sent / (cost.link_gb * 1e9), stage.steps)
        )
    return found


def cost_lines(stages: Sequence[Needs], batches: Sequence[Mapping[int, int]], cost: Cost) -> list[str]:
    """Both tables, and how their numbers were computed."""
    first = stages[0]
    table: list[tuple[str, ...]] = [("largest batch a GPU, computed", *(each.stage for each in stages))]
    table += [(f"card of {card} GB", *(_pairs(each[card]) for each in batches)) for card in CARDS_GB]
    lines = [*columns(table, right=range(1, 1 + len(stages))), ""]
    by_stage = [hours(stage, first, cost) for stage in stages]
    heads = [f"{stage.stage}: pairs, s a step, s of exchange, h" for stage in stages]
    table = [("GPUs, computed", *heads, "hours in all")]
    for row in zip(*by_stage, strict=True):
        cells = [f"{each.pairs}, {each.step_s:.3g}, {each.exchange_s:.3g}, {_short(each.hours)}" for each in row]
        table.append((str(row[0].gpus), *cells, _short(sum(each.hours for each in row))))
    lines += [*columns(table, right=range(len(table[0]))), ""]
    if cost.seconds_per_step is None:
        how = f"{cost.tflops:g} x 10^12 operations a second (--tflops) x {cost.share:g} of them reached (--share)"
    else:
        how = f"{2 * first.multiply_adds:.4g} operations in the {cost.seconds_per_step:g} s given (--seconds-per-step)"
    operations = " and ".join(f"{2 * each.multiply_adds / each.pictures_per_gpu:.4g}" for each in stages)
    gradients = " and ".join(f"{each.gradients / 1e9:.3g}" for each in stages)
    return [
        *lines,
        f"Computed, not measured. A card takes the pairs whose estimated memory is at most {_USED:g} of it.",
        f"A step lasts pairs x operations of a pair ({operations}, a multiply-add being two)",
        f"/ {cost.rate(first):.3g} a second, which is {how}.",
        f"The exchange lasts 2 (n - 1) / n x gradients ({gradients} GB)",
        f"/ {cost.link_gb:g} GB a second (--link), as if it came after the step. Hours are steps x both / 3600, with",
        "the settings' steps and pairs a step; where there are more GPUs than pairs, each takes one and a step has",
        "more. Reading, probes, checkpoints and failures are left out.",
    ]


def _short(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 10 else f"{hours:.2g}"


def _pairs(count: int) -> str:
    return str(count) if count else "none"
