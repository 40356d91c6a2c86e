"""Runs and model versions in MLflow: the only module that talks to it.

A pipeline run is one parent run with a child for each training stage, evaluation and registration. Runs carry
the tag `styleblend.key` and are found again by it, so a stage that was killed continues its run instead of
starting another.

A relative sqlite uri means the project's folder, which is the current one when a stage starts. Whoever hands
the settings to a process with another current folder (a Ray worker) calls `resolved` first.
"""

from __future__ import annotations

import importlib
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from styleblend import config
from styleblend.errors import StyleBlendError, TransientError
from styleblend.files import whole_folder

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

KEY = "styleblend.key"
_SQLITE = "sqlite:///"
SWAPPER = "swapper"
"""Name of the folder with the model among a version's artifacts."""
# The column of MLflow's database is that wide.
_DESCRIPTION_LIMIT = 5000


class TrackingError(StyleBlendError):
    """A run, model version or alias that was asked for is not in the store."""


class TrackingUnreachable(TrackingError, TransientError):
    """The MLflow server does not answer, or not as it should."""


@dataclass(frozen=True)
class Version:
    """A model version of the registry. `aliases` are those it had when it was read."""

    name: str
    version: str
    run_id: str
    tags: Mapping[str, str]
    aliases: tuple[str, ...]

    @property
    def title(self) -> str:
        """As in marks and answers: `styleblend version 3`."""
        return f"{self.name} version {self.version}"

    @property
    def identity(self) -> str:
        """A folder's name. Numbers begin at 1 again in a registry that was made anew; the run tells them apart."""
        return f"{self.name}-{self.version}-{self.run_id[:8]}"


