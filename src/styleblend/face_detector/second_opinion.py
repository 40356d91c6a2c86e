"""What the mesh of a run's landmark network says of a face that a detector found: whether it is one, and where."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from styleblend.face_detector import squares
from styleblend.face_detector.detection import Detection, five_of
from styleblend.face_detector.looks import Copies
from styleblend.face_detector.squares import Square
from styleblend.faces.alignment import AlignmentError, Points, quad_from_landmarks, side_px, to_aligned

if TYPE_CHECKING:
    from styleblend.perception.mesh import FaceMesh

DISAGREEING = 0.2
"""Largest distance between a point of the detector and the mesh's, as a fraction of the side of the cut-out face."""


class Opinion(NamedTuple):
    """presence: of a face, in [0, 1]. five [5,2]: its points, in aligned coordinates."""

    presence: float
    five: Points


def contradiction(mesh: FaceMesh | None, copies: Copies, face: Detection, of_points: bool) -> str | None:
    """Why the mesh does not confirm a face; None where it does, or where there is no mesh.

    Args:
        of_points: whether the points must agree, too.
    """
    if mesh is None:
        return None
    # torch takes seconds to import.
    from styleblend.perception.mesh import FACE_PRESENT

    try:
        quad = quad_from_landmarks(face.points_px)
    except AlignmentError as reason:
        return str(reason)
    seen = _look(mesh, copies.halvings, quad)
    if seen.presence < FACE_PRESENT:
        found = f"presence {seen.presence:.2f}, at least {FACE_PRESENT} is needed"
        return f"the landmark network sees no face in the aligned picture, {found}"
    apart = float(np.hypot(*(seen.five - to_aligned(face.five_px, quad)).T).max())
    if of_points and apart > DISAGREEING:
        return f"the landmark network sees eyes, nose or mouth elsewhere, by {apart:.2f} of the aligned picture"
    return None


def _look(mesh: FaceMesh, copies: list[NDArray[np.uint8]], quad: Points) -> Opinion:
    import torch

    from styleblend.faces.pixels import from_8bit
    from styleblend.perception.mesh import to_68

    (x, y), right = quad.mean(0) + 0.5, quad[3] - quad[0]
    square = Square(float(x), float(y), side_px(quad), float(np.arctan2(right[1], right[0])))
    view = squares.cut(copies, square, mesh.side_px, cv2.BORDER_REPLICATE)
    with torch.inference_mode():
        points, presence = mesh.look(from_8bit(torch.from_numpy(view).permute(2, 0, 1)[None]))
    return Opinion(float(presence[0]), five_of(to_68(points)[0, :, :2].double().numpy()))
