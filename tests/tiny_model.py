"""The smallest model that has every part of a real one; where a test needs a model of any size, it builds this one."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

from styleblend.config.model import Model

Network = TypeVar("Network", bound=nn.Module)

SIDE_PX = 32

MODEL = Model(
    resolution=SIDE_PX,
    input_px=SIDE_PX,
    style_dim=16,
    encoder_blocks=(1, 1, 1, 1),
    encoder_widths=(8, 8, 8, 16),
    stem_stride=2,
    pyramid_width=8,
    head_width=8,
    blending_layers=2,
    blending_heads=2,
    decoder_widths={4: 8, 8: 8, 16: 8, 32: 8},
    pathway_resolutions=(8, 16),
    discriminator_width=4,
    discriminator_scales=1,
)


def randomised(network: Network, spread: float = 0.3) -> Network:
    """Every parameter random: biases, noise weights and the pathway's zeros would hide mistakes."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, spread)
    return network
