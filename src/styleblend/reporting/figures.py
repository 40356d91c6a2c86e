"""The key figures of a report, in words and in tables, and the warning beside figures that say little."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from styleblend.evaluation.metrics import METRICS
from styleblend.evaluation.protocol import MODEL
from styleblend.reporting.table import markdown

KEY_FIGURES = tuple((name, metric.words, metric.better) for name, metric in METRICS.items() if metric.words)
"""Name, words for people and better direction of each metric in reports, in their order."""
# Others count in terms of the training that the paper has not, if at all.
_WEIGHTY = ("identity", "identity_judge", "landmarks", "attributes_judge", "encoder", "decoder")


def labelled(words: str, better: str) -> str:
    """The words for a metric and its better direction, "up" or "down"."""
    return f"{words} ({'higher' if better == 'up' else 'lower'} is better)"


def with_interval(value: float, low: float, high: float) -> str:
    """A figure with its 95 % interval, as tables show it."""
    return f"{value:.3g} ({low:.3g} to {high:.3g})"


def figure_table(metrics: Mapping[str, Any], methods: Sequence[str]) -> str:
    """Key figures as a Markdown table: the model with its interval, then each other method."""
    rows = []
    for name, words, better in KEY_FIGURES:
        if name not in metrics:
            continue
        cells = [labelled(words, better)]
        for method in methods:
            value = metrics.get(name if method == MODEL else f"{method}/{name}")
            cell = "" if value is None else f"{value:.3g}"
            if method == MODEL:
                cell = f"**{cell}** ({metrics[f'{name}_low']:.3g} to {metrics[f'{name}_high']:.3g})"
            cells.append(cell)
        rows.append(cells)
    return markdown(("Figure", *methods), rows)


def caveat(manifest: pd.DataFrame, networks: Mapping[str, Mapping[str, Any]]) -> str:
    """A warning where this project's small networks, learned from rendered faces, judged photographs or were what the
    model learned from; else empty.
    """
    photographs = int(manifest["render_seed"].isna().sum())
    # A whole model to begin with stands where these would.
    unused = ("encoder", "decoder") if "starter" in networks else ()
    weighty = [role for role in _WEIGHTY if role not in unused]
    small = [role for role in weighty if "this project" in str(networks.get(role, {}).get("origin", ""))]
    if not photographs or not small:
        return ""
    return f"""
> **These figures say little.** {photographs} of the {len(manifest)} faces are photographs, but the networks
> {", ".join(small)} learned from rendered faces only. On real faces they tell people apart badly and misjudge pose and
> expression, so the model that learned under them and the figures they gave show only that the pipeline runs.
"""
