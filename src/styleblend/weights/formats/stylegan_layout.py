"""What a StyleGAN1 file must hold, tensor by tensor, and what each becomes in this project's decoder.

The decoder stores weights as StyleGAN does: of unit variance, scaled by gain / sqrt(fan_in) when used. So most tensors
are taken as they are, under another name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt
from typing import NamedTuple

import torch
from torch import Tensor

from styleblend.config.model import Model

MAPPING_LAYERS = 8
MAPPING_RATE = 0.01
"""Learning rate of the mapping network against the rest: its stored weights and biases are that much too large."""
FUSED_FROM = 128
"""From this side on StyleGAN's upsampling convolutions are transposed convolutions."""


def unchanged(tensor: Tensor) -> Tensor:
    return tensor


@dataclass(frozen=True)
class Entry:
    """One tensor of a file.

    Attributes:
        shape: its shape in the file.
        target: its name in the decoder's state dict, or mean_code, or mapping.K.weight and mapping.K.bias, which are
            as they are multiplied and added. None: the format has it, drawing a picture of full size does not need it.
        convert: from the file's values and shape to the target's.
        required: whether a file without it is refused.
        value: what it must hold, where the decoder has that built in; None for any finite values.
    """

    shape: tuple[int, ...]
    target: str | None = None
    convert: Callable[[Tensor], Tensor] = unchanged
    required: bool = True
    value: Tensor | None = None


Table = dict[str, Entry]
"""Entries by their name in the file."""


class Layer(NamedTuple):
    """One style layer of the decoder; `inputs` is None for the first, which has the constant."""

    number: int
    side: int
    inputs: int | None
    outputs: int

    @property
    def block(self) -> int:
        return self.number // 2

    @property
    def up(self) -> bool:
        return self.number >= 2 and self.number % 2 == 0

    @property
    def fused(self) -> bool:
        return self.up and self.side >= FUSED_FROM

    @property
    def target(self) -> str:
        return f"layers.{self.number}"


def layers_of(model: Model) -> list[Layer]:
    """The decoder's style layers, coarse to fine."""
    layers: list[Layer] = []
    for side, outputs in sorted(model.decoder_widths.items()):
        for _ in range(2):
            layers.append(Layer(len(layers), side, layers[-1].outputs if layers else None, outputs))
    return layers


def as_doubled(weight: Tensor) -> Tensor:
    """A transposed convolution's kernel [O, I, 3, 3] as that of the same convolution after nearest doubling.

    The four shifted copies of a kernel, summed, do both; a transposed convolution writes where the other reads, so the
    kernels are mirrored.
    """
    return weight.flip(2, 3)


def scaled(factor: float) -> Callable[[Tensor], Tensor]:
    return lambda tensor: tensor * factor


def unused(*shape: int) -> Entry:
    """A tensor that the format has and that full-size pictures do not depend on."""
    return Entry(shape, required=False)


def blur_kernel(channels: int) -> Entry:
    """The blur filter that torch modules keep beside their weights, [channels, 1, 3, 3]."""
    line = torch.tensor([1.0, 2.0, 1.0])
    value = (line.outer(line) / 16).expand(channels, 1, 3, 3)
    return Entry((channels, 1, 3, 3), required=False, value=value)


def level_of_detail() -> Entry:
    """How far a progressive training had come; at 0 the generator draws its full size."""
    return Entry((), required=False, value=torch.tensor(0.0))


class LayerNames(NamedTuple):
    """Names of one layer's tensors: the convolution's weight or the constant, noise weight, bias, style."""

    weight: str
    noise: str
    bias: str
    style_weight: str
    style_bias: str


def original_entries(
    model: Model, layer_names: Callable[[Layer], LayerNames], dense: str, to_rgb: str, tensorflow: bool = False
) -> Table:
    """The tensors that drawing needs, in a file that holds the original network under names of its own.

    Args:
        layer_names: the names of a layer's tensors.
        dense: the mapping network's names, with {} for the layer and "weight" or "bias" to be added.
        to_rgb: the same for the output of the largest side.
        tensorflow: kernels are [H, W, I, O] and matrices [I, O], in place of torch's [O, I, H, W] and [O, I].
    """
    dim = model.style_dim

    def kernel(side: int, inputs: int, outputs: int, target: str, mirrored: bool = False) -> Entry:
        def convert(weight: Tensor) -> Tensor:
            weight = weight.permute(3, 2, 0, 1) if tensorflow else weight
            return as_doubled(weight) if mirrored else weight

        shape = (side, side, inputs, outputs) if tensorflow else (outputs, inputs, side, side)
        return Entry(shape, target, convert)

    def matrix(outputs: int, target: str, factor: float = 1) -> Entry:
        shape = (dim, outputs) if tensorflow else (outputs, dim)
        return Entry(shape, target, lambda weight: (weight.T if tensorflow else weight) * factor)

    table: Table = {}
    for k in range(MAPPING_LAYERS):
        table[dense.format(k) + "weight"] = matrix(dim, f"mapping.{k}.weight", sqrt(2 / dim) * MAPPING_RATE)
        table[dense.format(k) + "bias"] = Entry((dim,), f"mapping.{k}.bias", scaled(MAPPING_RATE))
    for layer in layers_of(model):
        names, outputs = layer_names(layer), layer.outputs
        if layer.inputs is None:
            table[names.weight] = Entry((1, outputs, 4, 4), "constant")
        else:
            table[names.weight] = kernel(3, layer.inputs, outputs, f"{layer.target}.conv.weight", layer.fused)
        table[names.noise] = Entry((outputs,), f"{layer.target}.noise_weight")
        table[names.bias] = Entry((outputs,), f"{layer.target}.bias")
        table[names.style_weight] = matrix(2 * outputs, f"{layer.target}.style.weight")
        table[names.style_bias] = Entry((2 * outputs,), f"{layer.target}.style.bias")
    top = model.decoder_widths[model.resolution]
    table[f"{to_rgb}weight"] = kernel(1, top, 3, "to_rgb.weight")
    table[f"{to_rgb}bias"] = Entry((3,), "rgb_bias")
    return table
