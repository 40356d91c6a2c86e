"""Face recognition networks that are published as TensorFlow.js graph models: faceres and MobileFace."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from styleblend.errors import StyleBlendError
from styleblend.weights.formats.tfjs_graph import TfjsGraph, read


class Form(NamedTuple):
    """How a network is known, and what it reads: 127.5 * (picture + 1) - means, in the order of its channels."""

    output: str
    side_px: int
    channels: str
    means: tuple[float, float, float]


FORMS = {
    "faceres": Form("global_pooling/Mean", 224, "BGR", (103.939, 116.779, 123.68)),
    # Its graph begins with its own scaling.
    "mobileface": Form("batchnorm0/add_1", 112, "RGB", (0.0, 0.0, 0.0)),
}


class FaceGraph(nn.Module):
    """Faces [N, 3, side_px, side_px] in [-1, 1] RGB, cut out as the network wants them, to embeddings [N, D].

    Args:
        kind: a name in FORMS. graph: what leads to the embedding.
    """

    means: Tensor

    def __init__(self, kind: str, graph: TfjsGraph) -> None:
        super().__init__()
        self.kind, self.graph = kind, graph
        self.form = FORMS[kind]
        self.register_buffer("means", torch.tensor(self.form.means).reshape(1, 3, 1, 1))
        self._maps, self._levels = graph.last_maps(), graph.last_maps_by_side()

    def _read(self, faces: Tensor) -> Tensor:
        levels = 127.5 * (faces + 1)
        return (levels.flip(1) if self.form.channels == "BGR" else levels) - self.means

    def forward(self, faces: Tensor) -> Tensor:
        """Embeddings [N, D] of any length, close in direction for the same person."""
        out: Tensor = self.graph(self._read(faces))
        return out

    def maps(self, faces: Tensor) -> Tensor:
        """The last maps [N, C, h, w]."""
        return self.graph.values(self._read(faces), self._maps)[0]

    def look(self, faces: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The embeddings and the last maps [N, C, h, w] of each side, from the largest, in one pass."""
        embedding, *maps = self.graph.values(self._read(faces), self.graph.output, *self._levels)
        return embedding, maps

    def maps_by_side(self, faces: Tensor) -> list[Tensor]:
        """The same maps of pictures of any side."""
        return self.graph.values(self._read(faces), *self._levels)


def load(path: Path) -> FaceGraph:
    """The face recognition network of a zip file with a graph model, frozen, in eval mode, float32.

    Raises:
        StyleBlendError: the file is missing or damaged, or holds another network.
    """
    nodes, weights = read(path)
    names = {node.name for node in nodes}
    kind = next((kind for kind, form in FORMS.items() if form.output in names), None)
    if kind is None:
        known = ", ".join(f"{kind} by '{form.output}'" for kind, form in FORMS.items())
        raise StyleBlendError(f"{path} holds no face recognition network that is known here ({known})")
    graph = TfjsGraph(path, nodes, weights, FORMS[kind].output)
    if graph.side_px != FORMS[kind].side_px:
        raise StyleBlendError(f"{path} reads pictures of {graph.side_px} px, {kind} reads {FORMS[kind].side_px}")
    return FaceGraph(kind, graph).eval().requires_grad_(False)
