"""A TorchScript file of the interface of StyleGAN's Inception."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Metric(nn.Module):
    """As the published file: pictures of 8 bits and any side in, resized inside, features or classes out."""

    def __init__(self, features: int = 2048, batch_norm: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 16, 5, 4)
        self.norm = nn.BatchNorm2d(16, affine=False, track_running_stats=not batch_norm)
        self.features = nn.Linear(16, features)
        self.classes = nn.Linear(features, 10)

    def forward(
        self, img: Tensor, return_features: bool = False, use_fp16: bool = False, no_output_bias: bool = False
    ) -> Tensor:
        x = F.interpolate(img.to(torch.float32), size=[299, 299], mode="bilinear", align_corners=False)
        x = self.features(F.relu(self.norm(self.conv((x - 128) / 128))).mean([2, 3]))
        if return_features:
            return x
        return self.classes(x)


def scripted(network: nn.Module, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", DeprecationWarning)
        torch.jit.script(network.eval()).save(str(path))
    return path
