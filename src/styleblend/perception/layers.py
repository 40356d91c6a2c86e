"""Building blocks of the small perception networks."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from styleblend.errors import StyleBlendError
from styleblend.faces.pixels import beside


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm around a shortcut; the first one may halve the side."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.act1 = nn.LeakyReLU(0.1)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.act2 = nn.LeakyReLU(0.1)
        self.shortcut = (
            nn.Identity()
            if stride == 1 and width_in == width
            else nn.Sequential(nn.Conv2d(width_in, width, 1, stride, bias=False), nn.BatchNorm2d(width))
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.act1(self.norm1(self.conv1(x)))
        out: Tensor = self.act2(self.norm2(self.conv2(y)) + self.shortcut(x))
        return out


def residual_trunk(widths: list[int], blocks: list[int]) -> nn.Sequential:
    """[N, 3, S, S] -> [N, widths[-1], S / 2^len(widths), ...]: a stride-2 stem, then one stage a width."""
    width_in = widths[0]
    layers: list[nn.Module] = [nn.Conv2d(3, width_in, 4, 2, 1, bias=False), nn.BatchNorm2d(width_in), nn.LeakyReLU(0.1)]
    for stage, (width, count) in enumerate(zip(widths, blocks, strict=True)):
        for block in range(count):
            layers.append(ResidualBlock(width_in, width, 2 if stage > 0 and block == 0 else 1))
            width_in = width
    return nn.Sequential(*layers)


def plain_trunk(widths: list[int]) -> nn.Sequential:
    """A chain of 5x5 and 3x3 convolutions with group norm and max pooling, without shortcuts."""
    layers: list[nn.Module] = []
    width_in = 3
    for stage, width in enumerate(widths):
        kernel = 5 if stage == 0 else 3
        layers += [
            nn.Conv2d(width_in, width, kernel, 2 if stage == 0 else 1, kernel // 2),
            nn.GroupNorm(8, width),
            nn.LeakyReLU(0.1),
            nn.Conv2d(width, width, 3, 1, 1),
            nn.GroupNorm(8, width),
            nn.LeakyReLU(0.1),
        ]
        if stage < len(widths) - 1:
            layers.append(nn.MaxPool2d(2))
        width_in = width
    return nn.Sequential(*layers)


def trunk_of(kind: str, widths: list[int], blocks: list[int]) -> nn.Sequential:
    """The trunk of a card's architecture: "residual", or "plain", which has no blocks."""
    if kind not in ("residual", "plain"):
        raise ValueError(f"trunk '{kind}' is unknown: choose 'residual' or 'plain'")
    return residual_trunk(widths, blocks) if kind == "residual" else plain_trunk(widths)


def maps_by_side(trunk: nn.Sequential, images: Tensor) -> list[Tensor]:
    """The last maps [N, C, H, W] that a trunk makes of each side on its way, from the largest to the smallest.

    The last of them is what the trunk gives.
    """
    found: list[Tensor] = []
    x = images
    for layer in trunk:
        x = layer(x)
        if found and found[-1].shape[2:] == x.shape[2:]:
            found[-1] = x
        else:
            found.append(x)
    return found


def linear_head(widths: list[int], side_px: int, outputs: int) -> nn.Linear:
    """From all cells that a trunk of these widths leaves of a picture to numbers, so that places stay apart."""
    return nn.Linear(widths[-1] * (side_px // 2 ** len(widths)) ** 2, outputs)


def central(images: Tensor, side_px: int) -> Tensor:
    """The middle of FFHQ-aligned pictures, where the face is: 3/4 of the side, from 1/8 left and 3/16 top."""
    left, top, span = side_px // 8, 3 * side_px // 16, 3 * side_px // 4
    return resized(images, side_px)[..., top : top + span, left : left + span]


def resized(images: Tensor, side_px: int) -> Tensor:
    """Pictures at the side that a network was trained at."""
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"expected pictures [N, 3, H, W], got {tuple(images.shape)}")
    if images.shape[2:] == (side_px, side_px):
        return images
    return torch.nn.functional.interpolate(
        images, size=(side_px, side_px), mode="bilinear", align_corners=False, antialias=True
    )


def at_most(images: Tensor, side_px: int) -> Tensor:
    """Square pictures, reduced with a filter where their side is larger: sampling them without one skips pixels."""
    return resized(images, side_px) if images.shape[-1] > side_px else images


class Window(NamedTuple):
    """A square part of an aligned face, as shares of its side; it may reach beyond the picture."""

    left: float
    top: float
    span: float


# Largest side that is sampled for a network of others; their views have half of it or a little less.
SAMPLED_PX = 256


def windowed(images: Tensor, window: Window, side_px: int) -> Tensor:
    """A window of FFHQ-aligned faces [N, 3, S, S] of any side as [N, 3, side_px, side_px], differentiably.

    Raises:
        StyleBlendError: the pictures are not square.
    """
    expect_square(images)
    images = at_most(images, SAMPLED_PX)
    # From view to picture, both from -1 at one edge to 1 at the other.
    left, top, span = window
    places = beside((span, 0.0, 2 * left + span - 1, 0.0, span, 2 * top + span - 1), images).reshape(2, 3)
    grid = F.affine_grid(places.expand(len(images), 2, 3), [len(images), 3, side_px, side_px], align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def expect_square(images: Tensor) -> None:
    """Refuse what cannot be a batch of aligned faces.

    Raises:
        StyleBlendError: the pictures are not [N, 3, S, S].
    """
    if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] != images.shape[3]:
        raise StyleBlendError(f"images have the shape {tuple(images.shape)}: expected [N, 3, S, S], aligned faces")
