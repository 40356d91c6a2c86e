"""Memory and products of one training step, followed on fake tensors through training's own functions."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from styleblend.commands.frozen_on_paper import Seeing
from styleblend.config.training import Training
from styleblend.errors import StyleBlendError
from styleblend.model import Discriminator, Swapper
from styleblend.model.prior import WARPED_CHANNELS
from styleblend.training.batches import Batch
from styleblend.training.steps import Stage, choose_what_learns, discriminator_terms, generator_terms


@dataclass(frozen=True)
class Needs:
    """What a training stage asks for."""

    stage: Stage
    steps: int
    gpus: int
    pictures_per_gpu: int
    at_once: int
    """Of them, where `accumulate` shares a batch into parts."""
    precision: str
    learning: int
    """Parameters of G that learn."""
    judge: int
    """Parameters of V, all of which learn."""
    multiply_adds: int
    """Of one step on one GPU, forward and backward, the frozen networks of the losses included; a mean where a term is
    not taken at every step."""
    weights: int
    """Bytes of E, B, D and V. The following are bytes too, all on one GPU."""
    average: int
    gradients: int
    optimiser: int
    activations: int
    exchange: int
    frozen: int = 0
    """Of the frozen networks that the stage loads."""
    scratch: int = 0
    """Of Adam, which takes the roots of all second moments of G, or of V, at once."""

    @property
    def batch(self) -> int:
        """Pairs of pictures in a step, over all GPUs."""
        return self.gpus * self.pictures_per_gpu

    @property
    def memory(self) -> int:
        """Bytes on one GPU at the fullest moment; activations are gone when gradients are exchanged, as these copies
        are when Adam moves the weights."""
        return self.held + max(self.activations, self.exchange, self.scratch)

    @property
    def held(self) -> int:
        """Bytes that are there all the time."""
        return self.weights + self.frozen + self.average + self.gradients + self.optimiser


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


def needs(
    stage: Stage,
    training: Training,
    swapper: Swapper,
    discriminator: Discriminator,
    gpus: int | None = None,
    pictures_per_gpu: int | None = None,
    seeing: Seeing | None = None,
) -> Needs:
    """Follow one step of G and one of V; call it under FakeTensorMode, with networks made under it.

    Args:
        seeing: the frozen networks; None leaves them and their terms out.
    Raises:
        StyleBlendError: the batch cannot be shared evenly.
    """
    gpus = gpus or training.workers
    if pictures_per_gpu is None:
        if training.batch_size % gpus:
            asked = f"{stage}.batch_size {training.batch_size} cannot be shared evenly by {gpus} GPUs"
            raise StyleBlendError(f"{asked}: give another --gpus, or --image-batch")
        pictures_per_gpu = training.batch_size // gpus
    # A batch that is learned from in parts needs the room of one.
    at_once = -(-pictures_per_gpu // training.accumulate)
    learning = choose_what_learns(swapper, stage)
    discriminator.requires_grad_(True)
    judge = list(discriminator.parameters())
    # Gradients are counted beside the activations, so they are there before the step begins.
    for parameter in (*learning, *judge):
        parameter.grad = torch.zeros_like(parameter)
    gradients = [cast(Tensor, parameter.grad) for parameter in (*learning, *judge)]
    seeing = Seeing() if seeing is None else seeing
    loaded = seeing.of_stage(training.loss)
    frozen = [value for network in seeing.networks.values() for value in _state(network)]
    there = [*_state(swapper), *_state(discriminator), *gradients, *frozen]
    side = swapper.encoder.input_px
    with torch.no_grad():
        # Before a step is followed: no part of one.
        embedding = seeing.embedding(torch.empty(2, 3, side, side))
    taken: list[Followed] = []
    # With Eq. 12 and, where it is not taken at every step, without.
    for step in (0, 1)[: training.swap_every]:
        with sdpa_kernel(SDPBackend.MATH), Followed(there) as followed:
            _step(training, swapper, discriminator, at_once, seeing, embedding, step)
        taken.append(followed)
    products = taken[0].multiply_adds + (training.swap_every - 1) * taken[-1].multiply_adds
    for parameter in (*learning, *judge):
        parameter.grad = None
    of_g, of_v = sum(map(_size, learning)), sum(map(_size, judge))
    return Needs(
        stage=stage,
        steps=training.steps,
        gpus=gpus,
        pictures_per_gpu=pictures_per_gpu,
        at_once=at_once,
        precision=training.precision,
        learning=sum(parameter.numel() for parameter in learning),
        judge=sum(parameter.numel() for parameter in judge),
        multiply_adds=products * pictures_per_gpu // (at_once * training.swap_every),
        weights=bytes_of(swapper, discriminator),
        average=bytes_of(swapper),
        gradients=of_g + of_v,
        optimiser=2 * (of_g + of_v),
        activations=taken[0].peak,
        exchange=max(of_g, of_v) if gpus > 1 else 0,
        frozen=bytes_of(*loaded.values()),
        scratch=max(of_g, of_v),
    )


def _step(
    training: Training,
    swapper: Swapper,
    discriminator: Discriminator,
    size: int,
    seeing: Seeing,
    embedding: int,
    step: int,
) -> None:
    """Training's own forward of G with the terms that can be followed, all at their full weights, then V's; both
    backward."""
    side = swapper.encoder.input_px
    late = {"identity_from": 0, "identity_ramp": 0, "adversarial_from": 0}
    training = training.model_copy(update={"loss": seeing.followed(training.loss), **late})
    batch = Batch(
        source=torch.empty(size, 3, side, side),
        target=torch.empty(size, 3, side, side),
        source_identity=torch.empty(size, embedding),
        target_identity=torch.empty(size, embedding),
        target_landmarks=torch.empty(size, 68, 2),
        same_person=torch.zeros(size, dtype=torch.bool),
        answered=torch.zeros(size, dtype=torch.bool),
        negatives=torch.empty(size, training.negatives, embedding),
        noise_seeds=tuple(range(size)),
        truth=torch.empty(size, 3, side, side),
        warped=torch.empty(size, WARPED_CHANNELS, side, side) if swapper.prior is not None else None,
    )
    discriminator.requires_grad_(False).eval()
    terms, swapped = generator_terms(swapper, discriminator, seeing.perception(), batch, training, step)
    # Without any of those terms the picture itself is what all gradients come to.
    total = torch.stack([swapped.mean(), *terms.values()]).sum()
    total.backward()
    swapped = swapped.detach()
    del total, terms
    discriminator.requires_grad_(True).train()
    _, judged = discriminator_terms(discriminator, batch.source, swapped, training)
    judged.backward()


def bytes_of(*networks: nn.Module) -> int:
    """Of all parameters and buffers."""
    return sum(_size(value) for network in networks for value in _state(network))


def _state(network: nn.Module) -> list[Tensor]:
    return [*network.parameters(), *network.buffers()]


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
