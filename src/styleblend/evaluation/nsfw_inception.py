"""Features for a Frechet distance from the Inception-v3 that npm's nsfwjs carries.

It has the architecture of the first FID's network but was fine-tuned for another task, to tell indecent pictures, and
its weights are rounded to 8 bits. So its distance is not the FID and is never called so: it compares methods on the
same pictures, and no figure of a publication stands beside it.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from styleblend.errors import StyleBlendError
from styleblend.faces.pixels import from_8bit, to_8bit
from styleblend.perception.layers import resized
from styleblend.weights.formats.tfjs_layers import LayersNetwork

FEATURES = 2048
_LAYER = "flatten_1"


class NsfwInception(nn.Module):
    """Pictures of any side to the 2048 features of the last pooling."""

    def __init__(self, name: str, network: LayersNetwork) -> None:
        super().__init__()
        self.name = name
        self.network = network

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """[N, 3, S, S] in [-1, 1] -> float32 [N, 2048].

        Pictures are rounded to 8 bits, as files hold them, and brought to the network's side bilinearly, with a filter
        where they are larger.
        """
        pictures = resized(from_8bit(to_8bit(images)), self.network.side_px)
        out: Tensor = self.network((pictures + 1) / 2)
        return out


def load(path: Path, name: str | None = None) -> NsfwInception:
    """The network of a zip file with nsfwjs's modules, frozen; without a name it is named after the file.

    Raises:
        StyleBlendError: the file is missing or damaged, or gives other features.
    """
    network = NsfwInception(name or path.stem, LayersNetwork(path, _LAYER))
    try:
        found = network.features(torch.zeros(1, 3, network.network.side_px, network.network.side_px))
    except RuntimeError as error:
        raise StyleBlendError(f"{path} cannot see a picture: {' '.join(str(error).split())[:160]}") from None
    if found.shape != (1, FEATURES):
        raise StyleBlendError(f"{path} gives {list(found.shape)} for a picture, wanted [1, {FEATURES}]")
    return network
