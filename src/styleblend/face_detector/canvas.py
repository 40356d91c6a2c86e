"""Several pictures on one black canvas, so that a network sees all of them in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

APART_PX = 64
"""Black between two pictures, as there is beyond the border of a single one."""
STEP_PX = 128
"""Sides of a canvas are multiples: of the largest stride, and few, since a GPU prepares itself for each size anew."""
NARROWEST_PX = 1088
"""Pictures stand side by side up to this width, or up to that of the widest."""

Size = tuple[int, int]


@dataclass(frozen=True)
class Places:
    """corners: left and top of each picture; sizes: width and height of each; size: of the canvas."""

    corners: tuple[Size, ...]
    sizes: tuple[Size, ...]
    size: Size

    def of(self, x: float, y: float) -> int | None:
        """Number of the picture at a place of the canvas; None between them."""
        for number, ((left, top), (width, height)) in enumerate(zip(self.corners, self.sizes, strict=True)):
            if left <= x < left + width and top <= y < top + height:
                return number
        return None


def placed(sizes: Sequence[Size]) -> Places:
    """Lay pictures of these sizes (width, height) in rows, from left to right and from top to bottom, in their order.

    Corners lie at multiples of APART_PX, where all strides of a network have a cell's corner.
    """
    widest = max(NARROWEST_PX, *(width for width, _ in sizes))
    corners: list[Size] = []
    left = top = lowest = rightmost = 0
    for width, height in sizes:
        if left and left + width > widest:
            left, top = 0, _apart(lowest)
        corners.append((left, top))
        rightmost, lowest = max(rightmost, left + width), max(lowest, top + height)
        left = _apart(left + width)
    wide, high = _up(rightmost, STEP_PX), _up(lowest, STEP_PX)
    # insightface scales a canvas to its own shape, and would lose a row of some by rounding.
    while int(wide * (high / wide)) != high:
        high += STEP_PX
    return Places(tuple(corners), tuple(sizes), (wide, high))


def drawn(pictures: Sequence[Image.Image], places: Places) -> NDArray[np.uint8]:
    """The canvas [H, W, 3] with RGB pictures, which have the sizes of `places`."""
    canvas = Image.new("RGB", places.size)
    for picture, corner in zip(pictures, places.corners, strict=True):
        canvas.paste(picture, corner)
    return np.asarray(canvas)


def _apart(edge: int) -> int:
    return _up(edge, APART_PX) + APART_PX


def _up(length: int, step: int) -> int:
    return -(-length // step) * step
