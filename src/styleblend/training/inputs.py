"""What a training reads, from files to what the loop takes: for the pipeline's stages and the starter's recipe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from styleblend.config.training import Training
from styleblend.perception.bending import Bender
from styleblend.perception.landmarks import load_mesh
from styleblend.training import probe
from styleblend.training.batches import Faces, read_faces
from styleblend.training.generated import Perception, load_perception
from styleblend.training.steps import Learner


class Inputs(NamedTuple):
    """The frozen networks, the faces of the training split, and the pairs that the probe looks at."""

    perception: Perception
    faces: Faces
    pairs: probe.Pairs


def read(
    cfg: Training,
    learner: Learner,
    networks: Path,
    splits: Path,
    faces: Path,
    perceived: Path,
    device: torch.device,
    bring: Callable[[Path], None] | None = None,
) -> Inputs:
    """Read all that the loop needs beside the learner, whose swappers can bend sources afterwards if they need it.

    Args:
        networks: folder of the stage `pretrained`. splits: train and val with their pairs. faces, perceived: of all.
        bring: see Faces.
    Raises:
        StyleBlendError: a file is missing or damaged, or does not fit the others.
    """
    if learner.swapper.prior is not None:
        learner.swapper.bend = learner.averaged.bend = Bender(load_mesh(networks))
    perception = load_perception(networks, cfg.loss, device)
    for network in perception if cfg.channels_last else ():
        if network is not None:
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    side = learner.swapper.encoder.input_px
    both = (read_faces(splits / f"{name}.parquet", faces, perceived, side) for name in ("train", "val"))
    train, val = (replace(each, bring=bring) for each in both)
    judge = perception.identity_judge
    metrics = (perception.identity.metric, "cosine" if judge is None else judge.metric)
    return Inputs(perception, train, probe.read_pairs(splits / "val_pairs.parquet", val, device, perceived, metrics))
