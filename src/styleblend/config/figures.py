"""Names of figures that a gate may state limits on, known before anything is measured.

Evaluation.metrics.METRICS is the table of how they are measured; it needs torch, and the check of settings does not.
"""

from __future__ import annotations

import re
from difflib import get_close_matches

COMPARED = (
    "id_retrieval_top1", "id_retrieval_top5", "target_retrieval_top1", "id_similarity_source", "judge_gap",
    "pose_error_deg", "pose_nearer_target", "expression_error", "landmark_error", "outside_l1",
    "feature_distance_outside", "detail_outside", "detail_inside", "psnr_true_swap_db", "ssim_true_swap",
    "feature_distance_true_swap",
)  # fmt: skip
"""Figures of which reports say which direction is better: these can be compared with a baseline or the champion."""
FIGURES = (
    *COMPARED, "id_similarity_target", "training_similarity_source", "judge_gap_above_strangers",
    "pose_error_source_deg", "saturated", "id_similarity_true_swap", "pose_error_true_swap_deg",
    "expression_error_true_swap",
)  # fmt: skip
BASELINES = (
    "copy_target",
    "copy_source",
    "warp_blend",
    "dense_warp",
    "half_mask",
    "untrained_mixing",
    "starter",
    "prior_alone",
    "shuffled_codes",
)
_METHODS = (*BASELINES, "true_swap")
_SUFFIX = re.compile(r"_(low|high|yaw_[0-9a-z_.]+)$")
_OTHERS = re.compile(r"^(fid|frechet_[a-z0-9_]+)$")


def is_figure(name: str) -> bool:
    """Whether reports/metrics.json can have a number of that name.

    That is a figure of the model, with `_low` or `_high` an end of its interval, with `_yaw_0_15` that of a group, or
    after `method/` that of another method.
    """
    method, _, figure = name.rpartition("/")
    if method and method not in _METHODS:
        return False
    return _SUFFIX.sub("", figure) in FIGURES or bool(_OTHERS.match(figure))


def near(name: str, names: tuple[str, ...] = FIGURES) -> str:
    """What somebody who wrote `name` may have meant, for a message."""
    found = get_close_matches(name, names, n=3)
    return f"did you mean {' or '.join(found)}" if found else f"choose from {', '.join(names)}"
