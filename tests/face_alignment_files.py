"""Weights in the forms of face-alignment's networks that find planted dots: almost all are zero, the rest let colours
through.
"""

from __future__ import annotations

from pathlib import Path

import torch
from face_alignment.detection.blazeface.net_blazeface import BlazeFace
from face_alignment.detection.sfd.net_s3fd import s3fd
from face_alignment.models import FAN
from torch import Tensor

LEVEL = 16
"""Stride of the level of S3FD that fires; its faces are four times as large."""

Weights = dict[str, Tensor]


def _still(network: torch.nn.Module) -> Weights:
    """All weights zero; batch norms pass what they get."""
    weights = {name: torch.zeros_like(value) for name, value in network.state_dict().items()}
    for name in weights:
        norm = name.removesuffix(".running_mean")
        if norm != name:
            weights[f"{norm}.weight"].fill_(1)
            weights[f"{norm}.running_var"].fill_(1)
    return weights


def s3fd_of_red() -> Weights:
    """S3FD that sees each cell of 16 x 16 px with a red pixel as a face of 64 x 64 px around the cell's middle."""
    with torch.device("meta"):
        names = [name for name, _ in s3fd().named_modules() if name.startswith("conv")]
    weights = _still(s3fd())
    # BGR; the means that the library takes off leave black and grey below zero.
    weights["conv1_1.weight"][0, :, 1, 1] = torch.tensor([0.0, -1.0, 1.0])
    for name in names:
        if name in ("conv1_1", "conv6_1") or "norm" in name or name.startswith(("conv6", "conv7")):
            continue
        weights[f"{name}.weight"][0, 0, 1, 1] = 1
    weights["conv5_3_norm.weight"][0] = 1
    for level in ("conv3_3_norm", "conv4_3_norm", "conv5_3_norm", "fc7", "conv6_2", "conv7_2"):
        weights[f"{level}_mbox_conf.bias"][0] = 20  # background
    # Background where nothing is; red takes 24 from it: a score of 1 / (1 + exp(-4)) = 0.98.
    weights["conv5_3_norm_mbox_conf.weight"][0, 0, 1, 1] = -24
    return weights


def fan_of_colours() -> Weights:
    """FAN whose points of eyes and brows lie at red, those of the nose at green, all others at blue.

    Left and right are alike, since the library adds what the network sees in the mirror.
    """
    weights = _still(FAN(4))
    for colour in range(3):
        weights["conv1.weight"][colour, colour, 3, 3] = 1
        for block in ("conv2", "conv4"):
            weights[f"{block}.downsample.2.weight"][colour, colour] = 1
        weights["conv_last3.weight"][colour, colour] = 1
    for point in range(68):
        eye_or_brow, nose = 17 <= point < 27 or 36 <= point < 48, 27 <= point < 36
        colour = 0 if eye_or_brow else 1 if nose else 2
        weights["l3.weight"][point, colour] = 1
    return weights


def silent_blazeface(back: bool) -> Weights:
    """BlazeFace, front or back, that finds nothing anywhere."""
    return _still(BlazeFace(back_model=back))


def save(weights: Weights, path: Path) -> Path:
    torch.save(weights, path)
    return path
