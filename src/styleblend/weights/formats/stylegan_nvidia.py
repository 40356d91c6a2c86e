"""NVIDIA's own StyleGAN1: which of a pickle's networks is loaded, and its table."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Number
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from styleblend.config.model import Model
from styleblend.errors import StyleBlendError
from styleblend.weights.formats.stylegan_layout import (
    Entry,
    Layer,
    LayerNames,
    Table,
    layers_of,
    level_of_detail,
    original_entries,
    unused,
)
from styleblend.weights.formats.tf_pickle import Network

# Arguments of NVIDIA's builder that change what is drawn, at the values that this decoder has built in.
_BUILT_IN: dict[str, Any] = {
    "num_channels": 3,
    "use_styles": True,
    "const_input_layer": True,
    "use_noise": True,
    "nonlinearity": "lrelu",
    "use_wscale": True,
    "use_pixel_norm": False,
    "use_instance_norm": True,
    "fused_scale": "auto",
    "blur_filter": [1, 2, 1],
    "mapping_nonlinearity": "lrelu",
    "mapping_lrmul": 0.01,
    "normalize_latents": True,
}


def nvidia_table(model: Model, _: Iterable[str]) -> Table:
    def names(layer: Layer) -> LayerNames:
        first = "Const" if layer.side == 4 else "Conv0_up"
        second = "Conv" if layer.side == 4 else "Conv1"
        own = f"synthesis/{layer.side}x{layer.side}/{second if layer.number % 2 else first}"
        return LayerNames(
            weight=f"{own}/const" if layer.inputs is None else f"{own}/weight",
            noise=f"{own}/Noise/weight",
            bias=f"{own}/bias",
            style_weight=f"{own}/StyleMod/weight",
            style_bias=f"{own}/StyleMod/bias",
        )

    layers = layers_of(model)
    table = original_entries(model, names, dense="mapping/Dense{}/", to_rgb="synthesis/ToRGB_lod0/", tensorflow=True)
    for layer in layers:
        table[f"synthesis/noise{layer.number}"] = unused(1, 1, layer.side, layer.side)
    for layer in layers[1:-2:2]:
        level = f"synthesis/ToRGB_lod{layers[-1].block - layer.block}"
        table[f"{level}/weight"] = unused(1, 1, layer.outputs, 3)
        table[f"{level}/bias"] = unused(3)
    table |= {"synthesis/lod": level_of_detail(), "lod": level_of_detail()}
    table["dlatent_avg"] = Entry((model.style_dim,), "mean_code", required=False)
    return table


def averaged_generator(path: Path, networks: list[Network]) -> dict[str, Tensor]:
    """Arrays of Gs, the last network of a file: "synthesis/..." and "mapping/..." of its parts, and its own.

    Raises:
        StyleBlendError: it was built with an option that this decoder has not, or an array holds no numbers.
    """
    averaged = networks[-1]
    for network in (averaged, *averaged.parts.values()):
        for name, wanted in _BUILT_IN.items():
            if not _is(network.arguments.get(name, wanted), wanted):
                raise StyleBlendError(f"{path} was built with another {name} than {wanted}: it cannot be loaded")
    arrays = dict(averaged.arrays)
    for part, network in averaged.parts.items():
        arrays |= {f"{part}/{name}": array for name, array in network.arrays.items()}
    for name, array in arrays.items():
        if array.dtype.kind != "f":
            raise StyleBlendError(f"{path} holds '{name}' of type {array.dtype}: expected floating-point numbers")
    return {name: torch.from_numpy(array.astype("f4")) for name, array in arrays.items()}


def _is(given: Any, wanted: Any) -> bool:
    """Equality that asks nothing of an unknown value."""
    if isinstance(wanted, list):
        return isinstance(given, list | tuple) and len(given) == len(wanted) and all(map(_is, given, wanted))
    return isinstance(given, str | Number) and given == wanted
