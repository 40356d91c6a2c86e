"""MediaPipe's meshes and blendshapes in torch beside their own runtime, on photographs, and what they measure there.

    python benchmarks/agreement_tflite.py --detector yunet_n_dynamic.onnx --faces FOLDER [--side 256] [--project DIR]

FOLDER holds a folder for each person with a neutral picture n_*.jpg and a smiling one s_*.jpg, as the Face Research Lab
London Set does. Faces are aligned as the stage align does it. For each network: the largest difference from the
runtime (ai-edge-litert), and how far the points on the one fixed cut lie from those on a cut around the face's own
points, turned upright, as MediaPipe makes it from picture to picture, in shares of the distance between the outer
corners of the eyes. Then smiles, mirror images, poses of
rendered faces, whose truth is known, and CPU seconds a face on one thread. The networks are those that
`styleblend weights fetch mediapipe_face_mesh mediapipe_face_landmarker` brought into DIR.
"""

from __future__ import annotations

import argparse
import json
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray
from scipy.stats import rankdata
from torch import Tensor, nn

from styleblend.face_detector.detection import Yunet
from styleblend.faces.alignment import align_face
from styleblend.faces.pictures import open_picture
from styleblend.faces.pixels import from_8bit
from styleblend.perception import blendshapes, mesh
from styleblend.perception.blendshapes import BLENDSHAPES, SEEN
from styleblend.perception.mesh import FACE_PRESENT, FaceMesh
from styleblend.perception.mesh_attributes import MeshAttributes
from styleblend.pretraining.data import draw
from styleblend.synthetic.renderer import pose_deg, render
from styleblend.weights.formats import tflite_graph
from styleblend.weights.store import CACHE

_EYES = (33, 263)
_AROUND = 1.5  # MediaPipe's square around the box of its points


def runtime(content: bytes, x: Tensor) -> list[NDArray[np.float32]]:
    """The outputs of the file's own runtime for [N, ...], one at a time."""
    own = Interpreter(model_content=content, num_threads=1)
    own.allocate_tensors()
    found = []
    for each in x.contiguous().numpy():
        own.set_tensor(own.get_input_details()[0]["index"], each[None])
        own.invoke()
        found.append([own.get_tensor(out["index"]).flatten() for out in own.get_output_details()])
    return [np.stack(each) for each in zip(*found, strict=True)]


def on_own_cut(network: FaceMesh, images: Tensor, points: Tensor, rounds: int = 3) -> Tensor:
    """Points [N, K, 3] on a square around the points of the round before, turned upright by the eyes."""
    for _ in range(rounds):
        across = points[:, _EYES[1], :2] - points[:, _EYES[0], :2]
        angle = torch.atan2(across[:, 1], across[:, 0])
        turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], dim=1).reshape(-1, 2, 2)
        upright = points[..., :2] @ turn
        low, high = upright.amin(1), upright.amax(1)
        middle, side = ((low + high)[:, None] / 2 @ turn.transpose(1, 2))[:, 0], (high - low).amax(1) * _AROUND
        places = torch.cat([side[:, None, None] * turn, (2 * middle - 1)[..., None]], dim=2)
        grid = F.affine_grid(places, [len(images), 3, network.side_px, network.side_px], align_corners=False)
        view = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
        raw = network.network(((view + 1) / 2).permute(0, 2, 3, 1))[0]
        found = raw.reshape(len(images), -1, 3) / network.side_px
        flat = (found[..., :2] - 0.5) * side[:, None, None] @ turn.transpose(1, 2) + middle[:, None]
        points = torch.cat([flat, found[..., 2:] * side[:, None, None]], dim=2)
    return points


def auc(low: NDArray[np.float64], high: NDArray[np.float64]) -> float:
    """How often one of `high` is above one of `low`."""
    ranks = rankdata(np.concatenate([low, high]))[len(low) :]
    return float((ranks.sum() - len(high) * (len(high) + 1) / 2) / (len(low) * len(high)))


def seconds(look: Callable[[Tensor], Tensor], images: Tensor) -> dict[str, float]:
    """CPU seconds a face, forward and with the gradient."""
    wanted = images[:8].clone().requires_grad_()
    look(wanted).sum().backward()
    start = time.process_time()
    with torch.no_grad():
        look(images[:8])
    middle = time.process_time()
    look(wanted).sum().backward()
    return {"forward": (middle - start) / 8, "with_gradient": (time.process_time() - middle) / 8}


