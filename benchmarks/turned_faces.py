"""How many faces of photographs are found at which angle, and what the looking at other turns costs.

    python benchmarks/turned_faces.py PHOTOS [PHOTOS ...] --yunet FILE
    python benchmarks/turned_faces.py PHOTOS [PHOTOS ...] --mediapipe DETECTOR MESH

The first JPEG files of each folder, whose largest face the detector sees upright, are turned about their middle. A face
is right where its five points lie, on average, within 0.35 of the distance between the eyes from those in the upright
photograph; `misturned` is the median angle between the two, scores are the detector's, ms are of one core, a picture.
`raw` is the detector alone.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from styleblend.face_detector.detection import Detection, Detector, Yunet
from styleblend.face_detector.finder import SURE_SCORE, FaceFinder
from styleblend.face_detector.geometry import between_deg, roll_rad
from styleblend.face_detector.mediapipe import MediapipeDetector
from styleblend.faces.pictures import open_picture

ANGLES = (0, 15, 30, 45, 60, 75, 90, 105, 120, 135, 150, 165, 180, 225, 270, 315)
RIGHT = 0.35


def photographs(folders: list[Path], count: int, side_px: int) -> list[Image.Image]:
    """The first `count` JPEG files of each folder, upright and at most `side_px` wide and high."""
    found = []
    for folder in folders:
        for file in sorted(folder.rglob("*.jpg"))[:count]:
            image = open_picture(file, 100_000_000).opaque()
            image.thumbnail((side_px, side_px))
            found.append(image)
    return found


def turned(
    image: Image.Image, points: NDArray[np.float64], angle_deg: float
) -> tuple[Image.Image, NDArray[np.float64]]:
    """The whole picture turned counterclockwise about its middle, and its points [N,2] there."""
    result = image.rotate(angle_deg, Image.Resampling.BICUBIC, expand=True)
    cos, sin = np.cos(np.deg2rad(angle_deg)), np.sin(np.deg2rad(angle_deg))
    middles = [(np.array(each.size) - 1) / 2 for each in (image, result)]
    return result, (points - middles[0]) @ np.array([[cos, -sin], [sin, cos]]) + middles[1]


def verdict(found: list[Detection], wanted: NDArray[np.float64]) -> tuple[str, float, float]:
    """right, wrong or none for the largest face, by how many degrees it is turned wrongly, and its score."""
    if not found:
        return "none", 0.0, 0.0
    five = found[0].five_px
    error = np.hypot(*(five - wanted).T).mean() / np.hypot(*(wanted[1] - wanted[0]))
    turn = between_deg(roll_rad(five), roll_rad(wanted))
    return ("right" if error < RIGHT else "wrong"), turn, found[0].score


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="PHOTOS")
    parser.add_argument("--yunet", type=Path, metavar="FILE")
    parser.add_argument("--mediapipe", type=Path, nargs=2, metavar=("DETECTOR", "MESH"))
    parser.add_argument("--count", type=int, default=14, help="photographs of each folder")
    parser.add_argument("--side-px", type=int, default=900)
    parser.add_argument("--angles", type=int, nargs="*", default=ANGLES)
    args = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    if (args.yunet is None) == (args.mediapipe is None):
        parser.error("give --yunet or --mediapipe")
    detector: Detector = Yunet(args.yunet) if args.yunet else MediapipeDetector(*args.mediapipe)
    finder = FaceFinder(detector, sure_score=SURE_SCORE.get("yunet" if args.yunet else "mediapipe", 1.0))
    known = [
        (image, found[0])
        for image in photographs(args.folders, args.count, args.side_px)
        if (found := detector.detect(image))
    ]
    print(f"{len(known)} photographs")
    for angle in args.angles:
        rows = [turned(image, face.five_px, angle) for image, face in known]
        line = []
        for name, each in (("raw", detector), ("finder", finder)):
            start = time.process_time()
            found = [each.detect(image) for image, _ in rows]
            seconds = (time.process_time() - start) / len(rows)
            verdicts = [verdict(faces, wanted) for faces, (_, wanted) in zip(found, rows, strict=True)]
            counts = " ".join(f"{word} {sum(v == word for v, *_ in verdicts):3}" for word in ("right", "wrong", "none"))
            off = np.median([turn for word, turn, _ in verdicts if word == "right"] or [np.nan])
            low = min([score for word, _, score in verdicts if word == "right"], default=np.nan)
            high = max([score for word, _, score in verdicts if word == "wrong"], default=np.nan)
            scores = f"right from {low:.2f}, wrong to {high:.2f}"
            line.append(f"{name}: {counts} misturned {off:4.1f} deg {scores} {1000 * seconds:6.0f} ms")
        print(f"{angle:4} deg  " + "   ".join(line), flush=True)


if __name__ == "__main__":
    main()
