"""The deterministic mode: own forms of what torch has no fixed order for give torch's values and gradients."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import tiny_training as tiny
from styleblend.training import steps
from styleblend.training.repeatable import repeatable


def grid(side: int) -> Tensor:
    """Places in and beyond a picture, as a crop has them."""
    angle = torch.tensor([[1.1, 0.05, 0.1], [-0.05, 1.1, -0.2]], dtype=torch.float64)
    return F.affine_grid(angle.expand(2, 2, 3), [2, 3, side, side], align_corners=False)


CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "means, a whole factor": lambda x: F.adaptive_avg_pool2d(x, 4),
    "means, parts of pixels": lambda x: F.adaptive_avg_pool2d(x, (5, 7)),
    "smaller, with a filter": lambda x: F.interpolate(
        x, size=(7, 5), mode="bilinear", align_corners=False, antialias=True
    ),
    "bicubic, larger": lambda x: F.interpolate(x, (20, 17), mode="bicubic", align_corners=False, antialias=True),
    "bicubic, corners": lambda x: F.interpolate(x, size=(20, 17), mode="bicubic", align_corners=True),
    "sampled": lambda x: F.grid_sample(x, grid(9).to(x), mode="bilinear", padding_mode="border", align_corners=False),
}


@pytest.mark.parametrize("name", CHANGES)
def test_own_forms_are_those_of_torch(name: str) -> None:
    """Values and gradients of each are torch's own to rounding in float32, on pictures that are not square."""
    change, weights = CHANGES[name], None
    found = []
    for on in (False, True):
        images = torch.rand(2, 3, 12, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()
        with repeatable(on, devices=("cpu",)):
            changed = change(images)
        weights = torch.rand(changed.shape, generator=torch.Generator().manual_seed(1)) if weights is None else weights
        (changed * weights).sum().backward()
        found.append((changed.detach(), images.grad))
        # The own form, not torch's, was differentiated.
        name_of = type(changed.grad_fn).__name__
        assert on == not_torchs(name_of), name_of
    for plain, own in zip(*found, strict=True):
        torch.testing.assert_close(own, plain, rtol=2e-5, atol=2e-6)


def not_torchs(backward: str) -> bool:
    return not any(word in backward for word in ("Upsample", "AdaptiveAvg", "GridSampler"))


def test_a_step_differs_by_rounding_alone(tmp_path: Path) -> None:
    """A whole step with every tiny loss term, own forms on the CPU too: gradients as without, and torch's mode is off.

    The variable of cuBLAS is set while the mode is on, and after it nothing refuses any more.
    """
    inputs, cfg = tiny.write_inputs(tmp_path), tiny.training(steps=1, crop_jitter=0.1)
    batch, perception, gradients = tiny.first_batch(inputs, cfg), tiny.perception(), []
    for on in (False, True):
        learner = tiny.learner(cfg)
        with repeatable(on, devices=("cpu",)):
            assert torch.are_deterministic_algorithms_enabled() is on
            steps.generator_step(learner, perception, batch, cfg, 0, lambda tensors: None)
        gradients.append([value.grad for value in learner.swapper.parameters() if value.grad is not None])
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert not torch.are_deterministic_algorithms_enabled() and not torch.backends.cudnn.deterministic
    norms = [torch.nn.utils.get_total_norm(each) for each in gradients]
    differences = [one - other for one, other in zip(*gradients, strict=True)]
    assert 0 < torch.nn.utils.get_total_norm(differences) < 1e-3 * norms[0]
