"""How it looks: pose and expression of an aligned face."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from styleblend.perception import frozen
from styleblend.perception.layers import linear_head, resized, trunk_of

POSE_SCALE_DEG = 20.0  # a network learns best on numbers of about 1


class AttributeNetwork(nn.Module):
    """Aligned faces to (yaw, pitch, roll) and expression coefficients.

    Args:
        trunk: "residual" or "plain", as in IdentityNetwork; widths: channels a stage; blocks: residual blocks a stage
        coefficients: expression coefficients; side_px: side to which pictures are brought
    """

    def __init__(
        self, name: str, trunk: str, widths: list[int], blocks: list[int], coefficients: int, side_px: int
    ) -> None:
        super().__init__()
        self.name = name
        self.side_px = side_px
        self.trunk = trunk_of(trunk, widths, blocks)
        self.head = linear_head(widths, side_px, 3 + coefficients)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """[N, 3, H, W] in [-1, 1] -> degrees [N, 3] (yaw to the picture's right, pitch up, roll clockwise) and
        expression [N, coefficients]."""
        out: Tensor = self.head(self.trunk(resized(images, self.side_px)).flatten(1))
        return out[:, :3] * POSE_SCALE_DEG, out[:, 3:]


def build(architecture: dict[str, Any]) -> AttributeNetwork:
    """An untrained network of the architecture that a card states."""
    return AttributeNetwork(**architecture)


def load(folder: Path, role: str) -> AttributeNetwork:
    """The network of role `attributes` (training) or `attributes_judge` (manifest and evaluation), frozen."""
    return frozen.load(folder, role, build)
