"""Largest difference between this project's torch networks and the runtimes that their files were made for.

    python benchmarks/agreement.py --pictures DIR [--count 20] [--project DIR] [--node-path DIR/node_modules]

Runtimes are those of this machine: `dlib` for dlib_resnet (pip install dlib-bin), and node with @tensorflow/tfjs in
--node-path for faceres and mobileface; one that is missing is said to be missing. Pictures, in any nesting, are brought
to each network's side as they are: networks are compared, not alignments. The networks are those that
`styleblend weights fetch NAME` brought into --project.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from styleblend.config.pretrained import Pretrained
from styleblend.data.folders import pictures_below
from styleblend.faces.pixels import from_8bit
from styleblend.weights.formats import dlib_resnet, face_graphs
from styleblend.weights.store import is_right, store_of

Pixels = NDArray[np.uint8]


def _pixels(files: list[Path], side: int) -> Pixels:
    return np.stack([np.asarray(Image.open(file).convert("RGB").resize((side, side))) for file in files])


def _ours(network: torch.nn.Module, pixels: Pixels) -> NDArray[np.float32]:
    with torch.no_grad():
        found = [network(from_8bit(torch.from_numpy(each).permute(2, 0, 1)[None])) for each in pixels]
    return torch.cat(found).numpy()


def _compared(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> dict[str, float]:
    return {
        "pictures": len(ours),
        "largest_difference": float(np.abs(ours - theirs).max()),
        "largest_value": float(np.abs(theirs).max()),
    }


def with_dlib(file: Path, pictures: list[Path]) -> dict[str, float] | str:
    """dlib's own descriptors of chips."""
    if importlib.util.find_spec("dlib") is None:
        return "dlib is not installed"
    import dlib

    network = dlib_resnet.load(file)
    pixels = _pixels(pictures, network.side_px)
    original = dlib.face_recognition_model_v1(str(file))
    theirs = np.float32([original.compute_face_descriptor(each) for each in pixels])
    return _compared(_ours(network, pixels), theirs)


def with_tfjs(file: Path, pictures: list[Path], node_path: Path | None) -> dict[str, float] | str:
    """Embeddings of TensorFlow.js' backend for the CPU, in node."""
    if node_path is None or shutil.which("node") is None:
        return "needs node and --node-path with @tensorflow/tfjs"
    network = face_graphs.load(file)
    form = network.form
    pixels = _pixels(pictures, form.side_px)
    levels = pixels.astype(np.float32)
    levels = (levels[..., ::-1] if form.channels == "BGR" else levels) - np.float32(form.means)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        with zipfile.ZipFile(file) as bundle:
            bundle.extractall(folder)
        np.ascontiguousarray(levels, "<f4").tofile(folder / "in.f32")
        model = next(folder.glob("*.json"))
        program = [str(Path(__file__).with_name("tfjs_run.js")), str(model), form.output, str(form.side_px)]
        command = ["node", *program, str(folder / "in.f32"), str(folder / "out.f32")]
        env = os.environ | {"NODE_PATH": str(node_path.absolute())}
        subprocess.run(command, env=env, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        theirs = np.fromfile(folder / "out.f32", "<f4").reshape(len(pixels), -1)
    return _compared(_ours(network, pixels), theirs)


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, required=True)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--project", type=Path, default=Path())
    parser.add_argument("--node-path", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    listed = [args.pictures / file for file in pictures_below(args.pictures)]
    chosen = listed[:: max(1, len(listed) // args.count)][: args.count]
    store, found = store_of(Pretrained(), project=args.project), {}
    for name in ("dlib_resnet", "faceres", "mobileface"):
        entry = store.catalogue.get(name)
        file = store.place(entry)
        if not is_right(file, entry, store):
            found[name] = f"run `styleblend weights fetch {name}`"
        elif entry.format == "dlib":
            found[name] = with_dlib(file, chosen)
        else:
            found[name] = with_tfjs(file, chosen, args.node_path)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