def of_mesh(network: FaceMesh, content: bytes, images: Tensor) -> dict[str, object]:
    views: list[Tensor] = []
    hook = network.network.register_forward_pre_hook(lambda module, given: views.append(given[0]))
    found = [network.look(part) for part in images.split(17)]
    hook.remove()
    points, presence = torch.cat([each for each, _ in found]), torch.cat([each for _, each in found])
    theirs = runtime(content, torch.cat(views))
    lower = torch.tensor([0, round(network.side_px / 10), 0])
    differ = (points * network.side_px - lower).numpy() - theirs[0].reshape(len(images), -1, 3)
    own = torch.cat([on_own_cut(network, *part) for part in zip(images.split(17), points.split(17), strict=True)])
    eyes = (own[:, _EYES[1], :2] - own[:, _EYES[0], :2]).norm(dim=1)
    cut = (points - own)[..., :2].norm(dim=2).mean(1) / eyes
    return {
        "largest_difference_from_the_runtime_px": float(np.abs(differ).max()),
        "fixed_cut_against_own_percent": {"mean": 100 * cut.mean().item(), "max": 100 * cut.max().item()},
        "smallest_presence": presence.min().item(),
    }


def angles(seer: nn.Module, images: Tensor) -> dict[str, object]:
    """Yaw, pitch and roll, and how far those of mirror images are from their mirror images."""
    pose = torch.cat([seer(part)[0] for part in images.split(17)])
    other = torch.cat([seer(part.flip(3))[0] for part in images.split(17)]) * torch.tensor([-1.0, 1, -1])
    mirror = (pose - other).abs().mean(0)
    return {"mean_deg": pose.mean(0).tolist(), "sd_deg": pose.std(0).tolist(), "mirror_error_deg": mirror.tolist()}


def on_rendered(network: FaceMesh) -> dict[str, object]:
    """Errors of the pose on 60 rendered people, evenly from -45 to 45 degrees of yaw, where the mesh sees a face."""
    people, quads = draw(7, 60, 1, 0, 60, own_looks=False, even_yaw_deg=45)
    images, truth = render(people, 192, 2, quads).images, pose_deg(people, quads)
    there = network.look(images)[1] >= FACE_PRESENT
    error = (MeshAttributes(network)(images)[0] - truth)[there]
    return {
        "faces_seen": int(there.sum()),
        "mean_absolute_deg": error.abs().mean(0).tolist(),
        "bias_deg": error.mean(0).tolist(),
    }


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--detector", type=Path, required=True)
    parser.add_argument("--faces", type=Path, required=True)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--project", type=Path, default=Path())
    args = parser.parse_args()
    torch.set_num_threads(1)
    files = sorted(args.faces.glob("*/[ns]_*.jpg"))
    detector = Yunet(args.detector, 0.5)
    pictures = [open_picture(file, 10**8).opaque() for file in files]
    cut = [np.array(align_face(each, detector.detect(each)[0].points_px, args.side).picture) for each in pictures]
    images = from_8bit(torch.from_numpy(np.stack(cut)).permute(0, 3, 1, 2))
    small = args.project / CACHE / "mediapipe_face_mesh.tflite"
    large = args.project / CACHE / "mediapipe_face_landmarker.task"
    training, judge = mesh.load(small), blendshapes.load(large)
    with zipfile.ZipFile(large) as bundle:
        contents = {name: bundle.read(name) for name in (tflite_graph.MESH, tflite_graph.BLENDSHAPES)}
    with torch.no_grad():
        out: dict[str, object] = {"faces": len(images)}
        out["mesh_468"] = of_mesh(training, small.read_bytes(), images) | angles(MeshAttributes(training), images)
        out["rendered"] = {"mesh_468": on_rendered(training), "mesh_478": on_rendered(judge.shape.mesh)}
        out["mesh_478"] = of_mesh(judge.shape.mesh, contents[tflite_graph.MESH], images) | angles(judge, images)
        points = torch.cat([judge.shape.mesh(part) for part in images.split(17)])[:, list(SEEN), :2]
        ours = judge.expression(points)[0].double().numpy()
        theirs = runtime(contents[tflite_graph.BLENDSHAPES], points * args.side)[0]
        smile = ours[:, [BLENDSHAPES.index(f"mouthSmile{side}") for side in ("Left", "Right")]].mean(1)
        smiling = np.array([file.name.startswith("s_") for file in files])
    out["blendshapes"] = {
        "largest_difference_from_the_runtime": float(np.abs(ours - theirs).max()),
        "smile_neutral": float(smile[~smiling].mean()),
        "smile_smiling": float(smile[smiling].mean()),
        "smile_auc": auc(smile[~smiling], smile[smiling]),
    }
    out["cpu_seconds_a_face"] = {
        "mesh_468": seconds(training, images),
        "mesh_478": seconds(judge.shape.mesh, images),
        "judge": seconds(lambda part: judge(part)[1], images),
    }
    print(json.dumps(out, indent=1))


if __name__ == "__main__":
    main()
