"""Using a trained model on photographs: find the faces, cut them out as for training, swap, put back.

One call does all of it; what is found once can be handed in again:

    from styleblend.swapping import find_detector, find_model, swap_faces

    swapped = swap_faces("source.jpg", "target.jpg")
"""

from styleblend.face_detector.detection import Detector
from styleblend.swapping.core import Swapping, read_picture, swap_aligned, swap_faces
from styleblend.swapping.face_selector import (
    Choose,
    Likeness,
    SeveralFaces,
    SwapError,
    every_face,
    numbered,
    the_only_face,
)
from styleblend.swapping.loaders import find_detector, find_identity, find_model
from styleblend.swapping.paste_back import match_colour, paste

__all__ = [
    "Choose",
    "Detector",
    "Likeness",
    "SeveralFaces",
    "SwapError",
    "Swapping",
    "every_face",
    "find_detector",
    "find_identity",
    "find_model",
    "match_colour",
    "numbered",
    "paste",
    "read_picture",
    "swap_aligned",
    "swap_faces",
    "the_only_face",
]
