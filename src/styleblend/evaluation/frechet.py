"""The Frechet distance of two sets of features, and what must be said beside it."""

from __future__ import annotations

import torch
from torch import Tensor


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Squared Frechet distance of two Gaussians fitted to features (Heusel et al. 2017, Eq. 6).

    |mean_a - mean_b|^2 + tr C_a + tr C_b - 2 tr (C_a C_b)^(1/2), where covariances are divided by N - 1. With
    centred features X, C = X'X / (N - 1), so the eigenvalues of C_a C_b are the squared singular values of
    R_a R_b' / sqrt((N_a - 1)(N_b - 1)), R being any square root of X'X. Their sum is the last trace. No root
    of a singular matrix is taken, so the result is exact with fewer samples than features too.

    Args:
        a, b: [N_a, F] and [N_b, F], at least two rows each; computed in float64.

    Raises:
        ValueError: too few rows, different features, or values that are not finite.
    """
    if min(len(a), len(b)) < 2:
        raise ValueError(f"a covariance needs two samples, got {len(a)} and {len(b)}")
    if a.ndim != 2 or a.shape[1:] != b.shape[1:]:
        raise ValueError(f"features have the shapes {tuple(a.shape)} and {tuple(b.shape)}: expected [N, F] of one F")
    a, b = a.double(), b.double()
    if not (a.isfinite().all() and b.isfinite().all()):
        raise ValueError("features hold values that are not finite")
    # The triangular factor has the same X'X in at most F rows, which bounds the cost for large N.
    roots = [torch.linalg.qr((each - each.mean(0)) / (len(each) - 1) ** 0.5, mode="r").R for each in (a, b)]
    traces = sum(root.square().sum() for root in roots)
    cross = torch.linalg.svdvals(roots[0] @ roots[1].T).sum()
    distance = (a.mean(0) - b.mean(0)).square().sum() + traces - 2 * cross
    return max(float(distance), 0.0)  # rounding alone brings equal sets below zero


def frechet_caveat(n_a: int, n_b: int, features: int) -> str:
    """What to say beside a Frechet distance of so few samples; empty if both covariances have their full rank.

    N samples fit a Gaussian of rank N - 1. The distance is still exact for those samples, but it exceeds that of
    the distributions they come from, and more so the fewer they are: only figures of equal N can be compared.
    """
    if min(n_a, n_b) > features:
        return ""
    return (
        f"the Frechet distance is of {n_a} and {n_b} samples with {features} features: N of at least {features + 1} "
        "would give covariances of full rank; with fewer it is too high, so compare it only at the same N"
    )
