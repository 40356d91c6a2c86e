"""Each metric against an independent slow reference or a case with a known answer."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from styleblend.evaluation import bootstrap, metrics


@pytest.fixture
def random() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_retrieval_rank_equals_sorting_by_hand(random: torch.Generator) -> None:
    """The rank of a person is the place of their first face, less their own faces, in the sorted gallery."""
    probes, gallery = torch.randn(20, 4, generator=random), torch.randn(12, 4, generator=random)
    persons = torch.arange(12) % 5
    wanted = torch.arange(20) % 5
    for probe, person, rank in zip(
        probes, wanted, metrics.retrieval_rank(probes, gallery, wanted, persons), strict=True
    ):
        angles = [math.acos(float(probe @ face / probe.norm() / face.norm())) for face in gallery]
        order = sorted(range(12), key=angles.__getitem__)
        first = next(place for place, face in enumerate(order) if persons[face] == person)
        assert int(rank) == first + 1


def test_retrieval_counts_ties_and_nan_against_the_probe() -> None:
    """A network that gives everybody one embedding, or none at all, has no hit."""
    gallery, persons = torch.ones(3, 2), torch.arange(3)
    assert metrics.retrieval_rank(torch.ones(1, 2), gallery, persons[:1], persons).tolist() == [3]
    assert metrics.retrieval_rank(torch.full((1, 2), torch.nan), gallery, persons[:1], persons).tolist() == [3]
    with pytest.raises(ValueError, match="no face in the gallery"):
        metrics.retrieval_rank(torch.ones(1, 2), gallery, torch.tensor([7]), persons)


def test_pose_and_expression_errors_are_euclidean() -> None:
    """3-4-5 triangles; poses on both sides of a half turn are near."""
    a, b = (torch.tensor([[0.0, 3.0, 1.0], [179.0, 0.0, 0.0]]), torch.tensor([[4.0, 0.0, 1.0], [-179.0, 0.0, 0.0]]))
    assert metrics.pose_error_deg(a, b).tolist() == pytest.approx([5, 2])
    assert metrics.expression_error(torch.tensor([[3.0, 4.0]]), torch.zeros(1, 2)).tolist() == [5]


def test_cosine_similarity_ignores_length() -> None:
    """Parallel vectors give 1, perpendicular ones 0."""
    a = torch.tensor([[2.0, 0.0], [2.0, 0.0]])
    assert metrics.identity_similarity(a, torch.tensor([[5.0, 0.0], [0.0, 1.0]])).tolist() == [1, 0]


def test_a_distance_network_is_compared_by_distance(random: torch.Generator) -> None:
    """Longer embeddings are farther away, which an angle does not see: order and similarity are those of numpy."""
    probes, gallery = torch.randn(6, 4, generator=random), torch.randn(9, 4, generator=random)
    persons, wanted = torch.arange(9), torch.arange(6)
    distances = np.linalg.norm(probes.numpy()[:, None] - gallery.numpy()[None], axis=2)
    ranks = metrics.retrieval_rank(probes, gallery, wanted, persons, "distance")
    assert ranks.tolist() == [1 + int((row < row[k]).sum()) for k, row in enumerate(distances)]
    alike = metrics.identity_similarity(probes, gallery[:6], "distance")
    assert alike.tolist() == pytest.approx((1 - distances.diagonal()[:6] ** 2).tolist(), rel=1e-5)
    assert metrics.identity_similarity(2 * probes, probes).tolist() == pytest.approx([1] * 6)
    assert (metrics.identity_similarity(2 * probes, probes, "distance") < 1).all()


def test_judge_gap_is_a_difference_of_shares() -> None:
    """A swap that either network finds as alike as two pictures of one person has none; fooling shows as its excess."""
    training, judge = torch.tensor([0.7, 0.7, 0.35]), torch.tensor([0.8, 0.4, 0.4])
    assert metrics.judge_gap(training, judge, 0.7, 0.8).tolist() == pytest.approx([0, 0.5, 0], abs=1e-6)
    scale = metrics.Scale("cosine", same_person=0.8, strangers=0.4)
    assert scale.above_strangers(judge).tolist() == pytest.approx([1, 0, 0], abs=1e-6)


def test_landmark_error_is_in_per_cent_of_the_eye_distance() -> None:
    """All points moved by a tenth of the distance between the outer corners of the eyes are 10 %, at any scale."""
    points = torch.rand(2, 68, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    points[:, 36], points[:, 45] = torch.tensor([0.3, 0.4]), torch.tensor([0.7, 0.7])
    moved = points + 0.05 * torch.tensor([0.8, 0.6])
    assert metrics.landmark_error(moved, points).tolist() == pytest.approx([10, 10])
    assert metrics.landmark_error(moved * 64, points * 64).tolist() == pytest.approx([10, 10])
    assert metrics.landmark_error(points[:, [36, 45]], points[:, [36, 45]] + 0.5, eyes=(0, 1))[0] > 100


def test_psnr_of_a_known_error() -> None:
    """An error of a tenth of the range is 20 dB, of the whole range 0 dB."""
    a = torch.full((2, 3, 4, 4), -1.0)
    b = a.clone()
    b[0] += 0.2
    b[1] += 2
    assert metrics.psnr_db(a, b).tolist() == pytest.approx([20, 0], abs=1e-5)


def test_ssim_equals_a_slow_reference(random: torch.Generator) -> None:
    """Each window is summed by hand from the definition."""
    a = torch.rand(2, 3, 14, 13, generator=random) * 2 - 1
    b = (a + 0.3 * torch.randn(a.shape, generator=random)).clamp(-1, 1)
    line = [math.exp(-((k - 5) ** 2) / 4.5) for k in range(11)]
    window = np.outer(line, line) / np.outer(line, line).sum()
    for pair in range(2):
        found = []
        for channel in range(3):
            x, y = a[pair, channel].double().numpy(), b[pair, channel].double().numpy()
            for row in range(4):
                for column in range(3):
                    u, v = x[row : row + 11, column : column + 11], y[row : row + 11, column : column + 11]
                    mu, mv = (window * u).sum(), (window * v).sum()
                    du, dv = (window * (u - mu) ** 2).sum(), (window * (v - mv) ** 2).sum()
                    both = (window * (u - mu) * (v - mv)).sum()
                    found.append(
                        (2 * mu * mv + 4e-4) * (2 * both + 3.6e-3) / ((mu**2 + mv**2 + 4e-4) * (du + dv + 3.6e-3))
                    )
        assert float(metrics.ssim(a, b)[pair]) == pytest.approx(np.mean(found), rel=1e-9)
    assert metrics.ssim(a, a).tolist() == pytest.approx([1, 1])


def test_l1_outside_sees_only_the_outside() -> None:
    """A change within the mask costs nothing; outside, the mean is over the outside's pixels, range [0, 1]."""
    a = torch.zeros(2, 3, 4, 4)
    b = a.clone()
    b[:, :, :2] = 1.0
    mask = torch.zeros(2, 1, 4, 4)
    mask[0, :, :2] = 1
    mask[1, :, 3:] = 1
    assert metrics.l1_outside(a, b, mask).tolist() == pytest.approx([0, 0.5 * 8 / 12])
    assert metrics.l1_outside(a, b, torch.ones(2, 1, 4, 4)).tolist() == [0, 0]


def test_bootstrap_interval_covers_the_mean_as_often_as_it_says() -> None:
    """Over many samples of a known distribution, about 95 % of the intervals hold the true mean."""
    values = np.random.default_rng(0).normal(3, 2, (60, 400))
    low, high = bootstrap.bootstrap_interval(values, 600, seed=1)
    covered = ((low < 3) & (high > 3)).mean()
    assert 0.90 < covered < 0.98
    again = bootstrap.bootstrap_interval(values, 600, seed=1)
    assert np.array_equal(low, again[0]) and np.array_equal(high, again[1])
    assert np.allclose((high - low).mean(), 2 * 1.96 * 2 / math.sqrt(60), rtol=0.1)
