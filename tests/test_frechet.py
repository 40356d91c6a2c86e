"""The Frechet distance against closed forms and the textbook formula."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.linalg
import torch

from styleblend.evaluation import frechet


@pytest.fixture
def random() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize(("n", "m", "features"), [(400, 300, 6), (9, 11, 24), (30, 9, 24)])
def test_frechet_distance_equals_the_matrix_root(n: int, m: int, features: int, random: torch.Generator) -> None:
    """The distance equals the textbook formula, with more and with fewer samples than features."""
    a = torch.randn(n, features, generator=random, dtype=torch.float64) * torch.linspace(0.3, 3, features)
    b = torch.randn(m, features, generator=random, dtype=torch.float64) + 0.5
    ca, cb = np.cov(a.numpy(), rowvar=False), np.cov(b.numpy(), rowvar=False)
    # tr (Ca Cb)^(1/2) by the symmetric root of Ca, which exists for any rank.
    values, vectors = scipy.linalg.eigh(ca)
    root = vectors @ np.diag(np.sqrt(values.clip(0))) @ vectors.T
    cross = np.sqrt(scipy.linalg.eigvalsh(root @ cb @ root).clip(0)).sum()
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(ca) + np.trace(cb) - 2 * cross
    assert frechet.frechet_distance(a, b) == pytest.approx(float(expected), rel=1e-6)


def test_frechet_distance_of_known_gaussians() -> None:
    """Samples with exactly known mean and covariance give the closed form; equal sets give nothing."""
    corners = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]], dtype=torch.float64) * math.sqrt(3 / 4)
    a, b = corners * torch.tensor([2.0, 3.0]), corners * torch.tensor([5.0, 1.0]) + torch.tensor([1.0, 2.0])
    assert frechet.frechet_distance(a, b) == pytest.approx(1 + 4 + (5 - 2) ** 2 + (3 - 1) ** 2, rel=1e-6)
    assert frechet.frechet_distance(a, a) == pytest.approx(0, abs=1e-12)


def samples(n: int, mean: torch.Tensor, root: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """N samples whose mean is exactly `mean` and whose covariance is exactly root root' [F, F] of rank R < N."""
    drawn = torch.randn(n, root.shape[1], generator=random, dtype=torch.float64)
    orthonormal = torch.linalg.qr(drawn - drawn.mean(0)).Q
    return orthonormal * math.sqrt(n - 1) @ root.T + mean


def rotation(size: int, random: torch.Generator) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(size, size, generator=random, dtype=torch.float64)).Q


@pytest.mark.parametrize(("n", "m", "features", "rank"), [(80, 100, 40, 40), (9, 12, 40, 8), (30, 5000, 300, 20)])
def test_frechet_distance_of_known_gaussians_in_many_dimensions(
    n: int, m: int, features: int, rank: int, random: torch.Generator
) -> None:
    """Covariances with the same turned axes have the distance of their standard deviations, at any rank."""
    axes = rotation(features, random)
    mean, other_mean = torch.randn(2, features, generator=random, dtype=torch.float64)
    deviations, other = torch.rand(2, rank, generator=random, dtype=torch.float64) * 3
    a = samples(n, mean, axes[:, :rank] * deviations, random)
    b = samples(m, other_mean, axes[:, :rank] * other, random)
    expected = (mean - other_mean).square().sum() + (deviations - other).square().sum()
    assert frechet.frechet_distance(a, b) == pytest.approx(float(expected), rel=1e-6)


def test_frechet_distance_of_gaussians_in_different_planes(random: torch.Generator) -> None:
    """Covariances on orthogonal planes share nothing: all of both traces remains, at Inception's 2048 features."""
    axes = torch.linalg.qr(torch.randn(2048, 30, generator=random, dtype=torch.float64)).Q
    deviations, other = torch.rand(2, 15, generator=random, dtype=torch.float64) * 3
    zero = torch.zeros(2048, dtype=torch.float64)
    a, b = samples(20, zero, axes[:, :15] * deviations, random), samples(17, zero, axes[:, 15:] * other, random)
    expected = deviations.square().sum() + other.square().sum()
    assert frechet.frechet_distance(a, b) == pytest.approx(float(expected), rel=1e-6)


def test_frechet_distance_is_computed_in_float64(random: torch.Generator) -> None:
    """float32 features far from zero keep their small differences, and the result has no sign or order."""
    a = (torch.randn(60, 8, generator=random) + 100).float()
    b = (a + 0.125).float()
    b[:, 0] += torch.linspace(-1, 1, 60)
    found = frechet.frechet_distance(a, b)
    assert found == pytest.approx(frechet.frechet_distance(a.double() - 100, b.double() - 100), rel=1e-6)
    assert found == pytest.approx(frechet.frechet_distance(b, a), rel=1e-6)
    assert 0 <= frechet.frechet_distance(a, a.flip(0)) < 1e-9


def test_frechet_distance_refuses_what_has_none() -> None:
    """One sample, other features or a value that is not a number give an error, never a number."""
    good = torch.eye(3)
    for bad, message in (
        (good[:1], "two samples, got 3 and 1"),
        (torch.eye(4), r"shapes \(3, 3\) and \(4, 4\)"),
        (good / 0, "not finite"),
    ):
        with pytest.raises(ValueError, match=message):
            frechet.frechet_distance(good, bad)


def test_few_samples_are_said_beside_a_frechet_distance() -> None:
    """As many samples as features are one too few for a covariance of full rank; both N are named."""
    assert frechet.frechet_caveat(2049, 5000, 2048) == ""
    assert "of 1000 and 2048 samples with 2048 features: N of at least 2049" in frechet.frechet_caveat(1000, 2048, 2048)
    assert frechet.frechet_caveat(5000, 12, 96)
