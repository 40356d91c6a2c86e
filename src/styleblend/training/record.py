"""The file training.json of a model folder: curves and alarms of the stages that made the model.

Whoever has the folder can show how it learned, also where the MLflow store of the run is out of reach.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from styleblend.errors import StyleBlendError

if TYPE_CHECKING:
    from styleblend.training.progress import Progress

FILE = "training.json"


@dataclass(frozen=True)
class Record:
    """What the stages recorded.

    stages: by stage in their order, `probe` and `losses`, lists of rows with their `step`.
    alarms: those on at the end of the last stage, a sentence each.
    events: rows of `stage`, `step`, `alarm`, `state` (on, over, left out) and `text`.
    continued_from: by stage, what it went on from where that was no matter of the stages before it, in words.
    """

    stages: dict[str, dict[str, list[dict[str, float]]]] = field(default_factory=dict)
    alarms: dict[str, str] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    continued_from: dict[str, str] = field(default_factory=dict)

    @property
    def began_with(self) -> Mapping[str, float] | None:
        """The first probe of the first stage."""
        return next((stage["probe"][0] for stage in self.stages.values() if stage["probe"]), None)


def read(folder: Path) -> Record:
    """The record of a model folder; an empty one where the model is older than the record.

    Raises:
        StyleBlendError: the file is damaged.
    """
    file = folder / FILE
    if not file.is_file():
        return Record()
    try:
        return Record(**json.loads(file.read_text()))
    except (ValueError, TypeError) as error:
        raise StyleBlendError(f"{file} is damaged ({error}): run `dvc repro` for the stage that makes it") from None


def write(folder: Path, before: Record, stage: str, progress: Progress, continued_from: str | None = None) -> None:
    """Write the record of the stages before this one and of this one."""
    own = {stage: {"probe": progress.history, "losses": progress.losses}}
    events = [{"stage": stage, **event} for event in progress.events]
    origins = {**before.continued_from, **({stage: continued_from} if continued_from else {})}
    record = Record({**before.stages, **own}, progress.alarms, [*before.events, *events], origins)
    (folder / FILE).write_text(json.dumps(asdict(record)) + "\n")
