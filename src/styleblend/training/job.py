"""All that a training needs to know, wherever its workers are."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from styleblend.config.model import Model
from styleblend.config.tracking import Tracking
from styleblend.config.training import Training
from styleblend.registry import outbox
from styleblend.training.beginning import Origin
from styleblend.training.steps import Stage

RESULT, CHECKPOINTS = "result", "checkpoints"
"""Folders of a state."""
ERROR = "error.txt"
"""What a worker's user should read."""


@dataclass(frozen=True)
class Job:
    """All that a worker needs; paths are absolute, for workers run in a folder of their own."""

    stage: Stage
    fingerprint: str
    model: Model
    training: Training
    tracking: Tracking
    parent_run_id: str
    state: Path
    splits: Path
    faces: Path
    perceived: Path
    networks: Path
    encoder: Path | None = None
    """Folder of the first stage's model; None in the first stage."""
    origin: Origin | None = None
    """What continue_from names."""
    ticket: str | None = None
    """With a storage: which trainer sent it there last; see shared."""

    def write_runs(self, folder: Path, run_id: str | None) -> None:
        """Write the ids of the runs beside a model; `run_id` is the training's, None where MLflow has not said it."""
        runs = {"parent_run_id": self.parent_run_id, "run_id": run_id}
        (folder / "run.json").write_text(json.dumps(runs, indent=1) + "\n")

    @property
    def outbox(self) -> Path:
        """The folder with what MLflow is to get: beside the state, for it may outlive that."""
        return self.state.parent / outbox.PLACE.name / self.state.name
