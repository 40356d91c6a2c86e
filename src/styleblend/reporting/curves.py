"""Curves of a training as SVG: figures of the validation probe, and losses, over the steps of both stages."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib
from matplotlib.figure import Figure

from styleblend.training.record import Record

_COLOURS = ("#c44e52", "#3b6ea8", "#55a868", "#8172b2", "#937860", "#64b5cd")
_PANELS = {
    "likeness to the source, share of two pictures of one person": {
        "identity_share": "training network", "judge_share": "judge",
    },
    "similarity, training network": {"identity_to_source": "to the source", "identity_to_target": "to the target"},
    "pose error, degrees": {"pose_error_deg": "to the target", "pose_error_source_deg": "to the source"},
    "expression error": {"expression_error": "to the target"},
    "L1 outside the face": {"outside_l1": "to the target"},
    "discriminator": {"discriminator_loss": "loss", "fooled_share": "share of swaps that pass for real"},
    "colour values at their limits": {"saturated": "swaps", "saturated_target": "targets"},
}  # fmt: skip


@dataclass(frozen=True)
class Curve:
    """A panel: `lines` by label, each the steps counted over all stages and the values there."""

    title: str
    lines: Mapping[str, tuple[list[float], list[float]]]
    logarithmic: bool = False


def panels(record: Record) -> list[Curve]:
    """The panels for which the record has rows."""
    found = [
        Curve(title, {label: line for name, label in names.items() if (line := _line(record, "probe", name))[0]})
        for title, names in _PANELS.items()
    ]
    terms = dict.fromkeys(name for stage in record.stages.values() for row in stage["losses"] for name in row)
    losses = {name: _line(record, "losses", name) for name in terms if name not in ("step", "adversarial")}
    # Eq. 5 is signed, and has no place on a logarithmic axis.
    signed = {"adversarial": _line(record, "losses", "adversarial")} if "adversarial" in terms else {}
    found += [Curve("loss terms, unweighted", losses, logarithmic=True), Curve("adversarial term (Eq. 5)", signed)]
    return [curve for curve in found if curve.lines]


def _line(record: Record, kind: str, name: str) -> tuple[list[float], list[float]]:
    steps: list[float] = []
    values: list[float] = []
    for begin, stage in zip(_begins(record), record.stages.values(), strict=True):
        rows = [row for row in stage[kind] if name in row]
        steps += [begin + row["step"] for row in rows]
        values += [row[name] for row in rows]
    return steps, values


def _begins(record: Record) -> list[float]:
    """The step, counted over all stages, at which each stage begins."""
    begins, at = [], 0.0
    for stage in record.stages.values():
        begins.append(at)
        at += max((row["step"] for row in stage["probe"]), default=0.0)
    return begins


def draw(record: Record) -> str:
    """All panels as one SVG; empty where nothing was recorded. A dotted line is where the second stage begins."""
    curves = panels(record)
    if not curves:
        return ""
    columns = 3
    rows = -(-len(curves) // columns)
    # Text stays text, and the file has no date, no random names: equal records give equal files.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "styleblend", "font.family": "sans-serif"}):
        chart = Figure(figsize=(4.4 * columns, 2.7 * rows), layout="constrained")
        for place, curve in enumerate(curves, start=1):
            _panel(chart, (rows, columns, place), curve, _begins(record)[1:])
        stream = io.StringIO()
        chart.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    return stream.getvalue()


def _panel(chart: Figure, place: tuple[int, int, int], curve: Curve, stages: Sequence[float]) -> None:
    axes = chart.add_subplot(*place)
    for number, (label, (steps, values)) in enumerate(curve.lines.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        dash = "-" if number < len(_COLOURS) else "--"
        axes.plot(steps, values, dash, color=colour, label=label, lw=1.4, marker=".", markersize=3)
    for begin in stages:
        axes.axvline(begin, color="#888888", lw=0.8, ls=":")
    if curve.logarithmic and all(value > 0 for _, values in curve.lines.values() for value in values):
        axes.set_yscale("log")
    axes.set_title(curve.title, fontsize=9)
    axes.tick_params(labelsize=7)
    axes.set_xlabel("steps", fontsize=7)
    axes.legend(fontsize=6, frameon=False)
