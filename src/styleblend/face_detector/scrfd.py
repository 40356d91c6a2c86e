"""Detection by insightface's SCRFD: det_10g.onnx, det_500m.onnx, scrfd_10g_bnkps.onnx and others.

J. Guo et al., Sample and Computation Redistribution for Efficient Face Detection, 2022. The pretrained networks are
for non-commercial research only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from styleblend.errors import StyleBlendError
from styleblend.face_detector import canvas
from styleblend.face_detector.detection import Detection, largest_first, same_face
from styleblend.weights.formats import insightface_models

SIDES_PX = (128, 640, 1920)
"""Longer sides of the copies of a picture that are looked at, all in one pass. The first two are insightface's own: a
face that fills a picture is found at 128 px. Faces under a thirtieth of a large picture are found at 1920 px.
"""


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
        self._fixed: tuple[int, int] | None = network.static_input_size
        try:
            self.detect_each([Image.new("RGB", (8, 8))])
        # ONNX Runtime's exceptions have no common class.
        except Exception as error:
            raise insightface_models.unusable(path, error) from None

    def detect(self, image: Image.Image) -> list[Detection]:
        """Faces of an RGB picture, the largest first; none gives an empty list."""
        if self._fixed is not None:
            return self._merged(self._in_window(image, self._fixed))
        # Enlarging a picture adds no detail; the largest stride of SCRFD is 32. 128 px alone would miss small faces.
        side = max(SIDES_PX[1], math.ceil(max(image.size) / 32) * 32)
        sides = sorted({min(each, side) for each in SIDES_PX}, reverse=True)
        copies = [_scaled(image, (each, each)) for each in sides]
        found = self._seen(copies, [image.size] * len(copies))
        # Of two that are as sure of a face, the smaller copy's view of it counts.
        return self._merged([face for faces in reversed(found) for face in faces])

    def detect_each(self, images: Sequence[Image.Image]) -> list[list[Detection]]:
        """Faces of several small RGB pictures as they are, each as `detect` gives them, at the size that they have."""
        if self._fixed is not None or not images:
            return [self.detect(image) for image in images]
        found = self._seen([image.convert("RGB") for image in images], [image.size for image in images])
        return [self._merged(faces) for faces in found]

    def _merged(self, found: Sequence[Detection]) -> list[Detection]:
        kept: list[Detection] = []
        for face in sorted(found, key=lambda face: -face.score):
            if not any(same_face(face, other) for other in kept):
                kept.append(face)
        return largest_first(kept)

    def _seen(self, pictures: Sequence[Image.Image], sizes: Sequence[tuple[int, int]]) -> list[list[Detection]]:
        """Faces of each of several pictures, in one pass.

        Args:
            sizes: (width, height) of what each is a copy of; the faces are in pixels of that.
        """
        places = canvas.placed([picture.size for picture in pictures])
        found: list[list[Detection]] = [[] for _ in pictures]
        for row, five in self._rows(canvas.drawn(pictures, places)):
            x, y = (row[:2] + row[2:4]) / 2
            number = places.of(x, y)
            if number is not None:
                factors = np.array(sizes[number]) / places.sizes[number]
                found[number] += _face(row, five, np.array(places.corners[number]), factors)
        return found

    def _in_window(self, image: Image.Image, window: tuple[int, int]) -> list[Detection]:
        """Faces of the picture, fitted into the top-left corner of a window (width, height), in its own pixels."""
        copy = _scaled(image, window)
        pixels = Image.new("RGB", window)
        pixels.paste(copy, (0, 0))
        factors = np.array(image.size) / copy.size
        corner = np.zeros(2, np.int64)
        return [face for each in self._rows(np.asarray(pixels)) for face in _face(*each, corner, factors)]

    def _rows(self, pixels: NDArray[np.uint8]) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
        """Left, top, right, bottom and score, and five points [5,2], of each face of RGB pixels that are finite."""
        size = pixels.shape[1::-1]
        boxes, points = self._network.detect(np.ascontiguousarray(pixels[:, :, ::-1]), input_size=size)
        for row, five in zip(boxes.astype(np.float64), points.astype(np.float64), strict=True):
            if np.isfinite(row).all() and np.isfinite(five).all():
                yield row, five


def _face(
    row: NDArray[np.float64], five: NDArray[np.float64], corner: NDArray[np.int64], factors: NDArray[np.float64]
) -> list[Detection]:
    """The face of a row in pixels of the picture whose copy lies at a corner; empty where its box is."""
    x, y = (row[:2] - corner) * factors
    width, height = (row[2:4] - row[:2]) * factors
    # Points are pixel centres: half a pixel is added before scaling and taken off after it.
    points = (five - corner + 0.5) * factors - 0.5
    return [Detection((x, y, width, height), points, float(row[4]))] if width > 0 and height > 0 else []


def _scaled(image: Image.Image, window: tuple[int, int]) -> Image.Image:
    """The picture as large as it fits into a window (width, height).

    Not left to the library, which skips pixels of large pictures and loses fractions of a pixel by rounding.
    """
    scale = min(window[0] / image.width, window[1] / image.height)
    width, height = (
        min(limit, max(1, round(length * scale))) for limit, length in zip(window, image.size, strict=True)
    )
    method = Image.Resampling.BOX if scale < 1 else Image.Resampling.BILINEAR
    return image.convert("RGB").resize((width, height), method)
