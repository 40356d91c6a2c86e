"""Facial attributes encoder E (paper, section 2.1): SE-ResNet, feature pyramid, style heads."""

from __future__ import annotations

from collections.abc import Sequence
from math import log2
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from styleblend.config.model import expect_encoder_sizes
from styleblend.model.face_body import DlibBody
from styleblend.model.layers import SqueezeExcite, expect_shape


class Encoding(NamedTuple):
    """The style codes and the feature pyramid of a picture."""

    codes: Tensor
    """[N, n_styles, style_dim], coarse styles first."""
    features: tuple[Tensor, ...]
    """Pyramid maps [N, width, S, S], coarse to fine: 1/16, 1/8 and 1/4 of the input's side, then the finer ones."""


def sample_norm(channels: int) -> nn.Module:
    """Normalisation of the body `se_resnet`: over groups of 8 channels of one sample.

    Batch norm would make a picture's codes depend on its neighbours in the batch, hence on the number of workers, and
    change when E is frozen. The price: a face network's statistics have no place here, and a picture's contrast is
    lost inside a block. The residual stream is not normalised: brightness and contrast get through beside the blocks.
    """
    return nn.GroupNorm(max(channels // 8, 1), channels)


class FrozenBatchNorm(nn.Module):
    """Normalisation of the body `ir_se50`: batch norm with fixed statistics, those of the face network.

    Scale and shift learn; mean and variance never change, so codes do not depend on the batch here either.
    Without a face network's statistics it normalises nothing.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=1e-5)


class ResidualBlock(nn.Module):
    """IR-SE block: norm, conv, PReLU, strided conv, norm, channel gates; added to the (strided) input.

    With `batch_norm` it is the block of IR-SE50, whose projections of the input are normalised too.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, batch_norm: bool = False) -> None:
        super().__init__()
        norm = FrozenBatchNorm if batch_norm else sample_norm
        self.residual = nn.Sequential(
            norm(inputs),
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            nn.PReLU(outputs),
            nn.Conv2d(outputs, outputs, 3, stride=stride, padding=1, bias=False),
            norm(outputs),
            SqueezeExcite(outputs),
        )
        self.shortcut: nn.Module
        if inputs == outputs:
            self.shortcut = nn.MaxPool2d(1, stride) if stride > 1 else nn.Identity()
        elif batch_norm:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), norm(outputs))
        else:
            self.shortcut = nn.Conv2d(inputs, outputs, 1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.residual(x) + self.shortcut(x)
        return out


def stem(width: int, stride: int, batch_norm: bool) -> nn.Sequential:
    """First layers, [N, 3, S, S] to [N, width, S / stride, S / stride]."""
    if batch_norm:
        conv = nn.Conv2d(3, width, 3, stride=stride, padding=1, bias=False)
        return nn.Sequential(conv, FrozenBatchNorm(width), nn.PReLU(width))
    # No group norm here: it would take the target's brightness and contrast from the whole residual stream.
    return nn.Sequential(nn.Conv2d(3, width, 3, stride=stride, padding=1), nn.PReLU(width))


class StyleHeads(nn.Module):
    """The style heads of one pyramid level, side by side: [N, inputs, side, side] to [N, heads, style_dim].

    Each head is a chain of stride-2 3x3 Conv + LeakyReLU down to one pixel, then a linear layer. All heads see the
    same map, so they share the first convolution; from then on each is a group of a grouped convolution.
    """

    def __init__(self, heads: int, inputs: int, width: int, side: int, style_dim: int) -> None:
        super().__init__()
        self.reduce = nn.Sequential()
        for step in range(int(log2(side))):
            channels, groups = (heads * width, heads) if step else (inputs, 1)
            self.reduce.append(nn.Conv2d(channels, heads * width, 3, stride=2, padding=1, groups=groups))
            self.reduce.append(nn.LeakyReLU(0.01, inplace=True))
        self.linear = nn.Conv2d(heads * width, heads * style_dim, 1, groups=heads)
        self.heads = heads

    def forward(self, features: Tensor) -> Tensor:
        codes: Tensor = self.linear(self.reduce(features))
        return codes.reshape(codes.shape[0], self.heads, -1)


class FineLevel(nn.Module):
    """A map of twice the side of the one before: of a finer tap [N, inputs, 2S, 2S] and `coarser` [N, before, S, S]."""

    def __init__(self, inputs: int, before: int, width: int) -> None:
        super().__init__()
        self.of_tap = nn.Conv2d(inputs, width, 3, padding=1)
        self.of_coarser = nn.Conv2d(before, width, 1)
        self.mix = nn.Sequential(nn.LeakyReLU(0.2), nn.Conv2d(width, width, 3, padding=1))

    def forward(self, tap: Tensor, coarser: Tensor) -> Tensor:
        above = F.interpolate(self.of_coarser(coarser), scale_factor=2.0, mode="bilinear", align_corners=False)
        out: Tensor = self.mix(self.of_tap(tap) + above)
        return out


class Encoder(nn.Module):
    """Pictures [N, 3, input_px, input_px] in [-1, 1] to an Encoding.

    Args:
        input_px: side of the input, a power of two from 32.
        n_styles, style_dim: size of a style code W; the styles are spread evenly over the three pyramid levels.
        blocks, widths: residual blocks and channels of the four stages.
        pyramid_width: channels of the pyramid. head_width: channels inside each style head.
        stem_stride: 1 reads the input at full resolution and halves it in the first stage (IR-SE50, the paper);
            2 halves it in the first convolution, a quarter of the cost there, with the same sizes from then on.
        fine_levels: maps for the pathway beyond the paper's three, at 1/2 of the side and then at the full side, each
            with half of the channels of the one before. Hair, glasses and background are sharp with them only: a map
            of 1/4 of the side cannot say where an edge is.
        body: "se_resnet" normalises groups of channels and learns from nothing; "ir_se50" is the face network
            of that name, into which weights.formats.ir_se50 loads its weights; "dlib_resnet" is a frozen one, see
            face_body, whose weights weights.formats.dlib_resnet gives.

    Raises:
        StyleBlendError: a size does not fit; names it and its value.
    """

    mean_code: Tensor

    def __init__(
        self,
        input_px: int,
        n_styles: int,
        style_dim: int,
        blocks: Sequence[int],
        widths: Sequence[int],
        pyramid_width: int,
        head_width: int,
        stem_stride: int = 1,
        body: str = "se_resnet",
        fine_levels: int = 0,
    ) -> None:
        super().__init__()
        expect_encoder_sizes(input_px, n_styles, blocks, widths, stem_stride, body)
        self.input_px, self.n_styles, self.style_dim, self.body = input_px, n_styles, style_dim, body
        face_network = body == "ir_se50"
        self.stages = nn.ModuleList()
        if body == "dlib_resnet":
            self.frozen_body = DlibBody()
        else:
            self.stem = stem(widths[0], stem_stride, face_network)
            strides = (2 // stem_stride, 2, 2, 2)
            for count, inputs, width, stride in zip(blocks, (widths[0], *widths), widths, strides, strict=False):
                first = ResidualBlock(inputs, width, stride, face_network)
                more = (ResidualBlock(width, width, 1, face_network) for _ in range(count - 1))
                self.stages.append(nn.Sequential(first, *more))
        self.laterals = nn.ModuleList(nn.Conv2d(width, pyramid_width, 1) for width in reversed(widths[1:]))
        sides = (input_px // 16, input_px // 8, input_px // 4)
        self.feature_shapes = [(pyramid_width, side, side) for side in sides]
        self.fine = nn.ModuleList()
        for level in range(fine_levels):
            inputs, width = (widths[0], 3)[level], pyramid_width >> level + 1
            self.fine.append(FineLevel(inputs, pyramid_width >> level, width))
            self.feature_shapes.append((width, input_px >> 1 - level, input_px >> 1 - level))
        counts = [n_styles * (level + 1) // 3 - n_styles * level // 3 for level in range(3)]
        self.heads = nn.ModuleList(
            StyleHeads(count, pyramid_width, head_width, side, style_dim)
            for count, side in zip(counts, sides, strict=True)
        )
        # Codes are learned as differences from the decoder's mean code (pSp); zeros until a decoder's is set.
        self.register_buffer("mean_code", torch.zeros(n_styles, style_dim))

    def taps(self, images: Tensor) -> tuple[Tensor, ...]:
        """The outputs of the body's four stages, fine to coarse: 1/2, 1/4, 1/8 and 1/16 of the input's side."""
        if self.body == "dlib_resnet":
            found: tuple[Tensor, ...] = self.frozen_body(images)
            return found
        x = self.stem(images)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return tuple(maps)

    def forward(self, images: Tensor) -> Encoding:
        expect_shape("images", images, None, 3, self.input_px, self.input_px)
        finest, fine, middle, coarse = self.taps(images)
        level = self.laterals[0](coarse)
        features = [level]
        for lateral, finer in zip(self.laterals[1:], (middle, fine), strict=True):
            level = lateral(finer) + F.interpolate(level, size=finer.shape[-2:], mode="bilinear", align_corners=True)
            features.append(level)
        codes = [heads(level) for heads, level in zip(self.heads, features, strict=True)]
        for fine_level, tap in zip(self.fine, (finest, images), strict=False):
            features.append(fine_level(tap, features[-1]))
        return Encoding(torch.cat(codes, dim=1) + self.mean_code, tuple(features))
