"""What a configuration asks for, before anything is trained: sizes, products and memory, on paper.

Everything runs on fake tensors (torch's meta tensors, which have a shape and a type but no memory, under the name of
the CPU), so that the very step function of training can be followed at any size in seconds.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils.parametrize import is_parametrized
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from styleblend.config.model import Model
from styleblend.config.params import Config
from styleblend.config.training import LossWeights, Training
from styleblend.errors import StyleBlendError
from styleblend.model import Discriminator, Swapper, build, build_discriminator
from styleblend.training.batches import Batch
from styleblend.training.steps import Perception, Stage, choose_what_learns, discriminator_terms, generator_terms

STAGES: tuple[Stage, Stage] = ("train_encoder", "finetune_decoder")
OWN_TERMS = ("adversarial", "reconstruction", "swap_consistency")
"""Loss terms that need no frozen network."""
_ITSELF = "(itself)"
_GIB = 2**30


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
class Needs:
    """What a training stage asks for."""

    stage: Stage
    steps: int
    gpus: int
    pictures_per_gpu: int
    precision: str
    learning: int
    """Parameters of G that learn."""
    judge: int
    """Parameters of V, all of which learn."""
    multiply_adds: int
    """Of one step of G and V on one GPU, forward and backward, without the frozen networks of the losses."""
    weights: int
    """Bytes of E, B, D and V. The following are bytes too, all on one GPU."""
    average: int
    gradients: int
    optimiser: int
    activations: int
    exchange: int

    @property
    def batch(self) -> int:
        """Pairs of pictures in a step, over all GPUs."""
        return self.gpus * self.pictures_per_gpu

    @property
    def memory(self) -> int:
        """Bytes on one GPU at the fullest moment; activations are gone when gradients are exchanged."""
        return self.weights + self.average + self.gradients + self.optimiser + max(self.activations, self.exchange)


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


class Followed(TorchDispatchMode):
    """Follows what runs while it is on: bytes of tensors, `now` and at the fullest moment (`peak`), and products.

    Tensors that share memory count once, and those of `there_before` not at all. A kernel's own scratch memory is not
    seen.
    """

    def __init__(self, there_before: Sequence[Tensor] = ()) -> None:
        super().__init__()
        self.now = self.peak = self.multiply_adds = 0
        self._known = weakref.WeakSet(tensor.untyped_storage() for tensor in there_before)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        # torch's table has 2 for a multiply-add.
        if (count := flop_registry.get(func._overloadpacket)) is not None:
            self.multiply_adds += count(*args, **kwargs, out_val=out) // 2
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, Tensor) and (storage := tensor.untyped_storage()) not in self._known:
                self._known.add(storage)
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._gone, storage.nbytes())
        return out

    def _gone(self, size: int) -> None:
        self.now -= size


@contextmanager
def counted_products() -> Iterator[FlopCounterMode]:
    """A FlopCounterMode (it counts 2 for a multiply-add) that sees the products inside attention too."""
    # The counter does not know the CPU's fused attention; the plain one is made of products that it knows.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        yield counter


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
        with torch.no_grad(), counted_products() as counter, _without_gradients(network):
            network(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    # The counter names modules from the class of the outermost one.
    root = type(network).__name__
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


def needs(
    stage: Stage,
    training: Training,
    swapper: Swapper,
    discriminator: Discriminator,
    gpus: int | None = None,
    pictures_per_gpu: int | None = None,
) -> Needs:
    """Follow one step of G and one of V; call it under FakeTensorMode, with networks made under it.

    Raises:
        StyleBlendError: the batch cannot be shared evenly.
    """
    gpus = gpus or training.workers
    if pictures_per_gpu is None:
        if training.batch_size % gpus:
            raise StyleBlendError(
                f"{stage}.batch_size {training.batch_size} cannot be shared evenly by {gpus} GPUs:"
                " give another --gpus, or --image-batch"
            )
        pictures_per_gpu = training.batch_size // gpus
    learning = choose_what_learns(swapper, stage)
    discriminator.requires_grad_(True)
    judge = list(discriminator.parameters())
    # Gradients are counted beside the activations, so they are there before the step begins.
    for parameter in (*learning, *judge):
        parameter.grad = torch.zeros_like(parameter)
    gradients = [cast(Tensor, parameter.grad) for parameter in (*learning, *judge)]
    there = [*_state(swapper), *_state(discriminator), *gradients]
    with sdpa_kernel(SDPBackend.MATH), Followed(there) as followed:
        _step(training, swapper, discriminator, pictures_per_gpu)
    for parameter in (*learning, *judge):
        parameter.grad = None
    of_g, of_v = sum(map(_size, learning)), sum(map(_size, judge))
    return Needs(
        stage=stage,
        steps=training.steps,
        gpus=gpus,
        pictures_per_gpu=pictures_per_gpu,
        precision=training.precision,
        learning=sum(parameter.numel() for parameter in learning),
        judge=sum(parameter.numel() for parameter in judge),
        multiply_adds=followed.multiply_adds,
        weights=sum(map(_size, (*_state(swapper), *_state(discriminator)))),
        average=sum(map(_size, _state(swapper))),
        gradients=of_g + of_v,
        optimiser=2 * (of_g + of_v),
        activations=followed.peak,
        exchange=max(of_g, of_v) if gpus > 1 else 0,
    )


def _step(training: Training, swapper: Swapper, discriminator: Discriminator, size: int) -> None:
    """Training's own forward of G with the terms that need no frozen network, then V's; both backward."""
    side, embedding = swapper.encoder.input_px, 512
    weights = {name: value if name in OWN_TERMS else 0 for name, value in training.loss}
    training = training.model_copy(update={"loss": LossWeights(**weights)})
    batch = Batch(
        source=torch.empty(size, 3, side, side),
        target=torch.empty(size, 3, side, side),
        source_identity=torch.empty(size, embedding),
        target_identity=torch.empty(size, embedding),
        target_landmarks=torch.empty(size, 68, 2),
        same_person=torch.zeros(size, dtype=torch.bool),
        negatives=torch.empty(size, training.negatives, embedding),
        noise_seeds=tuple(range(size)),
    )
    discriminator.requires_grad_(False).eval()
    no_networks = cast(Perception, None)
    terms, swapped = generator_terms(swapper, discriminator, no_networks, batch, training, step=0)
    # Without any of those terms the picture itself is what the frozen networks' gradients come to.
    total = torch.stack([swapped.mean(), *terms.values()]).sum()
    total.backward()
    swapped = swapped.detach()
    del total, terms
    discriminator.requires_grad_(True).train()
    _, judged = discriminator_terms(discriminator, batch.source, swapped, training)
    judged.backward()


def _state(network: nn.Module) -> list[Tensor]:
    return [*network.parameters(), *network.buffers()]


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


_TITLES = {
    "E": "encoder E",
    "B": "style blending B",
    "D": "decoder D",
    "V": "discriminator V",
}
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
    lines += _aligned(table, left=(0, 3))
    lines.append("")
    lines += _aligned(_stage_table(found.stages), left=(0,))
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


def _aligned(table: Sequence[tuple[str, ...]], left: tuple[int, ...]) -> list[str]:
    widths = [max(len(row[k]) for row in table) for k in range(len(table[0]))]
    lines = []
    for row in table:
        cells = [
            cell.ljust(width) if k in left else cell.rjust(width)
            for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def short(number: int) -> str:
    """A large count with three digits and k, M, G, T or P for 10^3, 10^6, 10^9, 10^12 or 10^15."""
    for exponent, letter in ((15, "P"), (12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if number >= 0.9995 * 10**exponent:
            return f"{number / 10**exponent:.3g} {letter}"
    return str(number)
