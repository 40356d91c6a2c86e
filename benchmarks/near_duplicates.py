"""Whether copies of a photograph are found, and other shots of a person are not taken for copies.

    python benchmarks/near_duplicates.py --detector yunet_n_dynamic.onnx --faces NAME=FOLDER [NAME=FOLDER ...]
        [--network dlib_resnet] [--persons 120] [--every 1] [--side 128] [--project DIR]

A folder holds a folder of pictures for each person; of every --every-th with two or more, up to --persons are taken.
The first picture of each is copied in the ways of CHANGES, and in each copy the face is found and aligned anew, as it
would be had somebody uploaded it. A copy is found where all three limits of validate.keep hold, at their defaults. The
same is asked of all pairs of other pictures of one person.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from identity_networks import face_of, network
from PIL import Image

from styleblend.config.data import Keep
from styleblend.data.copies import small, structure
from styleblend.data.quality import HASH_BITS, hash_bits, picture_hash
from styleblend.face_detector.detection import Yunet
from styleblend.faces.pictures import open_picture
from styleblend.faces.pixels import from_8bit
from styleblend.perception.identity import FaceNetwork

Change = Callable[[Image.Image], Image.Image]


def jpeg(picture: Image.Image, quality: int = 40) -> Image.Image:
    """Written again with much loss."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def scaled(picture: Image.Image, factor: float = 0.5) -> Image.Image:
    """At another size."""
    return picture.resize((int(picture.width * factor), int(picture.height * factor)), Image.Resampling.LANCZOS)


def cropped(picture: Image.Image) -> Image.Image:
    """Without some of its border."""
    width, height = picture.size
    return picture.crop((int(0.05 * width), int(0.05 * height), int(0.97 * width), int(0.96 * height)))


def shaved(picture: Image.Image) -> Image.Image:
    """Without a few pixels on each side."""
    return picture.crop((4, 4, picture.width - 6, picture.height - 3))


CHANGES: dict[str, Change] = {
    "JPEG of quality 40": jpeg,
    "half the size": scaled,
    "border cut off": cropped,
    "20 % brighter, clipped": lambda picture: picture.point(lambda value: min(255, int(value * 1.2 + 8))),
    "70 % of the size, shaved, JPEG of quality 60": lambda picture: jpeg(shaved(scaled(picture, 0.7)), 60),
}


@torch.no_grad()
def figures(people: Sequence[Sequence[Path]], side: int, detector: Yunet, seeing: FaceNetwork) -> dict[str, Any]:
    """What each change, and no change but another shot, gives: pairs, shares that pass each question and all."""
    faces: list[np.ndarray] = []
    compared: dict[str, list[tuple[int, int]]] = {name: [] for name in (*CHANGES, "another shot")}
    for files in people:
        own: list[int] = []
        for file in files:
            picture = open_picture(file, 10**8).opaque()
            if (face := face_of(picture, side, detector)) is None:
                continue
            compared["another shot"] += [(other, len(faces)) for other in own]
            own.append(len(faces))
            faces.append(face)
            if len(own) == 1:
                for name, change in CHANGES.items():
                    if (again := face_of(change(picture), side, detector)) is not None:
                        compared[name].append((own[0], len(faces)))
                        faces.append(again)
    greys = [cv2.cvtColor(face, cv2.COLOR_RGB2GRAY) for face in faces]
    bits, looks = hash_bits([picture_hash(grey) for grey in greys]), [small(grey) for grey in greys]
    images = torch.from_numpy(np.stack(faces)).permute(0, 3, 1, 2)
    vectors = torch.cat([seeing(from_8bit(part)) for part in images.split(16)]).numpy()
    return {name: _shares(np.array(pairs), bits, vectors, looks, seeing.metric) for name, pairs in compared.items()}


def _shares(pairs: np.ndarray, bits: np.ndarray, vectors: np.ndarray, looks: list[Any], metric: str) -> dict[str, Any]:
    limits, (one, other) = Keep(), pairs.T
    apart = (HASH_BITS - np.einsum("nd,nd->n", bits[one], bits[other])) / 2
    a, b = vectors[one], vectors[other]
    alike = np.einsum("nd,nd->n", a, b) if metric == "cosine" else 1 - np.square(a - b).sum(1)
    patches = np.array([structure(looks[first], looks[second]) for first, second in pairs])
    passed = {
        "hash": apart <= limits.duplicate_bits,
        "embedding": alike >= limits.duplicate_similarity,
        "pixels": patches >= limits.duplicate_structure,
    }
    found = np.logical_and.reduce(list(passed.values()))
    shares = {name: round(float(each.mean()), 3) for name, each in passed.items()}
    quantiles = {"pixels_1_50_99": [round(float(value), 3) for value in np.quantile(patches, (0.01, 0.5, 0.99))]}
    return {"pairs": len(pairs), "found": int(found.sum()), **shares, **quantiles}


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--detector", type=Path, required=True)
    parser.add_argument("--faces", nargs="+", required=True, metavar="NAME=FOLDER")
    parser.add_argument("--network", default="dlib_resnet")
    parser.add_argument("--persons", type=int, default=120)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--project", type=Path, default=Path())
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    detector, seeing, found = Yunet(args.detector), network(args.network, args.project), {}
    for name, folder in (each.split("=", 1) for each in args.faces):
        people = [sorted(each.iterdir()) for each in sorted(Path(folder).iterdir()) if each.is_dir()]
        people = [files for files in people if len(files) > 1][:: args.every][: args.persons]
        found[name] = figures(people, args.side, detector, seeing)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
