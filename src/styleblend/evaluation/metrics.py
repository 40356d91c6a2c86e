"""The metrics: one pure function each, and METRICS, the table of those that have a value for every pair.

To add a metric, write its function and add a row to METRICS: protocol.py measures it, and every report shows it.
No network is called here: embeddings and angles come in. Pictures are [N, 3, H, W] RGB in [-1, 1]. Values are float64,
one a pair, so that means, groups and intervals are computed in one place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from styleblend.faces.pixels import saturated

Floats = NDArray[np.float64]


def retrieval_rank(probes: Tensor, gallery: Tensor, wanted: Tensor, persons: Tensor) -> Tensor:
    """Place of the right person when the gallery is sorted by cosine similarity to a probe; 1 is the best.

    Counts the faces of other persons that are at least as similar as the most similar face of the right one,
    so a tie, or a similarity that is not a number, counts against the probe.

    Args:
        probes: [N, D] embeddings of any length; gallery: [G, D].
        wanted: [N] label of the right person; persons: [G] labels of the gallery.
    Returns:
        [N] int64 from 1 to G + 1.
    """
    similarity = F.normalize(probes.double(), dim=1) @ F.normalize(gallery.double(), dim=1).T
    right = wanted[:, None] == persons[None, :]
    if not right.any(1).all():
        raise ValueError("a probe's person has no face in the gallery")
    best = similarity.masked_fill(~right, -torch.inf).amax(1, keepdim=True)
    return 1 + (~right & ~(similarity < best)).sum(1)


def cosine_similarity(a: Tensor, b: Tensor) -> Tensor:
    """[N, D], [N, D] -> [N], in [-1, 1]."""
    return F.cosine_similarity(a.double(), b.double(), dim=1)


def pose_error_deg(a: Tensor, b: Tensor) -> Tensor:
    """L2 norm of the difference of (yaw, pitch, roll), [N, 3] in degrees -> [N]; full turns do not count."""
    return ((a.double() - b.double() + 180) % 360 - 180).norm(dim=1)


def expression_error(a: Tensor, b: Tensor) -> Tensor:
    """L2 norm of the difference of expression coefficients of one network, [N, E] -> [N]."""
    return (a.double() - b.double()).norm(dim=1)


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


def psnr_db(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal to noise ratio [N] in dB; the peak is the range of [-1, 1]. Infinite for equal pictures."""
    return 10 * torch.log10(4 / (a.double() - b.double()).square().mean((1, 2, 3)))


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity [N] (Wang et al. 2004, Eq. 13), mean over colours and places.

    Gaussian window of 11 pixels with a standard deviation of 1.5, K1 0.01, K2 0.03, range 2; only places
    where the whole window lies in the picture, which must have at least 11 pixels a side.
    """
    a, b = a.double(), b.double()
    offsets = torch.arange(-5, 6, dtype=torch.float64, device=a.device)
    line = torch.exp(-offsets.square() / (2 * 1.5**2))
    line = line / line.sum()
    channels = a.shape[1]

    def local_mean(values: Tensor) -> Tensor:
        rows = F.conv2d(values, line.view(1, 1, 11, 1).expand(channels, 1, 11, 1), groups=channels)
        return F.conv2d(rows, line.view(1, 1, 1, 11).expand(channels, 1, 1, 11), groups=channels)

    mean_a, mean_b = local_mean(a), local_mean(b)
    var_a, var_b = local_mean(a * a) - mean_a**2, local_mean(b * b) - mean_b**2
    covariance = local_mean(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    similarity = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    return (similarity / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))).mean((1, 2, 3))


def l1_outside(a: Tensor, b: Tensor, mask: Tensor) -> Tensor:
    """Mean absolute difference [N] outside a mask, in units of the [0, 1] range.

    Args:
        mask: [N, 1, H, W] in [0, 1]; 1 is left out. A mask that covers the whole picture gives 0.
    """
    weight = 1 - mask.double()
    difference = (a.double() - b.double()).abs().mean(1, keepdim=True) / 2
    return (difference * weight).sum((1, 2, 3)) / weight.sum((1, 2, 3)).clamp(min=1e-12)


def bootstrap_interval(values: Floats, resamples: int, seed: int, share: float = 0.95) -> tuple[Floats, Floats]:
    """Percentile bootstrap interval of the mean (Efron 1979), pairs drawn with replacement.

    Args:
        values: [N, K]: N pairs, K metrics. All metrics see the same resamples.
        share: of the resampled means that lie within the interval.
    Returns:
        lower and upper limits, [K] each.
    """
    n = len(values)
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples)
    tail = 100 * (1 - share) / 2
    low, high = np.percentile(counts @ values / n, [tail, 100 - tail], axis=0)
    return low, high


@dataclass(frozen=True)
class Seen:
    """What the judging networks see in N pictures.

    images: [N, 3, S, S] in [-1, 1]; embedding: [N, D]; pose_deg: [N, 3], yaw, pitch and roll; expression: [N, E]
    """

    images: Tensor
    embedding: Tensor
    pose_deg: Tensor
    expression: Tensor


class Gallery(NamedTuple):
    """Faces among which a person is looked for: embeddings [G, D], wanted [N] and persons [G] as labels."""

    embeddings: Tensor
    wanted: Tensor
    persons: Tensor


@dataclass(frozen=True)
class Swaps:
    """Swapped faces of N pairs, what they came from, and the galleries in which both persons are looked for.

    target_face: [N, 1, S, S], 1 inside the target's face.
    """

    swapped: Seen
    source: Seen
    target: Seen
    sources: Gallery
    targets: Gallery
    target_face: Tensor


@dataclass(frozen=True)
class Metric:
    """A metric with a value for every pair; one of the first three fields computes it.

    per_pair: values [N] of N pairs, a column of pairs.parquet.
    to_true_swap: the same from the swapped faces and their true swaps, where these are known.
    share: whether a condition on columns of pairs.parquet holds; the metric is the share of pairs for which it does.
    averaged: False for a column that only serves `share`.
    words: name and unit in reports; a metric without words is in the tables alone.
    better: the direction in which it improves.
    """

    per_pair: Callable[[Swaps], Tensor] | None = None
    to_true_swap: Callable[[Seen, Seen], Tensor] | None = None
    share: Callable[[pd.DataFrame], pd.Series] | None = None
    averaged: bool = True
    words: str = ""
    better: Literal["up", "down"] = "up"


METRICS: dict[str, Metric] = {
    "source_rank": Metric(lambda s: retrieval_rank(s.swapped.embedding, *s.sources), averaged=False),
    "target_rank": Metric(lambda s: retrieval_rank(s.swapped.embedding, *s.targets), averaged=False),
    "id_retrieval_top1": Metric(share=lambda pairs: pairs["source_rank"] <= 1, words="source found at rank 1"),
    "id_retrieval_top5": Metric(share=lambda pairs: pairs["source_rank"] <= 5, words="source found within rank 5"),
    "target_retrieval_top1": Metric(
        share=lambda pairs: pairs["target_rank"] <= 1, words="target found at rank 1", better="down"
    ),
    "id_similarity_source": Metric(
        lambda s: cosine_similarity(s.swapped.embedding, s.source.embedding), words="similarity to the source"
    ),
    "id_similarity_target": Metric(lambda s: cosine_similarity(s.swapped.embedding, s.target.embedding)),
    "pose_error_deg": Metric(
        lambda s: pose_error_deg(s.swapped.pose_deg, s.target.pose_deg), words="pose error, degrees", better="down"
    ),
    "pose_error_source_deg": Metric(lambda s: pose_error_deg(s.swapped.pose_deg, s.source.pose_deg)),
    "pose_nearer_target": Metric(
        share=lambda pairs: pairs["pose_error_deg"] < pairs["pose_error_source_deg"], words="pose nearer the target's"
    ),
    "expression_error": Metric(
        lambda s: expression_error(s.swapped.expression, s.target.expression), words="expression error", better="down"
    ),
    "outside_l1": Metric(
        lambda s: l1_outside(s.swapped.images, s.target.images, s.target_face),
        words="L1 outside the face, [0, 1]",
        better="down",
    ),  # fmt: skip
    "saturated": Metric(lambda s: saturated(s.swapped.images)),
    "psnr_true_swap_db": Metric(
        to_true_swap=lambda s, true: psnr_db(s.images, true.images), words="PSNR to the true swap, dB"
    ),
    "ssim_true_swap": Metric(to_true_swap=lambda s, true: ssim(s.images, true.images), words="SSIM to the true swap"),
    "id_similarity_true_swap": Metric(to_true_swap=lambda s, true: cosine_similarity(s.embedding, true.embedding)),
    "pose_error_true_swap_deg": Metric(to_true_swap=lambda s, true: pose_error_deg(s.pose_deg, true.pose_deg)),
    "expression_error_true_swap": Metric(to_true_swap=lambda s, true: expression_error(s.expression, true.expression)),
}
"""All metrics by their names in files; reports show those with words in this order."""
