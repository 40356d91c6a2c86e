"""Discriminator V: patch classifiers on the picture and on halved copies of it (Wang et al. 2018)."""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from styleblend.config.model import expect_discriminator_sizes
from styleblend.model.layers import expect_shape


def patch_classifier(width: int) -> nn.Sequential:
    """Three halvings and a score for each patch, all spectrally normalised (Miyato et al. 2018).

    Spectral norm bounds how steep V is without batch statistics, so a picture's score is its own.
    """
    channels = (3, width, 2 * width, 4 * width)
    layers = nn.Sequential()
    for inputs, outputs in pairwise(channels):
        layers.append(spectral_norm(nn.Conv2d(inputs, outputs, 4, stride=2, padding=1)))
        layers.append(nn.LeakyReLU(0.2))
    return layers.append(spectral_norm(nn.Conv2d(channels[-1], 1, 3, padding=1)))


class Discriminator(nn.Module):
    """Pictures [N, 3, input_px, input_px] to one map of patch scores for each scale, the full side first.

    Raises:
        StyleBlendError: a size does not fit; names it and its value.
    """

    def __init__(self, input_px: int, width: int, scales: int) -> None:
        super().__init__()
        expect_discriminator_sizes(input_px, scales)
        self.input_px = input_px
        self.classifiers = nn.ModuleList(patch_classifier(width) for _ in range(scales))

    def forward(self, images: Tensor) -> list[Tensor]:
        expect_shape("images", images, None, 3, self.input_px, self.input_px)
        return [net(F.avg_pool2d(images, 2**k) if k else images) for k, net in enumerate(self.classifiers)]
