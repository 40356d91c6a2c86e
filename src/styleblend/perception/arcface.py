"""ArcFace on our aligned faces: a fixed crop to its template, then the network. Gradients flow through both."""

from __future__ import annotations

from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from styleblend.perception.layers import at_most, expect_square
from styleblend.weights.formats import arcface_onnx
from styleblend.weights.formats.arcface_onnx import SIDE_PX, ArcFaceBody

# Window of an FFHQ-aligned face that ArcFace's 112 px template shows, as shares of the side: x 32.4 to 224.1 and
# y 30.6 to 222.3 of 256 px. One for all faces, since a loss cannot detect points in every picture. The template's
# own five points, aligned by FFHQ's rule, end 1.3 px of 112 from where they should; those of 60 photographs 3.1 px
# on average, where an alignment of each face by its own points leaves 2.9.
_LEFT, _TOP, _SPAN = 32.4 / 256, 30.6 / 256, 191.7 / 256

# Largest side that is sampled at 112 px.
_SAMPLED_PX = 256


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


def load(path: Path, name: str | None = None) -> ArcFace:
    """The network of an insightface recognition file, frozen; without a name it is named after the file.

    Raises:
        StyleBlendError: the file is missing, damaged or holds another network.
    """
    return ArcFace(name or path.stem, arcface_onnx.load(path))
