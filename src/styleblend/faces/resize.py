"""Resizing of square pictures, one function a filter."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from styleblend.faces.pixels import from_8bit


def area(images: Tensor, side_px: int) -> Tensor:
    """[N, C, S, S] to [N, C, side_px, side_px]: area means when smaller, bilinear when larger; differentiable."""
    if images.shape[-1] == side_px:
        return images
    if images.shape[-1] > side_px:
        return adaptive_avg_pool2d(images, side_px)
    return interpolate(images, size=(side_px, side_px), mode="bilinear", align_corners=False)


def bicubic(images: Tensor, side_px: int) -> Tensor:
    """[N, C, S, S] to [N, C, side_px, side_px] with an antialiased bicubic filter, which may overshoot the range."""
    if images.shape[-1] == side_px:
        return images
    return interpolate(images, (side_px, side_px), mode="bicubic", antialias=True, align_corners=False)


def square_tensor(picture: Image.Image, side_px: int) -> Tensor:
    """An RGB picture of any size as a network takes it: [1, 3, side_px, side_px] in [-1, 1], by Lanczos."""
    resized = picture.resize((side_px, side_px), Image.Resampling.LANCZOS)
    return from_8bit(torch.from_numpy(np.array(resized)).permute(2, 0, 1)[None])
