"""Detection by the library face-alignment: boxes from one of its detectors, 68 landmarks in each from its FAN.

A. Bulat and G. Tzimiropoulos, How far are we from solving the 2D & 3D Face Alignment problem?, 2017. All weights are
read from local files; the library would download missing ones.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlparse

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from styleblend.errors import StyleBlendError
from styleblend.face_detector.detection import Detection, five_of, largest_first
from styleblend.perception import fan
from styleblend.weights.formats.onnx_graph import parsed
from styleblend.weights.formats.torch_file import maybe_kind_of, read_torch

# Longest side of the copy that the library sees: it rounds landmarks to whole pixels, too coarse for a picture of
# 64 px, and S3FD needs gigabytes for one of 4,000 px.
SIDE_PX = (320, 1280)

# The library's name of the lowest score, by detector.
_SCORE = {
    "sfd": "filter_threshold",
    "blazeface": "min_score_thresh",
    "scrfd": "confidence_threshold",
    "yunet": "score_threshold",
}

_MODULES = 4
"""Stacked hourglass modules of the FAN that the library builds."""


class FaceAlignmentDetector:
    """Finds all faces of a picture, with 68 landmarks each.

    Attributes:
        kind: the library's name of the detector, told from the content of the file.
    """

    def __init__(self, detector: Path, landmarks: Path, min_score: float = 0.6) -> None:
        """Load both files; on a GPU if there is one.

        Args:
            detector: weights of S3FD, BlazeFace (front or back), SCRFD or YuNet. BlazeFace sees the centre square of
                a picture only. The library's RetinaFace needs torchvision, which this project does not use.
            landmarks: the state dict of FAN with four modules, 2DFAN4-11f355bf06.pth.tar.
        Raises:
            StyleBlendError: a file is missing, damaged or for another network.
        """
        for file in (detector, landmarks):
            if not file.is_file():
                raise StyleBlendError(
                    f"{file} is missing: align.detector face_alignment needs a detector of face-alignment's in "
                    "pretrained.detector and 2DFAN4 in pretrained.landmarks; then run the stage pretrained"
                )
        self.kind, options = _detector_in(detector)
        modules = fan.read(landmarks).num_modules
        if modules != _MODULES:
            found = f"{landmarks} holds FAN of {modules} modules, not of {_MODULES}"
            raise StyleBlendError(f"{found}: get 2DFAN4-11f355bf06.pth.tar")
        with TemporaryDirectory() as folder, _served_locally(landmarks, Path(folder)):
            if self.kind == "blazeface":
                options["path_to_anchor"] = str(_write_anchors(Path(folder)))
            self._library = _built(self.kind, {**options, _SCORE[self.kind]: min_score}, detector)
        try:
            self._boxes(np.zeros((128, 128, 3), dtype=np.uint8))
        # OpenCV, ONNX Runtime and torch raise unrelated exceptions.
        except Exception as error:
            raise _unfit(detector, error) from None

    def detect(self, image: Image.Image) -> list[Detection]:
        """Faces of an RGB picture, the largest first; none gives an empty list."""
        pixels, factors = _copy(image)
        boxes = self._boxes(pixels)
        if not boxes:
            return []
        found = self._library.get_landmarks_from_image(pixels, detected_faces=boxes)
        faces = []
        for box, points in zip(boxes, found, strict=True):
            x, y = box[:2] * factors
            width, height = (box[2:4] - box[:2]) * factors
            # The library returns the index of the pixel that contains a point.
            landmarks = (np.asarray(points, dtype=np.float64) + 0.5) * factors - 0.5
            faces.append(Detection((x, y, width, height), five_of(landmarks), float(box[4]), landmarks))
        return largest_first(faces)

    def _boxes(self, pixels: NDArray[np.uint8]) -> list[NDArray[np.float64]]:
        """Left, top, right, bottom and score of each face whose box can be cut out."""
        found = self._library.face_detector.detect_from_image(pixels.copy())
        boxes = [np.asarray(row, dtype=np.float64)[:5] for row in found]
        return [box for box in boxes if _lies_in(box, pixels.shape[1], pixels.shape[0])]


def _lies_in(box: NDArray[np.float64], width: int, height: int) -> bool:
    """Whether a box is finite and not empty, and its centre lies in the picture."""
    if len(box) < 5 or not np.isfinite(box).all():
        return False
    x, y = (box[:2] + box[2:4]) / 2
    return bool((box[2:4] - box[:2] >= 1).all() and 0 <= x < width and 0 <= y < height)


def _copy(image: Image.Image) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """RGB pixels of the picture resized to within SIDE_PX, and the factors (x, y) back to it."""
    longest = max(image.size)
    scale = min(max(longest, SIDE_PX[0]), SIDE_PX[1]) / longest
    # The detector's strides need 32 px, also for the shorter side of a very long picture.
    size = tuple(max(32, round(length * scale)) for length in image.size)
    copy = image.convert("RGB")
    if size != image.size:
        copy = copy.resize((size[0], size[1]), Image.Resampling.BOX if scale < 1 else Image.Resampling.BILINEAR)
    return np.array(copy), np.array(image.size) / size


def _detector_in(path: Path) -> tuple[str, dict[str, Any]]:
    """The library's name of the detector whose weights a file holds, and the options for its constructor."""
    kind = maybe_kind_of(path)
    if kind == "pickle":
        raise StyleBlendError(f"{path} is a plain pickle, no torch file: it was not read; get the published file")
    options: dict[str, Any] = {"path_to_detector": str(path)}
    if kind is None:
        outputs = [each.name for each in parsed(path).graph.output]
        if len(outputs) in (6, 9):
            return "scrfd", options
        if "cls_8" in outputs and "kps_32" in outputs:
            return "yunet", options
    else:
        weights = read_torch(path)
        names = set(weights) if isinstance(weights, dict) else set()
        if "conv3_3_norm_mbox_conf.weight" in names:
            return "sfd", options
        if "backbone1.0.weight" in names:
            return "blazeface", options
        if "backbone.0.weight" in names and "regressor_8.weight" in names:
            return "blazeface", options | {"back_model": True}
    raise StyleBlendError(
        f"{path} is none of face-alignment's detectors that can be used here: get "
        "s3fd-619a316812.pth, or set align.detector to insightface if it is one of its files"
    )


