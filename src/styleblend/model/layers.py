"""Layers that more than one network uses."""

from __future__ import annotations

from math import sqrt

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from styleblend.errors import StyleBlendError


def expect_shape(name: str, tensor: Tensor, *shape: int | None) -> None:
    """Refuse a tensor whose shape is not `shape`; None stands for any size.

    Raises:
        StyleBlendError: names the tensor, its shape and the wanted one.
    """
    sizes = zip(tensor.shape, shape, strict=False)
    if tensor.dim() != len(shape) or any(want not in (None, got) for got, want in sizes):
        want = ", ".join("any" if size is None else str(size) for size in shape)
        raise StyleBlendError(f"{name} has the shape {tuple(tensor.shape)}: expected ({want})")


class EqualConv2d(nn.Module):
    """Convolution with an equalised learning rate (Karras et al. 2018): weight * gain / sqrt(fan_in).

    The stored weight has unit variance, so that Adam's steps are of one relative size in all layers. No bias: in the
    decoder it comes after the noise. With `up` the input is doubled first, nearest neighbour.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, gain: float = sqrt(2), up: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.scale = gain / sqrt(inputs * kernel * kernel)
        self.up = up
        if up and kernel != 3:
            raise StyleBlendError(f"an upsampling convolution of kernel {kernel} is not known: use 3")

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight * self.scale
        if not self.up:
            return F.conv2d(x, weight, padding=weight.shape[-1] // 2)
        # Doubling and then convolving is one transposed convolution with the sum of four shifted kernels (the same
        # picture to rounding, borders included): 4 products a pixel in place of 9, 3 times faster on a CPU.
        kernel = F.pad(weight.flip(2, 3), (1, 1, 1, 1))
        kernel = kernel[:, :, 1:] + kernel[:, :, :-1]
        kernel = kernel[..., 1:] + kernel[..., :-1]
        return F.conv_transpose2d(x, kernel.transpose(0, 1), stride=2, padding=1)


class EqualLinear(nn.Module):
    """Linear layer with an equalised learning rate and a bias: [N, inputs] to [N, outputs]."""

    def __init__(self, inputs: int, outputs: int, gain: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.scale = gain / sqrt(inputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.scale, self.bias)


class Blur(nn.Module):
    """Binomial filter [1, 2, 1] x [1, 2, 1] / 16 on each channel, zeros outside."""

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        line = torch.tensor([1.0, 2.0, 1.0])
        self.register_buffer("kernel", line.outer(line)[None, None] / 16, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        return F.conv2d(x, self.kernel.to(x.dtype).expand(channels, 1, 3, 3), padding=1, groups=channels)


def adain(x: Tensor, gamma: Tensor, beta: Tensor, eps: float = 1e-8) -> Tensor:
    """Eq. 4: (x - E[x]) / sqrt(V[x] + eps) * gamma + beta, moments of each sample and channel.

    Args:
        x: [N, C, H, W]. Moments are taken in float32 also under autocast: eps is far below bfloat16's steps.
        gamma: [N, C], scale. beta: [N, C], shift.
    """
    normal = F.instance_norm(x.to(torch.promote_types(x.dtype, torch.float32)), eps=eps).to(x.dtype)
    return torch.addcmul(beta[:, :, None, None].to(x.dtype), normal, gamma[:, :, None, None].to(x.dtype))


class SqueezeExcite(nn.Module):
    """Channel gates from the mean of each channel (Hu et al. 2018)."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        hidden = max(channels // reduction, 4)
        self.fc1 = nn.Conv2d(channels, hidden, 1, bias=False)
        self.fc2 = nn.Conv2d(hidden, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.fc2(F.relu(self.fc1(x.mean((2, 3), keepdim=True)))))
