"""The report of methods that were measured by a written pair list: the same table, grid and JSON as the model's own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from torch import Tensor

from styleblend.evaluation import protocol
from styleblend.evaluation.benchmark import Tables
from styleblend.evaluation.protocol import Measured
from styleblend.provenance.credentials import Credentials
from styleblend.reporting.charts import figure_chart, swap_grid
from styleblend.reporting.figures import KEY_FIGURES, labelled, with_interval
from styleblend.reporting.table import markdown
from styleblend.system.files import whole_folder

_COPIES = ("copy_source", "copy_target")
"""In the grid already."""


@dataclass(frozen=True)
class Shown:
    """Pairs of the grid, uint8 [n, 3, S, S], whose swaps every method kept."""

    source: Tensor
    target: Tensor


def write(
    found: Tables, measured: Mapping[str, Measured], shown: Shown, out: Path, notes: Sequence[str], signing: Credentials
) -> None:
    """Write the folder `out`: metrics.json, figures.csv, groups.csv, pairs.parquet, table.md, protocol.json, pictures.

    Args:
        notes: what must be said beside the figures, a sentence each.
    """
    methods = list(measured)
    with whole_folder(out) as folder:
        each = [one.table.assign(method=name) for name, one in measured.items()]
        pd.concat(each, ignore_index=True).to_parquet(folder / "pairs.parquet", index=False)
        found.figures.to_csv(folder / "figures.csv", index=False)
        found.groups.to_csv(folder / "groups.csv", index=False)
        (folder / "metrics.json").write_text(json.dumps(found.flat, indent=1) + "\n")
        described = {"text": protocol.__doc__, "methods": methods, "notes": list(notes)}
        (folder / "protocol.json").write_text(json.dumps(described, indent=1) + "\n")
        (folder / "table.md").write_text(
            table(found, methods) + "\n" + "".join(f"\n- {note}." for note in notes) + "\n"
        )
        figure_chart(found.figures, folder / "figures.png")
        drawn = {name: measured[name].kept for name in methods if name not in _COPIES}
        columns = {"source": shown.source, "target": shown.target, **drawn}
        swap_grid(columns, folder / "swap_grid.png", "evaluate", signing)


def table(found: Tables, methods: Sequence[str]) -> str:
    """Key figures in Markdown, each with its 95 % interval, a column a method; the Frechet distance has none."""
    rows = []
    known = found.figures.set_index(["figure", "method"])
    for name, words, better in KEY_FIGURES:
        if name in known.index:
            own = known.loc[name]
            cells = [
                with_interval(*own.loc[method, ["value", "low", "high"]]) if method in own.index else ""
                for method in methods
            ]
            rows.append([labelled(words, better), *cells])
    rows.append(["Frechet distance (lower is better)", *(f"{found.distances[method]:.3g}" for method in methods)])
    return markdown(("Figure", *methods), rows)
