"""A swapper with what it needs beside its weights: a model with the prior `warp` sees the faces' meshes first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from styleblend.errors import StyleBlendError
from styleblend.faces import warp
from styleblend.faces.pixels import to_8bit
from styleblend.model import swapper
from styleblend.model.swapper import Swapper
from styleblend.perception import mesh
from styleblend.perception.mesh import FaceMesh

MESH_FILE = "mesh.tflite"
"""The mesh's network in the folder of a model that has the prior `warp`."""


class Bender:
    """Bends sources onto targets by the meshes that a network sees in both: what Swapper.bend is."""

    def __init__(self, network: FaceMesh) -> None:
        self.network = network

    @torch.no_grad()
    def __call__(self, source: Tensor, target: Tensor) -> Tensor:
        """Pictures [N, 3, S, S] in [-1, 1] each to [N, 4, S, S], see faces.warp.prior."""
        points = [self.network(images)[:, : mesh.POINTS].cpu().numpy() for images in (source, target)]
        pixels = [to_8bit(images).permute(0, 2, 3, 1).cpu().contiguous().numpy() for images in (source, target)]
        rows = [warp.prior(*each) for each in zip(pixels[0], points[0], pixels[1], points[1], strict=True)]
        return torch.stack(rows).to(source.device)


def load(folder: Path, find_mesh: Callable[[], Path] | None = None) -> Swapper:
    """The swapper of a model folder, ready to swap, in eval mode, on the CPU; see model.load.

    Args:
        find_mesh: gives the file of the mesh's network; asked where a model needs one and its folder has none.
    Raises:
        StyleBlendError: the model or its mesh is missing, damaged or another one.
    """
    loaded = swapper.load(folder)
    if loaded.prior is not None:
        file = folder / MESH_FILE
        if not file.is_file() and find_mesh is not None:
            file = find_mesh()
        if not file.is_file():
            problem = f"{folder} has a model with the prior 'warp' but no {MESH_FILE}"
            raise StyleBlendError(f"{problem}: fetch the model again")
        loaded.bend = Bender(mesh.load(file))
    return loaded
