"""How well faces without labels are joined to persons, and the threshold that does it best.

    python benchmarks/identity_clusters.py --detector yunet_n_dynamic.onnx --faces NAME=FOLDER [NAME=FOLDER ...]
        [--network dlib_resnet] [--every 3] [--fewest 2] [--side 128] [--project DIR]

A folder holds a folder of pictures for each person. Of every --every-th person (in the first folder) with at least
--fewest pictures all are taken, the face nearest to the middle of each is aligned, and `data.clusters.cluster` joins
them as the stage split does. Precision: of the pairs of faces in one cluster, those of one person. Recall: of the pairs
of one person, those in one cluster. Torn: persons whose faces lie in several clusters, and so perhaps in several
splits. The threshold with the best F1 is chosen on every other person of the first folder alone, and measured on the
rest and on the other folders. The network is the one that `styleblend weights fetch NAME` brought into DIR.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from identity_networks import face_of, network
from numpy.typing import NDArray

from styleblend.data.clusters import cluster
from styleblend.face_detector.detection import Yunet
from styleblend.faces.pictures import open_picture
from styleblend.faces.pixels import from_8bit
from styleblend.perception.identity import FaceNetwork

Numbers = NDArray[np.int64]

# Likeness, 1 - distance^2 for networks whose vectors are compared by distance.
THRESHOLDS = {
    "distance": (0.60, 0.64, 0.68, 0.70, 0.72, 0.74, 0.76, 0.78, 0.80, 0.82, 0.84, 0.86, 0.88, 0.90),
    "cosine": (0.30, 0.35, 0.40, 0.45, 0.50, 0.55, 0.60, 0.65, 0.70, 0.75, 0.80, 0.85, 0.90),
}


@torch.no_grad()
def embedded(
    folder: Path, every: int, fewest: int, side: int, detector: Yunet, seeing: FaceNetwork
) -> tuple[NDArray[np.float32], Numbers]:
    """Vectors [n, D] of the faces, and the number of the person of each; pictures without a face are left out."""
    people = [sorted(each.iterdir()) for each in sorted(folder.iterdir()) if each.is_dir()]
    people = [files for files in people if len(files) >= fewest][::every]
    cut, persons = [], []
    for person, files in enumerate(people):
        for file in files:
            face = face_of(open_picture(file, 10**8).opaque(), side, detector)
            if face is not None:
                cut.append(face)
                persons.append(person)
    images = torch.from_numpy(np.stack(cut)).permute(0, 3, 1, 2)
    vectors = torch.cat([seeing(from_8bit(part)) for part in images.split(16)])
    return vectors.numpy().astype(np.float32), np.array(persons)


def judged(vectors: NDArray[np.float32], persons: Numbers, threshold: float, metric: str) -> dict[str, Any]:
    """Figures of the clusters at one threshold."""
    found = cluster(vectors, threshold, metric)
    one_person, one_cluster = (pairs(np.bincount(groups)) for groups in (persons, found))
    _, both = np.unique(np.stack([persons, found]), axis=1, return_counts=True)
    right = pairs(both)
    precision, recall = right / max(1, one_cluster), right / max(1, one_person)
    torn = sum(len(set(found[persons == person])) > 1 for person in set(persons))
    return {
        "threshold": threshold,
        "precision": round(precision, 4),
        "recall": round(recall, 4),
        "f1": round(2 * precision * recall / max(1e-9, precision + recall), 4),
        "clusters": int(found.max()) + 1,
        "persons": len(set(persons)),
        "torn": torn,
        "largest": int(np.bincount(found).max()),
    }


def pairs(sizes: Numbers) -> int:
    """Pairs within groups of these sizes."""
    return int((sizes * (sizes - 1) // 2).sum())


def figures(data: dict[str, tuple[NDArray[np.float32], Numbers]], metric: str) -> dict[str, Any]:
    """The threshold chosen on half of the persons of the first set, what it gives there, and all of the rest."""
    name, (vectors, persons) = next(iter(data.items()))
    half = persons % 2 == 0
    chosen_on = [judged(vectors[half], persons[half], each, metric) for each in THRESHOLDS[metric]]
    best = max(chosen_on, key=lambda row: (row["f1"], row["threshold"]))
    parts = {f"{name}, other half": (vectors[~half], persons[~half])}
    parts |= {other: each for other, each in data.items() if other != name}
    return {
        f"{name}, half to choose on": chosen_on,
        "chosen": best["threshold"],
        "measured": {part: judged(*each, best["threshold"], metric) for part, each in parts.items()},
        "whole": {part: [judged(*each, at, metric) for at in THRESHOLDS[metric]] for part, each in data.items()},
    }


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--detector", type=Path, required=True)
    parser.add_argument("--faces", nargs="+", required=True, metavar="NAME=FOLDER")
    parser.add_argument("--network", default="dlib_resnet")
    parser.add_argument("--every", type=int, default=1, help="of the first folder's persons")
    parser.add_argument("--fewest", type=int, default=2)
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--project", type=Path, default=Path())
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    detector, seeing = Yunet(args.detector), network(args.network, args.project)
    named = [each.split("=", 1) for each in args.faces]
    every = [args.every] + [1] * len(named)
    data = {
        name: embedded(Path(folder), step, args.fewest, args.side, detector, seeing)
        for step, (name, folder) in zip(every, named, strict=False)
    }
    print(json.dumps(figures(data, seeing.metric), indent=1))


if __name__ == "__main__":
    main()
