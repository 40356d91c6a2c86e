"""What the codes hold (paper, Fig. 5): W_s, W_t and W' drawn by the decoder alone, and who gives which channel."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from styleblend.model import Swapper


@dataclass(frozen=True)
class Inside:
    """Pictures [n, 3, R, R], about [-1, 1], in the order of the paper, and the source's share A_w^s of the blend.

    from_source: [n, n_styles, style_dim or 1], 0 takes all from the target, 1 all from the source
    """

    pictures: dict[str, Tensor]
    from_source: Tensor


@torch.no_grad()
def look_inside(swapper: Swapper, source: Tensor, target: Tensor) -> Inside:
    """Draw the codes of pairs [n, 3, S, S] in [-1, 1] with and without the pathway of target features."""
    of_source, of_target = swapper.encoder(source), swapper.encoder(target)
    _, from_source = swapper.blending.weights(of_source.codes, of_target.codes)
    blended = swapper.blending(of_source.codes, of_target.codes)
    pictures = {
        "decoded W_s": swapper.decoder(of_source.codes),
        "decoded W_t": swapper.decoder(of_target.codes),
        "decoded W'": swapper.decoder(blended),
        "swapped": swapper.decoder(blended, of_target.features),
    }
    return Inside(pictures, from_source)
