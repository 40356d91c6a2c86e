"""Runs in MLflow: a parent for each pipeline run, a child for each training stage, evaluation and registration.

Runs carry the tag `styleblend.key` and are found again by it, so a stage that was killed continues its run instead of
starting another.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from styleblend.config.tracking import Tracking
from styleblend.registry.mlflow_store import KEY, NOT_THERE, TrackingError, connect

if TYPE_CHECKING:
    from mlflow import MlflowClient


@dataclass(frozen=True)
class Run:
    """An open child run."""

    client: MlflowClient
    run_id: str
    parent_run_id: str

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Log figures under their own names; all of them in one transaction of at most 1000."""
        now = time.time_ns() // 1_000_000
        self.log_figures([(name, float(value), now, step) for name, value in metrics.items()])

    def log_figures(self, figures: Sequence[tuple[str, float, int, int]]) -> None:
        """Log figures as name, value, time in ms since 1970, and step; MLflow keeps equal ones once."""
        from mlflow.entities import Metric

        entries = [Metric(*figure) for figure in figures]
        for start in range(0, len(entries), 1000):
            self.client.log_batch(self.run_id, metrics=entries[start : start + 1000])

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Copy a file, or a folder with all it holds, into the run's artifacts, below `folder`."""
        if path.is_dir():
            self.client.log_artifacts(self.run_id, str(path), folder)
        else:
            self.client.log_artifact(self.run_id, str(path), folder)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags of the run."""
        for name, value in tags.items():
            self.client.set_tag(self.run_id, name, value)

    def set_status(self, status: str) -> None:
        """Say that the run is RUNNING, or that it has FINISHED or FAILED."""
        if status == "RUNNING":
            self.client.update_run(self.run_id, status=status)
        else:
            self.client.set_terminated(self.run_id, status)


def start_pipeline(cfg: Tracking, key: str, params: Mapping[str, Any]) -> str:
    """Find or make the parent run of a pipeline run.

    Args:
        key: equal keys mean the same pipeline run, for example a fingerprint of parameters and data.
        params: parameters to log, nested or flat; those already logged stay as they are.
    Returns:
        the parent's run id.
    """
    client, experiment_id = connect(cfg)
    run_id = _find_or_create(client, experiment_id, "pipeline", key, {})
    _log_params(client, run_id, params)
    return run_id


def finish_pipeline(cfg: Tracking, parent_run_id: str) -> None:
    """Mark the parent run as finished."""
    client, _ = connect(cfg)
    client.set_terminated(parent_run_id, "FINISHED")


@contextmanager
def child_run(cfg: Tracking, parent_run_id: str, stage: str, key: str, params: Mapping[str, Any]) -> Iterator[Run]:
    """Open a stage's run below its parent; it ends as FINISHED, or as FAILED when the block raises. See open_child."""
    run = open_child(cfg, parent_run_id, stage, key, params)
    status = "FAILED"
    try:
        yield run
        status = "FINISHED"
    finally:
        run.set_status(status)


def open_child(cfg: Tracking, parent_run_id: str, stage: str, key: str, params: Mapping[str, Any]) -> Run:
    """Find or make a stage's run below its parent; it is RUNNING.

    A parent that this store does not know is made here: a model that came from another machine (`dvc pull`)
    brings the id of a run that lives there.
    """
    client, experiment_id = connect(cfg)
    parent_run_id = _known_parent(client, experiment_id, parent_run_id)
    tags = {"mlflow.parentRunId": parent_run_id, "styleblend.stage": stage}
    run_id = _find_or_create(client, experiment_id, stage, f"{stage}-{key}", tags)
    _log_params(client, run_id, params)
    return Run(client, run_id, parent_run_id)


def picture_markdown(run: Run, path: str, words: str) -> str:
    """A picture of a run's artifacts for the text of one of MLflow's pages, with a link to where it is larger.

    Both addresses are relative to that page, so they hold whatever MLflow's host and port.
    """
    experiment = run.client.get_run(run.run_id).info.experiment_id
    picture = urlencode({"path": path, "run_uuid": run.run_id})
    page = f"#/experiments/{experiment}/runs/{run.run_id}/artifacts/{quote(path)}"
    return f"[![{words}](get-artifact?{picture})]({page})"


def _find_or_create(client: MlflowClient, experiment_id: str, name: str, key: str, tags: Mapping[str, str]) -> str:
    if '"' in key:
        raise TrackingError(f"the key of a run is {key!r}: it must not hold a double quote")
    found = client.search_runs([experiment_id], f'tags.`{KEY}` = "{key}"', max_results=1)
    if found:
        run_id = str(found[0].info.run_id)
        client.update_run(run_id, status="RUNNING")
        for tag, value in tags.items():
            client.set_tag(run_id, tag, value)
        return run_id
    created = client.create_run(experiment_id, run_name=name, tags={KEY: key, **tags})
    return str(created.info.run_id)


def _known_parent(client: MlflowClient, experiment_id: str, parent_run_id: str) -> str:
    try:
        return str(client.get_run(parent_run_id).info.run_id)
    except TrackingError as error:
        if error.code != NOT_THERE:
            raise
        return _find_or_create(client, experiment_id, "pipeline", parent_run_id, {})


def _log_params(client: MlflowClient, run_id: str, params: Mapping[str, Any]) -> None:
    from mlflow.entities import Param

    logged = client.get_run(run_id).data.params
    new = [Param(name, value) for name, value in _flat(params).items() if name not in logged]
    for start in range(0, len(new), 100):
        client.log_batch(run_id, params=new[start : start + 100])


def _flat(params: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in params.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = str(value)[:6000]
    return flat
