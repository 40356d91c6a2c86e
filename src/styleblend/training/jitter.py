"""How the frozen networks of the losses see a swap: paler and cut out otherwise, each sample as its seed says.

A network that teaches is fooled by what it alone takes for likeness: coloured eyes and lips, or a pattern in the pixels
of its one crop. What survives another saturation and another crop is more of a face (docs/experiments.md).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from styleblend.faces.pixels import grey


def draw_jitter(seeds: Sequence[int]) -> Tensor:
    """[N, 4] in [0, 1): how much saturation, zoom and two shifts change, a row a sample, by its seed alone."""
    return torch.cat([_drawn(seeds, 1, 0), _drawn(seeds, 3, 1)], dim=1)


def faded(images: Tensor, drawn: Tensor, most: float) -> Tensor:
    """Pictures [N, 3, H, W] with up to the share `most` of their saturation taken away; differentiable.

    Args:
        drawn: of draw_jitter, on the device of the pictures.
    """
    if not most:
        return images
    kept = 1 - most * drawn[:, :1, None, None]
    return kept * images + (1 - kept) * grey(images)


def cropped(images: Tensor, drawn: Tensor, most: float) -> Tensor:
    """Pictures zoomed and moved by up to `most` of half their side; what lies beyond goes on; differentiable.

    Args:
        drawn: as of `faded`.
    """
    if not most:
        return images
    zoom, across, down = (2 * drawn[:, 1:] - 1).mul(most).unbind(1)
    zeros = torch.zeros_like(zoom)
    rows = torch.stack([torch.stack([1 + zoom, zeros, across], 1), torch.stack([zeros, 1 + zoom, down], 1)], 1)
    grid = F.affine_grid(rows.to(images.dtype), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _drawn(seeds: Sequence[int], count: int, stream: int) -> Tensor:
    """[N, count] in [0, 1): sample i depends on seeds[i] alone, and streams do not meet."""
    rows = []
    for seed in seeds:
        # The plain seed draws the noise.
        generator = torch.Generator().manual_seed((seed ^ 0x5DEECE66D) + stream)
        rows.append(torch.rand(count, generator=generator))
    return torch.stack(rows)
