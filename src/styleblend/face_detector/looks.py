"""A detector's second looks: at one place of a picture, or at all of it, turned so that turned faces are upright."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from styleblend.face_detector import geometry, squares
from styleblend.face_detector.detection import Detection, Detector, detect_each
from styleblend.face_detector.squares import Square
from styleblend.faces.alignment import Points

SIDE_PX = 224
FACTOR = 2.4
"""Side of a view of one place, in pixels, and as a multiple of the face's longer side: a face that was seen beside its
place is in it, too.
"""
APART = 0.5
"""How far the middle of a face may move between two looks, as a fraction of its longer side."""

_TRANSPOSED = {1: Image.Transpose.ROTATE_90, 2: Image.Transpose.ROTATE_180, 3: Image.Transpose.ROTATE_270}
_COS_SIN = {1: (0, 1), 2: (-1, 0), 3: (0, -1)}


class Copies:
    """An RGB picture, and its halvings, which are made when a face is looked at."""

    def __init__(self, image: Image.Image) -> None:
        self.image = image

    @cached_property
    def halvings(self) -> list[NDArray[np.uint8]]:
        """The picture [H, W, 3] and its smaller copies."""
        return squares.halvings(np.asarray(self.image.convert("RGB")))


def closer(detector: Detector, copies: Copies, looks: Sequence[tuple[Detection, float]]) -> list[Detection | None]:
    """For each look the surest face, with points that fit together, that is seen at the place of one in its turned
    surroundings.

    Args:
        looks: faces, each with the angle by which the view is turned clockwise, in radians: a face that is turned so is
            upright in it.
    """
    squares_of = []
    for face, angle in looks:
        x, y = _middle(face).tolist()
        squares_of.append(Square(x, y, FACTOR * face.side_px, angle))
    views = [Image.fromarray(squares.cut(copies.halvings, each, SIDE_PX, cv2.BORDER_CONSTANT)) for each in squares_of]
    found: list[Detection | None] = []
    for (face, angle), square, seen in zip(looks, squares_of, detect_each(detector, views), strict=True):

        def to_picture(points: Points, square: Square = square) -> Points:
            return square.to_picture((points + 0.5) / SIDE_PX)

        there = [_placed(each, to_picture, square.side / SIDE_PX, angle) for each in seen]
        near = [each for each in there if geometry.misfit(each.five_px) is None and _lie_together(each, face)]
        found.append(max(near, key=lambda each: each.score, default=None))
    return found


def whole(detector: Detector, image: Image.Image, quarters: int) -> list[Detection]:
    """Faces that are turned clockwise by so many quarters, found in the picture that is turned back."""
    view = image.transpose(_TRANSPOSED[quarters])
    middles = [(np.array(each.size) - 1) / 2 for each in (view, image)]
    cos, sin = _COS_SIN[quarters]

    def to_picture(points: Points) -> Points:
        moved: Points = (points - middles[0]) @ np.array([[cos, sin], [-sin, cos]]) + middles[1]
        return moved

    return [_placed(face, to_picture, 1.0, quarters * np.pi / 2) for face in detector.detect(view)]


def _placed(face: Detection, to_picture: Callable[[Points], Points], scale: float, turn: float) -> Detection:
    """A face of a turned view in pixels of the photograph; its box keeps its sides, or exchanges them.

    Args:
        to_picture: takes pixels of the view to those of the photograph.
        scale: pixels of the photograph to one of the view. turn: of the view, clockwise, in radians.
    """
    width, height = face.box[2] * scale, face.box[3] * scale
    if round(turn / (np.pi / 2)) % 2:
        width, height = height, width
    x, y = to_picture(_middle(face)).tolist()
    landmarks = None if face.landmarks_px is None else to_picture(face.landmarks_px)
    five = to_picture(face.five_px)
    return Detection((x - width / 2, y - height / 2, width, height), five, face.score, landmarks)


def _lie_together(one: Detection, other: Detection) -> bool:
    return float(np.hypot(*(_middle(one) - _middle(other)))) < APART * other.side_px


def _middle(face: Detection) -> Points:
    x, y, width, height = face.box
    return np.array([x + width / 2, y + height / 2])
