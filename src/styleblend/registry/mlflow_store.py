"""The MLflow store of a project: where it is, and the client that talks to it.

A relative sqlite uri means the project's folder, which is the current one when a stage starts. Code that hands the
settings to a process with another current folder (a Ray worker) calls `resolved` first.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from styleblend.config.tracking import Tracking
from styleblend.errors import StyleBlendError, TransientError

if TYPE_CHECKING:
    from mlflow import MlflowClient

KEY = "styleblend.key"
_SQLITE = "sqlite:///"


class TrackingError(StyleBlendError):
    """A run, model version or alias that was asked for is not in the store."""


class NoVersion(TrackingError):
    """Nothing is registered yet under the alias or number, or there is no local store at all."""


class TrackingUnreachable(TrackingError, TransientError):
    """The MLflow server does not answer, or not as it should."""


def resolved(cfg: Tracking, project: Path | None = None) -> Tracking:
    """The same settings with an absolute sqlite path; `project` is the current folder unless given."""
    file = sqlite_file(cfg.uri, project or Path.cwd())
    return cfg if file is None else cfg.model_copy(update={"uri": f"{_SQLITE}{file}"})


def mlflow_at(uri: str) -> Any:
    """MLflow, pointed at `uri`, telemetry and chatter off. Its import starts telemetry: hence not on top."""
    os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    import mlflow

    for noisy in ("alembic", "mlflow.store.db.utils", "mlflow.tracking.fluent"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    return mlflow


def connect(cfg: Tracking) -> tuple[MlflowClient, str]:
    cfg = resolved(cfg)
    mlflow = mlflow_at(cfg.uri)
    if (file := local_file(cfg)) is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
    try:
        client = mlflow.MlflowClient(cfg.uri, cfg.uri)
        experiment = client.get_experiment_by_name(cfg.experiment)
        if experiment is not None:
            return client, str(experiment.experiment_id)
        # A server decides for itself where artifacts go; beside a local file they go into the project.
        location = (file.parent / "mlruns").as_uri() if file is not None else None
        return client, str(client.create_experiment(cfg.experiment, location))
    except mlflow.MlflowException as error:
        reason = str(error).splitlines()[0]
        kind = TrackingUnreachable if cfg.uri.startswith("http") else TrackingError
        raise kind(f"MLflow at {cfg.uri} gave '{reason}': correct tracking.uri") from error


def local_file(cfg: Tracking) -> Path | None:
    """SQLite's file of a store on this machine; None for any other store."""
    return sqlite_file(cfg.uri, Path.cwd())


def sqlite_file(uri: str, project: Path) -> Path | None:
    return (project / uri.removeprefix(_SQLITE)).resolve() if uri.startswith(_SQLITE) else None
