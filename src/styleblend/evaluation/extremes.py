"""Best, median and worst pairs for people to look at, chosen by a written rule and by nobody's eye."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from styleblend.evaluation.protocol import MODEL, TRUE_SWAP, Batch, Method, Pairs
from styleblend.faces.pixels import from_8bit, to_8bit
from styleblend.faces.resize import bicubic

RULE = (
    "All pairs are put in order by the similarity of the swap to the source less its similarity to the target, both by"
    " the judge. The best are the first of that order, the worst its last, the median those in its middle."
)
KINDS = ("best", "median", "worst")
_BESIDE = (TRUE_SWAP, "dense_warp", "warp_blend")
"""Methods whose pictures stand beside the model's, where they are measured."""


@dataclass(frozen=True)
class Extreme:
    """Pairs of one kind: row numbers, their places in the order from 1, and uint8 pictures [n, 3, S, S] by caption."""

    rows: list[int]
    places: list[int]
    margins: list[float]
    pictures: dict[str, Tensor]


def may_show(pairs: Pairs, hidden: Sequence[str]) -> list[int]:
    """Rows of the pairs of which neither face comes from a source that reports must not show."""
    names = pairs.table["source"].to_numpy() if "source" in pairs.table else np.full(len(pairs.table), "")
    shown = ~np.isin(names.astype(str), list(hidden))
    return [k for k, (s, t) in enumerate(zip(pairs.source.tolist(), pairs.target.tolist(), strict=True))
            if shown[s] and shown[t]]  # fmt: skip


def margins(table: pd.DataFrame) -> pd.Series:
    """What RULE orders by, for rows of pairs.parquet of one method."""
    return table["id_similarity_source"] - table["id_similarity_target"]


def choose(margin: pd.Series, shown: Sequence[int], count: int) -> dict[str, list[int]]:
    """Rows of each kind, best first; of few pairs a third each, so that no pair is of two kinds.

    Args:
        margin: of all pairs. shown: rows that may be shown. count: of each kind.
    """
    allowed = margin.iloc[list(shown)]
    order = [shown[k] for k in np.argsort(-allowed.to_numpy(), kind="stable")]
    count = min(count, len(order) // 3)
    middle = (len(order) - count) // 2
    starts = (0, middle, len(order) - count)
    return {kind: order[start : start + count] for kind, start in zip(KINDS, starts, strict=True)}


@torch.no_grad()
def draw(
    pairs: Pairs, methods: Mapping[str, Method], margin: pd.Series, chosen: Mapping[str, list[int]], device: str
) -> dict[str, Extreme]:
    """Swap the chosen pairs again, by the model and by the methods that stand beside it."""
    place = {int(row): number for number, row in enumerate(np.argsort(-margin.to_numpy(), kind="stable"), start=1)}
    found = {}
    for kind, rows in chosen.items():
        if not rows:
            continue
        s, t = pairs.source[rows], pairs.target[rows]
        batch = Batch(pairs, s, t, *(from_8bit(pairs.pictures(faces)).to(device) for faces in (s, t)))
        pictures = {"source": to_8bit(batch.source).cpu(), "target": to_8bit(batch.target).cpu()}
        for name in (MODEL, *_BESIDE):
            if name in methods:
                swapped = to_8bit(bicubic(methods[name](batch), batch.target.shape[-1])).cpu()
                pictures["swapped" if name == MODEL else name.replace("_", " ")] = swapped
        values = [float(margin.iloc[row]) for row in rows]
        found[kind] = Extreme(rows, [place[row] for row in rows], values, pictures)
    return found
