"""The four formats of StyleGAN1 generators: how to recognise each, and the tables of all but one.

`lernapparat`: https://github.com/lernapparat/lernapparat, one flat state dict. `genforce`:
https://github.com/genforce/genforce, generator_smooth of a checkpoint. `rosinality`:
https://github.com/rosinality/style-based-gan-pytorch, g_running of a checkpoint. `nvidia`:
https://github.com/NVlabs/stylegan, Gs of a pickle.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from styleblend.config.model import Model
from styleblend.model.decoder import Variant
from styleblend.weights.formats.stylegan_layout import (
    Entry,
    Layer,
    LayerNames,
    Table,
    blur_kernel,
    layers_of,
    level_of_detail,
    original_entries,
    unused,
)
from styleblend.weights.formats.stylegan_nvidia import nvidia_table
from styleblend.weights.formats.stylegan_rosinality import rosinality_table


@dataclass(frozen=True)
class Format:
    """One way to name and store a generator.

    Attributes:
        name: as users know it.
        part: name of the generator with averaged weights inside a checkpoint; None if files hold nothing else.
        key: what its tensors' names contain.
        block: what the names of a block's tensors contain, with the block's number as group.
        side: from that number to the block's side in pixels.
        table: the tensors for a model's sizes, given all names in the file.
        variants: values of model.decoder_variant that its weights can be drawn with, the best first.
        spare_blocks: files may hold blocks larger than what they were trained for.
    """

    name: str
    part: str | None
    key: re.Pattern[str]
    block: re.Pattern[str]
    side: Callable[[int], int]
    table: Callable[[Model, Iterable[str]], Table]
    variants: tuple[Variant, ...] = ("nvidia",)
    spare_blocks: bool = False

    def block_side(self, name: str) -> int:
        """Side in pixels of the block that a tensor belongs to, 0 if to none."""
        found = self.block.search(name)
        return self.side(int(found[1])) if found else 0


def lernapparat_table(model: Model, _: Iterable[str]) -> Table:
    def names(layer: Layer) -> LayerNames:
        block = f"g_synthesis.blocks.{layer.side}x{layer.side}"
        late = layer.number % 2
        conv = f"{block}.conv" if layer.side == 4 else f"{block}.conv{'1' if late else '0_up'}"
        epilogue = f"{block}.epi{late + 1}"
        first = layer.inputs is None
        return LayerNames(
            weight=f"{block}.const" if first else f"{conv}.weight",
            noise=f"{epilogue}.top_epi.noise.weight",
            bias=f"{block}.bias" if first else f"{conv}.bias",
            style_weight=f"{epilogue}.style_mod.lin.weight",
            style_bias=f"{epilogue}.style_mod.lin.bias",
        )

    table = original_entries(model, names, dense="g_mapping.dense{}.", to_rgb="g_synthesis.torgb.")
    for layer in layers_of(model):
        if layer.up:
            table[f"g_synthesis.blocks.{layer.side}x{layer.side}.conv0_up.intermediate.kernel"] = blur_kernel(1)
    return table


def genforce_table(model: Model, _: Iterable[str]) -> Table:
    def names(layer: Layer) -> LayerNames:
        own = f"synthesis.layer{layer.number}"
        return LayerNames(
            weight=f"{own}.const" if layer.inputs is None else f"{own}.weight",
            noise=f"{own}.apply_noise.weight",
            bias=f"{own}.bias",
            style_weight=f"{own}.style.weight",
            style_bias=f"{own}.style.bias",
        )

    layers = layers_of(model)
    table = original_entries(model, names, dense="mapping.dense{}.", to_rgb=f"synthesis.output{layers[-1].block}.")
    for layer in layers:
        table[f"synthesis.layer{layer.number}.apply_noise.noise"] = unused(1, 1, layer.side, layer.side)
        if layer.up:
            table[f"synthesis.layer{layer.number}.blur.kernel"] = blur_kernel(layer.outputs)
    for layer in layers[1:-2:2]:
        table[f"synthesis.output{layer.block}.weight"] = unused(3, layer.outputs, 1, 1)
        table[f"synthesis.output{layer.block}.bias"] = unused(3)
    table["synthesis.lod"] = level_of_detail()
    table["truncation.w_avg"] = Entry((model.style_dim,), "mean_code", required=False)
    return table


def _named_by_side(number: int) -> int:
    return number


def _counted(number: int) -> int:
    return 4 << number


def _two_a_block(number: int) -> int:
    return 4 << number // 2


FORMATS = (
    Format(
        "lernapparat",
        None,
        re.compile(r"\bg_(mapping|synthesis)\."),
        re.compile(r"g_synthesis\.blocks\.(\d{1,4})x"),
        _named_by_side,
        lernapparat_table,
        # NVIDIA trained these weights; "lernapparat" draws as its own module does.
        variants=("nvidia", "lernapparat"),
    ),
    Format(
        "genforce",
        "generator_smooth",
        re.compile(r"\b(mapping\.dense|truncation\.|synthesis\.(layer|output)\d)"),
        re.compile(r"\bsynthesis\.layer(\d{1,2})\."),
        _two_a_block,
        genforce_table,
    ),
    Format(
        "rosinality",
        "g_running",
        re.compile(r"\b(generator\.(progression|to_rgb)|style)\.\d"),
        re.compile(r"\bgenerator\.(?:progression|to_rgb)\.(\d{1,2})\."),
        _counted,
        rosinality_table,
        variants=("rosinality",),
        spare_blocks=True,
    ),
    Format(
        "nvidia",
        None,
        re.compile(r"^((mapping|synthesis)/|dlatent_avg$)"),
        re.compile(r"^synthesis/(\d{1,4})x"),
        _named_by_side,
        nvidia_table,
    ),
)
