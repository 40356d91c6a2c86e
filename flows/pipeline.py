"""`dvc repro` as Prefect shows it, and the page of its run: progress, figures beside the champion's, the swap grid.

Each stage that runs is a task run of its name, whose log has its lines. Which stage runs, and how it ended, is in the
records that stages keep (styleblend.stages.entry).
"""

from __future__ import annotations

import base64
import json
import queue
import subprocess
import tempfile
import threading
import uuid
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import yaml
from prefect import get_run_logger, task
from prefect.artifacts import create_markdown_artifact, create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.exceptions import PrefectException
from prefect.states import Failed

from styleblend.config.params import Config
from styleblend.config.provenance import Provenance
from styleblend.config.tracking import Tracking
from styleblend.errors import StyleBlendError
from styleblend.experiments import isolated_run
from styleblend.system import dvc, stage_record

MISTAKE = "Mistake"
"""Name of the state of a failure that will fail again until a person does something."""
_LOOK_SECONDS = 0.5
_LAST = 30
"""Lines in which DVC's own reason of a failure is looked for."""
_GRID_PX = 480
"""Width of the grid's picture: it lies in Prefect's database, and small pictures load at once."""


class Progress:
    """A bar on the run's page: how far the pipeline is, by the place of its present stage in dvc.yaml."""

    def __init__(self, stages: Sequence[str]) -> None:
        self._stages = stages
        self._begun = 0
        self._artifact: Any = None
        with _not_vital():
            self._artifact = create_progress_artifact(0.0, "stages", f"0 of {len(stages)} stages")

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


def failed(message: str, may_pass: bool) -> State:
    """The state of a failure: named MISTAKE where trying again cannot help."""
    return Failed(message=message) if may_pass else Failed(name=MISTAKE, message=message)


class Output:
    """The lines of one `dvc repro`, cut where its stages begin."""

    def __init__(self, process: subprocess.Popen[str], folder: Path, run: str, progress: Progress) -> None:
        self._process, self._folder, self._run, self._progress = process, folder, run, progress
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._last: deque[str] = deque(maxlen=_LAST)
        self._shown: set[str] = set()
        self.stage: str | None = None
        """The stage that the next lines belong to; None at the end."""
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._last.append(line.rstrip())
            self._lines.put(line.rstrip())
        self._lines.put(None)

    def part(self) -> Iterator[str]:
        """Lines until the next stage begins, or to the end."""
        while True:
            try:
                line = self._lines.get(timeout=_LOOK_SECONDS)
            except queue.Empty:
                line = ""
            records = stage_record.records(self._folder, self._run)
            begun = next((each.stage for each in records if each.stage not in self._shown), None)
            if begun is not None:
                self._shown.add(begun)
                self.stage = begun
                self._progress.step(begun)
                # With the line that came first: what says that a stage begins is earlier than its first line.
                if line is None:
                    self._lines.put(None)
                elif line:
                    yield line
                return
            if line is None:
                self.stage = None
                return
            if line:
                yield line

    def failure(self) -> State | None:
        """How DVC failed, once it has ended; None where it did not."""
        code = self._process.wait()
        if not code:
            return None
        records = stage_record.records(self._folder, self._run)
        record = next((each for each in records if each.status == "failed" and each.message), None)
        if record is None:
            why = dvc.reason("\n".join(self._last))
            told = why or "the lines above say why"
            return failed(f"dvc repro ended with {code}: {told}", dvc.may_pass(why))
        return failed(record.message, record.may_pass)


def reproduce(folder: Path, lock: int, force: bool) -> State | None:
    """Run `dvc repro` once, and pass its lines on. Whatever ends this ends the training with it.

    Args:
        folder: the project, or a working copy of it.
        lock: open file that DVC inherits: the lock on it holds for as long as DVC lives, should this process die.
        force: run every stage, also those that have nothing new.
    Returns:
        None, or a failed state: named MISTAKE where trying again cannot help.
    """
    run = uuid.uuid4().hex
    progress = Progress(tuple(yaml.safe_load((folder / "dvc.yaml").read_text())["stages"]))
    arguments = ("repro", "--force") if force else ("repro",)
    with isolated_run.dvc(folder, *arguments, lock=lock, env={stage_record.RUN: run}) as process:
        output = Output(process, folder, run, progress)
        for line in output.part():
            get_run_logger().info("%s", line)
        while name := output.stage:
            stage.with_options(name=name, task_run_name=name)(output, return_state=True)
        failure = output.failure()
    if failure is None:
        progress.done()
    return failure


@task(cache_policy=NO_CACHE)
def stage(output: Output) -> State | None:
    """Pass on the lines of the stage that has begun, to its end."""
    for line in output.part():
        get_run_logger().info("%s", line)
    # DVC stops at the first stage that fails, so one that another follows was well.
    return output.failure() if output.stage is None else None


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
    reasons = "".join(f"; {reason}" for reason in registered["reasons"])
    lines = [headline, "", f"Gate: **{registered['gate']}**{reasons}", ""]
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
