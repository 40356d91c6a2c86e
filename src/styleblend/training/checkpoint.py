"""Live states of a run: whole files, the newest few kept, read strictly and without unpickling code."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Protocol

import torch

from styleblend.errors import StyleBlendError
from styleblend.system.files import whole_file

_NAME = re.compile(r"^step-(\d+)-(\d+)-(good|doubtful)\.pt$")


class Stateful(Protocol):
    """Modules and optimisers."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any: ...


def save(
    folder: Path, parts: Mapping[str, Stateful], facts: Mapping[str, Any], *, step: int, rollbacks: int, good: bool
) -> Path:
    """Write every part's state and the plain `facts`; keep the last two files and the newest good one.

    Args:
        step: steps done. rollbacks: how often the run was rolled back; a later attempt is newer at any step.
        good: no probe since the last healthy one was doubtful; the file is fit to roll back to.
    """
    path = folder / f"step-{step:08d}-{rollbacks}-{'good' if good else 'doubtful'}.pt"
    state = {"parts": {name: part.state_dict() for name, part in parts.items()}, "facts": dict(facts)}
    with whole_file(path) as partial:
        torch.save(state, partial)
    kept = _files(folder)
    for file in {*kept} - {*kept[-2:], newest(folder, good=True)}:
        file.unlink()
    return path


def load(path: Path, parts: Mapping[str, Stateful], device: torch.device | str = "cpu") -> dict[str, Any]:
    """Put a checkpoint's states into `parts`; returns its facts.

    Raises:
        StyleBlendError: the file is damaged, or its states are not exactly those of `parts`.
    """
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        saved = state["parts"]
        if set(saved) != set(parts):
            raise KeyError(f"it holds {sorted(saved)}, wanted {sorted(parts)}")
        for name, part in parts.items():
            part.load_state_dict(saved[name])
    except (RuntimeError, KeyError, ValueError, EOFError, UnpicklingError) as error:
        reason = " ".join(str(error).split())[:300]
        raise StyleBlendError(f"checkpoint {path} does not fit this run ({reason}): delete it to go on") from None
    return dict(state["facts"])


def newest(folder: Path, *, good: bool = False) -> Path | None:
    """The newest checkpoint, or the newest good one; None if there is none."""
    files = [file for file in _files(folder) if file.stem.endswith("-good") or not good]
    return files[-1] if files else None


def _files(folder: Path) -> list[Path]:
    found = [(match, file) for file in folder.glob("step-*.pt") if (match := _NAME.match(file.name))]
    return [file for _, file in sorted(found, key=lambda pair: (int(pair[0][2]), int(pair[0][1])))]
