"""Build the face detector that align.detector names, from the folder of the run's networks."""

from __future__ import annotations

from pathlib import Path

from styleblend.config.base import Finder
from styleblend.errors import StyleBlendError
from styleblend.face_detector.detection import Detector, Yunet


def load(kind: Finder, networks: Path, min_score: float, file: Path | None = None, threads: int = 0) -> Detector:
    """Build a detector; nothing is downloaded.

    Args:
        networks: folder that the stage pretrained filled.
        file: the detector's file, in place of the one in `networks`.
        threads: on the CPU; 0 takes all cores. For face_alignment it sets torch's number for the whole process.
    Raises:
        StyleBlendError: a file is missing, damaged or for another kind of detector.
    """
    if kind == "yunet":
        return Yunet(file or networks / "detector.onnx", min_score)
    # Both others import torch, which takes seconds.
    import torch

    from styleblend.weights import frozen

    file = file or frozen.foreign(networks, "detector") or networks / "detector.onnx"
    if kind == "insightface":
        from styleblend.face_detector.scrfd import Scrfd

        return Scrfd(file, min_score, threads)
    from styleblend.face_detector.face_alignment import FaceAlignmentDetector

    landmarks = frozen.foreign(networks, "landmarks")
    if landmarks is None:
        raise StyleBlendError(
            f"align.detector face_alignment needs FAN's landmarks, which {networks} has not: set pretrained.landmarks "
            "to 2DFAN4 and run the stage pretrained"
        )
    if threads:
        torch.set_num_threads(threads)
    return FaceAlignmentDetector(file, landmarks, min_score)
