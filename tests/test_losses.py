"""Each objective against its equation, written out in float64 numpy loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from styleblend import losses


def rows(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def cos(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def test_adversarial_terms_follow_equations_5_to_7() -> None:
    """Generator: minus the mean score. Discriminator: hinge on real and fake. Scales count alike."""
    real, fake = [rows(2, 1, 4, 4), rows(2, 1, 2, 2, seed=1)], [rows(2, 1, 4, 4, seed=2), rows(2, 1, 2, 2, seed=3)]
    of_generator = np.mean([-np.mean(scores.numpy()) for scores in fake])
    of_real = np.mean([np.mean([-min(0.0, -1 + v) for v in scores.numpy().ravel()]) for scores in real])
    of_fake = np.mean([np.mean([-min(0.0, -1 - v) for v in scores.numpy().ravel()]) for scores in fake])
    assert losses.adversarial(fake).item() == pytest.approx(of_generator)
    assert losses.discriminator_hinge(real, fake).item() == pytest.approx(of_real + of_fake)


def test_r1_is_half_the_squared_gradient_on_real_pictures() -> None:
    """For V(I) = <a, I> averaged over patches the gradient is known."""
    images, direction = rows(2, 3, 4, 4).requires_grad_(), rows(3, 4, 4, seed=1)
    scores = [(images * direction).sum((1, 2, 3)).reshape(2, 1, 1, 1).expand(2, 1, 3, 3)]
    assert losses.r1(images, scores).item() == pytest.approx(0.5 * float(direction.square().sum()))


def test_identity_follows_equation_8() -> None:
    """1 - cos, whatever the length of the embeddings."""
    a, b = rows(4, 8), rows(4, 8, seed=1)
    wanted = np.mean([1 - cos(x, y) for x, y in zip(a.numpy(), b.numpy(), strict=True)])
    assert losses.identity(a, b).item() == pytest.approx(wanted)


def test_contrastive_follows_equation_9() -> None:
    """-log of the source's share among source, target and negatives; no target where it is the same person."""
    swapped, source, target, negatives = rows(3, 8), rows(3, 8, seed=1), rows(3, 8, seed=2), rows(3, 5, 8, seed=3)
    differ = torch.tensor([True, False, True])
    values = []
    for n in range(3):
        y = swapped[n].numpy()
        positive = np.exp(cos(source[n].numpy(), y) / 0.2)
        others = sum(np.exp(cos(negatives[n, k].numpy(), y) / 0.2) for k in range(5))
        others += np.exp(cos(target[n].numpy(), y) / 0.2) if differ[n] else 0.0
        values.append(-np.log(positive / (positive + others)))
    found = losses.contrastive(swapped, source, target, negatives, differ, 0.2)
    assert found.item() == pytest.approx(np.mean(values))


def test_contrastive_is_finite_with_a_small_temperature() -> None:
    """Neither the loss nor its gradient overflows, with the target left out too."""
    swapped = rows(2, 8).requires_grad_()
    differ = torch.tensor([True, False])
    loss = losses.contrastive(swapped, -swapped.detach(), rows(2, 8), rows(2, 5, 8), differ, 1e-3)
    loss.backward()
    assert loss.item() > 1000 and swapped.grad is not None and bool(torch.isfinite(swapped.grad).all())


def test_reconstruction_follows_equation_10() -> None:
    """Half the mean squared error of self pairs; others count as zero in the mean."""
    a, b = rows(3, 3, 4, 4), rows(3, 3, 4, 4, seed=1)
    same = torch.tensor([True, False, True])
    per_picture = 0.5 * ((a - b).numpy() ** 2).mean((1, 2, 3))
    assert losses.reconstruction(a, b, same).item() == pytest.approx((per_picture[0] + per_picture[2]) / 3)
    features, wanted = rows(3, 6), rows(3, 6, seed=1)
    per_picture = 0.5 * ((features - wanted).numpy() ** 2).mean(1)
    assert losses.perceptual(features, wanted, same).item() == pytest.approx((per_picture[0] + per_picture[2]) / 3)


def test_landmarks_and_swap_consistency_follow_equations_11_and_12() -> None:
    """Half mean squared errors."""
    a, b, c, d = (rows(2, 3, 4, 4, seed=k) for k in range(4))
    wanted = 0.5 * ((a - b).numpy() ** 2).mean() + 0.5 * ((c - d).numpy() ** 2).mean()
    assert losses.swap_consistency(a, b, c, d).item() == pytest.approx(wanted)
    p, q = rows(2, 19, 2), rows(2, 19, 2, seed=1)
    assert losses.landmarks(p, q).item() == pytest.approx(0.5 * ((p - q).numpy() ** 2).mean())


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
