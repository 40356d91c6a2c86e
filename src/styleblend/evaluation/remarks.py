"""Sentences that must stand beside the figures, where the figures alone would say too much."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from styleblend.evaluation import protocol
from styleblend.evaluation.baselines import HALF_MASK
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


def beside_half_mask(measured: Mapping[str, Measured], resamples: int, seed: int) -> str:
    """In which figures training gained something over the half mask, by 95 % intervals of the paired differences."""
    if HALF_MASK not in measured:
        return ""
    apart = protocol.difference(measured[MODEL].table, measured[HALF_MASK].table, resamples, seed)
    found: dict[str, list[str]] = {"better": [], "worse": [], "not clearly different": []}
    for name, metric in METRICS.items():
        if metric.words and name in apart.index:
            low, high = apart.loc[name].to_numpy(np.float64)
            if low > 0 or high < 0:
                key = "better" if (low > 0) == (metric.better == "up") else "worse"
            else:
                key = "not clearly different"
            found[key].append(name)
    parts = [f"{key} in {', '.join(names)}" for key, names in found.items() if names]
    return (
        f"beside {HALF_MASK}, which learned nothing of swapping (the prior's identity channels from the source, its "
        f"others from the target), the trained model is {'; '.join(parts)}: only what it does better was learned by "
        "training, the rest is the prior's"
    )
