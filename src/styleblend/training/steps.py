"""One generator step and one discriminator step. No engine: workers meet only in `average`."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from styleblend.config.training import Training
from styleblend.errors import StyleBlendError
from styleblend.model.discriminator import Discriminator
from styleblend.model.swapper import Swapper
from styleblend.training import losses
from styleblend.training.adam import Adam
from styleblend.training.batches import Batch
from styleblend.training.generated import Generated, Perception, autocast

Stage = Literal["train_encoder", "finetune_decoder", "pretrain"]
Average = Callable[[Sequence[Tensor]], None]
"""Replaces tensors in place by their mean over the workers."""


@dataclass(frozen=True)
class Learner:
    """All that changes while a stage trains."""

    swapper: Swapper
    averaged: Swapper
    """Exponential moving average of `swapper`: what is probed and what the product uses."""
    discriminator: Discriminator
    swapper_optimiser: Adam
    discriminator_optimiser: Adam


class Outcome(NamedTuple):
    """What a step gave: this worker's unweighted terms, its swapped pictures, and whether its gradients are finite.

    Gradients are compared after their mean over the workers, so all workers agree on `finite`.
    """

    terms: dict[str, Tensor]
    swapped: Tensor
    finite: Tensor
    """bool [], where training computes."""


def choose_what_learns(swapper: Swapper, stage: Stage) -> list[nn.Parameter]:
    """Freeze and unfreeze the parts of G for a stage (section 3); returns the parameters that learn.

    pretrain: all, which the paper has not: it begins with a decoder that draws faces.

    train_encoder: E, the SBM, a prior's encoder, the decoder's pathway and mask, which are as new as they are; D's
    synthesis is frozen.
    finetune_decoder: all of D; E and the SBM are frozen.
    """
    swapper.encoder.requires_grad_(stage != "finetune_decoder")
    swapper.blending.requires_grad_(stage != "finetune_decoder")
    if swapper.prior is not None:
        swapper.prior.requires_grad_(stage != "finetune_decoder")
    swapper.decoder.requires_grad_(True)
    for parameter in swapper.decoder.synthesis_parameters() if stage == "train_encoder" else ():
        parameter.requires_grad_(False)
    return [parameter for parameter in swapper.parameters() if parameter.requires_grad]


def new_learner(
    swapper: Swapper, discriminator: Discriminator, stage: Stage, cfg: Training, fused: bool | None = None
) -> Learner:
    """All that changes in a stage, with fresh optimisers: `swapper` and `discriminator` in training mode.

    Args:
        fused: of both optimisers, see Adam. With it nothing in a step asks the device for a number.
    """
    choose_what_learns(swapper.train(), stage)
    judged, betas = discriminator.train().parameters(), cfg.discriminator_adam_betas or cfg.adam_betas
    if cfg.channels_last:
        for network in (swapper, discriminator):
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    averaged = copy.deepcopy(swapper).eval()
    if cfg.compile:
        compile_parts(swapper)
    return Learner(
        swapper=swapper,
        averaged=averaged,
        discriminator=discriminator,
        swapper_optimiser=swapper_optimiser(swapper, cfg, fused),
        discriminator_optimiser=Adam(judged, cfg.discriminator_learning_rate, betas, fused),
    )


def compile_parts(swapper: Swapper, backend: str | Callable[..., Any] = "inductor") -> None:
    """Let torch compile what a step takes G apart into. V stays as it is: R1 needs its gradient's gradient.

    Raises:
        StyleBlendError: torch cannot compile here, as without a C++ compiler or, on a GPU, Triton.
    """
    some = next(swapper.parameters())
    try:
        torch.compile(torch.neg, backend=backend)(torch.zeros(8, device=some.device))
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise StyleBlendError(f"compile is true, but torch cannot compile here ({reason}): set it to false") from None
    for part in (swapper.encoder, swapper.blending, swapper.prior):
        if part is not None:
            part.compile(backend=backend)
    decoder = swapper.decoder
    decoder.draw = torch.compile(decoder.draw, backend=backend)  # type: ignore[method-assign]


@contextmanager
def arithmetic(cfg: Training, device: torch.device) -> Iterator[None]:
    """Matrix products of float32 in TF32 on a GPU, if asked; as it was, afterwards.

    Convolutions take TF32 there in any case, which is torch's own choice.
    """
    before = torch.get_float32_matmul_precision()
    if cfg.tf32 and device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def swapper_optimiser(swapper: Swapper, cfg: Training, fused: bool | None = None) -> Adam:
    """Adam over the parameters of G that require gradients, in one group for each factor of the learning rate.

    The bias of Eq. 2 learns cfg.blending_lr_factor times as fast as the rest, and the maps of its exponents, which
    are sums over style_dim terms, sqrt(style_dim) times slower than that, but no slower than the rest. Which code
    gives which channel must be settled before E can learn from the swaps, and a short training has no time for small
    steps. A group's epsilon is divided by its factor: a step is then that of a parameter stored divided by the factor.
    D without its pathway learns at cfg.decoder_learning_rate, if that is given.
    """
    blending, factor = swapper.blending, cfg.blending_lr_factor
    maps = max(1.0, factor / blending.style_dim**0.5)
    factors = {blending.bias: factor, blending.exponent_s.weight: maps, blending.exponent_t.weight: maps}
    if cfg.decoder_learning_rate is not None:
        equalised = (value for name, value in swapper.decoder.named_parameters() if not name.startswith("pathway."))
        factors |= dict.fromkeys(equalised, cfg.decoder_learning_rate / cfg.learning_rate)
    groups: dict[float, list[nn.Parameter]] = {}
    for parameter in swapper.parameters():
        if parameter.requires_grad:
            groups.setdefault(factors.get(parameter, 1.0), []).append(parameter)
    learning = [
        {"params": members, "lr": cfg.learning_rate * each, "eps": 1e-8 / each, "lr_factor": each}
        for each, members in groups.items()
    ]
    return Adam(learning, cfg.learning_rate, cfg.adam_betas, fused)


def generator_terms(
    swapper: Swapper, discriminator: Discriminator, perception: Perception, batch: Batch, cfg: Training, step: int
) -> tuple[dict[str, Tensor], Tensor]:
    """The terms of Eq. 13, unweighted, and the swapped pictures. A term of weight 0 is not computed."""
    generated = Generated(swapper, discriminator, perception, batch, cfg)
    due = {name for name, _ in cfg.loss if cfg.weight(name, step)}
    if step % cfg.swap_every:
        due.discard("swap_consistency")
    terms = {name: term(generated) for name, term in losses.TERMS.items() if name in due}
    return terms, generated.swapped


def cooling(cfg: Training, step: int, planned: int) -> float:
    """The share of the full rate that `cool_down` leaves to a step of a training of `planned` steps."""
    left = (planned - step) / planned
    return min(1.0, left / cfg.cool_down) if cfg.cool_down else 1.0


def begins_alike(cfg: Training, steps: int, planned: int) -> bool:
    """Whether the first `steps` steps of a training of `planned` steps are the first of cfg's, to the last digit.

    `cool_down` alone is a share of all steps, every other schedule counts steps from the first: trainings of different
    lengths are alike until the rate of the shorter one falls.
    """
    if steps > cfg.steps:
        return False
    full = steps == 0 or cooling(cfg, steps - 1, planned) == cooling(cfg, steps - 1, cfg.steps) == 1
    return planned == cfg.steps or full


def learning_rate(cfg: Training, step: int) -> float:
    """G's rate at a step: linear in `warm_up`, constant, then linear to zero over the last share `cool_down`.

    A group of the optimiser learns at this rate times its `lr_factor`.
    """
    rate = cfg.learning_rate * cooling(cfg, step, cfg.steps)
    return rate * min(1.0, (step + 1) / cfg.warm_up) if cfg.warm_up else rate


def generator_step(
    learner: Learner, perception: Perception, batch: Batch, cfg: Training, step: int, average: Average
) -> Outcome:
    """Learn one step of Eq. 13, then move the averaged weights. Nothing moves if a gradient is not finite."""
    optimiser, shares = learner.swapper_optimiser, batch.shares(cfg.accumulate)
    optimiser.zero_grad(set_to_none=True)
    seen = []
    with as_judge(learner.discriminator):
        for share in shares:
            terms, swapped = generator_terms(learner.swapper, learner.discriminator, perception, share, cfg, step)
            total = torch.stack([cfg.weight(name, step) * value for name, value in terms.items()]).sum()
            (total if len(shares) == 1 else total / len(shares)).backward()
            seen.append(({name: value.detach() for name, value in terms.items()}, swapped.detach()))
            # Or this share's picture would still be there beside all of the next one's.
            del terms, swapped, total
    for group in optimiser.param_groups:
        group["lr"] = learning_rate(cfg, step) * group["lr_factor"]
    finite = _learn(optimiser, average, cfg.clip_norm)
    _follow(learner, cfg.ema_decay, step, finite)
    return Outcome(_means([terms for terms, _ in seen]), _joined([swapped for _, swapped in seen]), finite)


def discriminator_step(
    learner: Learner, batch: Batch, swapped: Tensor, cfg: Training, average: Average, unless: Tensor | None = None
) -> Outcome:
    """Learn one step of Eq. 6 and 7: sources are the real pictures, `swapped` of the generator step the fakes.

    Where the colours of sources are changed, the targets' photographs are the real ones.

    Args:
        unless: bool []; where it holds V does not learn either.
    """
    optimiser, discriminator = learner.discriminator_optimiser, learner.discriminator
    real = _photographs(batch) if cfg.colour_jitter else batch.source
    optimiser.zero_grad(set_to_none=True)
    seen = []
    for number, pictures in enumerate(zip(real.chunk(cfg.accumulate), swapped.chunk(cfg.accumulate), strict=True)):
        # One power iteration a step: the following shares are seen with the norms of the first.
        discriminator.train(number == 0)
        terms, total = discriminator_terms(discriminator, *pictures, cfg)
        (total if cfg.accumulate == 1 else total / cfg.accumulate).backward()
        seen.append({name: value.detach() for name, value in terms.items()})
    discriminator.train()
    return Outcome(_means(seen), swapped, _learn(optimiser, average, cfg.discriminator_clip_norm, unless))


def _photographs(batch: Batch) -> Tensor:
    """The targets as they were photographed: the answer of a self pair, whose target may wear another's face, and the
    target of a swap, whose answer may be a drawn or bent one."""
    return torch.where(batch.same_person[:, None, None, None], batch.truth, batch.target)


def both_steps(
    learner: Learner, perception: Perception, batch: Batch, cfg: Training, step: int, average: Average
) -> Outcome:
    """A whole step: one of the generator, then one of the discriminator on the pictures that it gave.

    Where the generator's gradients are not finite neither learns; where V's alone are not, V does not. On a GPU V looks
    on even then, for the host does not know; its spectral norms take their power iteration, and nothing else moves.
    """
    outcome = generator_step(learner, perception, batch, cfg, step, average)
    if not cfg.weight("adversarial", step) or not (learner.swapper_optimiser.fused or outcome.finite):
        return outcome
    judged = discriminator_step(learner, batch, outcome.swapped, cfg, average, ~outcome.finite)
    return Outcome({**outcome.terms, **judged.terms}, outcome.swapped, judged.finite)


def discriminator_terms(
    discriminator: Discriminator, real: Tensor, swapped: Tensor, cfg: Training
) -> tuple[dict[str, Tensor], Tensor]:
    """The terms that V learns from, unweighted, and their weighted sum; pictures are [N, 3, S, S]."""
    real = real.requires_grad_(cfg.r1_gamma > 0)
    with autocast(cfg, real.device):
        # One forward for both: spectral norm then takes one power iteration a step.
        scores = discriminator(torch.cat([real, swapped]))
    real_scores, fake_scores = zip(*(score.to(real.dtype).chunk(2) for score in scores), strict=True)
    terms = {"discriminator": losses.discriminator_hinge(real_scores, fake_scores)}
    total = terms["discriminator"]
    if cfg.r1_gamma:
        terms["r1"] = losses.r1(real, real_scores)
        total = total + cfg.r1_gamma * terms["r1"]
    return terms, total


def _means(seen: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The terms of a batch: each is a mean over samples, and the shares are equally large."""
    if len(seen) == 1:
        return seen[0]
    return {name: torch.stack([terms[name] for terms in seen]).mean(0) for name in seen[0]}


