"""The MLflow store of a project: where it is, and the one door through which MLflow is asked.

A relative sqlite uri means the project's folder, which is the current one when a stage starts. Code that hands the
settings to a process with another current folder (a Ray worker) calls `resolved` first.

Whatever MLflow, its database or its server raises leaves this module as a TrackingError of one line. What may pass, as
a locked database, is tried once more before, and is a TransientError, too.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from styleblend.config.tracking import Tracking
from styleblend.errors import StyleBlendError, TransientError, reason_of
from styleblend.registry import moved_store

if TYPE_CHECKING:
    from mlflow import MlflowClient

KEY = "styleblend.key"
NOT_THERE = "RESOURCE_DOES_NOT_EXIST"
"""MLflow's code of what a store does not have."""
_SQLITE = "sqlite:///"
_TRIES, _PAUSE_S = 2, 1.0
"""MLflow itself waits 20 s for a lock of its database, and asks a server eight times."""
_ANSWERS = {
    "ALREADY_EXISTS", "BAD_REQUEST", "ENDPOINT_NOT_FOUND", "FEATURE_DISABLED", "INVALID_PARAMETER_VALUE",
    "INVALID_STATE", "NOT_IMPLEMENTED", "PERMISSION_DENIED", "RESOURCE_ALREADY_EXISTS", NOT_THERE,
    "UNAUTHENTICATED",
}  # fmt: skip
"""Error codes of a server that has understood the request: to ask again is of no use."""

_LIBRARIES = {"alembic", "mlflow", "requests", "sqlalchemy", "sqlite3", "urllib3"}
"""Whose errors MLflow lets through, beside its own."""

_log = logging.getLogger(__name__)

Given = ParamSpec("Given")
Found = TypeVar("Found")


class TrackingError(StyleBlendError):
    """A run, model version or alias that was asked for is not in the store, or the store cannot be used.

    code: MLflow's own error code, empty where the store did not give one.
    """

    code = ""


class NoVersion(TrackingError):
    """Nothing is registered yet under the alias or number, or there is no local store at all."""


class TrackingUnreachable(TrackingError, TransientError):
    """The MLflow server does not answer, or not as it should, or another process has locked the database."""


def resolved(cfg: Tracking, project: Path | None = None) -> Tracking:
    """The same settings with an absolute sqlite path; `project` is the current folder unless given.

    Raises:
        TrackingError: the path cannot stand in an address.
    """
    file = sqlite_file(cfg.uri, project or Path.cwd())
    if file is not None and "?" in str(file):
        raise TrackingError(
            f"MLflow's {file} has a question mark in its path, where SQLite's address would end: rename that folder, "
            "or set tracking.uri to another place"
        )
    return cfg if file is None else cfg.model_copy(update={"uri": f"{_SQLITE}{file}"})


