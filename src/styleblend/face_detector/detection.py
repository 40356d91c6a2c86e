"""Face detections, from YuNet or from a data set's own landmarks, and the interface of all detectors.

Those of insightface, face-alignment and MediaPipe are in `scrfd`, `face_alignment` and `mediapipe`; `loader` builds the
configured one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from styleblend.errors import StyleBlendError
from styleblend.faces.alignment import Points

# YuNet is made for faces of about 10 to 300 px: large faces are found in the small copy of a picture (in the large copy
# a face that fills it is often found twice), small faces in the large copy.
LONGEST_PX = (640, 1920)
OVERLAP = 0.3
_PUBLISHED = "yunet_n_dynamic.onnx"


@dataclass(frozen=True)
class Detection:
    """One face, in pixels of the picture.

    box: x, y, width, height. five_px [5,2]: eye on the picture's left, other eye, nose, left and right mouth corner.
    score in [0, 1]. landmarks_px [68,2]: where the detector or the data set gives them.
    """

    box: tuple[float, float, float, float]
    five_px: Points
    score: float
    landmarks_px: Points | None = None

    @property
    def points_px(self) -> Points:
        """The points for alignment: the 68 landmarks where they are known, else the five."""
        return self.five_px if self.landmarks_px is None else self.landmarks_px

    @property
    def side_px(self) -> float:
        """The longer side of the box: a face in profile is narrow, yet no smaller."""
        return max(self.box[2:])


class Detector(Protocol):
    """A face detector."""

    def detect(self, image: Image.Image) -> list[Detection]:
        """Faces of an RGB picture of any size, the largest first; none gives an empty list."""
        ...


@runtime_checkable
class DetectorOfMany(Detector, Protocol):
    """A face detector that looks at several small pictures at once."""

    def detect_each(self, images: Sequence[Image.Image]) -> list[list[Detection]]:
        """Faces of each RGB picture, as `detect` gives them."""
        ...


def detect_each(detector: Detector, images: Sequence[Image.Image]) -> list[list[Detection]]:
    """Faces of each of several small RGB pictures, at once where the detector can."""
    if isinstance(detector, DetectorOfMany):
        return detector.detect_each(images)
    return [detector.detect(image) for image in images]


def annotated(landmarks_px: ArrayLike) -> Detection:
    """The detection for a data set's own 68 landmarks [68,2], with score 1.

    Landmarks end at the brows, a detector's box at the hairline, so the box is extended upwards by a quarter.
    """
    points = np.asarray(landmarks_px, dtype=np.float64).reshape(68, 2)
    low, high = points.min(0), points.max(0)
    width, height = high - low
    return Detection((low[0], low[1] - height / 4, width, 1.25 * height), five_of(points), 1.0, points)


def five_of(points: Points) -> Points:
    """The five points of a detection [5,2] from 68 landmarks [68,2]."""
    return np.stack([points[36:42].mean(0), points[42:48].mean(0), points[30], points[48], points[54]])


def largest_first(faces: Iterable[Detection]) -> list[Detection]:
    """Sort by the area of the box, then by its position."""
    return sorted(faces, key=lambda face: (-face.box[2] * face.box[3], face.box))


class Yunet:
    """YuNet through OpenCV: all faces of a picture with five points each.

    S. Yu et al., YuNet: A Tiny Millisecond-level Face Detector, 2023.
    """

    def __init__(self, path: Path, min_score: float = 0.6) -> None:
        """Load the ONNX file.

        Raises:
            StyleBlendError: the file is missing or no detector that OpenCV can load.
        """
        if not path.is_file():
            remedy = "set pretrained.detector to yunet and run the stage pretrained"
            raise StyleBlendError(f"detector {path} is missing: {remedy}")
        # OpenCV 5 warns at every load that it ignores a hardware target, although none was set.
        level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
        try:
            self._network = cv2.FaceDetectorYN.create(str(path), "", (320, 320), min_score, OVERLAP, 5000)
        except cv2.error as error:
            raise StyleBlendError(f"{path} is no face detector that OpenCV can load: {error.err}") from None
        finally:
            cv2.utils.logging.setLogLevel(level)
        try:
            self._detect_at(Image.new("RGB", (64, 64)), 1)
        except cv2.error:
            raise StyleBlendError(
                f"{path} holds another network than YuNet: get {_PUBLISHED}, or set align.detector to insightface if "
                "it is one of insightface's detectors"
            ) from None

    def detect(self, image: Image.Image) -> list[Detection]:
        """Faces of an RGB picture, the largest first; none gives an empty list."""
        kept: list[Detection] = []
        longest = max(image.size)
        for limit in LONGEST_PX:
            new = self._detect_at(image, min(1.0, limit / longest))
            kept += [face for face in new if not any(same_face(face, other) for other in kept)]
            if longest <= limit:
                break
        return largest_first(kept)

    def _detect_at(self, image: Image.Image, scale: float) -> list[Detection]:
        """Faces of the picture scaled down by `scale`, by descending score, in pixels of the given picture."""
        if scale < 1:
            width, height = (max(1, round(length * scale)) for length in image.size)
            factors = np.array(image.size) / (width, height)
            image = image.resize((width, height), Image.Resampling.BOX)
        else:
            factors = np.ones(2)
        pixels = cv2.cvtColor(np.asarray(image.convert("RGB")), cv2.COLOR_RGB2BGR)
        self._network.setInputSize((pixels.shape[1], pixels.shape[0]))
        _, rows = self._network.detect(pixels)
        if rows is None:
            return []
        found: NDArray[np.float64] = np.asarray(rows, dtype=np.float64)
        faces = []
        for row in found[np.isfinite(found).all(axis=1)]:
            x, y = row[:2] * factors
            width_px, height_px = row[2:4] * factors
            # Points are pixel centres: half a pixel is added before scaling and taken off after it.
            five = (row[4:14].reshape(5, 2) + 0.5) * factors - 0.5
            faces.append(Detection((x, y, width_px, height_px), five, float(row[14])))
        return sorted(faces, key=lambda face: -face.score)


def same_face(one: Detection, other: Detection) -> bool:
    """Whether the boxes share more than half of the smaller one."""
    (ax, ay, aw, ah), (bx, by, bw, bh) = one.box, other.box
    shared_x = max(0.0, min(ax + aw, bx + bw) - max(ax, bx))
    shared_y = max(0.0, min(ay + ah, by + bh) - max(ay, by))
    return shared_x * shared_y > 0.5 * min(aw * ah, bw * bh)
