"""Who is it: embeddings of faces. The training network and the judge of the evaluation differ on purpose."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import torch.nn.functional as F
from torch import Tensor, nn

from styleblend.perception.layers import SAMPLED_PX, Window, central, maps_by_side, resized, trunk_of, windowed
from styleblend.perception.similarity import Metric
from styleblend.weights import frozen
from styleblend.weights.formats import arcface_onnx, dlib_resnet, face_graphs
from styleblend.weights.formats.arcface_onnx import SIDE_PX, ArcFaceBody
from styleblend.weights.formats.dlib_resnet import DlibResNet
from styleblend.weights.formats.face_graphs import FaceGraph

# What ArcFace's 112 px template shows of an FFHQ-aligned face: x 32.4 to 224.1 and y 30.6 to 222.3 of 256 px. One for
# all faces, since a loss cannot detect points in every picture. The template's own five points, aligned by FFHQ's rule,
# end 1.3 px of 112 from where they should; those of 60 photographs 3.1 px on average, where an alignment of each face
# by its own points leaves 2.9.
_TEMPLATE = Window(32.4 / 256, 30.6 / 256, 191.7 / 256)

# faceres wants some surroundings. On 100 persons of LFW the means of same and of different people were 4.7 standard
# deviations apart at 0.8 of an aligned face's side, 4.2 at 0.6, 4.6 at 0.7, 4.4 at 0.9; on 200 others 4.6 at 0.75 and
# 4.7 at 0.8; where the window lies in height made no difference.
_WINDOWS = {"faceres": Window(0.1, 0.125, 0.8), "mobileface": _TEMPLATE}


class Look(NamedTuple):
    """All that one pass gives: embeddings [N, D], `features` and the last maps [N, C, H, W] of each side."""

    embedding: Tensor
    features: Tensor
    maps: list[Tensor]


@runtime_checkable
class Looks(Protocol):
    """An identity network whose maps can be compared, too: every FaceNetwork is one."""

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

    metric: Metric = "cosine"

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


class Windowed(nn.Module):
    """A network of others that sees a fixed window of an aligned face; by default its vectors are made of unit length.

    Args:
        name: names the network in reports. body: frozen, in eval mode. window: of the aligned face; it is brought to
            the side `body_px` of what the network learned from.
    """

    side_px = SAMPLED_PX
    metric: Metric = "cosine"

    def __init__(self, name: str, body: ArcFaceBody | DlibResNet | FaceGraph, window: Window, body_px: int) -> None:
        super().__init__()
        self.name, self.body = name, body
        self.window, self._body_px = window, body_px

    def crop(self, images: Tensor) -> Tensor:
        """[N, 3, S, S] in [-1, 1] -> what the body reads, [N, 3, body_px, body_px]."""
        return windowed(images, self.window, self._body_px)

    def whole(self, images: Tensor) -> Tensor:
        """The whole picture at the scale of the crop."""
        return resized(images, round(self._body_px / self.window.span))

    def raw(self, images: Tensor) -> Tensor:
        """Embedding before normalisation, [N, D]."""
        out: Tensor = self.body(self.crop(images))
        return out

    def forward(self, images: Tensor) -> Tensor:
        """[N, 3, S, S] in [-1, 1] -> unit vectors [N, D]."""
        return F.normalize(self.raw(images), dim=1)

    def features(self, images: Tensor) -> Tensor:
        """Spatial means of the last maps [N, C], for a perceptual loss or a Frechet distance."""
        return self.body.maps(self.crop(images)).mean((2, 3))


class ArcFace(Windowed):
    """Aligned faces to unit vectors, close for the same person: what IdentityNetwork does, with ArcFace inside."""

    body: ArcFaceBody

    def __init__(self, name: str, body: ArcFaceBody) -> None:
        super().__init__(name, body, _TEMPLATE, SIDE_PX)

    def look(self, images: Tensor) -> Look:
        """As in Looks; equal to forward and `features`, which are two passes."""
        maps = maps_by_side(self.body.trunk, self.crop(images))
        return Look(F.normalize(self.body.head(maps[-1]), dim=1), maps[-1].mean((2, 3)), maps)

    def maps(self, images: Tensor) -> list[Tensor]:
        """As in Looks."""
        return maps_by_side(self.body.trunk, self.whole(images))


class DlibFace(Windowed):
    """Aligned faces to the vectors of dlib's network, which are compared by their distance: it is not normalised.

    The window is the similarity that brings the mean five points of aligned faces nearest to those of dlib's own chips;
    it leaves 2.0 of 150 px at the point that is worst.
    """

    metric: Metric = "distance"
    window = Window(0.1641, 0.2697, 0.6640)
    body: DlibResNet

    def __init__(self, name: str, body: DlibResNet) -> None:
        super().__init__(name, body, self.window, body.side_px)

    def forward(self, images: Tensor) -> Tensor:
        """[N, 3, S, S] in [-1, 1] -> vectors [N, 128], 1.2 to 1.6 long; distances under 0.6 are of one person."""
        return self.raw(images)

    def look(self, images: Tensor) -> Look:
        """As in Looks; equal to forward and `features`, which are two passes."""
        maps = self.body.maps_by_side(self.crop(images))
        return Look(self.body.embedded(maps[-1]), maps[-1].mean((2, 3)), maps)

    def maps(self, images: Tensor) -> list[Tensor]:
        """As in Looks."""
        return self.body.maps_by_side(self.whole(images))


class GraphFace(Windowed):
    """Aligned faces to unit vectors of a network that is published for TensorFlow.js: faceres or MobileFace."""

    body: FaceGraph

    def __init__(self, name: str, body: FaceGraph) -> None:
        super().__init__(name, body, _WINDOWS[body.kind], body.form.side_px)

    def look(self, images: Tensor) -> Look:
        """As in Looks; equal to forward and `features`, which are two passes."""
        raw, maps = self.body.look(self.crop(images))
        return Look(F.normalize(raw, dim=1), maps[-1].mean((2, 3)), maps)

    def maps(self, images: Tensor) -> list[Tensor]:
        """As in Looks."""
        return self.body.maps_by_side(self.whole(images))


FaceNetwork = IdentityNetwork | ArcFace | DlibFace | GraphFace
"""Whoever tells people apart: vectors that `metric` compares (unit vectors where it is the cosine), `features` for a
Frechet distance, `name`, and `side_px`, at which a photograph's faces are cut out for it."""


def load(folder: Path, role: str) -> FaceNetwork:
    """The network of role `identity` or `identity_second` (training) or `identity_judge` (evaluation), frozen.

    It is another's where the folder's networks.json names a file for the role (ArcFace, dlib's, or a graph for
    TensorFlow.js, by the ending), else this project's own.

    Raises:
        StyleBlendError: a file is missing, damaged or holds another network.
    """
    file = frozen.foreign(folder, role)
    if file is None:
        return frozen.load(folder, role, IdentityNetwork)
    name = frozen.foreign_name(folder, role)
    if file.suffix == ".dat":
        return DlibFace(name, dlib_resnet.load(file))
    if file.suffix == ".zip":
        return GraphFace(name, face_graphs.load(file))
    return load_arcface(file, name)


def load_arcface(path: Path, name: str | None = None) -> ArcFace:
    """The network of an insightface recognition file, frozen; without a name it is named after the file.

    Raises:
        StyleBlendError: the file is missing, damaged or holds another network.
    """
    return ArcFace(name or path.stem, arcface_onnx.load(path))
