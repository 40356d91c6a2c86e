"""What a training stage begins with: networks and optimisers, equal on all workers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from styleblend.config.model import Model
from styleblend.config.training import Training
from styleblend.errors import StyleBlendError
from styleblend.model import build, build_discriminator, load
from styleblend.training.steps import Learner, Stage, new_learner
from styleblend.weights.start import fill, start
from styleblend.weights.starter import fill_discriminator

DISCRIMINATOR = "discriminator.safetensors"
"""V in a model folder, for whoever trains on."""


@dataclass(frozen=True)
class Origin:
    """What a training goes on from by continue_from: a checkpoint's file or a model folder, and in words for people."""

    path: Path
    words: str

    @property
    def is_checkpoint(self) -> bool:
        """Whether it is a checkpoint, which brings optimisers and the number of steps along."""
        return self.path.is_file()


def learner(
    stage: Stage,
    model: Model,
    cfg: Training,
    networks: Path,
    encoder: Path | None,
    origin: Origin | None,
    device: torch.device,
) -> Learner:
    """Networks and optimisers as the stage begins.

    Args:
        encoder: folder of the first stage's model; None in the first stage.
        origin: a model folder stands in for both that and the pretrained networks. A checkpoint is read by the loop.
    Raises:
        StyleBlendError: a file is missing or damaged, or does not fit `model`.
    """
    torch.manual_seed(cfg.seed)
    discriminator = build_discriminator(model)
    if origin is not None and not origin.is_checkpoint:
        swapper, begun = build(model), load(origin.path)
        try:
            swapper.load_state_dict(begun.state_dict())
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise StyleBlendError(
                f"{stage}.continue_from, {origin.words}, does not fit the section model of params.yaml ({reason}): set"
                " the sizes of its model.json, or begin with another"
            ) from None
        # Versions of earlier days came without: V then begins anew.
        if (origin.path / DISCRIMINATOR).is_file():
            fill(discriminator, origin.path / DISCRIMINATOR, new=())
    elif encoder is None:
        swapper = build(model)
        start(swapper, model, networks, cfg.encoder_start)
        if cfg.encoder_start == "starter":
            fill_discriminator(discriminator, networks / "starter")
        elif (networks / DISCRIMINATOR).is_file():
            fill(discriminator, networks / DISCRIMINATOR, new=())
    else:
        swapper = load(encoder)
        fill(discriminator, encoder / DISCRIMINATOR, new=())
    return new_learner(swapper.to(device), discriminator.to(device), stage, cfg)
