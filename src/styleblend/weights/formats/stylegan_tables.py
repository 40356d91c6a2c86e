"""The three formats of StyleGAN1 generators: how each is recognised, and what becomes of each of its tensors.

`lernapparat`: https://github.com/lernapparat/lernapparat, one flat state dict. `genforce`:
https://github.com/genforce/genforce, generator_smooth of a checkpoint. `nvidia`: https://github.com/NVlabs/stylegan,
Gs of a pickle. All three hold the original network (Karras et al. 2019) under names of their own. This decoder stores
weights as StyleGAN does, of unit variance, scaled by gain / sqrt(fan_in) when used, so most tensors only change names.

lernapparat's own module has the epsilon 1e-5 in its instance norm, where the original has 1e-8, as this decoder has for
every format. With random weights of the published widths at 256 px the two draw pictures that differ by 5e-5 of the
mean output on average and by up to 1e-3 of it in single pixels.
"""

from __future__ import annotations

import re
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


@dataclass(frozen=True)
class Entry:
    """One tensor of a file.

    Attributes:
        shape: its shape in the file.
        target: its name in the decoder's state dict, or mean_code, or mapping.K.weight and mapping.K.bias, which are
            as they are multiplied and added. None: drawing a picture of full size does not need it.
        convert: from the file's values and shape to the target's.
        required: whether a file without it is refused.
        value: what it must hold, where the decoder has that built in; None for any finite values.
    """

    shape: tuple[int, ...]
    target: str | None = None
    convert: Callable[[Tensor], Tensor] = lambda tensor: tensor
    required: bool = True
    value: Tensor | None = None


Table = dict[str, Entry]
"""Entries by their name in the file."""

_LEVEL_OF_DETAIL = Entry((), required=False, value=torch.tensor(0.0))
"""Progress of a progressive training; at 0 the generator draws its full size."""


class Layer(NamedTuple):
    """One style layer of the decoder; `inputs` is None for the first, which has the constant."""

    number: int
    side: int
    inputs: int | None
    outputs: int

    @property
    def up(self) -> bool:
        return self.number >= 2 and self.number % 2 == 0


