"""What a configuration asks for, before anything is trained: sizes, products and memory, on paper.

Everything runs on fake tensors (torch's meta tensors, which have a shape and a type but no memory, under the name of
the CPU), so that the very step function of training can be followed at any size in seconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils.parametrize import is_parametrized
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from styleblend.commands.cost import Cost, cost_lines, largest_batches
from styleblend.commands.frozen_on_paper import seeing
from styleblend.commands.step_memory import Needs, needs
from styleblend.config.model import Model
from styleblend.config.params import Config
from styleblend.errors import StyleBlendError
from styleblend.model import build, build_discriminator
from styleblend.reporting.table import columns
from styleblend.training.steps import Stage

STAGES: tuple[Stage, Stage] = ("train_encoder", "finetune_decoder")
_GIB = 2**30
_ITSELF = "(itself)"


@dataclass(frozen=True)
class Row:
    """One module of a network, for one picture."""

    name: str
    """Path inside the network; "" is the whole network, an ending "(itself)" what is left beside its parts."""
    level: int
    parameters: int
    shapes: tuple[tuple[int, ...], ...]
    """Shapes of its outputs without the batch; none for what is left beside the parts."""
    multiply_adds: int
    """Products of convolutions, linear layers and attention; norms, activations and resizing are left out."""


@dataclass(frozen=True)
class Description:
    """Networks by letter, E, B, D and V, each with the whole network as its first row; and both stages."""

    model: Model
    networks: dict[str, tuple[Row, ...]]
    stages: tuple[Needs, ...]
    absent: tuple[str, ...] = ()
    """Frozen networks that are not counted, for neither form nor file is known."""
    batches: tuple[dict[int, int], ...] = ()
    """Of each stage: gigabytes of a card to the most pairs a step on one."""
    cost: Cost | None = None

    @property
    def swap_multiply_adds(self) -> int:
        """Of one swapped picture: E on the source and on the target, B and D."""
        whole = {letter: rows[0].multiply_adds for letter, rows in self.networks.items()}
        return 2 * whole["E"] + whole["B"] + whole["D"]


def describe(
    cfg: Config,
    gpus: int | None = None,
    pictures_per_gpu: int | None = None,
    depth: int = 1,
    cost: Cost | None = None,
    project: Path = Path(),
) -> Description:
    """Follow every network and one step of each stage on fake tensors.

    Args:
        gpus: how many share a step; None takes the stage's `workers`.
        pictures_per_gpu: pairs of pictures a GPU; None shares the stage's `batch_size` evenly.
        depth: levels of modules below a network; 1 is its main modules.
        cost: what a step is taken to last; None leaves out batches by card and hours by GPUs.
        project: its folder, where forms and files of frozen networks are looked for.

    Raises:
        StyleBlendError: a number is below 1, or the batch cannot be shared evenly.
    """
    for name, value in (("--gpus", gpus), ("--image-batch", pictures_per_gpu), ("--depth", depth)):
        if value is not None and value < 1:
            raise StyleBlendError(f"{name} is {value}: it must be at least 1")
    model = cfg.model
    # What files of frozen networks hold beside parameters and buffers may be no fake tensors.
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    seen = seeing(cfg, mode, project)
    with mode:
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

        def memory(stage: Stage, pairs: int) -> Needs:
            # The step that holds most, alone: its products are not asked for.
            training = getattr(cfg, stage).model_copy(update={"swap_every": 1, "accumulate": 1})
            return needs(stage, training, swapper, discriminator, 2, pairs, seen)

        stages = tuple(
            needs(stage, getattr(cfg, stage), swapper, discriminator, gpus, pictures_per_gpu, seen) for stage in STAGES
        )
        # What fits is asked of pairs at once.
        whole = (each if each.at_once == each.pictures_per_gpu else memory(each.stage, each.at_once) for each in stages)
        batches = tuple(largest_batches(each, partial(memory, each.stage)) for each in whole) if cost else ()
    return Description(model, networks, stages, seen.absent, batches, cost)


def modules(network: nn.Module, inputs: tuple[Any, ...], depth: int = 1) -> tuple[Row, ...]:
    """The network and its modules down to `depth`, from one forward pass of a batch of one.

    Parameters and multiply-adds of the rows of one level, with "(itself)", add up to those of the row above.
    """
    listed = [("", network, 0), *_below(network, "", 1, depth)]
    shapes: dict[str, tuple[tuple[int, ...], ...]] = {}

    def note(name: str) -> Any:
        def hook(module: nn.Module, given: Any, out: Any) -> None:
            shapes[name] = tuple(tuple(leaf.shape[1:]) for leaf in tree_leaves(out) if isinstance(leaf, Tensor))

        return hook

    handles = [module.register_forward_hook(note(name)) for name, module, _ in listed]
    try:
        # The counter does not know the CPU's fused attention; the plain one is made of products that it knows.
        plain = sdpa_kernel(SDPBackend.MATH)
        with torch.no_grad(), plain, FlopCounterMode(display=False) as counter, _without_gradients(network):
            network(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    # The counter names modules from the class of the outermost one.
    root = type(network).__name__
    # It counts 2 for a multiply-add.
    products = {name: sum(by_kind.values()) // 2 for name, by_kind in counter.get_flop_counts().items()}
    rows: list[Row] = []
    for place, (name, module, level) in enumerate(listed):
        own = sum(parameter.numel() for parameter in module.parameters())
        total = products.get(f"{root}.{name}" if name else root, 0)
        rows.append(Row(name, level, own, shapes.get(name, ()), total))
        below = []
        for entry in listed[place + 1 :]:
            if entry[2] <= level:
                break
            below += [entry] if entry[2] == level + 1 else []
        if below:
            left = own - sum(parameter.numel() for _, part, _ in below for parameter in part.parameters())
            rest = total - sum(products.get(f"{root}.{part}", 0) for part, _, _ in below)
            if left or rest:
                rows.append(Row(f"{name} {_ITSELF}".strip(), level + 1, left, (), rest))
    return tuple(rows)


@contextmanager
def _without_gradients(network: nn.Module) -> Iterator[None]:
    # Views of fake parameters claim to need gradients even under no_grad, and the counter stumbles over that.
    learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
    network.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)


def _below(module: nn.Module, prefix: str, level: int, depth: int) -> Iterator[tuple[str, nn.Module, int]]:
    if level > depth or is_parametrized(module):
        return
    for name, part in module.named_children():
        if isinstance(part, (nn.ModuleList, nn.ModuleDict)):
            # A mere container, which nobody calls.
            yield from _below(part, f"{prefix}{name}.", level, depth)
        else:
            yield f"{prefix}{name}", part, level
            yield from _below(part, f"{prefix}{name}.", level + 1, depth)


_TITLES = {"E": "encoder E", "B": "style blending B", "D": "decoder D", "V": "discriminator V"}
_HOW = """\
How memory is found: weights, average (EMA), gradients and Adam's two moments are counted tensor by tensor. Activations
are the most bytes that exist at one time in a step of G and V (three encodings, three decodings, what the frozen
networks of the losses hold; forward and backward), followed on tensors without memory with the pictures of one GPU. The
exchange of gradients and Adam's scratch come when activations are gone, so only the largest of the three counts. Not in
it: the terms outside, pixels, mask and mesh, pictures read ahead, the scratch memory of kernels, CUDA itself and
fragmentation: leave a fifth free. Multiply-adds are those of convolutions, linear layers and attention."""


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
    lines += ["", _HOW]
    if found.absent:
        lines.append(
            "Not counted, for their files are not here, or damaged (styleblend weights fetch):"
            f" {', '.join(found.absent)}."
        )
    if found.cost is not None:
        lines += ["", *cost_lines(found.stages, found.batches, found.cost)]
    return "\n".join(lines)


def _stage_table(stages: Sequence[Needs]) -> list[tuple[str, ...]]:
    def gib(size: int) -> str:
        return f"{size / _GIB:.2f} GiB"

    return [
        ("stage", *(each.stage for each in stages)),
        ("steps", *(f"{each.steps:,}" for each in stages)),
        ("GPUs", *(f"{each.gpus}" for each in stages)),
        ("pairs a step and GPU", *(f"{each.pictures_per_gpu}" for each in stages)),
        ("of them at once", *(f"{each.at_once}" for each in stages)),
        ("pairs a step in all", *(f"{each.batch}" for each in stages)),
        ("pairs in the whole stage", *(f"{each.steps * each.batch:,}" for each in stages)),
        ("precision", *(each.precision for each in stages)),
        ("parameters of G that learn", *(f"{each.learning:,}" for each in stages)),
        ("parameters of V that learn", *(f"{each.judge:,}" for each in stages)),
        ("multiply-adds a step and GPU", *(short(each.multiply_adds) for each in stages)),
        ("memory a GPU, estimated", *(gib(each.memory) for each in stages)),
        ("  weights of E, B, D, V", *(gib(each.weights) for each in stages)),
        ("  weights of frozen networks", *(gib(each.frozen) for each in stages)),
        ("  averaged weights of G", *(gib(each.average) for each in stages)),
        ("  gradients", *(gib(each.gradients) for each in stages)),
        ("  Adam's moments", *(gib(each.optimiser) for each in stages)),
        ("  activations", *(gib(each.activations) for each in stages)),
        ("  exchange of gradients (in their place)", *(gib(each.exchange) for each in stages)),
        ("  scratch of Adam (in their place)", *(gib(each.scratch) for each in stages)),
    ]


def short(number: int) -> str:
    """A large count with three digits and k, M, G, T or P for 10^3, 10^6, 10^9, 10^12 or 10^15."""
    for exponent, letter in ((15, "P"), (12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if number >= 0.9995 * 10**exponent:
            return f"{number / 10**exponent:.3g} {letter}"
    return str(number)
