"""What the page of a run in Prefect shows: how far it is, its figures beside the champion's, and the swap grid."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import httpx
from prefect import get_run_logger
from prefect.artifacts import create_markdown_artifact, create_progress_artifact, update_progress_artifact
from prefect.exceptions import PrefectException

_GRID_PX = 480
"""Width of the grid's picture: it lies in Prefect's database, and small pictures load at once."""


class Progress:
    """A bar on the run's page: how many stages of the pipeline have begun."""

    def __init__(self, stages: int) -> None:
        self._stages = stages
        self._begun = 0
        self._artifact: UUID | None = None
        with _not_vital():
            self._artifact = cast(UUID, create_progress_artifact(0.0, "stages", f"0 of {stages} stages"))

    def step(self, name: str = "") -> None:
        """One more stage: `name` runs now, or without a name it had nothing to do."""
        self._begun = min(self._begun + 1, self._stages)
        self._show(100 * (self._begun - bool(name)) / self._stages, name)

    def done(self) -> None:
        """All is done."""
        self._begun = self._stages
        self._show(100, "done")

    def _show(self, percent: float, name: str) -> None:
        if self._artifact is None:
            return
        with _not_vital():
            words = f"{self._begun} of {self._stages} stages{f', {name}' if name else ''}"
            update_progress_artifact(self._artifact, percent, description=words)


def show(text: str) -> None:
    """Put a Markdown text on the run's page."""
    with _not_vital():
        create_markdown_artifact(text, key="result", description="What came out")


def result(
    headline: str,
    registered: Mapping[str, Any],
    metrics: Mapping[str, Any],
    champion: Mapping[str, Any],
    grid: Path,
) -> str:
    """The Markdown text of a finished run.

    Args:
        registered: of registered.json; metrics: of metrics.json.
        champion: `version` and the figures of the champion; empty if there is none, or it is this version.
        grid: picture to show, if it exists.
    """
    # torch comes along with it, and only a finished run needs it.
    from styleblend.reporting import KEY_FIGURES

    columns = [(f"version {registered['version']}", metrics)]
    if champion:
        columns.append((f"champion, version {champion['version']}", champion))
    lines = [
        headline,
        "",
        f"Gate: **{registered['gate']}**{''.join(f'; {reason}' for reason in registered['reasons'])}",
        "",
        "| figure | better | " + " | ".join(name for name, _ in columns) + " |",
        "|---" * (len(columns) + 2) + "|",
    ]
    lines += [
        f"| {words} | {'higher' if better == 'up' else 'lower'} | "
        + " | ".join(_cell(figures, name) for _, figures in columns)
        + " |"
        for name, words, better in KEY_FIGURES
        if name in metrics
    ]
    lines += ["", "Means over the test pairs, in brackets the bootstrap 95 % interval.", ""]
    if grid.is_file():
        lines.append(f"![swap grid](data:image/jpeg;base64,{_small(grid, registered)})")
    return "\n".join(lines)


def _cell(figures: Mapping[str, Any], name: str) -> str:
    if name not in figures:
        return ""
    # torch comes along with it, and only a finished run needs it.
    from styleblend.reporting import with_interval

    low, high = figures.get(f"{name}_low"), figures.get(f"{name}_high")
    return f"{figures[name]:.3g}" if low is None or high is None else with_interval(figures[name], low, high)


def _small(grid: Path, registered: Mapping[str, Any]) -> str:
    """The picture in base64: small, and marked as what it is like every other that leaves."""
    from PIL import Image

    from styleblend.provenance import save_picture

    with Image.open(grid) as picture, tempfile.TemporaryDirectory() as scratch:
        small = picture.convert("RGB")
        small.thumbnail((_GRID_PX, 10 * _GRID_PX))
        file = Path(scratch) / "grid.jpg"
        save_picture(small, file, model=f"{registered['name']} version {registered['version']}", kind="grid")
        return base64.b64encode(file.read_bytes()).decode()


@contextmanager
def _not_vital() -> Iterator[None]:
    """A server that does not take a picture must not end a training of hours."""
    try:
        yield
    except (httpx.HTTPError, PrefectException) as error:
        get_run_logger().warning("the run's page could not be written: %s", error)
