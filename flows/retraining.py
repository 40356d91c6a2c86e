"""The flow `retrain`: check the data, run the pipeline, judge what came out, tell people. dvc.yaml is the pipeline."""

# Without `from __future__ import annotations`: Prefect sends the flow to the process of a run without the names that
# only its annotations use, so these must be objects, not texts.

import subprocess
import time
from pathlib import Path
from typing import Any, Literal

from prefect import flow, get_run_logger, task
from prefect.client.schemas.objects import FlowRun, State, TaskRun
from prefect.flows import Flow
from prefect.states import Failed
from prefect.tasks import Task

import notifying
import outcome
import pipeline
import showing
import watching
from pipeline import MISTAKE
from styleblend.config.base import ConfigError
from styleblend.config.merge import merged
from styleblend.config.params import Config
from styleblend.config.retraining import Retrain
from styleblend.config.tracking import Tracking
from styleblend.data.folders import present
from styleblend.errors import StyleBlendError, TransientError
from styleblend.experiments import overriding
from styleblend.registry import mlflow_store, versions
from styleblend.system.lock import ProjectLocked, only_one


def _may_pass(task: Task[..., Any], run: TaskRun, state: State) -> bool:
    """Whether to try again: a network that does not answer may pass, a mistake will not."""
    return state.name != MISTAKE


def _failed(error: StyleBlendError) -> State:
    return Failed(message=str(error)) if isinstance(error, TransientError) else Failed(name=MISTAKE, message=str(error))


@task
def check(project: Path, overrides: dict[str, Any], promotion: str) -> Config | State:
    """The settings of this run, if they are in order and the photographs that they name are there."""
    try:
        chosen = {} if promotion == "as set" else {"retrain": {"promote": promotion}}
        cfg = overriding.checked(project, merged(overrides, chosen))
        if cfg.retrain.webhook:
            notifying.expanded(cfg.retrain.webhook)
        for line in present(cfg.download, project):
            get_run_logger().info("%s", line)
    except StyleBlendError as error:
        return _failed(error)
    return cfg


@task(retries=3, retry_delay_seconds=10)
def update(project: Path, file: Path) -> State | None:
    """Bring an imported folder of photographs up to date."""
    done = subprocess.run(watching.update_command(file), cwd=project, capture_output=True, text=True)
    if done.returncode:
        return Failed(message=f"{file.name} could not be brought up to date: {done.stderr.strip()}")
    return None


@task
def gate(project: Path, promotion: str) -> tuple[str, bool]:
    """What came out, in one line, and whether it becomes the champion. The stage `register` measured it."""
    registered = outcome.registered(project)
    name = f"{registered['name']} version {registered['version']}"
    if not outcome.is_news(project):
        return f"nothing new: {name} stays the last", False
    if registered["gate"] != "passed":
        return f"{name} registered, but the gate is shut: {'; '.join(registered['reasons'])}", False
    if promotion == "auto":
        return f"{name} registered, gate passed, promoted to champion", True
    return f"{name} registered, gate passed, alias {registered['alias']}: look at it, and promote it in MLflow", False


@task(retries=3, retry_delay_seconds=10, retry_condition_fn=_may_pass)
def promote(project: Path, cfg: Tracking, version: str) -> State | None:
    """Point the alias `champion` at the version."""
    try:
        versions.point_alias(mlflow_store.resolved(cfg, project), "champion", version)
    except StyleBlendError as error:
        return _failed(error)
    return None


@task(retries=3, retry_delay_seconds=10, retry_condition_fn=_may_pass)
def champion(project: Path, cfg: Tracking) -> str | State:
    """Number of the champion; empty where there is none."""
    try:
        return versions.find_version(mlflow_store.resolved(cfg, project), "champion").version
    except mlflow_store.TrackingUnreachable as error:
        return _failed(error)
    except mlflow_store.TrackingError as error:
        get_run_logger().info("nothing to compare with: %s", error)
        return ""


@task
def draw(project: Path, cfg: Config, headline: str, best: str) -> str:
    """The run's page in Markdown: figures, beside the champion's where there is another, and the swap grid."""
    return showing.result(project, cfg, headline, outcome.registered(project), best)


@task(retries=3, retry_delay_seconds=10, retry_condition_fn=_may_pass)
def notify(webhook: str, text: str) -> State | None:
    """Send the line to the webhook."""
    try:
        notifying.send(webhook, text)
    except StyleBlendError as error:
        return _failed(error)
    return None


