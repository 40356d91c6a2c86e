"""What the benchmarks of a step learn from: a size and a stage with networks, faces and settings, on a device."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from torch.nn.functional import interpolate

from styleblend.config.model import Model
from styleblend.config.params import Config, load_params, parse_params
from styleblend.config.training import LossWeights, Training
from styleblend.experiments import presets
from styleblend.faces.pixels import from_8bit, to_8bit
from styleblend.model import build, build_discriminator
from styleblend.training import probe
from styleblend.training.batches import Faces
from styleblend.training.generated import Perception, load_perception
from styleblend.training.steps import Learner, Stage, new_learner
from styleblend.training.stream import Batches

SIZES = ("demo", "128", "256", "paper", "gpu")
PERSONS, PICTURES = 12, 4

LOSS = {
    "adversarial": 0.02, "identity": 16, "contrastive": 0.5, "reconstruction": 15, "landmarks": 2000,
    "swap_consistency": 2, "outside": 20, "attributes": 75,
}  # fmt: skip
"""Of the sizes that are no preset: terms that plain_step.py has, and none for answers that a renderer must know."""


def settings(size: str, stage: Stage, params: Path, changes: dict[str, Any]) -> tuple[Model, Training]:
    """Networks and training of a size: the demo's; the starter's without its prior at 128 px, and with another block at
    256 px, all three with LOSS; or a preset's. One worker."""
    base: Config = load_params(params)
    if size in ("paper", "gpu"):
        values = presets.merged(
            yaml.safe_load(params.read_text()), yaml.safe_load((params.parent / f"presets/{size}.yaml").read_text())
        )
        base = parse_params(values, size)
    model = base.model
    if size in ("128", "256"):
        assert base.pretrain_faces is not None, "params.yaml has no section pretrain_faces, whose sizes are 128 px"
        given = base.pretrain_faces.model.model_dump() | {"prior": "none", "join": "none"}
        if size == "256":
            given |= {"resolution": 256, "input_px": 256, "decoder_widths": {**given["decoder_widths"], 256: 12}}
        model = Model.model_validate(given)
    training: Training = getattr(base, stage)
    # What one worker of it has.
    own = {"workers": 1, "batch_size": max(2, training.batch_size // training.workers), "continue_from": None}
    if size not in ("paper", "gpu"):
        own |= {"worn_faces": 0, "known_swaps": 0, "same_person": 0.7, "swap_every": 3}
        own |= {"loss": dict.fromkeys(LossWeights.model_fields, 0.0) | LOSS}
    return model, Training.model_validate(training.model_dump() | own | changes)


def given_settings(pairs: Sequence[str]) -> dict[str, Any]:
    """What --set names, as precision=bfloat16."""
    return {name: yaml.safe_load(value) for name, _, value in (each.partition("=") for each in pairs)}


@dataclass
class Case:
    """A size and a stage, ready to learn."""

    size: str
    stage: Stage
    model: Model
    training: Training
    device: torch.device
    networks: Path
    folder: Path

    @cached_property
    def perception(self) -> Perception:
        """The project's small networks, whatever the preset names: others' must be fetched."""
        return load_perception(self.networks, self.training.loss, self.device)

    @cached_property
    def faces(self) -> Faces:
        """Soft clouds of colour as PNG files, with points on an ellipse, and what the identity network sees in them."""
        side, random = self.model.input_px, np.random.default_rng(0)
        seeds = torch.Generator().manual_seed(0)
        coarse = torch.rand(PERSONS * PICTURES, 3, 16, 16, generator=seeds) * 2 - 1
        stored = to_8bit(interpolate(coarse, (side, side), mode="bicubic"))
        images, files = from_8bit(stored), []
        for number, pixels in enumerate(stored.permute(0, 2, 3, 1).numpy()):
            files.append(self.folder / f"{side}-{number}.png")
            Image.fromarray(pixels).save(files[-1])
        turns = np.linspace(0, 2 * math.pi, 68, endpoint=False)
        points = 0.5 + 0.3 * np.stack([np.cos(turns), np.sin(turns)], axis=1)
        points = points + random.normal(0, 0.01, (len(images), 68, 2))
        with torch.no_grad():
            identity = self.perception.identity(images.to(self.device)).cpu()
        return Faces(
            face_ids=tuple(file.stem for file in files),
            files=tuple(files),
            persons=np.repeat(np.arange(PERSONS), PICTURES),
            identity=identity,
            landmarks=torch.from_numpy(points.astype(np.float32)),
            size_px=side,
        )

    @cached_property
    def pairs(self) -> probe.Pairs:
        """Eight pairs for the probe of the loop."""
        of, on = range(8), range(8, 16)
        parts = (self.faces.images(of), self.faces.images(on), self.faces.identity[:8], self.faces.identity[8:16])
        return probe.Pairs(*(part.to(self.device) for part in (*parts, self.faces.landmarks[8:16])))

    def learner(self) -> Learner:
        """New weights, the same at each call."""
        torch.manual_seed(0)
        swapper, discriminator = build(self.model), build_discriminator(self.model)
        for layer in swapper.decoder.layers:
            torch.nn.init.constant_(layer.noise_weight, 0.1)
        return new_learner(swapper.to(self.device), discriminator.to(self.device), self.stage, self.training)

    def batches(self) -> Batches:
        """As the loop reads them."""
        resolutions = tuple(sorted(self.model.decoder_widths))
        return Batches(self.training, self.faces, 0, 1, resolutions=resolutions, device=self.device)
