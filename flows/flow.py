"""The flow `retrain`: check the data, run the pipeline, judge what came out, tell people. dvc.yaml is the pipeline."""

# Without `from __future__ import annotations`: Prefect sends the flow to the process of a run without the names that
# only its annotations use, so these must be objects, not texts.

import time
from pathlib import Path
from typing import Any, Literal

from prefect import flow, get_run_logger, task
from prefect.client.schemas.objects import FlowRun, State, TaskRun
from prefect.flows import Flow
from prefect.states import Failed
from prefect.tasks import Task

import notify
import pipeline
import watch
from styleblend.config.base import ConfigError
from styleblend.config.merge import merged
from styleblend.config.params import Config, load_params
from styleblend.config.retraining import Retrain
from styleblend.config.tracking import Tracking
from styleblend.data.folders import present
from styleblend.errors import StyleBlendError, TransientError
from styleblend.experiments import isolated_run
from styleblend.registry import mlflow_store, versions
from styleblend.system import dvc
from styleblend.system.lock import Locked, only_one


def _may_pass(task: Task[..., Any], run: TaskRun, state: State) -> bool:
    """Whether to try again: a network that does not answer may pass, a mistake will not."""
    return state.name != pipeline.MISTAKE


def _failed(error: StyleBlendError) -> State:
    return pipeline.failed(str(error), isinstance(error, TransientError))


@task
def check(project: Path, overrides: dict[str, Any], promotion: str) -> Config | State:
    """The settings of this run, if they are in order and the photographs that they name are there."""
    try:
        chosen = {} if promotion == "as set" else {"retrain": {"promote": promotion}}
        dvc.expect_project(project)
        cfg = isolated_run.checked(project, merged(overrides, chosen))
        if cfg.retrain.webhook:
            notify.expanded(cfg.retrain.webhook)
        mlflow_store.expect_files(mlflow_store.resolved(cfg.tracking, project))
        for line in present(cfg.download, project):
            get_run_logger().info("%s", line)
    except StyleBlendError as error:
        return _failed(error)
    return cfg


@task(retries=3, retry_delay_seconds=10, retry_condition_fn=_may_pass)
def update(project: Path, file: Path) -> State | None:
    """Bring an imported folder of photographs up to date."""
    try:
        watch.update(project, file)
    except StyleBlendError as error:
        return _failed(error)
    return None


@task
def gate(project: Path, promotion: str) -> tuple[str, bool]:
    """What came out, in one line, and whether it becomes the champion. The stage `register` measured it."""
    registered = notify.registered(project)
    name = f"{registered['name']} version {registered['version']}"
    if not notify.is_new(project):
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
    return pipeline.markdown(project, cfg, headline, notify.registered(project), best)


@task(name="notify", retries=3, retry_delay_seconds=10, retry_condition_fn=_may_pass)
def send(webhook: str, text: str) -> State | None:
    """Send the line to the webhook."""
    try:
        notify.send(webhook, text)
    except StyleBlendError as error:
        return _failed(error)
    return None


def _notify_unusual_end(flow: Flow[..., Any], flow_run: FlowRun, state: State) -> None:
    """Whoever serves the flow calls this when a run was cancelled or its process died."""
    project = Path(flow_run.parameters["project"])
    word = "crashed" if state.is_crashed() else "cancelled"
    text = f"{word}: what is done stays done, the next run goes on from there"
    notify.write(project / _settings(project).notify_file, text)


@flow(name="retrain", on_cancellation=[_notify_unusual_end], on_crashed=[_notify_unusual_end])
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
    except Locked as error:
        # Nobody watches a scheduled run, and it is not made up for.
        _notify_all(project, _settings(project), f"not run: {error}")
        return _failed(error)


def _retrain(project: Path, lock: int, overrides: dict[str, Any], promotion: str, force: bool) -> State | str:
    checked: State = check(project, overrides, promotion, return_state=True)
    if checked.is_failed():
        _notify_all(project, _settings(project), f"failed: {checked.message}")
        return Failed(name=checked.name, message=checked.message)
    cfg: Config = checked.result()
    notify.begin(project)
    failed = _run(project, lock, cfg, overrides, force)
    if failed is None:
        # Asked before a promotion: the page compares with the champion of before.
        best: State = champion(project, cfg.tracking, return_state=True)
        text, wins = gate(project, cfg.retrain.promote)
        if wins:
            promoted: State = promote(project, cfg.tracking, notify.registered(project)["version"], return_state=True)
            failed = promoted if promoted.is_failed() else None
    if failed is not None:
        _notify_all(project, cfg.retrain, f"failed: {failed.message}")
        return Failed(name=failed.name, message=failed.message)
    drawn: State = draw(project, cfg, text, best.result() if best.is_completed() else "", return_state=True)
    if drawn.is_completed():
        # By the flow itself: what a task shows stands on the run's page further below, and later.
        pipeline.publish(drawn.result())
    _notify_all(project, cfg.retrain, text)
    notify.mark_notified(project)
    return text


def _run(project: Path, lock: int, cfg: Config, overrides: dict[str, Any], force: bool) -> State | None:
    """Bring the data up to date and run the pipeline, again where that may help. None, or how it failed."""
    for file in watch.imports(project, cfg.download):
        updated: State = update(project, file, return_state=True)
        if updated.is_failed():
            return updated
    if not overrides:
        return _reproduce(project, lock, cfg.retrain, force)
    try:
        with isolated_run.working_copy(project, "retrain", isolated_run.values(project, overrides)) as folder:
            failed = _reproduce(folder, lock, cfg.retrain, force)
            if failed is None:
                # As after any run: reports/ and data/ show what was registered last.
                isolated_run.adopt(folder, project)
    except StyleBlendError as error:
        return _failed(error)
    return failed


def _reproduce(folder: Path, lock: int, cfg: Retrain, force: bool) -> State | None:
    for left in reversed(range(cfg.retries + 1)):
        failed = pipeline.reproduce(folder, lock, force)
        if failed is None or failed.name == pipeline.MISTAKE or not left:
            return failed
        get_run_logger().warning("%s; once more in %g s", failed.message, cfg.retry_seconds)
        time.sleep(cfg.retry_seconds)
    raise AssertionError("the last try returns")


def _settings(project: Path) -> Retrain:
    """Those of params.yaml, or the defaults where it is not in order, so that the failure is notified all the same."""
    try:
        return load_params(project / "params.yaml").retrain
    except ConfigError:
        return Retrain()


def _notify_all(project: Path, cfg: Retrain, text: str) -> None:
    get_run_logger().info("%s", text)
    notify.write(project / cfg.notify_file, text)
    if cfg.webhook is None:
        return
    sent: State = send(cfg.webhook, text, return_state=True)
    if sent.is_failed():
        notify.write(project / cfg.notify_file, f"not sent to the webhook: {sent.message}")
