"""The page of a run in Prefect: its progress, its figures beside the champion's, and the swap grid."""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import httpx
from prefect import get_run_logger
from prefect.artifacts import create_markdown_artifact, create_progress_artifact, update_progress_artifact
from prefect.exceptions import PrefectException

from styleblend.config.params import Config
from styleblend.config.provenance import Provenance
from styleblend.config.tracking import Tracking
from styleblend.errors import StyleBlendError

_GRID_PX = 480
"""Width of the grid's picture: it lies in Prefect's database, and small pictures load at once."""


class Progress:
    """A bar on the run's page: how far the pipeline is, by the place of its present stage in dvc.yaml."""

    def __init__(self, stages: Sequence[str]) -> None:
        self._stages = stages
        self._begun = 0
        self._artifact: UUID | None = None
        with _not_vital():
            self._artifact = cast(UUID, create_progress_artifact(0.0, "stages", f"0 of {len(stages)} stages"))

    def step(self, name: str) -> None:
        """The stage of this name has begun."""
        # DVC may run stages that do not need each other in another order: the bar never goes back.
        if name in self._stages:
            self._begun = max(self._begun, self._stages.index(name) + 1)
        self._show(max(self._begun - 1, 0), name)

    def done(self) -> None:
        """All is done."""
        self._begun = len(self._stages)
        self._show(self._begun, "done")

    def _show(self, finished: int, word: str) -> None:
        if self._artifact is None:
            return
        with _not_vital():
            words = f"{self._begun} of {len(self._stages)} stages, {word}"
            update_progress_artifact(self._artifact, 100 * finished / len(self._stages), description=words)


def publish(text: str) -> None:
    """Put a Markdown text on the run's page."""
    with _not_vital():
        create_markdown_artifact(text, key="result", description="What came out")


def markdown(project: Path, cfg: Config, headline: str, registered: Mapping[str, Any], champion: str = "") -> str:
    """The Markdown text of a finished run.

    Args:
        registered: of registered.json.
        champion: number of the version to compare with; empty if there is none.
    """
    lines = [
        headline,
        "",
        f"Gate: **{registered['gate']}**{''.join(f'; {reason}' for reason in registered['reasons'])}",
        "",
    ]
    reports = project / "reports"
    if (reports / "metrics.json").is_file():
        lines += [_table(project, cfg.tracking, registered, champion), ""]
    grid = reports / "evaluate" / "swap_grid.png"
    if grid.is_file():
        lines.append(f"![swap grid](data:image/jpeg;base64,{_small(grid, cfg.provenance, registered)})")
    return "\n".join(lines)


def _table(project: Path, track: Tracking, registered: Mapping[str, Any], champion: str) -> str:
    """The figures as reports show them; beside a champion's as `styleblend compare` does."""
    # torch comes along with these, and only a finished run needs it.
    from styleblend.evaluation.protocol import MODEL
    from styleblend.registry import mlflow_store
    from styleblend.reporting import comparison
    from styleblend.reporting.figures import figure_table

    metrics = json.loads((project / "reports" / "metrics.json").read_text())
    alone = f"{figure_table(metrics, [MODEL])}\n\nMeans over the test pairs, in brackets the 95 % interval."
    if champion in ("", registered["version"]):
        return alone
    swapper, evaluation = project / "data" / "models" / "swapper", project / "reports" / "evaluate"
    new = comparison.Contender(f"version {registered['version']}", {}, swapper, evaluation, metrics)
    try:
        with comparison.contender(mlflow_store.resolved(track, project), champion) as old:
            return comparison.figures(new, replace(old, title=f"champion, version {champion}"))
    except StyleBlendError as error:
        return f"{alone}\n\nNot compared with the champion, version {champion}: {error}"


def _small(grid: Path, provenance: Provenance, registered: Mapping[str, Any]) -> str:
    """The picture in base64: small, and marked as what it is like every other that leaves."""
    from PIL import Image

    from styleblend.provenance import credentials, save_picture

    with Image.open(grid) as picture, tempfile.TemporaryDirectory() as scratch:
        small = picture.convert("RGB")
        small.thumbnail((_GRID_PX, 10 * _GRID_PX))
        file = Path(scratch) / "grid.jpg"
        model = f"{registered['name']} version {registered['version']}"
        save_picture(small, file, model=model, kind="grid", credentials=credentials.of(provenance))
        return base64.b64encode(file.read_bytes()).decode()


@contextmanager
def _not_vital() -> Iterator[None]:
    """A server that does not take a picture must not end a training of hours."""
    try:
        yield
    except (httpx.HTTPError, PrefectException) as error:
        get_run_logger().warning("the run's page could not be written: %s", error)