def _built(kind: str, options: dict[str, Any], detector: Path) -> Any:
    # The import takes seconds, and most runs use none of its networks.
    import face_alignment

    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        with warnings.catch_warnings():
            # The library warns that YuNet stays on the CPU.
            warnings.filterwarnings("ignore", "YuNet detector runs on CPU")
            return face_alignment.FaceAlignment(
                face_alignment.LandmarksType.TWO_D,
                device=device,
                face_detector=kind,
                face_detector_kwargs=options,
                # Compiling takes minutes and writes into the home folder.
                compile=False,
            )
    # Raised by torch, OpenCV and NumPy for the detector's file; FAN's was checked before.
    except (RuntimeError, cv2.error, ValueError) as error:
        raise _unfit(detector, error) from None


def _unfit(path: Path, error: Exception) -> StyleBlendError:
    reason = " ".join(str(error).split())[:160] or type(error).__name__
    return StyleBlendError(f"{path} does not fit face-alignment's network ({reason}): get the published file")


@contextmanager
def _served_locally(landmarks: Path, hub: Path) -> Iterator[None]:
    """Make `hub` torch.hub's folder for the block, with FAN's weights under their published name."""
    from face_alignment.api import models_urls

    published = Path(urlparse(models_urls["2DFAN-4"]).path).name
    (hub / "checkpoints").mkdir()
    (hub / "checkpoints" / published).symlink_to(landmarks.resolve())
    before = torch.hub.get_dir()
    torch.hub.set_dir(str(hub))
    try:
        yield
    finally:
        torch.hub.set_dir(before)


def _write_anchors(folder: Path) -> Path:
    """BlazeFace's 896 anchors (x, y, width, height) in [0, 1]: two a cell of 16 x 16, then six a cell of 8 x 8."""
    rows = []
    for cells, each in ((16, 2), (8, 6)):
        y, x = np.divmod(np.arange(cells**2).repeat(each), cells)
        rows.append(np.stack([(x + 0.5) / cells, (y + 0.5) / cells, np.ones(len(x)), np.ones(len(x))], axis=1))
    path = folder / "anchors.npy"
    np.save(path, np.concatenate(rows).astype(np.float32))
    return path
