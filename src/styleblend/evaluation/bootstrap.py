"""The bootstrap: how far a figure would move with other pairs of the same kind."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def bootstrap_counts(n: int, resamples: int, seed: int) -> NDArray[np.int64]:
    """How often each of n pairs is in each resample, drawn with replacement: [resamples, n]."""
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples)


def bootstrap_interval(values: Floats, resamples: int, seed: int, share: float = 0.95) -> tuple[Floats, Floats]:
    """Percentile bootstrap interval of the mean (Efron 1979), pairs drawn with replacement.

    Args:
        values: [N, K]: N pairs, K metrics. All metrics see the same resamples.
        share: of the resampled means that lie within the interval.
    Returns:
        lower and upper limits, [K] each.
    """
    return interval(bootstrap_counts(len(values), resamples, seed) @ values / len(values), share)


def interval(draws: Floats, share: float = 0.95) -> tuple[Floats, Floats]:
    """Limits [K] each, between which this share of the resampled figures [resamples, K] lies."""
    tail = 100 * (1 - share) / 2
    low, high = np.percentile(draws, [tail, 100 - tail], axis=0)
    return low, high
