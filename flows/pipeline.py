"""`dvc repro` as Prefect shows it: each stage that runs is a task run of its name, its lines are that run's log.

Which stage runs, and how it ended, is in the records that stages keep (styleblend.stages.entry); DVC's lines are only
passed on.
"""

from __future__ import annotations

import queue
import subprocess
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import yaml
from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Failed

from page import Progress
from styleblend.experiments import isolated_run
from styleblend.system import stage_record

MISTAKE = "Mistake"
"""Name of the state of a failure that will fail again until a person does something."""
_LOOK_SECONDS = 0.5


class Output:
    """The lines of one `dvc repro`, cut where its stages begin."""

    def __init__(self, process: subprocess.Popen[str], folder: Path, run: str, progress: Progress) -> None:
        self._process, self._folder, self._run, self._progress = process, folder, run, progress
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._shown: set[str] = set()
        self.stage: str | None = None
        """The stage that the next lines belong to; None at the end."""
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line.rstrip())
        self._lines.put(None)

    def part(self) -> Iterator[str]:
        """Lines until the next stage begins, or to the end."""
        while True:
            try:
                line = self._lines.get(timeout=_LOOK_SECONDS)
            except queue.Empty:
                line = ""
            begun = next(
                (each for each in stage_record.records(self._folder, self._run) if each.stage not in self._shown), None
            )
            if begun is not None:
                self._shown.add(begun.stage)
                self.stage = begun.stage
                self._progress.step(begun.stage)
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
        failed = [
            each for each in stage_record.records(self._folder, self._run) if each.status == "failed" and each.message
        ]
        if not failed:
            return Failed(message=f"dvc repro ended with {code}: the lines above say why")
        message = failed[0].message
        return Failed(message=message) if failed[0].may_pass else Failed(name=MISTAKE, message=message)


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
        failed = output.failure()
    if failed is None:
        progress.done()
    return failed


@task(cache_policy=NO_CACHE)
def stage(output: Output) -> State | None:
    """Pass on the lines of the stage that has begun, to its end."""
    for line in output.part():
        get_run_logger().info("%s", line)
    # DVC stops at the first stage that fails, so one that another follows was well.
    return output.failure() if output.stage is None else None
