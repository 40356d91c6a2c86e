"""Detection by MediaPipe's two networks: BlazeFace finds faces, the face mesh places the points in each.

V. Bazarevsky et al., BlazeFace: Sub-millisecond Neural Face Detection on Mobile GPUs, 2019. The short-range network
sees 128 px and faces that fill a good part of them, so a photograph is looked at as a whole and then in overlapping
tiles. Its six points have the middle of the mouth alone; the five of an alignment are the mesh's, which also refuses
what is no face.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from styleblend.errors import StyleBlendError
from styleblend.face_detector import squares
from styleblend.face_detector.detection import OVERLAP, Detection, five_of, largest_first, same_face
from styleblend.face_detector.squares import Square
from styleblend.faces.alignment import Points
from styleblend.perception import mesh
from styleblend.perception.mesh import FACE_PRESENT, POINTS, TO_68, FaceMesh
from styleblend.weights.formats import tflite_graph
from styleblend.weights.formats.tflite_graph import TfliteError
from styleblend.weights.formats.tflite_network import TfliteNetwork

SIDE_PX = 128
SMALLEST_TILE_PX = 240
LEVELS = 3
"""The whole picture, tiles of half its side and of a quarter, if they have SMALLEST_TILE_PX: so a face is found that
takes a twenty-fifth of the longer side, or about the 40 px that align.min_face_px asks for.
"""

_MESH_FACTOR = 1.5
"""MediaPipe's square for the mesh over the longer side of the face's box."""

_MESH_LOOKS = 2
"""The second look has the square around the points of the first, as MediaPipe follows a face from frame to frame."""

# Anchors a cell of the maps of 16 and of 8 cells: two of each layer, and three layers have the smaller map.
_CELLS = ((16, 2), (8, 6))

# Outer corners of the eyes in the mesh, on the picture's left and right; they say how a face is turned.
_CORNERS = [33, 263]


class _Found(NamedTuple):
    """A face as BlazeFace sees it: corners of its box [2, 2] and six points [6, 2] in pixels, and its score."""

    box: Points
    points: Points
    score: float


class MediapipeDetector:
    """Finds all faces of a picture, with five points each. On the CPU."""

    def __init__(self, detector: Path, face_mesh: Path | FaceMesh, min_score: float = 0.6) -> None:
        """Load the files.

        Args:
            detector: face_detector.tflite, as in face_landmarker.task.
            face_mesh: face_landmark.tflite (468 points) or face_landmarks_detector.tflite (478 points), or what was
                loaded from it.
        Raises:
            StyleBlendError: a file is missing, damaged or holds another network.
        """
        expect_files(detector, *([face_mesh] if isinstance(face_mesh, Path) else []))
        self._network, self._min_score = _blazeface(detector), min_score
        self._mesh = mesh.load(face_mesh) if isinstance(face_mesh, Path) else face_mesh
        self._anchors = _anchors()

    @torch.inference_mode()
    def detect(self, image: Image.Image) -> list[Detection]:
        """Faces of an RGB picture, the largest first; none gives an empty list."""
        copies = squares.halvings(np.asarray(image.convert("RGB")))
        kept: list[Detection] = []
        for level in _levels(image.size):
            seen = [face for found in self._look(copies, level) if (face := self._refined(copies, found))]
            for face in sorted(seen, key=lambda face: -face.score):
                if not any(same_face(face, other) for other in kept):
                    kept.append(face)
        return largest_first(kept)

    def _look(self, copies: list[NDArray[np.uint8]], level: list[Square]) -> Iterator[_Found]:
        """Faces in squares of one size, without those that a tile's border cuts."""
        views = np.stack([squares.cut(copies, square, SIDE_PX, cv2.BORDER_CONSTANT) for square in level])
        pictures = torch.from_numpy(views).float() / 127.5 - 1
        for start in range(0, len(level), 16):
            raw, logits = (each.double().numpy() for each in self._network(pictures[start : start + 16]))
            for square, values, logit in zip(level[start : start + 16], raw, logits[..., 0], strict=True):
                yield from self._decoded(square, values, logit, len(level) > 1)

    def _decoded(
        self, square: Square, values: NDArray[np.float64], logits: NDArray[np.float64], is_tile: bool
    ) -> Iterator[_Found]:
        """Rows of centre, size and six points [896, 16] in pixels of the network beside its anchors, and scores."""
        scores = 1 / (1 + np.exp(-np.clip(logits, -100, 100)))
        likely = np.flatnonzero(scores >= self._min_score)
        pairs = values[likely].reshape(-1, 8, 2) / SIDE_PX
        centres, sizes = pairs[:, 0] + self._anchors[likely], pairs[:, 1]
        corners = np.stack([centres - sizes / 2, centres + sizes / 2], axis=1)
        boxes = [[*low, *(high - low)] for low, high in corners * SIDE_PX]
        for row in cv2.dnn.NMSBoxes(boxes, scores[likely].tolist(), self._min_score, OVERLAP):
            if is_tile and (corners[row].min() < 0 or corners[row].max() > 1):
                continue
            points = square.to_picture(pairs[row, 2:] + self._anchors[likely[row]])
            yield _Found(square.to_picture(corners[row]), points, float(scores[likely[row]]))

    def _refined(self, copies: list[NDArray[np.uint8]], found: _Found) -> Detection | None:
        """The face with the mesh's points; None where the mesh sees none."""
        square, size = _upright(found.box, *found.points[:2]), self._mesh.side_px
        for _ in range(_MESH_LOOKS):
            view = torch.from_numpy(squares.cut(copies, square, size, cv2.BORDER_REPLICATE)).float()[None] / 255
            values, presence, *_ = self._mesh.network(view)
            if float(torch.sigmoid(presence)) < FACE_PRESENT:
                return None
            flat = values.reshape(-1, 3)[:POINTS, :2].double().numpy() / size
            points = square.to_picture(flat)
            square = _upright(points, *points[_CORNERS])
        low, high = points.min(0), points.max(0)
        height, width = copies[0].shape[:2]
        # A face whose centre lies outside is one that the edge of the picture was taken for.
        if not ((low + high) / 2 >= 0).all() or not ((low + high) / 2 < (width, height)).all():
            return None
        box = (float(low[0]), float(low[1]), float(high[0] - low[0]), float(high[1] - low[1]))
        return Detection(box, five_of(points[list(TO_68)]), found.score)


