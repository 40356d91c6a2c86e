"""The key figures of a report: their order, their words, and tables of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from styleblend.evaluation.protocol import MODEL

# Key figures with the words for them, in the order of reports; the last column says which way is better.
KEY_FIGURES: tuple[tuple[str, str, str], ...] = (
    ("id_retrieval_top1", "source found at rank 1", "up"),
    ("id_retrieval_top5", "source found within rank 5", "up"),
    ("target_retrieval_top1", "target found at rank 1", "down"),
    ("id_similarity_source", "similarity to the source", "up"),
    ("pose_error_deg", "pose error, degrees", "down"),
    ("pose_nearer_target", "pose nearer the target's", "up"),
    ("expression_error", "expression error", "down"),
    ("outside_l1", "L1 outside the face, [0, 1]", "down"),
    ("psnr_true_swap_db", "PSNR to the true swap, dB", "up"),
    ("ssim_true_swap", "SSIM to the true swap", "up"),
)


def with_interval(value: float, low: float, high: float) -> str:
    """A figure with its 95 % interval, as tables show it."""
    return f"{value:.3g} ({low:.3g} to {high:.3g})"


def figure_table(metrics: Mapping[str, Any], methods: Sequence[str]) -> str:
    """Key figures as a Markdown table: the model with its interval, then each other method."""
    lines = ["| Figure | " + " | ".join(methods) + " |", "|---" * (len(methods) + 1) + "|"]
    for name, words, better in KEY_FIGURES:
        if name not in metrics:
            continue
        cells = []
        for method in methods:
            value = metrics.get(name if method == MODEL else f"{method}/{name}")
            cell = "" if value is None else f"{value:.3g}"
            if method == MODEL:
                cell = f"**{cell}** ({metrics[f'{name}_low']:.3g} to {metrics[f'{name}_high']:.3g})"
            cells.append(cell)
        lines.append(f"| {words} ({'higher' if better == 'up' else 'lower'} is better) | {' | '.join(cells)} |")
    return "\n".join(lines)
