"""Who is it: embeddings of faces. The training network and the judge of the evaluation differ on purpose."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import torch.nn.functional as F
from torch import Tensor, nn

from styleblend.perception.layers import at_most, central, expect_square, maps_by_side, resized, trunk_of
from styleblend.weights import frozen
from styleblend.weights.formats import arcface_onnx
from styleblend.weights.formats.arcface_onnx import SIDE_PX, ArcFaceBody

# Window of an FFHQ-aligned face that ArcFace's 112 px template shows, as shares of the side: x 32.4 to 224.1 and
# y 30.6 to 222.3 of 256 px. One for all faces, since a loss cannot detect points in every picture. The template's
# own five points, aligned by FFHQ's rule, end 1.3 px of 112 from where they should; those of 60 photographs 3.1 px
# on average, where an alignment of each face by its own points leaves 2.9.
_LEFT, _TOP, _SPAN = 32.4 / 256, 30.6 / 256, 191.7 / 256

# Largest side that is sampled at 112 px.
_SAMPLED_PX = 256


class Look(NamedTuple):
    """All that one pass gives: unit vectors [N, D], `features` and the last maps [N, C, H, W] of each side."""

    embedding: Tensor
    features: Tensor
    maps: list[Tensor]


@runtime_checkable
class Looks(Protocol):
    """An identity network whose maps can be compared, too; not every FaceNetwork needs to be one."""

    def look(self, images: Tensor) -> Look:
        """[N, 3, H, W] in [-1, 1] -> embedding, features and maps of the network's own crop."""
        ...

    def maps(self, images: Tensor) -> list[Tensor]:
        """[N, 3, H, W] in [-1, 1] -> the last maps of each side, of the whole picture at the scale of the crop."""
        ...


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
        return F.normalize(self.raw(images), dim=1)

    def features(self, images: Tensor) -> Tensor:
        """Spatial means of the trunk's last maps [N, widths[-1]], for a Frechet distance."""
        out: Tensor = self.trunk(central(images, self.side_px)).mean((2, 3))
        return out

    def look(self, images: Tensor) -> Look:
        """As in Looks; equal to forward and `features`, which are two passes."""
        maps = maps_by_side(self.trunk, central(images, self.side_px))
        return Look(F.normalize(self.projection(maps[-1].flatten(1)), dim=1), maps[-1].mean((2, 3)), maps)

    def maps(self, images: Tensor) -> list[Tensor]:
        """As in Looks."""
        return maps_by_side(self.trunk, resized(images, self.side_px))


def template_crop(images: Tensor) -> Tensor:
    """FFHQ-aligned faces [N, 3, S, S] of any side to ArcFace's template [N, 3, 112, 112], differentiably.

    Raises:
        StyleBlendError: the pictures are not square.
    """
    expect_square(images)
    images = at_most(images, _SAMPLED_PX)
    # From template to picture, both from -1 at one edge to 1 at the other.
    window = images.new_tensor([[_SPAN, 0, 2 * _LEFT + _SPAN - 1], [0, _SPAN, 2 * _TOP + _SPAN - 1]])
    grid = F.affine_grid(window.expand(len(images), 2, 3), [len(images), 3, SIDE_PX, SIDE_PX], align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


class ArcFace(nn.Module):
    """Aligned faces to unit vectors, close for the same person: what IdentityNetwork does, with ArcFace inside.

    Args:
        name: names the network in reports. body: frozen, in eval mode.
    """

    side_px = _SAMPLED_PX

    def __init__(self, name: str, body: ArcFaceBody) -> None:
        super().__init__()
        self.name = name
        self.body = body

    def raw(self, images: Tensor) -> Tensor:
        """Embedding before normalisation, [N, embedding]."""
        out: Tensor = self.body(template_crop(images))
        return out

    def forward(self, images: Tensor) -> Tensor:
        """[N, 3, S, S] in [-1, 1] -> unit vectors [N, embedding]."""
        return F.normalize(self.raw(images), dim=1)

    def features(self, images: Tensor) -> Tensor:
        """Spatial means of the last maps [N, channels], for a perceptual loss or a Frechet distance."""
        return self.body.maps(template_crop(images)).mean((2, 3))

    def look(self, images: Tensor) -> Look:
        """As in Looks; equal to forward and `features`, which are two passes."""
        maps = maps_by_side(self.body.trunk, template_crop(images))
        return Look(F.normalize(self.body.head(maps[-1]), dim=1), maps[-1].mean((2, 3)), maps)

    def maps(self, images: Tensor) -> list[Tensor]:
        """As in Looks."""
        return maps_by_side(self.body.trunk, resized(images, round(SIDE_PX / _SPAN)))


FaceNetwork = IdentityNetwork | ArcFace
"""Whoever tells people apart: unit vectors, `features` for a Frechet distance, `name`, and `side_px`, at which a
photograph's faces are cut out for it. An attribute `metric` says how embeddings are compared: "cosine", which holds
where it lacks, or "distance"."""


def load(folder: Path, role: str) -> FaceNetwork:
    """The network of role `identity` (training) or `identity_judge` (evaluation), frozen.

    It is ArcFace where the folder's networks.json names a recognition file for the role, else this project's own.

    Raises:
        StyleBlendError: a file is missing, damaged or holds another network.
    """
    file = frozen.foreign(folder, role)
    if file is not None:
        return load_arcface(file, frozen.foreign_name(folder, role))
    return frozen.load(folder, role, IdentityNetwork)


def load_arcface(path: Path, name: str | None = None) -> ArcFace:
    """The network of an insightface recognition file, frozen; without a name it is named after the file.

    Raises:
        StyleBlendError: the file is missing, damaged or holds another network.
    """
    return ArcFace(name or path.stem, arcface_onnx.load(path))
