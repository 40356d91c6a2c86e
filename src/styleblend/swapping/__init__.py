"""Use a trained model on photographs. A model and a detector that were loaded once can be passed in again:

from styleblend.swapping import find_detector, find_model, swap_faces

swapped = swap_faces("source.jpg", "target.jpg")
"""

from styleblend.face_detector.detection import Detector
from styleblend.swapping.errors import SeveralFaces, SwapError
from styleblend.swapping.face_selector import FaceSelector, ReferenceSelector, every_face, face_number, single_face
from styleblend.swapping.loaders import find_detector, find_identity, find_model
from styleblend.swapping.paste_back import match_colour, paste
from styleblend.swapping.swap import FaceSwapper, read_picture, swap_aligned, swap_faces

__all__ = [
    "Detector",
    "FaceSelector",
    "FaceSwapper",
    "ReferenceSelector",
    "SeveralFaces",
    "SwapError",
    "every_face",
    "face_number",
    "find_detector",
    "find_identity",
    "find_model",
    "match_colour",
    "paste",
    "read_picture",
    "single_face",
    "swap_aligned",
    "swap_faces",
]
