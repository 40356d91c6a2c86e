"""One generator step and one discriminator step. No engine: workers meet only in `average`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from styleblend.config.training import LossWeights, Training
from styleblend.faces import resize
from styleblend.faces.regions import face_region
from styleblend.model.discriminator import Discriminator
from styleblend.model.swapper import Swapper
from styleblend.perception import attributes, identity, landmarks, shape
from styleblend.perception.identity import FaceNetwork
from styleblend.perception.landmarks import to_19
from styleblend.perception.shape import ShapeNetwork, unposed
from styleblend.training import losses
from styleblend.training.batches import Batch

Stage = Literal["train_encoder", "finetune_decoder"]
Average = Callable[[Sequence[Tensor]], None]
"""Replaces tensors in place by their mean over the workers."""


class Perception(NamedTuple):
    """The frozen networks that training looks through; see styleblend.perception.

    One that serves a loss term alone may be None where that term's weight is 0; the probe needs the other two.
    """

    identity: FaceNetwork
    landmarks: nn.Module | None
    attributes: nn.Module
    landmarks_3d: ShapeNetwork | None


def load_perception(networks: Path, weights: LossWeights, device: torch.device) -> Perception:
    """The frozen networks that a stage with these loss weights looks through, on the device.

    Raises:
        StyleBlendError: a file is missing, damaged or holds another network.
    """
    return Perception(
        identity=identity.load(networks, "identity").to(device),
        landmarks=landmarks.load(networks).to(device) if weights.landmarks else None,
        attributes=attributes.load(networks, "attributes").to(device),
        landmarks_3d=shape.load(networks).to(device) if weights.shape_3d else None,
    )


@dataclass(frozen=True)
class Learner:
    """All that changes while a stage trains."""

    swapper: Swapper
    averaged: Swapper
    """Exponential moving average of `swapper`: what is probed and what the product uses."""
    discriminator: Discriminator
    swapper_optimiser: torch.optim.Adam
    discriminator_optimiser: torch.optim.Adam


class Outcome(NamedTuple):
    """What a step gave: this worker's unweighted terms, its swapped pictures, and whether its gradients are finite.

    Gradients are compared after their mean over the workers, so all workers agree on `finite`.
    """

    terms: dict[str, Tensor]
    swapped: Tensor
    finite: bool


def choose_what_learns(swapper: Swapper, stage: Stage) -> list[nn.Parameter]:
    """Freeze and unfreeze the parts of G for a stage (section 3); returns the parameters that learn.

    train_encoder: E, the SBM and the decoder's pathway, which is as new as they are; D's synthesis is frozen.
    finetune_decoder: all of D; E and the SBM are frozen.
    """
    first = stage == "train_encoder"
    swapper.encoder.requires_grad_(first)
    swapper.blending.requires_grad_(first)
    swapper.decoder.requires_grad_(True)
    if first:
        for parameter in swapper.decoder.synthesis_parameters():
            parameter.requires_grad_(False)
    return [parameter for parameter in swapper.parameters() if parameter.requires_grad]


def generator_terms(
    swapper: Swapper,
    discriminator: Discriminator,
    perception: Perception,
    batch: Batch,
    cfg: Training,
    step: int,
) -> tuple[dict[str, Tensor], Tensor]:
    """The terms of Eq. 13, unweighted, and the swapped pictures. A term of weight 0 is not computed.

    Three encodings (I_s, I_t, swapped) and three decodings (the swap and the two of Eq. 12) serve all terms.
    """
    weight = cfg.loss
    side = swapper.encoder.input_px
    noise = swapper.decoder.make_noise(batch.noise_seeds, batch.source.device)
    with torch.autocast(batch.source.device.type, torch.bfloat16, enabled=cfg.precision == "bfloat16"):
        source, target = swapper.encoder(batch.source), swapper.encoder(batch.target)

        def swap(source_codes: Tensor, target_codes: Tensor, features: tuple[Tensor, ...]) -> Tensor:
            codes = swapper.blending(source_codes, target_codes)
            return resize.area(swapper.decoder(codes, features, noise), side).float()

        swapped = swap(source.codes, target.codes, target.features)
        terms: dict[str, Tensor] = {}
        if weight.swap_consistency and step % cfg.swap_every == 0:
            again = swapper.encoder(swapped)
            source_again = swap(again.codes, source.codes, source.features)
            target_again = swap(target.codes, again.codes, again.features)
            terms["swap_consistency"] = losses.swap_consistency(source_again, batch.source, target_again, batch.target)
        if weight.adversarial:
            terms["adversarial"] = losses.adversarial([scores.float() for scores in discriminator(swapped)])
    # The perception networks judge in float32: cosines near 1 have no digits left in bfloat16.
    if weight.identity or weight.contrastive:
        embedding = perception.identity(swapped)
        if weight.identity:
            terms["identity"] = losses.identity(embedding, batch.source_identity)
        if weight.contrastive:
            terms["contrastive"] = losses.contrastive(
                embedding,
                batch.source_identity,
                batch.target_identity,
                batch.negatives,
                ~batch.same_person,
                cfg.temperature,
            )
    if weight.reconstruction:
        terms["reconstruction"] = losses.reconstruction(swapped, batch.target, batch.same_person)
    if weight.perceptual:
        with torch.no_grad():
            wanted = perception.identity.features(batch.target)
        seen = perception.identity.features(swapped)
        terms["perceptual"] = losses.perceptual(seen, wanted, batch.same_person)
    if weight.landmarks:
        assert perception.landmarks is not None
        points = to_19(perception.landmarks(swapped))
        terms["landmarks"] = losses.landmarks(points, to_19(batch.target_landmarks))
    if weight.attributes:
        with torch.no_grad():
            pose, expression = perception.attributes(batch.target)
        swapped_pose, swapped_expression = perception.attributes(swapped)
        terms["attributes"] = losses.attributes(swapped_pose, pose, swapped_expression, expression)
    if weight.shape_3d:
        solid = perception.landmarks_3d
        assert solid is not None
        with torch.no_grad():
            own = solid(batch.source)
            wanted, turn = unposed(own, solid.turn(own)), solid.turn(solid(batch.target))
        terms["shape_3d"] = losses.shape_3d(unposed(solid(swapped), turn), wanted)
    if weight.outside:
        face = face_region(batch.target_landmarks, side, soften_px=side / 64)
        terms["outside"] = losses.outside(swapped, batch.target, face)
    return terms, swapped


def learning_rate(cfg: Training, step: int) -> float:
    """G's rate at a step: constant, then a straight line to zero over the last share `cool_down` of the steps."""
    left = (cfg.steps - step) / cfg.steps
    return cfg.learning_rate * min(1.0, left / cfg.cool_down) if cfg.cool_down else cfg.learning_rate


