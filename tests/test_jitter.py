"""training.jitter: what identity and mesh networks see of a swap."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from styleblend.faces.pixels import grey
from styleblend.training import jitter, losses

SEEDS = (3, 2**61 + 5, 11)
DRAWN = jitter.draw_jitter(SEEDS)


def pictures() -> torch.Tensor:
    """Three smooth pictures in [-1, 1]."""
    small = torch.rand(3, 3, 6, 6, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return torch.nn.functional.interpolate(small, size=(48, 48), mode="bicubic").clamp(-1, 1)


def test_nothing_asked_is_nothing_done() -> None:
    """The very tensor, so that settings without jitter compute what they did."""
    images = pictures()
    assert jitter.faded(images, DRAWN, 0) is images and jitter.cropped(images, DRAWN, 0) is images


def test_grey_is_rec_601() -> None:
    """Against Pillow's own, to its rounding."""
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    wanted = np.asarray(Image.fromarray(pixels).convert("L"), np.float32)
    images = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 127.5 - 1
    assert np.abs((grey(images)[0, 0].numpy() + 1) * 127.5 - wanted).max() <= 1


def test_faded_pictures_keep_their_brightness() -> None:
    """Colours move towards grey by one share a picture, between none and the most; brightness stays."""
    images = pictures()
    found = jitter.faded(images, DRAWN, 0.8)
    torch.testing.assert_close(grey(found), grey(images), atol=1e-5, rtol=0)
    shares = (found - grey(found)).flatten(1).norm(dim=1) / (images - grey(images)).flatten(1).norm(dim=1)
    assert (shares >= 0.2).all() and (shares < 1).all() and len(set(shares.round(decimals=4).tolist())) == 3


def test_a_sample_depends_on_its_seed_alone() -> None:
    """The same in another batch and place; another seed gives another view."""
    images = pictures()
    for change in (jitter.faded, jitter.cropped):
        together = change(images, DRAWN, 0.2)
        assert torch.equal(together[1:2], change(images[1:2], jitter.draw_jitter(SEEDS[1:2]), 0.2))
        assert not torch.allclose(together[1:2], change(images[1:2], jitter.draw_jitter([4]), 0.2))


def test_crops_move_within_their_limit() -> None:
    """A ramp across the picture tells where a crop's middle lies: at most so far away, and not always there."""
    ramp = torch.linspace(-1, 1, 65).expand(200, 3, 65, 65)
    middles = jitter.cropped(ramp, jitter.draw_jitter(range(200)), 0.1)[:, 0, 32, 32]
    assert middles.abs().max() <= 0.1 * 66 / 65 and middles.std() > 0.04


def test_gradients_pass_through() -> None:
    """Every pixel of the middle is seen."""
    images = pictures().requires_grad_()
    jitter.cropped(jitter.faded(images, DRAWN, 0.9), DRAWN, 0.1).square().sum().backward()
    assert images.grad is not None and (images.grad[:, :, 8:-8, 8:-8].abs().sum(1) > 0).float().mean() > 0.95


def test_chroma_is_blind_to_brightness_and_to_self_pairs() -> None:
    """A brighter swap costs nothing, a redder one its change of colours, a self pair nothing."""
    expected, swaps = pictures(), torch.tensor([False, False, False])
    assert losses.chroma(expected + 0.2, expected, swaps).item() == pytest.approx(0, abs=1e-6)
    red = torch.tensor([0.3, 0.0, 0.0])[:, None, None]
    # Brightness rises by 0.299 of it: red changes by 0.701 of it, green and blue by 0.299 each.
    assert losses.chroma(expected + red, expected, swaps).item() == pytest.approx(
        0.3 * (0.701 + 2 * 0.299) / 3, rel=1e-4
    )
    assert losses.chroma(expected + red, expected, ~swaps).item() == 0
