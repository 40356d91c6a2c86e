"""What a run left in reports/, and which of it people have been told already."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from styleblend.system.atomic import whole_file


def registered(project: Path) -> dict[str, Any]:
    """The content of reports/registered.json, which the stage `register` writes; empty before its first run."""
    file = project / "reports" / "registered.json"
    content: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    return content


def begin(project: Path) -> None:
    """Before a project's first run: what somebody made by hand before is no news of that run."""
    if not _memory(project).exists():
        _write(project, [registered(project)])


def is_news(project: Path) -> bool:
    """Whether the version is one that nobody was told of.

    A run that was killed after it registered has told nobody; one whose result came out of DVC's cache has made
    nothing new.
    """
    return registered(project) not in _told(project)


def told(project: Path) -> None:
    """Remember the version as told."""
    if is_news(project):
        _write(project, [*_told(project), registered(project)])


def _told(project: Path) -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = json.loads(_memory(project).read_text())
    return content


def _write(project: Path, versions: list[dict[str, Any]]) -> None:
    with whole_file(_memory(project)) as partial:
        partial.write_text(json.dumps(versions))


def _memory(project: Path) -> Path:
    return project / ".state" / "retrain" / "told.json"