def mlflow_at(uri: str) -> Any:
    """MLflow, pointed at `uri`, telemetry and chatter off. Its import starts telemetry: hence not on top."""
    os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    import mlflow

    for noisy in ("alembic", "mlflow.tracking.fluent"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # It logs the traceback of what it raises.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    return mlflow


def opened(cfg: Tracking) -> Any:
    """MLflow, pointed at the project's store; a local store that was moved with its files takes those with it.

    Raises:
        TrackingError: the store's files were left behind elsewhere.
    """
    cfg = resolved(cfg)
    settle(cfg)
    return mlflow_at(cfg.uri)


def settle(cfg: Tracking) -> None:
    """See to it that a local store's database names its files where they are now; see `moved_store`.

    Raises:
        TrackingError: the store belongs elsewhere, or cannot be read.
    """
    move = expect_files(cfg)
    if move is None:
        return
    ask(cfg, moved_store.settle, move)
    _log.warning("%s was moved or copied from %s: its files are those in %s now", move.file, move.old.parent, move.new)


def moved(cfg: Tracking) -> moved_store.Move | None:
    """Whether a local store's database names its files at another place than beside it; nothing is changed.

    Raises:
        TrackingError: the database cannot be read.
    """
    file = local_file(cfg)
    return None if file is None or not file.exists() else ask(cfg, moved_store.find, file, cfg.experiment)


def expect_files(cfg: Tracking) -> moved_store.Move | None:
    """As `moved`.

    Raises:
        TrackingError: the store's files were left behind elsewhere.
    """
    move = moved(cfg)
    if move is not None and move.left_behind:
        raise TrackingError(move.refusal)
    return move


def connect(cfg: Tracking) -> tuple[MlflowClient, str]:
    """A client whose every call is made by `ask`, and the id of the experiment, which is made if it is not there.

    Raises:
        TrackingError: the store cannot be used.
    """
    cfg = resolved(cfg)
    mlflow = opened(cfg)
    if (file := local_file(cfg)) is not None:
        with told(cfg):
            file.parent.mkdir(parents=True, exist_ok=True)
    client = cast("MlflowClient", _Client(cfg, ask(cfg, mlflow.MlflowClient, cfg.uri, cfg.uri)))
    experiment = client.get_experiment_by_name(cfg.experiment)
    if experiment is not None:
        return client, str(experiment.experiment_id)
    # A server decides for itself where artifacts go; beside a local file they go into the project.
    location = moved_store.home(file).as_uri() if file is not None else None
    return client, str(client.create_experiment(cfg.experiment, location))


class _Client:
    """MLflow's client; each call is made by `ask`."""

    def __init__(self, cfg: Tracking, client: Any) -> None:
        self._cfg, self._client = cfg, client

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        return (lambda *given, **named: ask(self._cfg, found, *given, **named)) if callable(found) else found


def ask(cfg: Tracking, question: Callable[Given, Found], *given: Given.args, **named: Given.kwargs) -> Found:
    """`question(*given, **named)`, once more where a local database was locked.

    Raises:
        TrackingError: see `told`.
    """
    for left in reversed(range(_TRIES)):
        try:
            with told(cfg):
                return question(*given, **named)
        except TrackingUnreachable as error:
            # A server was asked several times already.
            if not left or cfg.uri.startswith("http"):
                raise
            _log.warning("%s; once more", error)
            time.sleep(_PAUSE_S)
    raise AssertionError("the last try returns")


@contextmanager
def told(cfg: Tracking) -> Iterator[None]:
    """For a block that asks MLflow: what its libraries raise becomes one line with their own reason.

    Raises:
        TrackingUnreachable: no server answers as it should, or the database is locked.
        TrackingError: any other failure; `code` has MLflow's code of it.
    """
    try:
        yield
    except Exception as error:
        # By name: their import is slow, and that of MLflow has to wait for `mlflow_at`.
        libraries = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
        if isinstance(error, StyleBlendError) or not (isinstance(error, OSError) or libraries & _LIBRARIES):
            raise
        raise _line(cfg, error, str(getattr(error, "error_code", ""))) from error


def _line(cfg: Tracking, error: Exception, code: str) -> TrackingError:
    reason = reason_of(error)
    said = f"MLflow at {cfg.uri} gave '{reason}'"
    found: TrackingError
    local = isinstance(error, OSError) and type(error).__module__ == "builtins"
    if local and not isinstance(error, ConnectionError | TimeoutError):
        found = TrackingError(f"{said}: make that place writable, make room, or correct tracking.uri")
    elif cfg.uri.startswith("http") and code in _ANSWERS:
        found = TrackingError(f"{said}: correct what was asked for, or tracking.uri")
    elif cfg.uri.startswith("http"):
        found = TrackingUnreachable(f"{said}: see that it runs, or correct tracking.uri")
    elif "is locked" in reason:
        found = TrackingUnreachable(f"{said}: another process holds it, wait for its end or end it")
    else:
        found = TrackingError(f"{said}: correct tracking.uri, or what it names")
    found.code = code
    return found


def local_file(cfg: Tracking) -> Path | None:
    """SQLite's file of a store on this machine; None for any other store."""
    return sqlite_file(cfg.uri, Path.cwd())


def sqlite_file(uri: str, project: Path) -> Path | None:
    return (project / uri.removeprefix(_SQLITE)).resolve() if uri.startswith(_SQLITE) else None
