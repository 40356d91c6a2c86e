"""The table of rosinality's StyleGAN1, whose layers are not the original's in gains, bias, noise and normalisation."""

from __future__ import annotations

from collections.abc import Iterable
from math import sqrt

import torch
from torch import Tensor

from styleblend.config.model import Model
from styleblend.weights.formats.stylegan_layout import (
    MAPPING_LAYERS,
    Entry,
    Layer,
    Table,
    as_doubled,
    blur_kernel,
    layers_of,
    scaled,
    unused,
)


def rosinality_table(model: Model, present: Iterable[str]) -> Table:
    """All layers have the gain sqrt(2), the noise weight too, and scale and shift come without StyleGAN's 1 +."""
    dim, present = model.style_dim, set(present)
    table: Table = {}
    for k in range(MAPPING_LAYERS):
        own = f"style.{2 * k + 1}.linear"
        table[f"{own}.weight_orig"] = Entry((dim, dim), f"mapping.{k}.weight", scaled(sqrt(2 / dim)))
        table[f"{own}.bias"] = Entry((dim,), f"mapping.{k}.bias")
    layers = layers_of(model)
    for layer in layers:
        block, place = f"generator.progression.{layer.block}", layer.number % 2 + 1
        outputs, target = layer.outputs, layer.target
        table |= _convolution(layer, f"{block}.conv{place}", present)
        table[f"{block}.noise{place}.weight_orig"] = Entry((1, outputs, 1, 1), f"{target}.noise_weight", _noise_weight)
        style = f"{block}.adain{place}.style.linear"
        table[f"{style}.weight_orig"] = Entry((2 * outputs, dim), f"{target}.style.weight", scaled(sqrt(2)))
        table[f"{style}.bias"] = Entry((2 * outputs,), f"{target}.style.bias", _from_scale)
    for layer in layers[1::2]:
        own, last = f"generator.to_rgb.{layer.block}.conv", layer is layers[-1]
        weight = Entry((3, layer.outputs, 1, 1), "to_rgb.weight", scaled(sqrt(2)))
        table[f"{own}.weight_orig"] = weight if last else unused(*weight.shape)
        table[f"{own}.bias"] = Entry((3,), "rgb_bias") if last else unused(3)
    return table


def _convolution(layer: Layer, own: str, present: set[str]) -> Table:
    """The constant or the convolution. From 128 px on training decided whether to fuse: the names tell."""
    if layer.inputs is None:
        return {f"{own}.input": Entry((1, layer.outputs, 4, 4), "constant")}
    weight, bias = f"{layer.target}.conv.weight", Entry((layer.outputs,), f"{layer.target}.bias")
    plain = Entry((layer.outputs, layer.inputs, 3, 3), weight)
    if not layer.up:
        return {f"{own}.conv.weight_orig": plain, f"{own}.conv.bias": bias}
    if layer.fused and f"{own}.1.conv.weight_orig" not in present:
        fused = Entry((layer.inputs, layer.outputs, 3, 3), weight, _from_transposed)
        table, blur = {f"{own}.0.weight": fused, f"{own}.0.bias": bias}, f"{own}.1"
    else:
        table, blur = {f"{own}.1.conv.weight_orig": plain, f"{own}.1.conv.bias": bias}, f"{own}.2"
    return table | {f"{blur}.weight": blur_kernel(layer.outputs), f"{blur}.weight_flip": blur_kernel(layer.outputs)}


def _from_transposed(weight: Tensor) -> Tensor:
    """[I, O, 3, 3] to [O, I, 3, 3]. The four shifted copies are averaged there and summed here."""
    return as_doubled(weight.permute(1, 0, 2, 3)) / 4


def _noise_weight(weight: Tensor) -> Tensor:
    """[1, C, 1, 1] to [C]: the weight has an equalised learning rate as if it had C inputs."""
    return weight.flatten() * sqrt(2 / weight.numel())


def _from_scale(bias: Tensor) -> Tensor:
    """Biases of scale and shift: the scale is 1 + s0 here."""
    scale, shift = bias.chunk(2)
    return torch.cat([scale - 1, shift])


def untrained_above(tensors: dict[str, Tensor], model: Model) -> int | None:
    """The largest side that a rosinality file was trained for, if that is less than the model's.

    Such a file holds blocks up to 1024 px whatever it was trained for; what training never reached has noise weights
    and biases of exactly zero.
    """
    learned = []
    for block, side in enumerate(sorted(model.decoder_widths)):
        own = f"generator.progression.{block}"
        names = (f"{own}.noise1.weight_orig", f"{own}.noise2.weight_orig", f"{own}.conv2.conv.bias")
        if any(tensors[name].any() for name in names):
            learned.append(side)
    return learned[-1] if learned and learned[-1] < model.resolution else None
