"""Sentences that must stand beside the figures, where the figures alone would say too much."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from styleblend.evaluation import protocol
from styleblend.evaluation.baselines import HALF_MASK, PRIOR_ALONE, SHUFFLED_CODES
from styleblend.evaluation.metrics import METRICS
from styleblend.evaluation.protocol import MODEL, TRUE_SWAP, Measured


def nearer_to_real_faces(distances: Mapping[str, float], name: str) -> str:
    """Which baselines have a smaller Frechet distance than the model, and why that is no praise of them."""
    own = distances[MODEL]
    nearer = [f"{key} {value:.3g}" for key, value in distances.items() if value < own and key not in (MODEL, TRUE_SWAP)]
    if not nearer:
        return ""
    return (
        f"{name} of the model is {own:.3g}, and these are nearer to real faces: {', '.join(nearer)}. Copies are real "
        "faces, and warps keep most pixels of real pictures: the distance says how natural pictures look as a set, "
        "and nothing of whether a swap was made"
    )


def beside_others(measured: Mapping[str, Measured], resamples: int, seed: int) -> list[str]:
    """How the model stands beside what a sceptic would put in its place, a sentence for each that was measured."""
    return [
        start + _compared(measured, name, resamples, seed) + consequence
        for name, (start, consequence) in SCEPTICS.items()
        if name in measured
    ]


SCEPTICS = {
    HALF_MASK: (
        f"beside {HALF_MASK}, which learned nothing of swapping (the prior's identity channels from the source, its "
        "others from the target), the trained model is ",
        ": only what it does better was learned by training, the rest is the prior's",
    ),
    PRIOR_ALONE: (
        f"beside {PRIOR_ALONE}, the warped source as it is, the trained model is ",
        ": only what it does better was learned",
    ),
    SHUFFLED_CODES: (
        f"beside {SHUFFLED_CODES}, itself with the codes of other sources, the trained model is ",
        ": only what it does better comes from the codes, the rest from the warp",
    ),
}
"""Methods without the learned part, by name: the sentence's beginning, and what follows from it."""


def _compared(measured: Mapping[str, Measured], other: str, resamples: int, seed: int) -> str:
    """In which figures the model is better than another method, by 95 % intervals of the paired differences."""
    apart = protocol.difference(measured[MODEL].table, measured[other].table, resamples, seed)
    found: dict[str, list[str]] = {"better": [], "worse": [], "not clearly different": []}
    for name, metric in METRICS.items():
        if metric.words and name in apart.index:
            low, high = apart.loc[name].to_numpy(np.float64)
            if low > 0 or high < 0:
                key = "better" if (low > 0) == (metric.better == "up") else "worse"
            else:
                key = "not clearly different"
            found[key].append(name)
    return "; ".join(f"{key} in {', '.join(names)}" for key, names in found.items() if names)
