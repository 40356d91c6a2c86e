"""Pretrained StyleGAN1 generators (Karras et al. 2019) as this project's decoder, from the three formats in use."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from styleblend.config.model import Model
from styleblend.errors import StyleBlendError
from styleblend.weights.formats.stylegan_tables import FORMATS, MAPPING_LAYERS, Format, Table
from styleblend.weights.formats.tf_pickle import read_generator
from styleblend.weights.formats.torch_file import kind_of, read_torch

MEAN_CODE_DRAWS = 16384
_SEED = 0
_SHOWN = 3


class StyleganWeights(NamedTuple):
    """A generator's weights in this project's terms.

    Attributes:
        decoder: state dict of `build_decoder(model)`, float32 on the CPU, complete but for the names that begin with
            "pathway.".
        mean_code: [style_dim], StyleGAN's w_avg: the middle of its style codes, before any truncation.
    """

    decoder: dict[str, Tensor]
    mean_code: Tensor


def load_stylegan(path: Path | str, model: Model) -> StyleganWeights:
    """The decoder and the mean code from a StyleGAN1 generator.

    The content tells the format: a state dict of lernapparat or genforce, alone or in a checkpoint, or NVIDIA's pickle.
    Nothing in the file is run. All tensors that the format has for model.resolution must be there with the shapes of
    the section `model`, and no others; only the pathway, which begins at zero, is left as it is:

        weights = load_stylegan(path, model)
        decoder.load_state_dict(weights.decoder, strict=False)
        encoder.mean_code.copy_(weights.mean_code)

    The decoder then draws what the original network draws for the same codes and noise; truncation is left to the
    caller. A file without mean code gets the mean over MEAN_CODE_DRAWS draws of its mapping network, the same each
    time.

    Raises:
        StyleBlendError: the file is not to be read, would run code, is of no known format, lacks something, has
            something else or other shapes, or belongs to another model.resolution. One line.
    """
    path = Path(path)
    tensors, form = _recognised(path)
    table = form.table(model)
    _expect_names_and_shapes(path, form, tensors, table, model)
    converted = _converted(path, tensors, table)
    layers = [f"mapping.{k}" for k in range(MAPPING_LAYERS)]
    mapping = [(converted.pop(f"{layer}.weight"), converted.pop(f"{layer}.bias")) for layer in layers]
    mean_code = converted.pop("mean_code", None)
    # A generator that never tracked its mean has the buffer's first value.
    if mean_code is None or not mean_code.any():
        mean_code = mean_of_mapping(mapping)
    return StyleganWeights(converted, mean_code)


def largest_side(path: Path) -> int:
    """Side in pixels of a StyleGAN1 generator's largest block, before a model's sizes are known.

    Raises:
        StyleBlendError: as load_stylegan, where the file is damaged, would run code or is no StyleGAN1.
    """
    tensors, form = _recognised(path)
    return max(form.block_side(name) for name in tensors)


@torch.no_grad()
def mean_of_mapping(layers: list[tuple[Tensor, Tensor]], draws: int = MEAN_CODE_DRAWS) -> Tensor:
    """Mean style code [style_dim] of a mapping network over normal latents with a fixed seed.

    Args:
        layers: weight [out, in] and bias [out] of each layer, as they are multiplied and added.
    """
    generator = torch.Generator().manual_seed(_SEED)
    total = torch.zeros(layers[-1][0].shape[0], dtype=torch.float64)
    for start in range(0, draws, 1024):
        x = torch.randn(min(1024, draws - start), layers[0][0].shape[1], generator=generator)
        x = x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()
        for weight, bias in layers:
            x = F.leaky_relu(F.linear(x, weight, bias), 0.2)
        total += x.double().sum(0)
    return (total / draws).float()


def _recognised(path: Path) -> tuple[dict[str, Tensor], Format]:
    """The generator's tensors by their names in the file, and the format that most of the names are of."""
    if kind_of(path) == "pickle":
        named: dict[str, Any] = read_generator(path)
    else:
        content = read_torch(path)
        if not isinstance(content, dict):
            raise StyleBlendError(f"{path} holds {type(content).__name__} and no state dict: use a StyleGAN's weights")
        # genforce's training puts its networks one level deeper than its published files.
        content = content["models"] if isinstance(content.get("models"), dict) else content
        # The averaged weights, where a checkpoint has both.
        parts = ("generator_smooth", "generator")
        named = next((content[part] for part in parts if isinstance(content.get(part), dict)), content)
    tensors = {str(name): value for name, value in named.items()}
    form = max(FORMATS, key=lambda form: sum(1 for name in tensors if form.key.search(name)))
    if not any(form.key.search(name) for name in tensors):
        raise StyleBlendError(
            f"{path} is no StyleGAN1 generator of {', '.join(form.name for form in FORMATS)}: its names begin with"
            f" {_some(list(tensors))}"
        )
    for name, value in tensors.items():
        if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_complex() or value.is_quantized:
            kind = f"{value.layout} tensor" if isinstance(value, Tensor) else type(value).__name__
            raise StyleBlendError(f"{path} looks most like {form.name}, but '{name}' is a {kind}: use another file")
    return tensors, form


def _expect_names_and_shapes(path: Path, form: Format, tensors: dict[str, Tensor], table: Table, model: Model) -> None:
    missing = [name for name, entry in table.items() if entry.required and name not in tensors]
    unexpected = [name for name in tensors if name not in table]
    differ = [
        f"{name} {tuple(tensors[name].shape)} in place of {entry.shape}"
        for name, entry in table.items()
        if name in tensors and tuple(tensors[name].shape) != entry.shape
    ]
    wrong = {"missing": missing, "unexpected": unexpected, "of another shape": differ}
    if not any(wrong.values()):
        return
    message = f"{path} looks most like {form.name} but does not fit the section model of params.yaml: "
    message += "; ".join(f"{what}: {_some(names)}" for what, names in wrong.items() if names)
    largest = max(form.block_side(name) for name in tensors)
    if largest != model.resolution:
        message += f"; its largest block is of {largest} px, model.resolution is {model.resolution}"
    raise StyleBlendError(message)


def _converted(path: Path, tensors: dict[str, Tensor], table: Table) -> dict[str, Tensor]:
    """Values by target, checked to be finite and, where the decoder has them built in, to be what they must be."""
    converted = {}
    for name, entry in table.items():
        if name not in tensors:
            continue
        tensor = tensors[name].to(torch.float32)
        if not tensor.isfinite().all():
            raise StyleBlendError(f"{path} is damaged: '{name}' holds values that are not finite; fetch it again")
        if entry.value is not None and not torch.allclose(tensor, entry.value, rtol=0, atol=1e-6):
            raise StyleBlendError(
                f"{path} draws otherwise than this decoder: '{name}' begins with {tensor.flatten()[0].item():g},"
                f" expected {entry.value.flatten()[0].item():g}; use a finished StyleGAN1"
            )
        if entry.target is not None:
            converted[entry.target] = entry.convert(tensor).contiguous().clone()
    return converted


def _some(names: list[str]) -> str:
    """The first names, and how many more there are, in one line however long they are."""
    shown = ", ".join(" ".join(name.split())[:120] for name in names[:_SHOWN])
    return f"{shown} and {len(names) - _SHOWN} more" if len(names) > _SHOWN else shown or "nothing"
