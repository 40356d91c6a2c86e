"""Build the face detector that align.detector names, from the folder of the run's networks."""

from __future__ import annotations

from pathlib import Path

from styleblend.config.base import Finder
from styleblend.errors import StyleBlendError
from styleblend.face_detector.detection import Detector, Yunet


def load(
    kind: Finder,
    networks: Path,
    min_score: float,
    file: Path | None = None,
    threads: int = 0,
    mesh_file: Path | None = None,
) -> Detector:
    """Build a detector; nothing is downloaded.

    Args:
        networks: folder that the stage pretrained filled.
        file: the detector's file, in place of the one in `networks`.
        threads: on the CPU; 0 takes all cores. For face_alignment and mediapipe it sets torch's number for the whole
            process.
        mesh_file: of the mesh that mediapipe needs, in place of the landmark network in `networks`.
    Raises:
        StyleBlendError: a file is missing, damaged or for another kind of detector.
    """
    if kind == "yunet":
        return Yunet(file or networks / "detector.onnx", min_score)
    # The others import torch, which takes seconds.
    import torch

    from styleblend.weights import frozen

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
    landmarks = mesh_file or frozen.foreign(networks, "landmarks")
    if kind == "mediapipe":
        from styleblend.face_detector.mediapipe import MediapipeDetector

        return MediapipeDetector(file, landmarks or networks / "landmarks.tflite", min_score)
    from styleblend.face_detector.face_alignment import FaceAlignmentDetector

    if landmarks is None:
        raise StyleBlendError(
            f"align.detector face_alignment needs FAN's landmarks, which {networks} has not: set pretrained.landmarks "
            "to 2DFAN4 and run the stage pretrained"
        )
    return FaceAlignmentDetector(file, landmarks, min_score)
