"""`dvc repro` as Prefect shows it: each stage that runs is a task run of its name, its lines are that run's log."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import yaml
from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Failed

from showing import Progress
from styleblend.experiments.guard import guarded

MISTAKE = "Mistake"
"""Name of the state of a failure that will fail again until a person does something."""
_RUNNING = re.compile(r"Running stage '(.+)':$")
_PASSED = re.compile(r"(?:Stage )?'(.+)' (?:didn't change, skipping|is cached - skipping run)")


class Output:
    """The lines of one `dvc repro`, cut where its stages begin."""

    def __init__(self, stream: IO[str], progress: Progress) -> None:
        self._stream = stream
        self._progress = progress
        self.upcoming: str | None = None
        """The stage that the lines after the present part belong to; None at the end."""
        self.complaint = ""
        self._may_pass = False

    def part(self) -> Iterator[str]:
        """Lines up to the one with which DVC begins a stage."""
        self.upcoming = None
        for line in self._stream:
            text = line.rstrip()
            if running := _RUNNING.match(text):
                self.upcoming = running[1]
                self._progress.step(self.upcoming)
                return
            if _PASSED.match(text):
                self._progress.step()
            # Stages begin the one line that they say to a user so, and end so where it may pass: stages/entry.py.
            if text.startswith("styleblend "):
                self.complaint = text
            self._may_pass |= text.endswith(f"exited with {os.EX_TEMPFAIL}")
            if text:
                yield text

    def failure(self, code: int) -> State:
        """What became of a `dvc repro` that ended with this exit code, other than 0."""
        if self.complaint and not self._may_pass:
            return Failed(name=MISTAKE, message=self.complaint)
        return Failed(message=self.complaint or f"dvc repro ended with {code}: the lines above say why")


def reproduce(project: Path, lock: int, force: bool) -> State | None:
    """Run `dvc repro` once, and pass its lines on. Whatever ends this ends the training with it.

    Args:
        lock: open file that DVC inherits: the lock on it holds for as long as DVC lives, should this process die.
        force: run every stage, also those that have nothing new.
    Returns:
        None, or a failed state: named MISTAKE where trying again cannot help.
    """
    progress = Progress(len(yaml.safe_load((project / "dvc.yaml").read_text())["stages"]))
    command = [sys.executable, "-m", "dvc", "repro", *(["--force"] if force else [])]
    with guarded(project, command, lock) as process:
        assert process.stdout is not None
        output = Output(process.stdout, progress)
        for line in output.part():
            get_run_logger().info("%s", line)
        while output.upcoming:
            name = output.upcoming
            stage.with_options(name=name, task_run_name=name)(output, process, return_state=True)
        code = process.wait()
    if code:
        return output.failure(code)
    progress.done()
    return None


@task(cache_policy=NO_CACHE)
def stage(output: Output, process: subprocess.Popen[str]) -> State | None:
    """Pass on the lines of the stage that is `upcoming`, to its end."""
    for line in output.part():
        get_run_logger().info("%s", line)
    # DVC stops at the first stage that fails, so one that another follows was well.
    if output.upcoming is None and (code := process.wait()):
        return output.failure(code)
    return None
