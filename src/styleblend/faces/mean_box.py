"""Where a detector sees the face of an aligned picture: one box for all, for a loss cannot detect in every picture."""

from __future__ import annotations

from typing import NamedTuple


class Box(NamedTuple):
    """Middle, width and height as shares of the side of an aligned picture."""

    x: float
    y: float
    width: float
    height: float


MEAN_BOX = Box(x=0.5, y=0.551, width=0.53, height=0.744)
"""The mean of YuNet's boxes in 60 photographs, aligned by `template.TEMPLATE`: measure it again with other constants.

The middle was found at x 0.496 (deviation 0.036, since heads are turned), which is taken for the half, and at y 0.551
(0.016); the height deviates by 0.036. YuNet learned from the same annotated boxes as insightface's detectors.
"""
