"""Build the face detector that align.detector names, and what checks its faces, from the run's networks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from styleblend.config.base import Finder
from styleblend.errors import StyleBlendError
from styleblend.face_detector.detection import Detector, Yunet
from styleblend.face_detector.finder import SURE_SCORE, FaceFinder
from styleblend.weights import frozen

if TYPE_CHECKING:
    from styleblend.perception.mesh import FaceMesh


def load_finder(
    kind: Finder,
    networks: Path,
    min_score: float,
    file: Path | None = None,
    threads: int = 0,
    mesh_file: Path | None = None,
    min_face_px: int = 0,
    mesh: FaceMesh | None = None,
) -> FaceFinder:
    """Build a detector with the check of its faces: by other turns, by their points, and by the mesh if there is one.

    Args:
        mesh_file: of the mesh, in place of the landmark network in `networks`.
        min_face_px: longer side of the smallest face that is accepted.
        mesh: the same where it is loaded already. The others are those of `load`.
    Raises:
        StyleBlendError: a file is missing, damaged or for another kind of network.
    """
    mesh = mesh or load_mesh(networks, mesh_file)
    detector = load(kind, networks, min_score, file, threads, mesh)
    return FaceFinder(detector, mesh, SURE_SCORE.get(kind, 1.0), min_face_px)


def load_mesh(networks: Path, mesh_file: Path | None = None) -> FaceMesh | None:
    """The mesh of a file, else the one that gives a run its landmarks; None where another network does.

    Raises:
        StyleBlendError: the file is damaged or holds another network.
    """
    file = mesh_file or frozen.foreign(networks, "landmarks")
    if file is None or file.suffix != ".tflite":
        return None
    # torch takes seconds to import.
    from styleblend.perception import mesh

    return mesh.load(file)


def load(
    kind: Finder,
    networks: Path,
    min_score: float,
    file: Path | None = None,
    threads: int = 0,
    mesh: FaceMesh | None = None,
) -> Detector:
    """Build a detector; nothing is downloaded.

    Args:
        networks: folder that the stage pretrained filled.
        file: the detector's file, in place of the one in `networks`.
        threads: on the CPU; 0 takes all cores. For face_alignment and mediapipe it sets torch's number for the whole
            process.
        mesh: that mediapipe needs; None: the landmark network in `networks`.
    Raises:
        StyleBlendError: a file is missing, damaged or for another kind of detector.
    """
    if kind == "yunet":
        return Yunet(file or networks / "detector.onnx", min_score)
    # The others import torch, which takes seconds.
    import torch

    file = (
        file
        or frozen.foreign(networks, "detector")
        or networks / f"detector{'.tflite' if kind == 'mediapipe' else '.onnx'}"
    )
    if kind == "insightface":
        from styleblend.face_detector.scrfd import Scrfd

        return Scrfd(file, min_score, threads)
    if threads:
        torch.set_num_threads(threads)
    landmarks = frozen.foreign(networks, "landmarks")
    if kind == "mediapipe":
        from styleblend.face_detector.mediapipe import MediapipeDetector

        return MediapipeDetector(file, mesh or landmarks or networks / "landmarks.tflite", min_score)
    from styleblend.face_detector.face_alignment import FaceAlignmentDetector

    if landmarks is None:
        raise StyleBlendError(
            f"align.detector face_alignment needs FAN's landmarks, which {networks} has not: set pretrained.landmarks "
            "to 2DFAN4 and run the stage pretrained"
        )
    return FaceAlignmentDetector(file, landmarks, min_score)