@dataclass(frozen=True)
class Format:
    """One way to name and store a generator.

    Attributes:
        name: as users know it.
        key: what its tensors' names contain.
        block: what the names of a block's tensors contain, with `side` or `layer` as a group.
        layer: where a layer's constant or weight and bias stand, and where its noise and style stand.
        noise, style: name of the noise weight, and of the style before "weight" and "bias", below the second place.
        dense: the mapping network's names, with {} for the layer, before "weight" and "bias".
        to_rgb: the same for the output of a block, with {block} and {lod}, counted from the finest.
        extra: tensors that drawing does not need, or that must hold what the decoder has built in.
        tensorflow: kernels are [H, W, I, O] and matrices [I, O], in place of torch's [O, I, H, W] and [O, I].
    """

    name: str
    key: re.Pattern[str]
    block: re.Pattern[str]
    layer: Callable[[Layer], tuple[str, str]]
    noise: str
    style: str
    dense: str
    to_rgb: str
    extra: Callable[[Model, list[Layer]], Table]
    tensorflow: bool = False

    def block_side(self, name: str) -> int:
        """Side in pixels of the block that a tensor belongs to, 0 if to none."""
        found = self.block.search(name)
        if found is None:
            return 0
        number = int(found[1])
        return 4 << number // 2 if "layer" in self.block.groupindex else number

    def table(self, model: Model) -> Table:
        """All tensors of a file that was made for a model's sizes."""
        dim, layers = model.style_dim, _layers_of(model)
        table: Table = {}
        for k in range(MAPPING_LAYERS):
            name = self.dense.format(k)
            table[f"{name}weight"] = self._matrix(dim, dim, f"mapping.{k}.weight", sqrt(2 / dim) * MAPPING_RATE)
            table[f"{name}bias"] = Entry((dim,), f"mapping.{k}.bias", lambda tensor: tensor * MAPPING_RATE)
        for layer in layers:
            (own, late), outputs, target = self.layer(layer), layer.outputs, f"layers.{layer.number}"
            if layer.inputs is None:
                table[f"{own}const"] = Entry((1, outputs, 4, 4), "constant")
            else:
                fused = layer.up and layer.side >= FUSED_FROM
                table[f"{own}weight"] = self._kernel(3, layer.inputs, outputs, f"{target}.conv.weight", fused)
            table[late + self.noise] = Entry((outputs,), f"{target}.noise_weight")
            table[f"{own}bias"] = Entry((outputs,), f"{target}.bias")
            table[f"{late}{self.style}weight"] = self._matrix(dim, 2 * outputs, f"{target}.style.weight")
            table[f"{late}{self.style}bias"] = Entry((2 * outputs,), f"{target}.style.bias")
        last = layers[-1]
        to_rgb = self.to_rgb_name(last, last)
        table[f"{to_rgb}weight"] = self._kernel(1, last.outputs, 3, "to_rgb.weight")
        table[f"{to_rgb}bias"] = Entry((3,), "rgb_bias")
        # Outputs of the smaller sides, from progressive training.
        if "{" in self.to_rgb:
            for layer in layers[1:-2:2]:
                to_rgb = self.to_rgb_name(layer, last)
                table[f"{to_rgb}weight"] = _unused(*self._kernel(1, layer.outputs, 3, "").shape)
                table[f"{to_rgb}bias"] = _unused(3)
        return table | self.extra(model, layers)

    def to_rgb_name(self, layer: Layer, last: Layer) -> str:
        block = layer.number // 2
        return self.to_rgb.format(block=block, lod=last.number // 2 - block)

    def _kernel(self, side: int, inputs: int, outputs: int, target: str, fused: bool = False) -> Entry:
        def convert(weight: Tensor) -> Tensor:
            weight = weight.permute(3, 2, 0, 1) if self.tensorflow else weight
            # A transposed convolution with the four shifted copies of a kernel, summed, is nearest doubling and then
            # the convolution. It writes where the other reads, so the kernels are mirrored.
            return weight.flip(2, 3) if fused else weight

        shape = (side, side, inputs, outputs) if self.tensorflow else (outputs, inputs, side, side)
        return Entry(shape, target, convert)

    def _matrix(self, inputs: int, outputs: int, target: str, factor: float = 1) -> Entry:
        shape = (inputs, outputs) if self.tensorflow else (outputs, inputs)
        return Entry(shape, target, lambda weight: (weight.T if self.tensorflow else weight) * factor)


def _layers_of(model: Model) -> list[Layer]:
    """The decoder's style layers, coarse to fine."""
    layers: list[Layer] = []
    for side, outputs in sorted(model.decoder_widths.items()):
        for _ in range(2):
            layers.append(Layer(len(layers), side, layers[-1].outputs if layers else None, outputs))
    return layers


def _unused(*shape: int) -> Entry:
    """A tensor that full-size pictures do not depend on."""
    return Entry(shape, required=False)


def _blur_kernel(channels: int) -> Entry:
    """The blur filter that torch modules keep beside their weights, [channels, 1, 3, 3]."""
    line = torch.tensor([1.0, 2.0, 1.0])
    value = (line.outer(line) / 16).expand(channels, 1, 3, 3)
    return Entry((channels, 1, 3, 3), required=False, value=value)


def _lernapparat_layer(layer: Layer) -> tuple[str, str]:
    block = f"g_synthesis.blocks.{layer.side}x{layer.side}."
    second = layer.number % 2
    conv = "conv." if layer.side == 4 else "conv1." if second else "conv0_up."
    return block if layer.inputs is None else block + conv, f"{block}epi{second + 1}."


def _lernapparat_extra(model: Model, layers: list[Layer]) -> Table:
    own = "g_synthesis.blocks.{0}x{0}.conv0_up.intermediate.kernel"
    return {own.format(layer.side): _blur_kernel(1) for layer in layers if layer.up}


def _genforce_layer(layer: Layer) -> tuple[str, str]:
    own = f"synthesis.layer{layer.number}."
    return own, own


def _genforce_extra(model: Model, layers: list[Layer]) -> Table:
    own = "synthesis.layer{}."
    table = {f"{own.format(k)}apply_noise.noise": _unused(1, 1, side, side) for k, side, *_ in layers}
    table |= {f"{own.format(layer.number)}blur.kernel": _blur_kernel(layer.outputs) for layer in layers if layer.up}
    mean_code = Entry((model.style_dim,), "mean_code", required=False)
    return table | {"synthesis.lod": _LEVEL_OF_DETAIL, "truncation.w_avg": mean_code}


def _nvidia_layer(layer: Layer) -> tuple[str, str]:
    first, second = ("Const", "Conv") if layer.side == 4 else ("Conv0_up", "Conv1")
    own = f"synthesis/{layer.side}x{layer.side}/{second if layer.number % 2 else first}/"
    return own, own


def _nvidia_extra(model: Model, layers: list[Layer]) -> Table:
    table = {f"synthesis/noise{k}": _unused(1, 1, side, side) for k, side, *_ in layers}
    mean_code = Entry((model.style_dim,), "mean_code", required=False)
    return table | {"synthesis/lod": _LEVEL_OF_DETAIL, "lod": _LEVEL_OF_DETAIL, "dlatent_avg": mean_code}


FORMATS = (
    Format(
        "lernapparat",
        key=re.compile(r"\bg_(mapping|synthesis)\."),
        block=re.compile(r"g_synthesis\.blocks\.(?P<side>\d{1,4})x"),
        layer=_lernapparat_layer,
        noise="top_epi.noise.weight",
        style="style_mod.lin.",
        dense="g_mapping.dense{}.",
        to_rgb="g_synthesis.torgb.",
        extra=_lernapparat_extra,
    ),
    Format(
        "genforce",
        key=re.compile(r"\b(mapping\.dense|truncation\.|synthesis\.(layer|output)\d)"),
        block=re.compile(r"\bsynthesis\.layer(?P<layer>\d{1,2})\."),
        layer=_genforce_layer,
        noise="apply_noise.weight",
        style="style.",
        dense="mapping.dense{}.",
        to_rgb="synthesis.output{block}.",
        extra=_genforce_extra,
    ),
    Format(
        "nvidia",
        key=re.compile(r"^((mapping|synthesis)/|dlatent_avg$)"),
        block=re.compile(r"^synthesis/(?P<side>\d{1,4})x"),
        layer=_nvidia_layer,
        noise="Noise/weight",
        style="StyleMod/",
        dense="mapping/Dense{}/",
        to_rgb="synthesis/ToRGB_lod{lod}/",
        extra=_nvidia_extra,
        tensorflow=True,
    ),
)
