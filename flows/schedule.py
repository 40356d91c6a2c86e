"""The deployment retrain/scheduled: runs on the schedule, when photographs change, and when somebody asks for one."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import get_client
from prefect.client.schemas.filters import DeploymentFilter, FlowRunFilter
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy, StateType
from prefect.client.schemas.schedules import CronSchedule
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.flows import Flow
from prefect.schedules import Cron
from prefect.states import Crashed

import watch
from styleblend.config.params import load_params
from styleblend.config.retraining import Retrain
from styleblend.errors import StyleBlendError
from styleblend.system.lock import Locked, only_one

NAME = "retrain/scheduled"
CHANGED = "photographs changed"
"""Tag of runs that the watcher started."""


def serve(flow: Flow[..., Any], project: Path) -> None:
    """Register the deployment with the server at PREFECT_API_URL and run it when it is due, until stopped.

    Raises:
        StyleBlendError: no server is named, params.yaml is not in order or its schedule cannot be read.
    """
    cfg = load_params(project / "params.yaml").retrain
    schedule = Scheduled(_schedule(cfg))
    if "PREFECT_API_URL" not in os.environ:
        raise StyleBlendError("--serve needs a Prefect server: name it in PREFECT_API_URL, or use `make serve`")
    try:
        with only_one(project, "the start of the schedule"):
            _crash_dead_runs()
    except Locked as error:
        print(f"retrain: {error}")
    watched = (project, lambda: _start(project), schedule.follow)
    threading.Thread(target=watch.watch, args=watched, daemon=True).start()
    flow.serve(
        name=NAME.partition("/")[2],
        schedule=Cron(cfg.cron, timezone=cfg.timezone),
        parameters={"project": str(project)},
        # A run that comes due while another is at work waits for it.
        global_limit=ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.ENQUEUE),
        # What came due while nobody served is made up for at the next start.
        paused=False,
        pause_on_shutdown=False,
    )


def _schedule(cfg: Retrain) -> CronSchedule:
    try:
        return CronSchedule(cron=cfg.cron, timezone=cfg.timezone)
    except ValueError:
        text = f"retrain.cron '{cfg.cron}' is no cron line: give five fields, as in '0 3 * * 0'"
        raise StyleBlendError(text) from None


@dataclass
class Scheduled:
    """The schedule that params.yaml asked for last."""

    asked: CronSchedule

    def follow(self, cfg: Retrain) -> None:
        """Give the deployment another schedule where params.yaml asks for another.

        What a person changed in Prefect's UI stays until then.

        Raises:
            StyleBlendError: the new one cannot be read; the old one stays.
        """
        wanted = _schedule(cfg)
        if wanted == self.asked:
            return
        with get_client(sync_client=True) as client:
            deployment = client.read_deployment_by_name(NAME)
            for each in client.read_deployment_schedules(deployment.id):
                client.update_deployment_schedule(deployment.id, each.id, schedule=wanted)
        self.asked = wanted
        print(f"retrain: the schedule is now '{cfg.cron}', {cfg.timezone}", flush=True)


def _start(project: Path) -> None:
    """Start a run for changed photographs, unless one waits already: it will see these changes, too."""
    if not _runs(StateType.SCHEDULED, StateType.PENDING, tag=CHANGED):
        run_deployment(NAME, parameters={"project": str(project)}, tags=[CHANGED], timeout=0, as_subflow=False)


def _crash_dead_runs() -> None:
    """A run whose process died with its server unseen would hold the only place for ever."""
    with get_client(sync_client=True) as client:
        for run in _runs(StateType.RUNNING, StateType.CANCELLING, StateType.PENDING):
            client.set_flow_run_state(run.id, Crashed(message="its process is gone"), force=True)


def _runs(*states: StateType, tag: str | None = None) -> list[Any]:
    with get_client(sync_client=True) as client:
        try:
            deployment = client.read_deployment_by_name(NAME)
        except ObjectNotFound:
            return []
        wanted = {"state": {"type": {"any_": states}}} | ({} if tag is None else {"tags": {"all_": [tag]}})
        return client.read_flow_runs(
            deployment_filter=DeploymentFilter.model_validate({"id": {"any_": [deployment.id]}}),
            flow_run_filter=FlowRunFilter.model_validate(wanted),
        )
