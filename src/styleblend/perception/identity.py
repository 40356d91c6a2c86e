"""Who is it: embeddings of faces. The training network and the judge of the evaluation differ on purpose."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from styleblend.perception import arcface
from styleblend.perception.arcface import ArcFace
from styleblend.perception.layers import central, trunk_of
from styleblend.weights import frozen


class IdentityNetwork(nn.Module):
    """Aligned faces to unit vectors, close for the same person.

    Args:
        trunk: "residual" (batch norm, shortcuts) or "plain" (group norm, max pooling, no shortcuts)
        widths: channels a stage; blocks: residual blocks a stage (residual trunk only)
        embedding: dimensions of the embedding; side_px: side to which pictures are brought; the network sees their
            middle, without most of the hair and the background
    """

    def __init__(
        self, name: str, trunk: str, widths: list[int], blocks: list[int], embedding: int, side_px: int
    ) -> None:
        super().__init__()
        self.name = name
        self.side_px = side_px
        self.trunk = trunk_of(trunk, widths, blocks)
        cells = (3 * side_px // 4 // 2 ** len(widths)) ** 2
        self.projection = nn.Linear(widths[-1] * cells, embedding)

    def raw(self, images: Tensor) -> Tensor:
        """Embedding before normalisation, [N, embedding]."""
        out: Tensor = self.projection(self.trunk(central(images, self.side_px)).flatten(1))
        return out

    def forward(self, images: Tensor) -> Tensor:
        """[N, 3, H, W] in [-1, 1] -> unit vectors [N, embedding]."""
        return torch.nn.functional.normalize(self.raw(images), dim=1)

    def features(self, images: Tensor) -> Tensor:
        """Spatial means of the trunk's last maps [N, widths[-1]], for a Frechet distance."""
        out: Tensor = self.trunk(central(images, self.side_px)).mean((2, 3))
        return out


FaceNetwork = IdentityNetwork | ArcFace
"""Whoever tells people apart: unit vectors, `features` for a Frechet distance, `name`, and `side_px`, at which a
photograph's faces are cut out for it."""


def build(architecture: dict[str, Any]) -> IdentityNetwork:
    """An untrained network of the architecture that a card states."""
    return IdentityNetwork(**architecture)


def load(folder: Path, role: str) -> FaceNetwork:
    """The network of role `identity` (training) or `identity_judge` (evaluation), frozen.

    It is ArcFace where the folder's networks.json names a recognition file for the role, else this project's own.

    Raises:
        StyleBlendError: a file is missing, damaged or holds another network.
    """
    file = frozen.foreign(folder, role)
    if file is not None:
        return arcface.load(file, frozen.foreign_name(folder, role))
    return frozen.load(folder, role, build)
