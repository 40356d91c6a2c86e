"""Detection by insightface's SCRFD: det_10g.onnx, det_500m.onnx, scrfd_10g_bnkps.onnx and others.

J. Guo et al., Sample and Computation Redistribution for Efficient Face Detection, 2022. The pretrained networks are
for non-commercial research only.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from styleblend.errors import StyleBlendError
from styleblend.face_detector.detection import Detection, largest_first, same_face
from styleblend.weights.formats import insightface_models

# Sides of SCRFD's square inputs. The first two are insightface's own: a face that fills a picture is found at 128 px.
# Faces under a thirtieth of a large picture are found at 1920 px.
SIDES_PX = (128, 640, 1920)


class Scrfd:
    """Finds all faces of a picture, with five points each."""

    def __init__(self, path: Path, min_score: float = 0.6, threads: int = 0) -> None:
        """Load the ONNX file.

        Args:
            threads: of ONNX Runtime on the CPU; 0 lets it take all cores.
        Raises:
            StyleBlendError: the file is missing, damaged, or no SCRFD with five points.
        """
        if not path.is_file():
            remedy = "name one of insightface's in pretrained.detector and run the stage pretrained"
            raise StyleBlendError(f"detector {path} is missing: {remedy}")
        network = insightface_models.load(path, threads)
        outputs = len(getattr(network, "output_names", ()))
        if getattr(network, "taskname", None) != "detection" or outputs not in (6, 9, 10, 15):
            raise StyleBlendError(
                f"{path} is no SCRFD detector of insightface's: get det_10g.onnx or another of its detectors, or set "
                "align.detector to yunet if it is YuNet's"
            )
        if not network.use_kps:
            raise StyleBlendError(
                f"{path} finds boxes without the five points that the alignment needs: get det_10g.onnx, or an SCRFD "
                "with bnkps in its name"
            )
        network.prepare(0, det_thresh=min_score)
        self._network = network
        fixed = network.static_input_size
        self._windows: tuple[tuple[int, int], ...] = tuple((side, side) for side in SIDES_PX)
        if fixed is not None:
            self._windows = (fixed,)
        try:
            self._detect_in(Image.new("RGB", (8, 8)), self._windows[0])
        # ONNX Runtime's exceptions have no common class.
        except Exception as error:
            raise insightface_models.unusable(path, error) from None

    def detect(self, image: Image.Image) -> list[Detection]:
        """Faces of an RGB picture, the largest first; none gives an empty list."""
        found: list[Detection] = []
        for window in self._windows:
            if len(self._windows) > 1:
                # Enlarging a picture adds no detail; the largest stride of SCRFD is 32.
                side = max(SIDES_PX[1], math.ceil(max(image.size) / 32) * 32)
                window = (min(window[0], side), min(window[1], side))
            found += self._detect_in(image, window)
            # 128 px alone would miss small faces.
            if max(image.size) <= max(window) and max(window) >= SIDES_PX[1]:
                break
        kept: list[Detection] = []
        for face in sorted(found, key=lambda face: -face.score):
            if not any(same_face(face, other) for other in kept):
                kept.append(face)
        return largest_first(kept)

    def _detect_in(self, image: Image.Image, window: tuple[int, int]) -> list[Detection]:
        """Faces of the picture brought to a window (width, height), in pixels of the picture."""
        pixels, factors = _fitted(image, window)
        boxes, points = self._network.detect(pixels, input_size=window)
        faces = []
        for row, five in zip(boxes.astype(np.float64), points.astype(np.float64), strict=True):
            x, y = row[:2] * factors
            width, height = (row[2:4] - row[:2]) * factors
            if np.isfinite(row).all() and np.isfinite(five).all() and width > 0 and height > 0:
                # Points are pixel centres: half a pixel is added before scaling and taken off after it.
                faces.append(Detection((x, y, width, height), (five + 0.5) * factors - 0.5, float(row[4])))
        return faces


def _fitted(image: Image.Image, window: tuple[int, int]) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """BGR pixels of the window, black, with the picture fitted into its top-left corner, and the factors (x, y) back.

    Not left to the library, which skips pixels of large pictures and loses fractions of a pixel by rounding.
    """
    scale = min(window[0] / image.width, window[1] / image.height)
    size = tuple(min(limit, max(1, round(length * scale))) for limit, length in zip(window, image.size, strict=True))
    method = Image.Resampling.BOX if scale < 1 else Image.Resampling.BILINEAR
    canvas = Image.new("RGB", window)
    canvas.paste(image.convert("RGB").resize((size[0], size[1]), method), (0, 0))
    return np.ascontiguousarray(np.asarray(canvas)[:, :, ::-1]), np.array(image.size) / size
