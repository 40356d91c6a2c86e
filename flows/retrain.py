"""Retraining with Prefect: when the pipeline runs, what may be tried again, who hears of it. dvc.yaml is the pipeline.

python flows/retrain.py            run it once
python flows/retrain.py --serve    run it on the schedule of params.yaml, never two at a time
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]

# Prefect reads these when it is imported. Its records stay in the project, and nothing is reported to its makers.
os.environ.setdefault("PREFECT_HOME", str(PROJECT / ".state" / "prefect"))
# Prefect makes the folder itself, but not the one above it.
Path(os.environ["PREFECT_HOME"]).mkdir(parents=True, exist_ok=True)
# On a busy machine its server takes longer to start than the 20 s that it is given.
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "180")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("DO_NOT_TRACK", "1")

from prefect import flow, get_run_logger, task  # noqa: E402
from prefect.client.schemas.objects import (  # noqa: E402
    ConcurrencyLimitConfig,
    ConcurrencyLimitStrategy,
    State,
    TaskRun,
)
from prefect.client.schemas.schedules import CronSchedule  # noqa: E402
from prefect.states import Failed  # noqa: E402
from prefect.tasks import Task  # noqa: E402

from styleblend import config, tracking  # noqa: E402
from styleblend.data.sources import list_pictures  # noqa: E402
from styleblend.errors import StyleBlendError  # noqa: E402

MISTAKE = "Mistake"
"""Name of the state of a failure that will fail again until a person does something."""
TERM_SECONDS = 20


@task
def check(project: Path) -> config.Config | State:
    """The project's parameters, if they are in order and the photographs that they name are there."""
    try:
        cfg = config.load(project / "params.yaml")
        for source in cfg.download.sources:
            if isinstance(source, config.FolderSource):
                get_run_logger().info("%s: %d pictures", source.path, len(list_pictures(project / source.path)))
    except StyleBlendError as error:
        return Failed(name=MISTAKE, message=str(error))
    return cfg


def _may_pass(task: Task[..., Any], run: TaskRun, state: State) -> bool:
    """Whether to try again: a lost worker or a busy lock may pass, a mistake that a stage named will not."""
    return state.name != MISTAKE


@task(retry_condition_fn=_may_pass)
def reproduce(project: Path, lock: int) -> State | None:
    """Run `dvc repro` and pass its lines on. Whatever ends this task ends the training with it.

    Args:
        lock: open file that DVC inherits: the lock on it holds for as long as DVC lives, should this process die.
    """
    logger = get_run_logger()
    mistake = ""
    # A session of its own: one signal reaches DVC, the stage and its workers, and none of ours goes astray.
    with subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro"],
        cwd=project,
        env=os.environ | {"PYTHONUNBUFFERED": "1", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
        pass_fds=[lock],
    ) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if line.strip():
                    logger.info("%s", line.rstrip())
                # Stages begin the one line that they say to a user so, see stages/entry.py.
                if line.startswith("styleblend "):
                    mistake = line.strip()
            code = process.wait()
        finally:
            _end(process)
    if code == 0:
        return None
    if mistake:
        return Failed(name=MISTAKE, message=mistake)
    return Failed(message=f"dvc repro ended with {code}: the lines above say why")


@task
def promote(project: Path, cfg: config.Config, registered: dict[str, Any]) -> None:
    """Point the alias `champion` at the version; only where retrain.promote is `auto`."""
    tracking.point_alias(tracking.resolved(cfg.tracking, project), "champion", registered["version"])


@task
def notify(file: Path, text: str) -> None:
    """Add a line to the file that people watch."""
    get_run_logger().info("%s", text)
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as stream:
        stream.write(f"{datetime.now().astimezone().isoformat(timespec='seconds')} {text}\n")


@flow(name="retrain")
def retrain(project: Path = PROJECT) -> State | str:
    """Check, run the pipeline, judge, notify. Returns what was notified; a failure is a state, not a traceback."""
    try:
        with _only_run(project) as lock:
            return _retrain(project, lock)
    except BlockingIOError:
        return Failed(name=MISTAKE, message=f"another retraining runs in {project}: wait for its end, or end it")


def _retrain(project: Path, lock: int) -> State | str:
    checked: State = check(project, return_state=True)
    if checked.is_failed():
        return Failed(name=checked.name, message=checked.message)
    cfg: config.Config = checked.result()
    file = project / cfg.retrain.notify_file
    before = _registered(project)
    run = reproduce.with_options(retries=cfg.retrain.retries, retry_delay_seconds=10)
    ran: State = run(project, lock, return_state=True)
    if ran.is_failed():
        notify(file, f"failed: {ran.message}")
        return Failed(name=ran.name, message=ran.message)
    text = _judge(project, cfg, before)
    notify(file, text)
    return text


def _judge(project: Path, cfg: config.Config, before: dict[str, Any]) -> str:
    """What came out, in one line. Promotes it where that is allowed."""
    registered = _registered(project)
    name = f"{registered['name']} version {registered['version']}"
    if registered == before:
        return f"nothing new: {name} stays the last"
    if registered["gate"] != "passed":
        return f"{name} registered, but the gate is shut: {'; '.join(registered['reasons'])}"
    if cfg.retrain.promote == "auto":
        promote(project, cfg, registered)
        return f"{name} registered, gate passed, promoted to champion"
    return f"{name} registered, gate passed, alias {registered['alias']}: look at it, and promote it in MLflow"


def _registered(project: Path) -> dict[str, Any]:
    file = project / "reports" / "registered.json"
    content: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    return content


@contextmanager
def _only_run(project: Path) -> Iterator[int]:
    """Hold the project's lock; BlockingIOError if another process does. A dead process holds none."""
    file = project / ".state" / "retrain.lock"
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield stream.fileno()


def _end(process: subprocess.Popen[str]) -> None:
    """End the process and all it started, first kindly. DVC alone would leave its stage training on."""
    for sign, patience in ((signal.SIGTERM, TERM_SECONDS), (signal.SIGKILL, None)):
        try:
            os.killpg(process.pid, sign)
        except ProcessLookupError:
            return
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            continue


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--serve", action="store_true", help="stay and run on the schedule retrain.cron")
    parser.add_argument("--project", type=Path, default=PROJECT, help="folder with dvc.yaml and params.yaml")
    given = parser.parse_args()
    project = given.project.resolve()
    try:
        cfg = config.load(project / "params.yaml")
        if given.serve:
            serve(project, cfg.retrain)
            return
    except StyleBlendError as error:
        sys.exit(f"retrain: {error}")
    # Prefect's own server for this run ends when Python exits, but not when a signal ends Python.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    state: State = retrain(project, return_state=True)
    if not state.is_completed():
        sys.exit(f"retrain: {state.message}")


def serve(project: Path, cfg: config.Retrain) -> None:
    """Register the deployment retrain/scheduled and run it when it is due, until stopped.

    Raises:
        StyleBlendError: the schedule cannot be read.
    """
    try:
        CronSchedule(cron=cfg.cron)
    except ValueError:
        raise StyleBlendError(
            f"retrain.cron '{cfg.cron}' is no cron line: give five fields, as in '0 3 * * 0'"
        ) from None
    # A run that comes due while another is at work waits for it.
    alone = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.ENQUEUE)
    retrain.serve(name="scheduled", cron=cfg.cron, parameters={"project": str(project)}, global_limit=alone)


if __name__ == "__main__":
    main()
