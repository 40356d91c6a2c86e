"""A 3-D prior beside the paper's codes: the warped source, read together with the target (not in the paper).

Newer systems inject what a solid face says about the swap before any network has learned. Here it is the source's
picture, bent in three dimensions onto the target's mesh (faces.warp): right where both pictures show the same skin,
wrong in colour, at the edge of hair, in the open mouth and on the side that the source does not show.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WARPED_CHANNELS = 4
"""RGB of the warped source in [-1, 1], then how well the source shows each place, in [0, 1]; 0 beside the mesh."""


class PriorEncoder(nn.Module):
    """Target [N, 3, S, S] and warped source [N, 4, S, S] to additions to the target's pyramid maps.

    Args:
        input_px: S. shapes: (channels, side, side) of the pyramid's maps, coarse to fine; sides are halvings of S.
        width: channels at the full side, doubled at each halving up to eight times as many.
    """

    def __init__(self, input_px: int, shapes: Sequence[tuple[int, int, int]], width: int) -> None:
        super().__init__()
        self.sides = [side for _, side, _ in shapes]
        self.down, self.out = nn.ModuleDict(), nn.ModuleDict()
        side, inputs, channels = input_px, 3 + WARPED_CHANNELS, width
        wanted = {side: outputs for outputs, side, _ in shapes}
        while side >= min(self.sides):
            stride = 1 if side == input_px else 2
            self.down[str(side)] = nn.Sequential(
                nn.Conv2d(inputs, channels, 3, stride=stride, padding=1), nn.LeakyReLU(0.2),
                nn.Conv2d(channels, channels, 3, padding=1), nn.LeakyReLU(0.2),
            )  # fmt: skip
            if side in wanted:
                self.out[str(side)] = nn.Conv2d(channels, wanted[side], 1)
            side, inputs, channels = side // 2, channels, min(2 * channels, 8 * width)

    def forward(self, target: Tensor, warped: Tensor) -> tuple[Tensor, ...]:
        x = torch.cat([target, warped], dim=1)
        maps = {}
        for side, layers in self.down.items():
            x = layers(x)
            if side in self.out:
                maps[int(side)] = self.out[side](x)
        return tuple(maps[side] for side in self.sides)


def prior_picture(target: Tensor, warped: Tensor, side: int) -> Tensor:
    """What the prior alone says, [N, 3, side, side]: the warped source where it is seen, elsewhere the target."""
    seen = warped[:, 3:]
    picture = seen * warped[:, :3] + (1 - seen) * target
    if picture.shape[-1] != side:
        picture = F.interpolate(picture, size=(side, side), mode="bilinear", align_corners=False, antialias=True)
    return picture
