"""A frozen face network as the encoder's body: dlib's ResNet-29 (D. King 2017), which a package registry carries.

The paper's E begins as a network that tells people apart. Published ones of its form (IR-SE50) must be fetched by hand
and learn with E; this one comes with the weights and never changes, so that E learns its laterals and heads alone, in
a fraction of the time. weights.formats.dlib_resnet reads the file.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from styleblend.config.model import DLIB_WIDTHS

PICTURE_PX = 226
"""Side at which a whole aligned picture has faces of the size that the network learned from (150 px chips that show
0.664 of the side)."""

_MEANS = (122.782, 117.001, 104.298)
_HALVES = (3, 7, 10, 13)
"""Blocks that halve the side."""
_CHANNELS = (32,) * 3 + (64,) * 4 + (128,) * 3 + (256,) * 4


class FrozenConvolution(nn.Module):
    """A convolution whose weights are buffers: no optimiser, average of gradients or stage ever touches them."""

    weight: Tensor
    bias: Tensor

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, padding: int) -> None:
        super().__init__()
        self.stride, self.padding = stride, padding
        self.register_buffer("weight", torch.zeros(outputs, inputs, kernel, kernel))
        self.register_buffer("bias", torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight.to(x.dtype), self.bias.to(x.dtype), self.stride, self.padding)


class FrozenBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut, which is a mean over 2x2, continued by zeros, where the side halves."""

    def __init__(self, inputs: int, outputs: int, halves: bool) -> None:
        super().__init__()
        self.halves = halves
        self.first = FrozenConvolution(inputs, outputs, 3, 2 if halves else 1, 0 if halves else 1)
        self.second = FrozenConvolution(outputs, outputs, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        out = self.second(F.relu(self.first(x)))
        shortcut = F.avg_pool2d(x, 2, 2) if self.halves else x
        down, across = (max(a, b) for a, b in zip(out.shape[2:], shortcut.shape[2:], strict=True))
        out = F.pad(out, (0, across - out.shape[3], 0, down - out.shape[2]))
        lack = (0, across - shortcut.shape[3], 0, down - shortcut.shape[2], 0, out.shape[1] - shortcut.shape[1])
        return F.relu(out + F.pad(shortcut, lack))


class DlibBody(nn.Module):
    """Pictures [N, 3, S, S] in [-1, 1] to four maps at 1/2, 1/4, 1/8 and 1/16 of S, with DLIB_WIDTHS channels.

    The network sees every picture at PICTURE_PX, whatever S is; its maps, of sides 110, 54, 27, 13, 6 and 3, are
    resized to where E's taps are. The last three are one tap.
    """

    means: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("means", torch.tensor(_MEANS).reshape(1, 3, 1, 1), persistent=False)
        self.stem = FrozenConvolution(3, _CHANNELS[0], 7, 2, 0)
        before = (_CHANNELS[0], *_CHANNELS)
        self.blocks = nn.ModuleList(
            FrozenBlock(inputs, outputs, number in _HALVES)
            for number, (inputs, outputs) in enumerate(zip(before, _CHANNELS, strict=False))
        )

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        side = images.shape[-1]
        x = F.interpolate(images, (PICTURE_PX, PICTURE_PX), mode="bilinear", align_corners=False, antialias=True)
        x = F.relu(self.stem((127.5 * (x + 1) - self.means.to(x.dtype)) / 256))
        maps = [x]
        x = F.max_pool2d(x, 3, 2)
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number + 1 in _HALVES or number == len(self.blocks) - 1:
                maps.append(x)
        sides = (side // 2, side // 4, side // 8, side // 16, side // 16, side // 16)
        resized = [_brought_to(each, to) for each, to in zip(maps, sides, strict=True)]
        taps = (*resized[:3], torch.cat(resized[3:], dim=1))
        assert tuple(tap.shape[1] for tap in taps) == DLIB_WIDTHS
        return taps


def _brought_to(maps: Tensor, side: int) -> Tensor:
    shrinks = maps.shape[-1] > side
    return F.interpolate(maps, (side, side), mode="bilinear", align_corners=False, antialias=shrinks)
