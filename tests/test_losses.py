"""Objectives that the paper does not have, in float64; those of its equations are in test_equations.py."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from styleblend.config.training import LossWeights, Training
from styleblend.perception.mesh import EXPRESSION_POINTS
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


def test_pixels_count_the_face_more_than_what_is_beside() -> None:
    """Mean |difference| with the weight 1 in the face and 0.4 beside it, in reconstructions alone."""
    a, b, face = rows(3, 3, 4, 4), rows(3, 3, 4, 4, seed=1), torch.rand(3, 1, 4, 4, dtype=torch.float64)
    weighted = [((a[n] - b[n]).abs() * (0.4 + 0.6 * face[n])).sum().item() / 48 for n in range(3)]
    found = losses.pixels(a, b, torch.tensor([True, False, True]), face)
    assert found.item() == pytest.approx((weighted[0] + weighted[2]) / 3)


def test_perceptual_maps_count_each_level_as_a_share_of_itself() -> None:
    """Levels of any size count alike, each picture against its own maps; a level in other units changes nothing."""
    a, b = ([rows(3, 2, 4, 4, seed=k), rows(3, 5, 2, 2, seed=k + 1)] for k in (0, 2))
    same = torch.tensor([False, True, True])
    wanted = 0.0
    for n in (1, 2):
        for of_a, of_b in zip(a, b, strict=True):
            distance = sum(abs(x - y) for x, y in zip(of_a[n].flatten(), of_b[n].flatten(), strict=True))
            wanted += float(distance / of_b[n].abs().sum()) / 2 / 3
    assert losses.perceptual_maps(a, b, same).item() == pytest.approx(wanted)
    assert losses.perceptual_maps([a[0], 9 * a[1]], [b[0], 9 * b[1]], same).item() == pytest.approx(wanted)


@pytest.mark.parametrize(("metric", "limit"), [("cosine", 0.2), ("distance", 0.0)])
def test_target_margin_lets_strangers_be(metric: str, limit: float) -> None:
    """Only what of the likeness to the target is above the limit counts, and only in swaps."""
    swapped, target = 0.4 * rows(4, 8), 0.4 * rows(4, 8, seed=1)
    target[0], target[3] = swapped[0], swapped[3]
    same = torch.tensor([False, False, False, True])
    wanted = 0.0
    for a, b in zip(swapped[:3], target[:3], strict=True):
        cosine = float(a @ b) / float(a.norm() * b.norm())
        alike = cosine if metric == "cosine" else 1 - float((a - b) @ (a - b))
        wanted += max(0.0, alike - limit) / 4
    assert losses.target_margin(swapped, target, limit, same, metric).item() == pytest.approx(wanted)  # type: ignore[arg-type]


def test_mesh_weighs_the_points_that_show_the_expression() -> None:
    """Half the mean squared error of x and y of swaps, with weights of mean 1 over the points; depth does not count."""
    found, wanted = rows(2, 468, 3), rows(2, 468, 3, seed=1)
    weights = np.ones(468)
    weights[list(EXPRESSION_POINTS)] = 5
    weights *= 468 / weights.sum()
    errors = ((found - wanted).numpy()[1, :, :2] ** 2).mean(1)
    same = torch.tensor([True, False])
    assert losses.mesh(found, wanted, 5, same).item() == pytest.approx(0.5 * float((errors * weights).mean()) / 2)
    deeper = found + torch.tensor([0, 0, 9.0])
    assert losses.mesh(deeper, wanted, 5, same).item() == losses.mesh(found, wanted, 5, same).item()


def test_a_training_in_which_nothing_teaches_at_first_is_refused() -> None:
    """Where all terms begin later the first step has no gradient: said at the door, with what holds them back."""
    only = dict.fromkeys(LossWeights.model_fields, 0.0) | {"identity": 1.0, "adversarial": 1.0}
    settings = {"steps": 9, "batch_size": 2, "curriculum_steps": 0, "loss": only}
    Training.model_validate(settings | {"adversarial_from": 5})
    wrong = "nothing teaches at step 0: adversarial, identity begin later .identity_from 2, identity_ramp 0, .*_from 5"
    with pytest.raises(ValueError, match=wrong):
        Training.model_validate(settings | {"adversarial_from": 5, "identity_from": 2})


def test_every_weight_of_the_settings_has_its_term() -> None:
    """A weight without a term would be accepted and do nothing; a term without a weight could not be switched on."""
    assert set(losses.TERMS) == set(LossWeights.model_fields)


def test_colour_sees_tones_and_no_detail() -> None:
    """What averages out over an eighth of the side costs nothing; a tint costs its mean absolute size."""
    target = torch.rand(2, 3, 32, 32) * 2 - 1
    chequered = torch.ones(4, 4)
    chequered[::2, ::2] = chequered[1::2, 1::2] = -1
    assert losses.colour(target + 0.3 * chequered.repeat(8, 8), target).item() == pytest.approx(0, abs=1e-6)
    tint = torch.tensor([0.2, -0.1, 0.0])[:, None, None]
    assert losses.colour(target + tint, target).item() == pytest.approx(0.1, abs=1e-6)