@dataclass(frozen=True)
class Run:
    """An open child run."""

    client: MlflowClient
    run_id: str
    parent_run_id: str

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Log figures under their own names; all of them in one transaction of at most 1000."""
        from mlflow.entities import Metric
        from mlflow.utils.time import get_current_time_millis

        now = get_current_time_millis()
        entries = [Metric(name, float(value), now, step) for name, value in metrics.items()]
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


def resolved(cfg: config.Tracking, project: Path | None = None) -> config.Tracking:
    """The same settings with an absolute sqlite path; `project` is the current folder unless given."""
    file = _sqlite_file(cfg.uri, project or Path.cwd())
    return cfg if file is None else cfg.model_copy(update={"uri": f"{_SQLITE}{file}"})


def start_pipeline(cfg: config.Tracking, key: str, params: Mapping[str, Any]) -> str:
    """Find or make the parent run of a pipeline run.

    Args:
        key: equal keys mean the same pipeline run, for example a fingerprint of parameters and data.
        params: parameters to log, nested or flat; those already logged stay as they are.
    Returns:
        the parent's run id.
    """
    client, experiment_id = _connect(cfg)
    run_id = _find_or_create(client, experiment_id, "pipeline", key, {})
    _log_params(client, run_id, params)
    return run_id


def finish_pipeline(cfg: config.Tracking, parent_run_id: str) -> None:
    """Mark the parent run as finished."""
    client, _ = _connect(cfg)
    client.set_terminated(parent_run_id, "FINISHED")


@contextmanager
def child_run(
    cfg: config.Tracking, parent_run_id: str, stage: str, key: str, params: Mapping[str, Any]
) -> Iterator[Run]:
    """Open a stage's run below its parent; it ends as FINISHED, or as FAILED when the block raises.

    A parent that this store does not know is made here: a model that came from another machine (`dvc pull`)
    brings the id of a run that lives there.
    """
    client, experiment_id = _connect(cfg)
    parent_run_id = _known_parent(client, experiment_id, parent_run_id)
    run_id = _find_or_create(
        client,
        experiment_id,
        stage,
        f"{stage}-{key}",
        {"mlflow.parentRunId": parent_run_id, "styleblend.stage": stage},
    )
    _log_params(client, run_id, params)
    status = "FAILED"
    try:
        yield Run(client, run_id, parent_run_id)
        status = "FINISHED"
    finally:
        client.set_terminated(run_id, status)


def register_version(
    cfg: config.Tracking,
    swapper_folder: Path,
    metrics: Mapping[str, float],
    tags: Mapping[str, str],
    artifacts: Mapping[str, Path],
    alias: str | None,
    provenance: config.Provenance | None = None,
    *,
    run: Run,
    key: str,
) -> Version:
    """Register a swapper as a model version that carries its code and its weights, and nothing pickled.

    The version holds the package's source beside safetensors weights, so it loads without this checkout.
    What was already registered under `key` is not made twice: it keeps what it was made with and gets the alias.

    Args:
        swapper_folder: what `styleblend.model.load` reads.
        metrics: logged on the registering run and shown with the version.
        tags: what the version was made with; `set_tags` is for what may change later.
        artifacts: further files of the version (card, grid, figures), by name.
        alias: name that will point at this version, or None.
        provenance: who signs pictures of the version where MLflow itself serves it; whoever loads it can say another.
        run: the run that the version belongs to.
    """
    client, _ = _connect(cfg)
    run.log_metrics(metrics)
    known = {version.tags.get(KEY): version for version in _versions(client, cfg.model_name)}
    version = known.get(key) or _make_version(
        client, cfg, swapper_folder, tags, artifacts, provenance or config.Provenance(), run, key
    )
    if alias is not None:
        client.set_registered_model_alias(cfg.model_name, alias, version.version)
    return find_version(cfg, str(version.version))


def find_version(cfg: config.Tracking, reference: str) -> Version:
    """Look up a model version by alias or number.

    Raises:
        TrackingError: there is no such version; the message names what there is.
    """
    file = _sqlite_file(cfg.uri, Path.cwd())
    if file is not None and not file.exists():
        raise TrackingError(f"no model registry at {file}: run `dvc repro` first, or correct tracking.uri")
    client, _ = _connect(cfg)
    versions = _versions(client, cfg.model_name)
    aliases = client.get_registered_model(cfg.model_name).aliases if versions else {}
    number = aliases.get(reference, reference)
    for version in versions:
        if str(version.version) == str(number):
            return Version(
                name=cfg.model_name,
                version=str(version.version),
                run_id=str(version.run_id),
                tags=dict(version.tags),
                aliases=tuple(sorted(name for name, target in aliases.items() if str(target) == str(number))),
            )
    if not versions:
        raise TrackingError(f"model '{cfg.model_name}' has no version in {cfg.uri}: run `dvc repro` first")
    numbers = sorted((str(version.version) for version in versions), key=int)
    raise TrackingError(
        f"model '{cfg.model_name}' has no version or alias '{reference}': "
        f"there are versions {', '.join(numbers)} and aliases {', '.join(sorted(aliases)) or '(none)'}"
    )


def point_alias(cfg: config.Tracking, alias: str, reference: str) -> Version:
    """Point an alias ("champion") at a version, which is named by another alias or its number.

    Raises:
        TrackingError: there is no such version.
    """
    version = find_version(cfg, reference)
    client, _ = _connect(cfg)
    client.set_registered_model_alias(cfg.model_name, alias, version.version)
    return find_version(cfg, version.version)


def kept_version(cfg: config.Tracking, version: Version, kept: Path) -> Path:
    """The version's swapper in a folder below `kept`: fetched at first use, so that going back needs no download.

    Raises:
        TrackingError: its files are gone.
    """
    folder = kept / version.identity
    return folder if folder.exists() else fetch_version(cfg, version.version, folder)


def fetch_version(cfg: config.Tracking, reference: str, destination: Path) -> Path:
    """Copy the swapper of a model version into `destination`, which is replaced as a whole.

    Args:
        reference: an alias ("champion") or a number ("3").
    Returns:
        `destination`, ready for `styleblend.model.load`.
    Raises:
        TrackingError: there is no such version, or its files are gone.
    """
    with tempfile.TemporaryDirectory() as scratch:
        record = fetch_record(cfg, reference, Path(scratch) / "record")
        with whole_folder(destination) as partial:
            shutil.copytree(record / SWAPPER, partial, dirs_exist_ok=True)
    return destination


def fetch_record(cfg: config.Tracking, reference: str, destination: Path) -> Path:
    """Copy all that was registered with a model version into `destination`, which is replaced as a whole.

    Args:
        reference: an alias ("champion") or a number ("3").
    Returns:
        `destination`, with the swapper in the folder SWAPPER and the other artifacts under their files' names.
    Raises:
        TrackingError: there is no such version, or its files are gone.
    """
    version = find_version(cfg, reference)
    mlflow = _mlflow(resolved(cfg).uri)
    with tempfile.TemporaryDirectory() as scratch:
        try:
            found = mlflow.artifacts.download_artifacts(
                artifact_uri=f"models:/{version.name}/{version.version}", dst_path=scratch
            )
            with whole_folder(destination) as partial:
                shutil.copytree(Path(found) / "artifacts", partial, dirs_exist_ok=True)
        except (mlflow.MlflowException, OSError) as error:
            reason = str(error).splitlines()[0]
            raise TrackingError(
                f"{version.name} version {version.version} has lost its files ({reason}): register it again"
            ) from error
    return destination


def alias_holder(cfg: config.Tracking, alias: str) -> Version:
    """The version that an alias points at now, in one request: for those who ask again and again.

    `aliases` of the result names this one only.

    Raises:
        TrackingError: no version has the alias, or the store does not answer.
    """
    file = _sqlite_file(cfg.uri, Path.cwd())
    if file is not None and not file.exists():
        raise TrackingError(f"no model registry at {file}: run `dvc repro` first, or correct tracking.uri")
    cfg = resolved(cfg)
    mlflow = _mlflow(cfg.uri)
    try:
        found = mlflow.MlflowClient(cfg.uri, cfg.uri).get_model_version_by_alias(cfg.model_name, alias)
    except mlflow.MlflowException as error:
        reason = str(error).splitlines()[0]
        raise TrackingError(
            f"alias '{alias}' of model '{cfg.model_name}' could not be read ({reason}): set it in MLflow, or see to it "
            f"that {cfg.uri} answers"
        ) from error
    return Version(cfg.model_name, str(found.version), str(found.run_id), dict(found.tags), (alias,))


def set_tags(cfg: config.Tracking, version: Version, tags: Mapping[str, str]) -> None:
    """Set tags of a model version, in place of those of the same name."""
    client, _ = _connect(cfg)
    for name, value in tags.items():
        client.set_model_version_tag(version.name, version.version, name, value)


def describe(cfg: config.Tracking, version: Version, markdown: str) -> None:
    """Put a text on the version's page in MLflow, in place of what stood there; what is too long is cut."""
    client, _ = _connect(cfg)
    client.update_model_version(version.name, version.version, markdown[:_DESCRIPTION_LIMIT])


