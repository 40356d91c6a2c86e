"""Where is what: 68 landmarks of an aligned face, and the 19 of them that the landmark loss compares."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from styleblend.errors import StyleBlendError
from styleblend.faces.pixels import beside
from styleblend.perception import fan, mesh
from styleblend.perception.fan import FanLandmarks
from styleblend.perception.layers import linear_head, plain_trunk, resized
from styleblend.perception.mesh import FaceMesh, MeshLandmarks
from styleblend.weights import frozen

# AFLW's 19 points from iBUG's 68 (0-based): means over each tuple. The choice of eye and mouth centres is ours.
GROUPS_19: tuple[tuple[int, ...], ...] = (
    (17,), (19,), (21,), (22,), (24,), (26,),
    (36,), (36, 37, 38, 39, 40, 41), (39,),
    (42,), (42, 43, 44, 45, 46, 47), (45,),
    (31,), (30,), (35,),
    (48,), (62, 66), (54,),
    (8,),
)  # fmt: skip


class LandmarkNetwork(nn.Module):
    """Aligned faces to 68 points by regression."""

    def __init__(self, name: str, widths: list[int], side_px: int) -> None:
        super().__init__()
        self.name = name
        self.side_px = side_px
        self.trunk = plain_trunk(widths)
        self.head = linear_head(widths, side_px, 136)

    def forward(self, images: Tensor) -> Tensor:
        """[N, 3, H, W] in [-1, 1] -> points [N, 68, 2], x and y in [0, 1] of the picture."""
        offset: Tensor = self.head(self.trunk(resized(images, self.side_px)).flatten(1))
        return 0.5 + offset.reshape(-1, 68, 2) / 4


def to_19(points: Tensor) -> Tensor:
    """[N, 68, 2] -> [N, 19, 2], AFLW's points."""
    if points.shape[1:] != (68, 2):
        raise ValueError(f"expected points [N, 68, 2], got {tuple(points.shape)}")
    return torch.stack([points[:, beside(group, points)].mean(1) for group in GROUPS_19], dim=1)


def load(folder: Path, role: str = "landmarks") -> LandmarkNetwork | FanLandmarks | MeshLandmarks:
    """The landmark network of a run, frozen: FAN or a mesh where networks.json names one, else the small one.

    Raises:
        StyleBlendError: a file is missing or damaged, or holds another network.
    """
    file = frozen.foreign(folder, role)
    if file is None:
        return frozen.load(folder, role, LandmarkNetwork)
    if file.suffix == ".tflite":
        return MeshLandmarks(mesh.load(file, frozen.foreign_name(folder, role)))
    return fan.load(file)


def load_mesh(folder: Path) -> FaceMesh:
    """The mesh that is a run's landmark network, frozen.

    Raises:
        StyleBlendError: a file is missing or damaged, or the landmark network is no mesh.
    """
    seeing = load(folder)
    if not isinstance(seeing, MeshLandmarks):
        raise StyleBlendError(
            f"model.prior 'warp' needs a mesh, but pretrained.landmarks is {seeing.name}: set it to mediapipe_face_mesh"
        )
    return seeing.mesh