def generator_step(
    learner: Learner, perception: Perception, batch: Batch, cfg: Training, step: int, average: Average
) -> Outcome:
    """Learn one step of Eq. 13, then move the averaged weights. Nothing moves if a gradient is not finite."""
    with _as_judge(learner.discriminator):
        terms, swapped = generator_terms(learner.swapper, learner.discriminator, perception, batch, cfg, step)
        total = torch.stack([getattr(cfg.loss, name) * value for name, value in terms.items()]).sum()
        for group in learner.swapper_optimiser.param_groups:
            group["lr"] = learning_rate(cfg, step)
        finite = _learn(learner.swapper_optimiser, total, average)
    if finite:
        _follow(learner, cfg.ema_decay, step)
    return Outcome({name: value.detach() for name, value in terms.items()}, swapped.detach(), finite)


def discriminator_step(learner: Learner, batch: Batch, swapped: Tensor, cfg: Training, average: Average) -> Outcome:
    """Learn one step of Eq. 6 and 7.

    The sources are the real pictures, `swapped` of the generator step the fakes.
    """
    terms, total = discriminator_terms(learner.discriminator, batch.source, swapped, cfg)
    finite = _learn(learner.discriminator_optimiser, total, average)
    return Outcome({name: value.detach() for name, value in terms.items()}, swapped, finite)


def discriminator_terms(
    discriminator: Discriminator, real: Tensor, swapped: Tensor, cfg: Training
) -> tuple[dict[str, Tensor], Tensor]:
    """The terms that V learns from, unweighted, and their weighted sum; pictures are [N, 3, S, S]."""
    real = real.requires_grad_(cfg.r1_gamma > 0)
    with torch.autocast(real.device.type, torch.bfloat16, enabled=cfg.precision == "bfloat16"):
        # One forward for both: spectral norm then takes one power iteration a step.
        scores = discriminator(torch.cat([real, swapped]))
    real_scores, fake_scores = zip(*(score.float().chunk(2) for score in scores), strict=True)
    terms = {"discriminator": losses.discriminator_hinge(real_scores, fake_scores)}
    total = terms["discriminator"]
    if cfg.r1_gamma:
        terms["r1"] = losses.r1(real, real_scores)
        total = total + cfg.r1_gamma * terms["r1"]
    return terms, total


def _learn(optimiser: torch.optim.Optimizer, total: Tensor, average: Average) -> bool:
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    optimiser.zero_grad(set_to_none=True)
    total.backward()
    for parameter in parameters:
        # A term that is off can leave a parameter without a gradient; every worker must bring
        # the same tensors.
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    gradients = [parameter.grad for parameter in parameters]
    average(gradients)
    finite = bool(torch.isfinite(nn.utils.get_total_norm(gradients)))
    if finite:
        optimiser.step()
    return finite


@torch.no_grad()
def _follow(learner: Learner, decay: float, step: int) -> None:
    # Early on the average follows faster, or it would still be mostly the start after a short run.
    decay = min(decay, (1 + step) / (10 + step))
    for mean, now in zip(learner.averaged.parameters(), learner.swapper.parameters(), strict=True):
        if now.requires_grad:
            mean.lerp_(now, 1 - decay)


@contextmanager
def _as_judge(discriminator: Discriminator) -> Iterator[None]:
    """V without gradients of its own and without moving its spectral norms, while G learns from it."""
    discriminator.requires_grad_(False).eval()
    try:
        yield
    finally:
        discriminator.requires_grad_(True).train()
