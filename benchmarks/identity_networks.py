"""How well identity networks tell people apart through this project's own alignment and torch code.

    python benchmarks/identity_networks.py --detector yunet_n_dynamic.onnx --faces NAME=FOLDER [NAME=FOLDER ...]
        [--networks dlib_resnet faceres mobileface] [--persons 300] [--side 128] [--project DIR]

A folder holds a folder of pictures for each person; the first two pictures of evenly spread persons are taken, the face
nearest to the middle of each is aligned to --side, as the stage align does. Same: the two faces of a person. Different:
a first face and the second one of another person. Rank 1: how often a second face's most similar first face is the
person's. The networks are those that `styleblend weights fetch NAME` brought into DIR.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import rankdata
from torch import Tensor

from styleblend.config.pretrained import Pretrained
from styleblend.errors import StyleBlendError
from styleblend.face_detector.detection import Yunet
from styleblend.faces.alignment import align_face
from styleblend.faces.pictures import open_picture
from styleblend.faces.pixels import from_8bit
from styleblend.perception.identity import ArcFace, DlibFace, FaceNetwork, GraphFace
from styleblend.weights.formats import arcface_onnx, dlib_resnet, face_graphs
from styleblend.weights.store import is_right, store_of

_READERS = {
    "dlib": lambda name, file: DlibFace(name, dlib_resnet.load(file)),
    "tfjs": lambda name, file: GraphFace(name, face_graphs.load(file)),
    "onnx": lambda name, file: ArcFace(name, arcface_onnx.load(file)),
}


def network(name: str, project: Path) -> FaceNetwork:
    """A network of the catalogue from the project's store."""
    store = store_of(Pretrained(), project=project)
    entry = store.catalogue.get(name)
    if not is_right(store.place(entry), entry, store):
        raise StyleBlendError(f"{name} is not in {store.cache}: run `styleblend weights fetch {name}` there")
    return _READERS[entry.format](name, store.place(entry))


def aligned(folder: Path, persons: int, side: int, detector: Yunet) -> Tensor:
    """Two faces of each of up to `persons` persons, uint8 [P, 2, 3, side, side]; persons without both are left out."""
    people = [sorted(each.iterdir())[:2] for each in sorted(folder.iterdir()) if each.is_dir()]
    people = [files for files in people if len(files) == 2]
    people = people[:: max(1, len(people) // persons)][:persons]
    found = []
    for files in people:
        faces = [face_of(open_picture(file, 10**8).opaque(), side, detector) for file in files]
        if all(face is not None for face in faces):
            found.append(np.stack(faces))  # type: ignore[arg-type]
    return torch.from_numpy(np.stack(found)).permute(0, 1, 4, 2, 3)


def face_of(picture: Image.Image, side: int, detector: Yunet) -> np.ndarray | None:
    """The aligned face nearest to the middle of a picture, uint8 [side, side, 3]; None where none is found."""
    seen = detector.detect(picture)
    if not seen:
        return None
    middle = np.array(picture.size) / 2
    nearest = min(seen, key=lambda face: np.hypot(*(face.five_px.mean(0) - middle)))
    return np.asarray(align_face(picture, nearest.points_px, side).picture)


def auc(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """How often one of the first is larger than one of the second."""
    ranks = rankdata(np.concatenate([first, second]))[: len(first)].sum()
    return float((ranks - len(first) * (len(first) + 1) / 2) / (len(first) * len(second)))


@torch.no_grad()
def figures(seeing: FaceNetwork, faces: Tensor) -> dict[str, object]:
    """Mean and standard deviation of same and different, AUC, rank 1 and the CPU's seconds a face."""
    start = time.process_time()
    vectors = torch.cat([seeing(from_8bit(part)) for part in faces.flatten(0, 1).split(16)])
    seconds = (time.process_time() - start) / len(vectors)
    first, second = vectors.reshape(len(faces), 2, -1).unbind(1)
    likeness = -torch.cdist(first, second) if seeing.metric == "distance" else first @ second.T
    alike = likeness.numpy().astype(np.float64)
    same, different = np.diag(alike), alike[~np.eye(len(alike), dtype=bool)]
    sign = -1 if seeing.metric == "distance" else 1
    return {
        "metric": seeing.metric,
        "same": [round(sign * same.mean(), 3), round(same.std(), 3)],
        "different": [round(sign * different.mean(), 3), round(different.std(), 3)],
        "auc": round(auc(same, different), 4),
        "rank_1": round(float((alike.argmax(0) == np.arange(len(alike))).mean()), 3),
        "persons": len(faces),
        "cpu_s_per_face": round(seconds, 4),
    }


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--detector", type=Path, required=True)
    parser.add_argument("--faces", nargs="+", required=True, metavar="NAME=FOLDER")
    parser.add_argument("--networks", nargs="+", default=["dlib_resnet", "faceres", "mobileface"])
    parser.add_argument("--persons", type=int, default=300)
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--project", type=Path, default=Path())
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    detector, found = Yunet(args.detector), {}
    for name, folder in (each.split("=", 1) for each in args.faces):
        faces = aligned(Path(folder), args.persons, args.side, detector)
        found[name] = {each: figures(network(each, args.project), faces) for each in args.networks}
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
