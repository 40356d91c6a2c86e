"""The data report: what the faces are like, which are not used and why, which are copies, and what moved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from styleblend.data.selection import MEASURES, labels_by_picture
from styleblend.reporting.table import markdown

SHOWN = 50
"""Rows of the longer tables; the selection has all."""


@dataclass(frozen=True)
class Checked:
    """What the stage validate found. `against` says which version `drift` compares with, or why there is no table."""

    quarantine: pd.DataFrame
    chosen: pd.DataFrame
    drift: pd.DataFrame | None
    against: str
    checked: int
    failed: Sequence[str]
    warned: Sequence[str]
    max_drift: float


def fallen(chosen: pd.DataFrame) -> dict[str, int]:
    """How many faces each limit, and each kind of copy, cost; a face may miss several limits."""
    missed = chosen["missed"][chosen["missed"] != ""].str.split(", ").explode()
    copies = chosen.loc[(chosen["missed"] == "") & chosen["same_as"].notna(), "how"]
    return {str(name): int(count) for name, count in [*missed.value_counts().items(), *copies.value_counts().items()]}


def conflicts(chosen: pd.DataFrame) -> pd.DataFrame:
    """The pictures that stand under several labels, as `selection.labels_by_picture` has them, with the kept label."""
    table = labels_by_picture(chosen)
    table = table[table["labels"] > 1]
    kept = chosen[chosen["kept"]].set_index("picture")["person"]
    return table.assign(kept_as=table["picture"].map(kept)).reset_index(drop=True)


def text(found: Checked) -> str:
    """The report in Markdown."""
    chosen = found.chosen
    cost = fallen(chosen)
    parts = [
        "# Data",
        f"{len(chosen)} faces, of which {int(chosen['kept'].sum())} are used; {len(found.quarantine)} pictures in "
        f"quarantine. {found.checked} expectations were checked, {len(found.failed)} do not hold.",
        *_list("", found.failed),
        "## Not used",
        markdown(["limit or kind", "faces"], [(f"`{name}`", count) for name, count in cost.items()])
        if cost
        else "Every face is used.",
        "## Measures of all faces",
        markdown(["measure", "5 %", "median", "95 %"], _measures(chosen)),
        "## Copies of one picture",
        *_copies(chosen),
        "## Since the champion",
        *_moved(found),
    ]
    return "\n\n".join(parts) + "\n"


def _measures(chosen: pd.DataFrame) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = []
    for name in MEASURES:
        values = chosen[name].to_numpy(float)
        values = values[np.isfinite(values)]
        quantiles = [f"{value:.4g}" for value in np.quantile(values, (0.05, 0.5, 0.95))] if len(values) else ["-"] * 3
        rows.append((f"`{name}`", *quantiles))
    return rows


def _copies(chosen: pd.DataFrame) -> list[str]:
    twice = chosen[chosen["same_as"].notna()]
    if not len(twice):
        return ["No picture was found twice."]
    by_id = chosen.set_index("face_id")["raw_path"]
    by_id = by_id[~by_id.index.duplicated()]
    rows = [
        (_cell(row.raw_path), _cell(row.person), row.how, _cell(by_id.get(row.same_as, "")))
        for row in twice.head(SHOWN).itertuples()
    ]
    several = conflicts(chosen)
    named = [
        (_cell(row.raw_path), row.copies, _cell(row.named), _cell(row.kept_as))
        for row in several.head(SHOWN).itertuples()
    ]
    lines = [f"{len(twice)} faces show a picture that another face shows, and are not used. All are in the selection."]
    lines.append(markdown(["picture", "label", "how", "kept in its place"], rows))
    if named:
        lines.append(
            f"{len(several)} pictures stand under several labels. The copy is kept whose label has the most similar "
            "other faces; mend the others."
        )
        lines.append(markdown(["picture", "copies", "labels", "kept as"], named))
    return lines


def _moved(found: Checked) -> list[str]:
    if found.drift is None:
        return [f"Not compared: {found.against}."]
    moved = found.drift.sort_values("distance", ascending=False, kind="stable")
    rows = [
        (f"`{row.column}`", row.measure, f"{distance:.3f}", _cell(row.here), _cell(row.champion),
         "moved" if distance > found.max_drift else "")
        for row, distance in zip(moved.itertuples(), moved["distance"].astype(float), strict=True)
    ]  # fmt: skip
    heads = ["column", "measure", "distance", "here", "champion", f"over {found.max_drift:g}"]
    return [f"Compared with the data of {found.against}: medians, and of shares the largest.", markdown(heads, rows)]


def _list(head: str, lines: Sequence[str]) -> list[str]:
    return ["\n".join([*([head] if head else []), *(f"- {line}" for line in lines)])] if lines else []


def _cell(value: Any) -> str:
    """A name as a cell of a table; names are a user's, and may hold what Markdown takes for its own."""
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return "none"
    shown = str(value).encode("utf-8", "backslashreplace").decode()
    return " ".join(shown.replace("|", "\\|").replace("`", "'").split())


def write(found: Checked, path: Path) -> None:
    """Write the report to a file that is new."""
    path.write_text(text(found), encoding="utf-8")
