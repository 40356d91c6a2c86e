"""One generator step and one discriminator step. No engine: workers meet only in `average`."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
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
    for parameter in swapper.decoder.synthesis_parameters() if first else ():
        parameter.requires_grad_(False)
    return [parameter for parameter in swapper.parameters() if parameter.requires_grad]


def new_learner(swapper: Swapper, discriminator: Discriminator, stage: Stage, cfg: Training) -> Learner:
    """All that changes in a stage, with fresh optimisers: `swapper` and `discriminator` in training mode."""
    choose_what_learns(swapper.train(), stage)
    judged = discriminator.train().parameters()
    return Learner(
        swapper=swapper,
        averaged=copy.deepcopy(swapper).eval(),
        discriminator=discriminator,
        swapper_optimiser=swapper_optimiser(swapper, cfg),
        discriminator_optimiser=torch.optim.Adam(judged, cfg.discriminator_learning_rate, cfg.adam_betas),
    )


def swapper_optimiser(swapper: Swapper, cfg: Training) -> torch.optim.Adam:
    """Adam over the parameters of G that require gradients, in one group for each factor of the learning rate.

    The bias of Eq. 2 learns cfg.blending_lr_factor times as fast as the rest, and the maps of its exponents, which
    are sums over style_dim terms, sqrt(style_dim) times slower than that, but no slower than the rest. Which code
    gives which channel must be settled before E can learn from the swaps, and a short training has no time for small
    steps. A group's epsilon is divided by its factor: a step is then that of a parameter stored divided by the factor.
    """
    blending, factor = swapper.blending, cfg.blending_lr_factor
    maps = max(1.0, factor / blending.style_dim**0.5)
    factors = {blending.bias: factor, blending.exponent_s.weight: maps, blending.exponent_t.weight: maps}
    groups: dict[float, list[nn.Parameter]] = {}
    for parameter in swapper.parameters():
        if parameter.requires_grad:
            groups.setdefault(factors.get(parameter, 1.0), []).append(parameter)
    learning = [
        {"params": members, "lr": cfg.learning_rate * each, "eps": 1e-8 / each, "lr_factor": each}
        for each, members in groups.items()
    ]
    return torch.optim.Adam(learning, cfg.learning_rate, cfg.adam_betas)


class Generated:
    """One generator step's swap, and what loss terms look at: computed at first use, once, in the terms' order.

    Three encodings (I_s, I_t, swapped) and three decodings (the swap and the two of Eq. 12) serve all terms. The
    frozen networks judge in float32: cosines near 1 have no digits left in bfloat16.
    """

    batch: Batch
    cfg: Training
    swapped: Tensor

    def __init__(
        self, swapper: Swapper, discriminator: Discriminator, perception: Perception, batch: Batch, cfg: Training
    ) -> None:
        self.swapper, self.discriminator, self.perception = swapper, discriminator, perception
        self.batch, self.cfg = batch, cfg
        self._noise = swapper.decoder.make_noise(batch.noise_seeds, batch.source.device)
        with self._autocast():
            self._source, self._target = swapper.encoder(batch.source), swapper.encoder(batch.target)
        self.swapped = self._swap(self._source.codes, self._target.codes, self._target.features)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.batch.source.device.type, torch.bfloat16, enabled=self.cfg.precision == "bfloat16")

    def _swap(self, source_codes: Tensor, target_codes: Tensor, features: tuple[Tensor, ...]) -> Tensor:
        with self._autocast():
            codes = self.swapper.blending(source_codes, target_codes)
            swapped = self.swapper.decoder(codes, features, self._noise)
            return resize.area(swapped, self.swapper.encoder.input_px).float()

    @cached_property
    def swapped_back(self) -> tuple[Tensor, Tensor]:
        """Eq. 12: G(swapped, I_s) and G(I_t, swapped)."""
        with self._autocast():
            again = self.swapper.encoder(self.swapped)
        return (
            self._swap(again.codes, self._source.codes, self._source.features),
            self._swap(self._target.codes, again.codes, again.features),
        )

    @cached_property
    def scores(self) -> list[Tensor]:
        """What V gives for the swap, a map a scale."""
        with self._autocast():
            return [scores.float() for scores in self.discriminator(self.swapped)]

    @cached_property
    def embedding(self) -> Tensor:
        """F_id(swapped), [N, D]."""
        return self.perception.identity(self.swapped)

    @cached_property
    def features(self) -> tuple[Tensor, Tensor]:
        """Features of the identity network, [N, F] each: of the swap and of the target, the latter without gradient."""
        with torch.no_grad():
            wanted = self.perception.identity.features(self.batch.target)
        return self.perception.identity.features(self.swapped), wanted

    @cached_property
    def points(self) -> Tensor:
        """F_lm(swapped), [N, 19, 2]."""
        assert self.perception.landmarks is not None
        return to_19(self.perception.landmarks(self.swapped))

    @cached_property
    def attributes(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Pose in degrees [N, 3] of the swap and of the target, then expression [N, E] of the two."""
        with torch.no_grad():
            pose, expression = self.perception.attributes(self.batch.target)
        swapped_pose, swapped_expression = self.perception.attributes(self.swapped)
        return swapped_pose, pose, swapped_expression, expression

    @cached_property
    def shapes(self) -> tuple[Tensor, Tensor]:
        """Rigid landmarks [N, K, 3]: of the swap, turned back by the target's pose, and of the source by its own."""
        solid = self.perception.landmarks_3d
        assert solid is not None
        with torch.no_grad():
            own = solid(self.batch.source)
            wanted, turn = unposed(own, solid.turn(own)), solid.turn(solid(self.batch.target))
        return unposed(solid(self.swapped), turn), wanted

    @cached_property
    def face(self) -> Tensor:
        """Soft mask of the target's face, [N, 1, S, S]."""
        side = self.swapper.encoder.input_px
        return face_region(self.batch.target_landmarks, side, soften_px=side / 64)


def generator_terms(
    swapper: Swapper, discriminator: Discriminator, perception: Perception, batch: Batch, cfg: Training, step: int
) -> tuple[dict[str, Tensor], Tensor]:
    """The terms of Eq. 13, unweighted, and the swapped pictures. A term of weight 0 is not computed."""
    generated = Generated(swapper, discriminator, perception, batch, cfg)
    due = {name for name, weight in cfg.loss if weight}
    if step % cfg.swap_every:
        due.discard("swap_consistency")
    terms = {name: term(generated) for name, term in losses.TERMS.items() if name in due}
    return terms, generated.swapped


def learning_rate(cfg: Training, step: int) -> float:
    """G's rate at a step: constant, then linear to zero over the last share `cool_down` of the steps.

    A group of the optimiser learns at this rate times its `lr_factor`.
    """
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
            group["lr"] = learning_rate(cfg, step) * group["lr_factor"]
        finite = _learn(learner.swapper_optimiser, total, average)
    if finite:
        _follow(learner, cfg.ema_decay, step)
    return Outcome({name: value.detach() for name, value in terms.items()}, swapped.detach(), finite)


def discriminator_step(learner: Learner, batch: Batch, swapped: Tensor, cfg: Training, average: Average) -> Outcome:
    """Learn one step of Eq. 6 and 7: sources are the real pictures, `swapped` of the generator step the fakes."""
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
        # A term that is off can leave a parameter without a gradient; every worker must bring the same tensors.
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
