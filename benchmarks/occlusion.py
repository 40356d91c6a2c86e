"""Whether what a run has at hand tells covered faces from others: signals, each with its area under the ROC curve.

    python benchmarks/occlusion.py --detector yunet_n_dynamic.onnx --mesh mediapipe_face_mesh.tflite FOLDER [FOLDER ...]
        [--count 150] [--side 128] [--seed 0]

Of up to --count photographs of each folder, evenly spread, the face nearest to the middle is aligned; what covers it is
painted onto the aligned face. The signals see the covered face alone, its landmarks included:

covered: share of the face whose colour is unlike that of most of it, data.quality.covered.
presence: 1 - what the mesh says of there being a face.
flip: distance between the mesh's points and those of the mirrored face, over the side.
shift: the same for the face moved by 3 % of its side.

AUC: how often a covered face has more of the signal than one that is not; 0.5 is chance. `found` is the share of
covered ones beyond the limit that 95 % of the others keep. `share` is what is painted, of the face's region.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from identity_networks import auc, face_of
from numpy.typing import NDArray

from styleblend.data import quality
from styleblend.face_detector.detection import Yunet
from styleblend.faces.pictures import open_picture
from styleblend.faces.pixels import from_8bit
from styleblend.perception import mesh as meshes
from styleblend.perception.mesh import FaceMesh

Pixels = NDArray[np.uint8]
Points = NDArray[np.float64]
Mask = NDArray[np.bool_]
Random = np.random.Generator


def at(points: Points, across: float, down: float) -> Points:
    """A place of the face by its eyes and mouth, as tests/hostile_faces.py has it."""
    left, right, mouth = points[36:42].mean(0), points[42:48].mean(0), points[48:60].mean(0)
    eyes = (left + right) / 2
    return eyes + across * (right - left) + down * (mouth - eyes)


def area(face: Pixels, points: Points, *corners: tuple[float, float]) -> Mask:
    """Inside of a polygon of such places."""
    mask = np.zeros(face.shape[:2], np.uint8)
    cv2.fillPoly(mask, [np.round([at(points, *corner) for corner in corners]).astype(np.int32)], 1)
    return mask.astype(bool)


def sunglasses(face: Pixels, points: Points, random: Random, other: Pixels) -> Pixels:
    """Two dark glasses."""
    radius = 0.42 * float(np.hypot(*(at(points, 0.5, 0) - at(points, -0.5, 0))))
    result = face.copy()
    for side in (-0.5, 0.5):
        centre = tuple(int(value) for value in np.round(at(points, side, 0)))
        cv2.circle(result, centre, round(radius), random.integers(0, 50, 3).tolist(), -1)
    return result


def mask(face: Pixels, points: Points, random: Random, other: Pixels) -> Pixels:
    """A mask from the nose to the chin, of one colour with folds."""
    corners = ((-1.0, 0.4), (0, 0.25), (1.0, 0.4), (0.85, 1.4), (0.3, 1.85), (-0.3, 1.85), (-0.85, 1.4))
    colour = np.array([(225, 235, 240), (110, 160, 200), (25, 25, 28)][random.integers(3)], np.float64)
    folds = 12 * np.sin(np.arange(face.shape[0]) * 0.8)[:, None, None]
    return painted(face, area(face, points, *corners), np.clip(colour + folds, 0, 255) * np.ones(face.shape))


def hand(face: Pixels, points: Points, random: Random, other: Pixels) -> Pixels:
    """Fingers of the person's own skin over a half of the mouth and a cheek."""
    sign = random.choice((-1, 1))
    corners = [(sign * x, y) for x, y in ((0.1, 0.7), (0.9, 0.5), (1.1, 1.2), (0.5, 1.6), (0.1, 1.3))]
    skin = face[area(face, points, (-0.5, 0.3), (0.5, 0.3), (0.4, 0.6), (-0.4, 0.6))].mean(0)
    fingers = 18 * np.sin(np.arange(face.shape[1]) * 0.5)[None, :, None]
    return painted(face, area(face, points, *corners), np.clip(skin + fingers, 0, 255) * np.ones(face.shape))


def hair(face: Pixels, points: Points, random: Random, other: Pixels) -> Pixels:
    """A dark strand over one eye and a cheek."""
    sign = random.choice((-1, 1))
    corners = [(sign * x, y) for x, y in ((0.1, -0.9), (0.9, -0.9), (1.0, 1.2), (0.6, 1.2), (0.2, 0.0))]
    strands = random.normal(0, 14, (1, face.shape[1], 1)) + np.array(random.integers(15, 70, 3))
    return painted(face, area(face, points, *corners), np.clip(strands, 0, 255) * np.ones(face.shape))