def picture_markdown(run: Run, path: str, words: str) -> str:
    """A picture of a run's artifacts for the text of one of MLflow's pages, with a link to where it is larger.

    Both addresses are relative to that page, so they hold whatever MLflow's host and port.
    """
    experiment = run.client.get_run(run.run_id).info.experiment_id
    picture = urlencode({"path": path, "run_uuid": run.run_id})
    page = f"#/experiments/{experiment}/runs/{run.run_id}/artifacts/{path}"
    return f"[![{words}](get-artifact?{picture})]({page})"


def _make_version(
    client: MlflowClient,
    cfg: config.Tracking,
    swapper_folder: Path,
    tags: Mapping[str, str],
    artifacts: Mapping[str, Path],
    provenance: config.Provenance,
    run: Run,
    key: str,
) -> ModelVersion:
    mlflow = _mlflow(resolved(cfg).uri)
    package = Path(__file__).parent
    # Whoever loads the version stands in another folder.
    signing = {name: path.resolve() for name, path in provenance if isinstance(path, Path)}
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        # MLflow's own classes set off the first of these when they are imported; for the second: a signature is
        # given, and an example would be two faces.
        warnings.filterwarnings("ignore", message=".*Any type hint is inferred as AnyType")
        warnings.filterwarnings("ignore", message=".*An input example was not provided")
        importlib.import_module("mlflow.pyfunc")
        # MLflow keeps an artifact under the name of its folder (and follows no links): `fetch_version` needs it.
        named = shutil.copytree(swapper_folder, Path(scratch) / SWAPPER)
        files = {SWAPPER: str(named)} | {name: str(path.resolve()) for name, path in artifacts.items()}
        with mlflow.start_run(run_id=run.run_id):
            info = mlflow.pyfunc.log_model(
                name="model",
                python_model=str(package / "registered_model.py"),
                artifacts=files,
                code_paths=[str(package)],
                # The version's number comes when all this is logged; its run has no other version.
                model_config={
                    "made_by": f"{cfg.model_name} run {run.run_id}",
                    "provenance": provenance.model_copy(update=signing).model_dump(mode="json"),
                },
                signature=_signature(),
                pip_requirements=_requirements(),
            )
    if not _registered(client, cfg.model_name):
        client.create_registered_model(cfg.model_name, description="Face swapping by style blending")
    return client.create_model_version(
        cfg.model_name, info.model_uri, run.run_id, tags={**tags, KEY: key}, model_id=info.model_id
    )