def _joined(pictures: Sequence[Tensor]) -> Tensor:
    return pictures[0] if len(pictures) == 1 else torch.cat(list(pictures))


def _learn(optimiser: Adam, average: Average, clip_norm: float | None = None, unless: Tensor | None = None) -> Tensor:
    """Average the gradients that are there and step by them if they are finite; returns whether, a bool []."""
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    for parameter in parameters:
        # A term that is off can leave a parameter without a gradient; every worker must bring the same tensors.
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    gradients = [parameter.grad for parameter in parameters]
    average(gradients)
    norm = nn.utils.get_total_norm(gradients)
    finite = torch.isfinite(norm)
    if unless is not None:
        finite = finite & ~unless
    if clip_norm is not None:
        nn.utils.clip_grads_with_norm_(parameters, clip_norm, norm)
    optimiser.step_if(finite)
    return finite


@torch.no_grad()
def _follow(learner: Learner, decay: float, step: int, finite: Tensor) -> None:
    if not (learner.swapper_optimiser.fused or finite):
        return
    # Early on the average follows faster, or it would still be mostly the start after a short run.
    decay = min(decay, (1 + step) / (10 + step))
    pairs = zip(learner.averaged.parameters(), learner.swapper.parameters(), strict=True)
    means, weights = zip(*((mean, now) for mean, now in pairs if now.requires_grad), strict=True)
    if not learner.swapper_optimiser.fused:
        torch._foreach_lerp_(means, weights, 1 - decay)
        return
    # By nothing where the step was left out, which the host does not know.
    ways = torch._foreach_sub(weights, means)
    torch._foreach_mul_(ways, (1 - decay) * finite)
    torch._foreach_add_(means, ways)


@contextmanager
def as_judge(discriminator: Discriminator) -> Iterator[None]:
    """V without gradients of its own and without moving its spectral norms, while others look through it."""
    discriminator.requires_grad_(False).eval()
    try:
        yield
    finally:
        discriminator.requires_grad_(True).train()
