"""Pictures as networks see them, in [-1, 1], and as files hold them, in 8 bits."""

from __future__ import annotations

from torch import Tensor

from styleblend.errors import StyleBlendError


def to_8bit(images: Tensor) -> Tensor:
    """[-1, 1] to uint8, rounded as when a picture is written.

    Raises:
        StyleBlendError: a value is not finite, so the model that made it is of no use.
    """
    if not images.isfinite().all():
        raise StyleBlendError("swapped pictures hold values that are not finite: train the model again")
    return images.clamp(-1, 1).add(1).mul(127.5).round().byte()


def from_8bit(pixels: Tensor) -> Tensor:
    """uint8 to [-1, 1]."""
    return pixels.float() / 127.5 - 1
