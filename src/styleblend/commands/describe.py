"""What a configuration asks for, before anything is trained: sizes, products and memory, on paper.

Everything runs on fake tensors (torch's meta tensors, which have a shape and a type but no memory, under the name of
the CPU), so that the very step function of training can be followed at any size in seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from styleblend.commands.network_sizes import Row, modules
from styleblend.commands.step_memory import Needs, needs
from styleblend.config.model import Model
from styleblend.config.params import Config
from styleblend.errors import StyleBlendError
from styleblend.model import build, build_discriminator
from styleblend.reporting.table import columns
from styleblend.training.steps import Stage

STAGES: tuple[Stage, Stage] = ("train_encoder", "finetune_decoder")
_GIB = 2**30


@dataclass(frozen=True)
class Description:
    """Networks by letter, E, B, D and V, each with the whole network as its first row; and both stages."""

    model: Model
    networks: dict[str, tuple[Row, ...]]
    stages: tuple[Needs, ...]

    @property
    def swap_multiply_adds(self) -> int:
        """Of one swapped picture: E on the source and on the target, B and D."""
        whole = {letter: rows[0].multiply_adds for letter, rows in self.networks.items()}
        return 2 * whole["E"] + whole["B"] + whole["D"]


def describe(cfg: Config, gpus: int | None = None, pictures_per_gpu: int | None = None, depth: int = 1) -> Description:
    """Follow every network and one step of each stage on fake tensors.

    Args:
        gpus: how many share a step; None takes the stage's `workers`.
        pictures_per_gpu: pairs of pictures a GPU; None shares the stage's `batch_size` evenly.
        depth: levels of modules below a network; 1 is its main modules.

    Raises:
        StyleBlendError: a number is below 1, or the batch cannot be shared evenly.
    """
    for name, value in (("--gpus", gpus), ("--image-batch", pictures_per_gpu), ("--depth", depth)):
        if value is not None and value < 1:
            raise StyleBlendError(f"{name} is {value}: it must be at least 1")
    model = cfg.model
    with FakeTensorMode():
        swapper, discriminator = build(model), build_discriminator(model)
        picture = torch.empty(1, 3, model.input_px, model.input_px)
        codes = torch.empty(1, model.n_styles, model.style_dim)
        with torch.no_grad():
            features = swapper.encoder(picture).features
        noise = swapper.decoder.make_noise([0])
        networks = {
            "E": modules(swapper.encoder, (picture,), depth),
            "B": modules(swapper.blending, (codes, codes), depth),
            "D": modules(swapper.decoder, (codes, features, noise), depth),
            "V": modules(discriminator.eval(), (picture,), depth),
        }
        stages = tuple(
            needs(stage, getattr(cfg, stage), swapper, discriminator, gpus, pictures_per_gpu) for stage in STAGES
        )
    return Description(model, networks, stages)


_TITLES = {"E": "encoder E", "B": "style blending B", "D": "decoder D", "V": "discriminator V"}
_HOW = """\
How memory is found: weights, average (EMA), gradients and Adam's two moments are counted tensor by tensor. Activations
are the most bytes that exist at one time in a step of G and V (three encodings, three decodings; forward and backward),
followed on tensors without memory with the pictures of one GPU. The exchange of gradients comes when activations are
gone, so only the larger of both counts. Not in it: the frozen networks of the losses and what they hold, pictures read
ahead, the scratch memory of kernels and of Adam, CUDA itself and fragmentation: leave a fifth free.
Multiply-adds are those of convolutions, linear layers and attention."""


def text(found: Description) -> str:
    """The description as tables for people."""
    sizes = found.model
    lines = [
        f"{sizes.input_px} px in, {sizes.resolution} px out, {sizes.n_styles} styles of {sizes.style_dim};"
        f" losses see {sizes.input_px} px",
        "",
    ]
    table = [("module", "parameters", "multiply-adds", "output of one picture")]
    for letter, rows in found.networks.items():
        for row in rows:
            name = row.name if row.level else _TITLES[letter]
            shown = " + ".join(" x ".join(map(str, shape)) for shape in row.shapes)
            table.append(("  " * row.level + name, f"{row.parameters:,}", short(row.multiply_adds), shown))
    of_g = sum(found.networks[letter][0].parameters for letter in "EBD")
    table.append(("generator G, one swap: E twice, B, D", f"{of_g:,}", short(found.swap_multiply_adds), ""))
    lines += columns(table, right=(1, 2))
    lines.append("")
    lines += columns(_stage_table(found.stages), right=range(1, 1 + len(found.stages)))
    return "\n".join([*lines, "", _HOW])


def _stage_table(stages: Sequence[Needs]) -> list[tuple[str, ...]]:
    def gib(size: int) -> str:
        return f"{size / _GIB:.2f} GiB"

    return [
        ("stage", *(each.stage for each in stages)),
        ("steps", *(f"{each.steps:,}" for each in stages)),
        ("GPUs", *(f"{each.gpus}" for each in stages)),
        ("pairs a step and GPU", *(f"{each.pictures_per_gpu}" for each in stages)),
        ("pairs a step in all", *(f"{each.batch}" for each in stages)),
        ("pairs in the whole stage", *(f"{each.steps * each.batch:,}" for each in stages)),
        ("precision", *(each.precision for each in stages)),
        ("parameters of G that learn", *(f"{each.learning:,}" for each in stages)),
        ("parameters of V that learn", *(f"{each.judge:,}" for each in stages)),
        ("multiply-adds a step and GPU", *(short(each.multiply_adds) for each in stages)),
        ("memory a GPU, estimated", *(gib(each.memory) for each in stages)),
        ("  weights of E, B, D, V", *(gib(each.weights) for each in stages)),
        ("  averaged weights of G", *(gib(each.average) for each in stages)),
        ("  gradients", *(gib(each.gradients) for each in stages)),
        ("  Adam's moments", *(gib(each.optimiser) for each in stages)),
        ("  activations", *(gib(each.activations) for each in stages)),
        ("  exchange of gradients (in their place)", *(gib(each.exchange) for each in stages)),
    ]


def short(number: int) -> str:
    """A large count with three digits and k, M, G, T or P for 10^3, 10^6, 10^9, 10^12 or 10^15."""
    for exponent, letter in ((15, "P"), (12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if number >= 0.9995 * 10**exponent:
            return f"{number / 10**exponent:.3g} {letter}"
    return str(number)
