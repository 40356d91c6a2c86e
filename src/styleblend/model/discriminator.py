"""Discriminator V: patch classifiers on the picture and on halved copies of it (Wang et al. 2018)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from styleblend.errors import StyleBlendError
from styleblend.model.layers import expect_shape, power_of_two


def patch_classifier(width: int) -> nn.Sequential:
    """Three halvings and a score for each patch, all spectrally normalised (Miyato et al. 2018).

    Spectral norm bounds how steep V is without batch statistics, so a picture's score is its own.
    """
    channels = (3, width, 2 * width, 4 * width)
    layers: list[nn.Module] = []
    for inputs, outputs in zip(channels, channels[1:], strict=False):
        layers.append(spectral_norm(nn.Conv2d(inputs, outputs, 4, stride=2, padding=1)))
        layers.append(nn.LeakyReLU(0.2))
    layers.append(spectral_norm(nn.Conv2d(channels[-1], 1, 3, padding=1)))
    return nn.Sequential(*layers)


class Discriminator(nn.Module):
    """Pictures [N, 3, R, R] to one map of patch scores for each scale, finest first: R, R / 2, R / 4, ..."""

    def __init__(self, resolution: int, width: int, scales: int) -> None:
        super().__init__()
        power_of_two("discriminator resolution", resolution, 16)
        if scales < 1 or resolution >> (scales - 1) < 16:
            raise StyleBlendError(f"{scales} discriminator scales do not fit {resolution} px: the last needs 16 px")
        self.resolution = resolution
        self.classifiers = nn.ModuleList(patch_classifier(width) for _ in range(scales))

    def forward(self, images: Tensor) -> list[Tensor]:
        expect_shape("images", images, None, 3, self.resolution, self.resolution)
        scores = []
        for k, classifier in enumerate(self.classifiers):
            scores.append(classifier(F.avg_pool2d(images, 2**k) if k else images))
        return scores
