"""The shape of a face: 68 landmarks in three dimensions which, turned back by the pose, look alike from everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from styleblend.faces.pixels import beside
from styleblend.perception.layers import linear_head, plain_trunk, resized
from styleblend.weights import frozen

if TYPE_CHECKING:
    from styleblend.perception.mesh_attributes import MeshShape

RIGID = (*range(0, 4), *range(13, 17), *range(27, 36), 36, 39, 42, 45)
"""iBUG points (0-based) that an expression moves little: upper jaw line, nose, corners of the eyes."""

GROUPS: dict[str, tuple[int, ...]] = {
    "mouth": tuple(range(48, 68)),
    "lids": (37, 38, 40, 41, 43, 44, 46, 47),
    "brows": tuple(range(17, 27)),
    "chin": tuple(range(4, 13)),
}
"""The other iBUG points (0-based), which show the expression."""

EXPRESSIVE = tuple(point for group in GROUPS.values() for point in group)
"""The points of GROUPS in their order."""


class ShapeNetwork(nn.Module):
    """Aligned faces to 68 landmarks in three dimensions, by regression.

    Attributes:
        average: [68, 3], the average face at rest, looking ahead; its weights file holds it.
    """

    average: Tensor
    middle: Tensor

    def __init__(self, name: str, widths: list[int], side_px: int) -> None:
        super().__init__()
        self.name = name
        self.side_px = side_px
        self.trunk = plain_trunk(widths)
        self.head = linear_head(widths, side_px, 68 * 3)
        self.register_buffer("average", torch.zeros(68, 3))
        self.register_buffer("middle", torch.tensor([0.5, 0.5, 0.0]), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """[N, 3, H, W] in [-1, 1] -> points [N, 68, 3]: x right, y down, in [0, 1] of the picture; z away alike."""
        offset: Tensor = self.head(self.trunk(resized(images, self.side_px)).flatten(1))
        return self.middle + offset.reshape(-1, 68, 3) / 4

    def turn(self, points: Tensor) -> Tensor:
        """Rotations [N, 3, 3] that take the average face to the pose of `points` [N, 68, 3]."""
        rigid = beside(RIGID, points)
        return rotation(_centred(self.average[None, rigid]), _centred(points[:, rigid]))


def rotation(before: Tensor, after: Tensor) -> Tensor:
    """The rotation R [N, 3, 3] that minimises |R before - after|^2 (Kabsch 1976); points [N, K, 3] around 0."""
    # Points that are not finite get some rotation, not an error: the step that they spoil is left out.
    u, _, v = torch.linalg.svd((after.transpose(1, 2) @ before).nan_to_num(0, 0, 0))
    # Without the sign, a face could be turned into its mirror image.
    sign = torch.linalg.det(u @ v)
    return (u * torch.stack([torch.ones_like(sign), torch.ones_like(sign), sign], dim=1)[:, None]) @ v


def unposed(points: Tensor, turn: Tensor) -> Tensor:
    """Rigid points of [N, 68, 3], turned back by `turn` [N, 3, 3]: [N, 21, 3] around 0, mean square length 1."""
    rigid = _centred(points[:, beside(RIGID, points)])
    size = rigid.square().sum(2).mean(1).clamp_min(1e-8).sqrt()
    return rigid @ turn / size[:, None, None]


def _centred(points: Tensor) -> Tensor:
    return points - points.mean(1, keepdim=True)


def load(folder: Path, role: str = "landmarks_3d") -> ShapeNetwork | MeshShape:
    """The network of a run, frozen: a mesh where networks.json names one, else the small one.

    Raises:
        StyleBlendError: a file is missing or damaged, or holds another network.
    """
    file = frozen.foreign(folder, role)
    if file is None:
        return frozen.load(folder, role, ShapeNetwork)
    # Here and not above, for they read this module.
    from styleblend.perception import mesh
    from styleblend.perception.mesh_attributes import MeshShape

    return MeshShape(mesh.load(file, frozen.foreign_name(folder, role)))
