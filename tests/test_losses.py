"""Objectives that the paper does not have, in float64; those of its equations are in test_equations.py."""

from __future__ import annotations

import pytest
import torch

from styleblend.config.training import LossWeights
from styleblend.training import losses


def rows(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_r1_is_half_the_squared_gradient_on_real_pictures() -> None:
    """For V(I) = <a, I> averaged over patches the gradient is known."""
    images, direction = rows(2, 3, 4, 4).requires_grad_(), rows(3, 4, 4, seed=1)
    scores = [(images * direction).sum((1, 2, 3)).reshape(2, 1, 1, 1).expand(2, 1, 3, 3)]
    assert losses.r1(images, scores).item() == pytest.approx(0.5 * float(direction.square().sum()))


def test_perceptual_counts_features_of_self_pairs() -> None:
    """Half the mean squared error of the features; other pairs count as zero in the mean."""
    features, wanted = rows(3, 6), rows(3, 6, seed=1)
    same = torch.tensor([True, False, True])
    per_picture = 0.5 * ((features - wanted).numpy() ** 2).mean(1)
    assert losses.perceptual(features, wanted, same).item() == pytest.approx((per_picture[0] + per_picture[2]) / 3)


def test_outside_ignores_the_face_and_survives_a_full_one() -> None:
    """L1 weighted by what is not face, each picture by itself; a face that fills the picture gives 0."""
    a, b = rows(2, 3, 4, 4), rows(2, 3, 4, 4, seed=1)
    face = torch.zeros(2, 1, 4, 4, dtype=torch.float64)
    face[0, :, :2], face[0, :, 2], face[1] = 1, 0.5, 1
    distance = (a - b).abs().numpy()[0].mean(0)
    wanted = (0.5 * distance[2].sum() + distance[3].sum()) / (0.5 * 4 + 4)
    assert losses.outside(a, b, face).item() == pytest.approx(wanted / 2)
    inside = a.clone()
    inside[0, :, :2] += 5
    assert losses.outside(inside, b, face).item() == pytest.approx(wanted / 2)


def test_attributes_count_pose_in_twenties_of_degrees_and_expression_alike() -> None:
    """Half the mean squared error of each, so that 20 degrees weigh as much as a coefficient that is off by one."""
    pose, wanted_pose = 30 * rows(3, 3), 30 * rows(3, 3, seed=1)
    expression, wanted_expression = rows(3, 5, seed=2), rows(3, 5, seed=3)
    of_pose = (((pose - wanted_pose) / 20).numpy() ** 2).mean()
    of_expression = ((expression - wanted_expression).numpy() ** 2).mean()
    found = losses.attributes(pose, wanted_pose, expression, wanted_expression)
    assert found.item() == pytest.approx(0.5 * of_pose + 0.5 * of_expression)


def test_every_weight_of_the_settings_has_its_term() -> None:
    """A weight without a term would be accepted and do nothing; a term without a weight could not be switched on."""
    assert set(losses.TERMS) == set(LossWeights.model_fields)
