"""Resizing: each filter against what it must give."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from styleblend.faces.pixels import to_8bit
from styleblend.faces.resize import area, bicubic, square_tensor


def test_area_takes_means_down_and_interpolates_up() -> None:
    """A constant stays constant; halving is the mean of four pixels."""
    x = torch.randn(1, 3, 4, 4)
    torch.testing.assert_close(area(x, 2)[0, 0, 0, 0], x[0, 0, :2, :2].mean())
    assert area(x, 4) is x and torch.allclose(area(torch.ones(1, 3, 4, 4), 8), torch.ones(1, 3, 8, 8))


@pytest.mark.parametrize("side_px", [12, 40])
def test_bicubic_is_that_of_pillow(side_px: int) -> None:
    """Smaller and larger; the same side is not touched."""
    values = torch.rand(24, 24, generator=torch.Generator().manual_seed(0))
    resized = Image.fromarray(values.numpy()).resize((side_px, side_px), Image.Resampling.BICUBIC)
    torch.testing.assert_close(bicubic(values[None, None], side_px)[0, 0], torch.from_numpy(np.array(resized)))
    same = values[None, None]
    assert bicubic(same, 24) is same


def test_a_picture_becomes_a_square_tensor() -> None:
    """Colours, axes and the Lanczos filter are those of the picture."""
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    tensor = square_tensor(picture, 16)
    assert tensor.shape == (1, 3, 16, 16)
    expected = np.asarray(picture.resize((16, 16), Image.Resampling.LANCZOS))
    assert np.array_equal(to_8bit(tensor)[0].permute(1, 2, 0).numpy(), expected)