def _signature() -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema

    def pictures(*names: str) -> Schema:
        return Schema([ColSpec(DataType.binary, name) for name in names])

    return ModelSignature(inputs=pictures("source", "target"), outputs=pictures("swapped"))


def _requirements() -> list[str]:
    from importlib.metadata import version

    # A local build tag (+cpu) names a wheel that the package index does not have.
    names = ("torch", "numpy", "pandas", "pillow", "pydantic", "pyyaml", "safetensors", "mlflow")
    # They mark the pictures that a served version draws.
    marking = ("blind-watermark", "c2pa-python", "cryptography")
    return [f"{name}=={version(name).split('+')[0]}" for name in names + marking]


def _mlflow(uri: str) -> Any:
    """MLflow, pointed at `uri`, telemetry and chatter off. Its import starts telemetry: hence not on top."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["DO_NOT_TRACK"] = "true"
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    import mlflow

    for noisy in ("alembic", "mlflow.store.db.utils", "mlflow.tracking.fluent"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    return mlflow


def _connect(cfg: config.Tracking) -> tuple[MlflowClient, str]:
    cfg = resolved(cfg)
    mlflow = _mlflow(cfg.uri)
    file = _sqlite_file(cfg.uri, Path.cwd())
    if file is not None:
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


def local_file(cfg: config.Tracking) -> Path | None:
    """SQLite's file of a store on this machine; None for any other store."""
    return _sqlite_file(cfg.uri, Path.cwd())


def _sqlite_file(uri: str, project: Path) -> Path | None:
    return (project / uri.removeprefix(_SQLITE)).resolve() if uri.startswith(_SQLITE) else None


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
    from mlflow.exceptions import MlflowException

    try:
        return str(client.get_run(parent_run_id).info.run_id)
    except MlflowException:
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


def _registered(client: MlflowClient, name: str) -> bool:
    return bool(client.search_registered_models(f"name = '{name}'"))


def _versions(client: MlflowClient, name: str) -> list[ModelVersion]:
    found: list[ModelVersion] = []
    token: str | None = None
    while True:
        page = client.search_model_versions(f"name = '{name}'", page_token=token)
        found += page
        token = page.token
        if not token:
            return found