def thing(face: Pixels, points: Points, random: Random, other: Pixels) -> Pixels:
    """A piece of another picture over a part of the face."""
    x, y = random.uniform(-0.6, 0.4), random.uniform(-0.2, 0.9)
    corners = ((x - 0.2, y - 0.2), (x + 0.7, y - 0.2), (x + 0.7, y + 0.6), (x - 0.2, y + 0.6))
    return painted(face, area(face, points, *corners), np.roll(other, face.shape[0] // 2, axis=0).astype(np.float64))


def painted(face: Pixels, where: Mask, colours: NDArray[np.float64]) -> Pixels:
    return np.where(where[..., None], colours, face).astype(np.uint8)


COVERS: dict[str, Callable[[Pixels, Points, Random, Pixels], Pixels]] = {
    "sunglasses": sunglasses, "mask": mask, "hand": hand, "hair": hair, "thing": thing,
}  # fmt: skip


@torch.no_grad()
def signals(faces: list[Pixels], seeing: FaceMesh) -> dict[str, NDArray[np.float64]]:
    """Each signal for every aligned face."""
    side = faces[0].shape[0]
    images = from_8bit(torch.from_numpy(np.stack(faces)).permute(0, 3, 1, 2))
    step = round(0.03 * side)
    views = images, images.flip(3), torch.roll(images, step, 3)
    looked = [[seeing.look(part) for part in view.split(16)] for view in views]
    points, _, moved = (meshes.to_68(torch.cat([each for each, _ in view]))[..., :2] for view in looked)
    presence = torch.cat([each for _, each in looked[0]])
    mirrored = meshes.to_68(torch.cat([each for each, _ in looked[1]]))[..., :2]
    mirrored = mirrored * torch.tensor([-1.0, 1]) + torch.tensor([1.0, 0])
    order = torch.tensor(MIRRORED)
    where = points.double().numpy()
    return {
        "covered": np.array([quality.covered(*each) for each in zip(faces, where, strict=True)]),
        "presence": 1 - presence.double().numpy(),
        "flip": (mirrored[:, order] - points).norm(dim=-1).mean(1).double().numpy(),
        "shift": (moved - torch.tensor([step / side, 0]) - points).norm(dim=-1).mean(1).double().numpy(),
        "_points": where,
    }


MIRRORED = (
    *range(16, -1, -1), *range(26, 16, -1), *range(27, 31), 35, 34, 33, 32, 31, 45, 44, 43, 42, 47, 46, 39, 38, 37, 36,
    41, 40, 54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65,
)  # fmt: skip
"""iBUG's points as they are named in a mirrored face."""


def figures(faces: list[Pixels], seeing: FaceMesh, seed: int) -> dict[str, Any]:
    """AUC of each signal for each cover, and for all; and how much was covered."""
    random = np.random.default_rng(seed)
    plain = signals(faces, seeing)
    points = plain.pop("_points")
    side = faces[0].shape[0]
    others = [faces[place] for place in random.permutation(len(faces))]
    found: dict[str, Any] = {}
    together: dict[str, list[NDArray[np.float64]]] = {name: [] for name in plain}
    for name, cover in COVERS.items():
        parts = zip(faces, points * side - 0.5, others, strict=True)
        covered = [cover(face, where, random, other) for face, where, other in parts]
        hidden = [
            float((after != before).any(2)[quality.skin(where, side, side)].mean())
            for before, after, where in zip(faces, covered, points, strict=True)
        ]
        seen = signals(covered, seeing)
        found[name] = {"share": round(float(np.mean(hidden)), 2)}
        for signal, values in plain.items():
            limit = np.quantile(values, 0.95)
            together[signal].append(seen[signal])
            found[name][signal] = [round(auc(seen[signal], values), 3), round(float((seen[signal] > limit).mean()), 2)]
    found["all"] = {
        signal: [round(auc(np.concatenate(each), plain[signal]), 3),
                 round(float((np.concatenate(each) > np.quantile(plain[signal], 0.95)).mean()), 2)]
        for signal, each in together.items()
    }  # fmt: skip
    found["plain_quantiles"] = {
        signal: [round(float(value), 4) for value in np.quantile(values, (0.05, 0.5, 0.95))]
        for signal, values in plain.items()
    }
    return found


def main() -> None:
    """Measure and print one JSON object a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--detector", type=Path, required=True)
    parser.add_argument("--mesh", type=Path, required=True)
    parser.add_argument("--count", type=int, default=150)
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    detector, seeing = Yunet(args.detector), meshes.load(args.mesh)
    for folder in args.folders:
        files = sorted(folder.rglob("*.jpg"))
        files = files[:: max(1, len(files) // args.count)][: args.count]
        cut = (face_of(open_picture(file, 10**8).opaque(), args.side, detector) for file in files)
        faces = [face for face in cut if face is not None]
        print(json.dumps({"folder": folder.name, "faces": len(faces), **figures(faces, seeing, args.seed)}), flush=True)


if __name__ == "__main__":
    main()