def _tell_unusual_end(flow: Flow[..., Any], flow_run: FlowRun, state: State) -> None:
    """Whoever serves the flow calls this when a run was cancelled or its process died."""
    project = Path(flow_run.parameters["project"])
    word = "crashed" if state.is_crashed() else "cancelled"
    text = f"{word}: what is done stays done, the next run goes on from there"
    notifying.write(project / _settings(project).notify_file, text)


@flow(name="retrain", on_cancellation=[_tell_unusual_end], on_crashed=[_tell_unusual_end])
def retrain(
    project: Path,
    overrides: dict[str, Any] | None = None,
    promotion: Literal["as set", "manual", "auto"] = "as set",
    force: bool = False,
) -> State | str:
    """Check, run the pipeline, judge, notify. Returns what was notified; a failure is a state, not a traceback.

    Args:
        project: folder with dvc.yaml and params.yaml.
        overrides: settings of this run alone, nested as in params.yaml: {"train_encoder": {"steps": 500}}.
        promotion: whether a version that passes its gate becomes the champion by itself (auto) or not (manual);
            "as set" follows retrain.promote of params.yaml. Auto is refused where register.gate has no limit.
        force: run every stage, also those that have nothing new.
    """
    try:
        with only_one(project, "a retraining") as lock:
            return _retrain(project, lock, overrides or {}, promotion, force)
    except ProjectLocked as error:
        # Nobody watches a scheduled run, and it is not made up for.
        _tell(project, _settings(project), f"not run: {error}")
        return _failed(error)


def _retrain(project: Path, lock: int, overrides: dict[str, Any], promotion: str, force: bool) -> State | str:
    # What a killed run may have left.
    if line := overriding.restore(project):
        get_run_logger().warning("%s", line)
    checked: State = check(project, overrides, promotion, return_state=True)
    if checked.is_failed():
        _tell(project, _settings(project), f"failed: {checked.message}")
        return Failed(name=checked.name, message=checked.message)
    cfg: Config = checked.result()
    outcome.begin(project)
    failed = _run(project, lock, cfg, overrides, force)
    if failed is None:
        # Asked before a promotion: the page compares with the champion of before.
        best: State = champion(project, cfg.tracking, return_state=True)
        text, wins = gate(project, cfg.retrain.promote)
        if wins:
            promoted: State = promote(project, cfg.tracking, outcome.registered(project)["version"], return_state=True)
            failed = promoted if promoted.is_failed() else None
    if failed is not None:
        _tell(project, cfg.retrain, f"failed: {failed.message}")
        return Failed(name=failed.name, message=failed.message)
    page: State = draw(project, cfg, text, best.result() if best.is_completed() else "", return_state=True)
    if page.is_completed():
        # By the flow itself: what a task shows stands on the run's page further below, and later.
        showing.show(page.result())
    _tell(project, cfg.retrain, text)
    outcome.told(project)
    return text


def _run(project: Path, lock: int, cfg: Config, overrides: dict[str, Any], force: bool) -> State | None:
    """Bring the data up to date and run the pipeline, again where that may help. None, or how it failed."""
    for file in watching.imports(project, cfg.download):
        updated: State = update(project, file, return_state=True)
        if updated.is_failed():
            return updated
    for left in reversed(range(cfg.retrain.retries + 1)):
        with overriding.overridden(project, overrides):
            failed = pipeline.reproduce(project, lock, force)
        if failed is None or failed.name == MISTAKE or not left:
            return failed
        get_run_logger().warning("%s; once more in %g s", failed.message, cfg.retrain.retry_seconds)
        time.sleep(cfg.retrain.retry_seconds)
    raise AssertionError("the last try returns")


def _settings(project: Path) -> Retrain:
    """Those of params.yaml, or where it is not in order the defaults: somebody must hear of it."""
    try:
        return overriding.lasting(project).retrain
    except ConfigError:
        return Retrain()


def _tell(project: Path, cfg: Retrain, text: str) -> None:
    get_run_logger().info("%s", text)
    notifying.write(project / cfg.notify_file, text)
    if cfg.webhook is None:
        return
    sent: State = notify(cfg.webhook, text, return_state=True)
    if sent.is_failed():
        notifying.write(project / cfg.notify_file, f"not sent to the webhook: {sent.message}")
