"""Squares of a photograph, turned to any angle, cut out at the size that a network reads."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from styleblend.faces.alignment import Points

_SMALLEST_PX = 256
"""Copies stop being halved where one side would be less than half of this."""


class Square(NamedTuple):
    """A square of a photograph: centre in pixels, side in pixels, and how far it is turned clockwise, in radians."""

    x: float
    y: float
    side: float
    angle: float = 0.0

    def to_picture(self, points: NDArray[np.float64]) -> Points:
        """[..., 2] in [0, 1] of the square to pixels of the photograph, whose first centre is (0, 0)."""
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        turned: Points = (points - 0.5) @ np.array([[cos, sin], [-sin, cos]]) * self.side
        return turned + (self.x, self.y) - 0.5


def halvings(pixels: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """The picture [H, W, 3] and its means over 2 x 2 px, 4 x 4 px and so on."""
    found = [pixels]
    while min(found[-1].shape[:2]) >= _SMALLEST_PX:
        height, width = found[-1].shape[:2]
        found.append(np.asarray(cv2.resize(found[-1], (width // 2, height // 2), interpolation=cv2.INTER_AREA)))
    return found


def cut(copies: list[NDArray[np.uint8]], square: Square, side_px: int, border: int) -> NDArray[np.uint8]:
    """RGB pixels [side_px, side_px, 3] of a square, from the copy that is at most twice as fine as they are.

    Args:
        copies: what `halvings` gives.
        border: OpenCV's name of what lies outside of the photograph.
    """
    level = int(np.clip(np.floor(np.log2(max(square.side, 1) / side_px)), 0, len(copies) - 1))
    copy = copies[level]
    factors = np.array([copy.shape[1] / copies[0].shape[1], copy.shape[0] / copies[0].shape[0]])
    # Centres of three pixels of the cut, where they lie in the copy.
    corners = (np.array([[0, 0], [side_px, 0], [0, side_px]]) + 0.5) / side_px
    there = (square.to_picture(corners) + 0.5) * factors - 0.5
    here = np.array([[0, 0], [side_px, 0], [0, side_px]], np.float32)
    matrix = cv2.getAffineTransform(here, there.astype(np.float32))
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(copy, matrix, (side_px, side_px), flags=flags, borderMode=border), np.uint8)
