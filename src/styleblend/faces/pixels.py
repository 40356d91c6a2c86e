"""Conversion between pictures in [-1, 1], as networks use them, and in 8 bits, as files hold them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from styleblend.errors import StyleBlendError


def to_8bit(images: Tensor) -> Tensor:
    """Convert [-1, 1] to uint8, clamped and rounded.

    Raises:
        StyleBlendError: a value is not finite, so the model is unusable.
    """
    if not images.isfinite().all():
        raise StyleBlendError("swapped pictures hold values that are not finite: train the model again")
    return images.clamp(-1, 1).add(1).mul(127.5).round().byte()


def beside(values: Sequence[float] | Tensor, where: Tensor) -> Tensor:
    """Numbers, or a small tensor of the host, on the device of `where`, without a wait.

    A plain copy to a GPU waits until all that was asked of it before is done. Whole numbers stay whole, for indices;
    others are of the dtype of `where`.
    """
    if not isinstance(values, Tensor):
        whole = all(isinstance(value, int) for value in values)
        values = torch.tensor(values, dtype=torch.int64 if whole else where.dtype)
    return (values.pin_memory() if where.is_cuda and values.is_cpu else values).to(where.device, non_blocking=True)


_LUMA = (0.299, 0.587, 0.114)


def grey(images: Tensor) -> Tensor:
    """Brightness [N, 1, H, W] of RGB [N, 3, H, W], by Rec. 601."""
    return (images * beside(_LUMA, images)[:, None, None]).sum(1, keepdim=True)


def from_8bit(pixels: Tensor) -> Tensor:
    """Convert uint8 to float32 in [-1, 1]."""
    return pixels.float() / 127.5 - 1


def saturated(images: Tensor) -> Tensor:
    """Share [N] of the colour values of pictures [N, 3, H, W] that 8 bits give as 0 or 255; not finite counts."""
    limit = 1 - 1 / 255
    return (~(images.abs() < limit)).double().mean((1, 2, 3))