def _blazeface(file: Path) -> TfliteNetwork:
    network = TfliteNetwork(tflite_graph.read_file(file))
    rows = sum(side * side * count for side, count in _CELLS)
    if network.reads != (1, SIDE_PX, SIDE_PX, 3) or network.writes != ((1, rows, 16), (1, rows, 1)):
        raise TfliteError(
            f"{file} reads {list(network.reads)} and gives {[list(each) for each in network.writes]}: it is not "
            "BlazeFace of short range, which reads 128 px and gives 896 boxes; get mediapipe_face_detector"
        )
    return network


def _anchors() -> NDArray[np.float64]:
    """Centres of the cells [896, 2] in [0, 1]; all anchors have the size 1."""
    rows = []
    for side, count in _CELLS:
        y, x = np.mgrid[:side, :side]
        rows.append(np.repeat(np.stack([x, y], axis=-1).reshape(-1, 2) + 0.5, count, axis=0) / side)
    return np.concatenate(rows)


def _levels(size: tuple[int, int]) -> Iterator[list[Square]]:
    """The square around the whole picture, then tiles of half its side, overlapping by half, and so on."""
    yield [Square(size[0] / 2, size[1] / 2, float(max(size)))]
    for level in range(1, LEVELS):
        if (side := max(size) / 2**level) >= SMALLEST_TILE_PX:
            columns, rows = (_places(length, side) for length in size)
            yield [Square(x, y, side) for y in rows for x in columns]


def _places(length: int, side: float) -> list[float]:
    """Centres of the tiles along one axis: half a tile apart at most, the outer ones ending with the picture."""
    if length <= side:
        return [length / 2]
    count = 1 + int(np.ceil((length - side) / (side / 2)))
    return [float(each) for each in np.linspace(side / 2, length - side / 2, count)]


def _upright(points: Points, left_eye: Points, right_eye: Points) -> Square:
    """The mesh's square around points, with the eyes level in it."""
    low, high = points.min(0), points.max(0)
    x, y = (low + high) / 2 + 0.5
    across = right_eye - left_eye
    return Square(float(x), float(y), float(_MESH_FACTOR * (high - low).max()), float(np.arctan2(across[1], across[0])))


def expect_files(*files: Path) -> None:
    """Refuse missing files, with the settings that bring them.

    Raises:
        StyleBlendError: one is missing; names it.
    """
    for file in files:
        if not file.is_file():
            raise StyleBlendError(
                f"{file} is missing: align.detector mediapipe needs mediapipe_face_detector in pretrained.detector and "
                "a mesh, as mediapipe_face_mesh, in pretrained.landmarks; then run the stage pretrained"
            )
