"""Model versions in MLflow's registry: register, find, fetch, and the aliases that people choose."""

from __future__ import annotations

import importlib
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from styleblend.config.provenance import Provenance
from styleblend.config.tracking import Tracking
from styleblend.errors import reason_of
from styleblend.registry.mlflow_store import (
    KEY,
    NOT_THERE,
    NoVersion,
    TrackingError,
    TrackingUnreachable,
    ask,
    connect,
    local_file,
    opened,
    resolved,
    told,
)  # fmt: skip
from styleblend.registry.runs import Run
from styleblend.system.files import whole_folder

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

SWAPPER = "swapper"
"""Name of the folder with the model among a version's artifacts."""

PROFILE = "data_profile.json"
"""Name of the file among a version's artifacts that says what its data were like, see data.drift."""

LEARNED_FROM, RENDERED, PHOTOGRAPHS = "learned_from", "rendered faces", "photographs"
"""The tag that says which kinds of pictures a version learned from, and its words."""

# The column of MLflow's database is that wide.
_DESCRIPTION_LIMIT = 5000


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
    def knows_rendered_faces_only(self) -> bool:
        """Whether no photograph was among what it learned from; False where its tags do not say."""
        return self.tags.get(LEARNED_FROM) == RENDERED

    @property
    def identity(self) -> str:
        """A folder's name. Numbers begin at 1 again in a registry that was made anew; the run tells them apart."""
        return f"{self.name}-{self.version}-{self.run_id[:8]}"


def register_version(
    cfg: Tracking,
    swapper_folder: Path,
    metrics: Mapping[str, float],
    tags: Mapping[str, str],
    artifacts: Mapping[str, Path],
    alias: str | None,
    provenance: Provenance | None = None,
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
    client, _ = connect(cfg)
    run.log_metrics(metrics)
    known = {version.tags.get(KEY): version for version in _versions(client, cfg.model_name)}
    version = known.get(key) or _make_version(
        client, cfg, swapper_folder, tags, artifacts, provenance or Provenance(), run, key
    )
    if alias is not None:
        client.set_registered_model_alias(cfg.model_name, alias, version.version)
    return find_version(cfg, str(version.version))


def find_version(cfg: Tracking, reference: str) -> Version:
    """Look up a model version by alias or number.

    Raises:
        NoVersion: there is no such version; the message names what there is.
    """
    _check_store(cfg)
    client, _ = connect(cfg)
    versions = _versions(client, cfg.model_name)
    aliases = client.get_registered_model(cfg.model_name).aliases if versions else {}
    number = aliases.get(reference, reference)
    for version in versions:
        if str(version.version) == str(number):
            return _as_version(cfg, version, aliases)
    if not versions:
        raise NoVersion(f"model '{cfg.model_name}' has no version in {cfg.uri}: run `dvc repro` first")
    numbers, names = sorted((str(version.version) for version in versions), key=int), sorted(aliases) or ["(none)"]
    raise NoVersion(
        f"model '{cfg.model_name}' has no version or alias '{reference}': "
        f"there are versions {', '.join(numbers)} and aliases {', '.join(names)}"
    )


def point_alias(cfg: Tracking, alias: str, reference: str) -> Version:
    """Point an alias ("champion") at a version, which is named by another alias or its number.

    Raises:
        TrackingError: there is no such version.
    """
    version = find_version(cfg, reference)
    client, _ = connect(cfg)
    client.set_registered_model_alias(cfg.model_name, alias, version.version)
    return find_version(cfg, version.version)


def kept_version(cfg: Tracking, version: Version, kept: Path) -> Path:
    """The version's swapper in a folder below `kept`: fetched at first use, so that going back needs no download.

    Raises:
        TrackingError: its files are gone.
    """
    folder = kept / version.identity
    return folder if folder.exists() else fetch_version(cfg, version.version, folder)


def fetch_version(cfg: Tracking, reference: str, destination: Path) -> Path:
    """Copy the swapper alone, ready for `styleblend.model.load`; all else is as with `fetch_record`."""
    return fetch_record(cfg, reference, destination, SWAPPER)


def fetch_record(cfg: Tracking, reference: str, destination: Path, part: str = "") -> Path:
    """Copy all that was registered with a model version into `destination`, which is replaced as a whole.

    Args:
        reference: an alias ("champion") or a number ("3").
        part: folder of the version's artifacts to copy alone.
    Returns:
        `destination`, with the swapper in the folder SWAPPER and the other artifacts under their files' names.
    Raises:
        TrackingError: there is no such version, or its files are gone.
    """
    version = find_version(cfg, reference)
    with tempfile.TemporaryDirectory() as scratch:
        found = fetch_part(cfg, version, part, Path(scratch))
        with whole_folder(destination) as partial:
            shutil.copytree(found, partial, dirs_exist_ok=True)
    return destination


def fetch_part(cfg: Tracking, version: Version, part: str, folder: Path) -> Path:
    """Copy one file, or a folder, of what was registered with a version below `folder`; returns where it is.

    Raises:
        TrackingError: it is not among the version's files.
    """
    cfg = resolved(cfg)
    place = f"models:/{version.name}/{version.version}/artifacts/{quote(part)}".rstrip("/")
    fetch = opened(cfg).artifacts.download_artifacts
    try:
        return Path(ask(cfg, fetch, artifact_uri=place, dst_path=str(folder)))
    except TrackingUnreachable:
        raise
    except TrackingError as error:
        reason = reason_of(error.__cause__ or error)
        raise TrackingError(f"{version.title} has lost its files ({reason}): register it again") from error


def newest_version(cfg: Tracking) -> Version:
    """The version with the highest number.

    Raises:
        TrackingError: there is none.
    """
    _check_store(cfg)
    client, _ = connect(cfg)
    numbers = [int(version.version) for version in _versions(client, cfg.model_name)]
    return find_version(cfg, str(max(numbers, default=0)))


def all_versions(cfg: Tracking) -> list[Version]:
    """Every version, oldest first.

    Raises:
        NoVersion: there is no registry.
    """
    _check_store(cfg)
    client, _ = connect(cfg)
    found = sorted(_versions(client, cfg.model_name), key=lambda version: int(version.version))
    aliases = client.get_registered_model(cfg.model_name).aliases if found else {}
    return [_as_version(cfg, version, aliases) for version in found]


def alias_holder(cfg: Tracking, alias: str) -> Version:
    """The version that an alias points at now, in one request: for those who ask again and again.

    `aliases` of the result names this one only.

    Raises:
        NoVersion: no version has the alias.
        TrackingError: the store does not answer.
    """
    _check_store(cfg)
    cfg = resolved(cfg)
    mlflow = opened(cfg)
    client = ask(cfg, mlflow.MlflowClient, cfg.uri, cfg.uri)
    try:
        found = ask(cfg, client.get_model_version_by_alias, cfg.model_name, alias)
    except TrackingError as error:
        # A model without versions is not there, an alias that nobody has is an invalid value.
        if error.code not in (NOT_THERE, "INVALID_PARAMETER_VALUE"):
            raise
        reason = reason_of(error.__cause__ or error)
        raise NoVersion(
            f"no version of model '{cfg.model_name}' has the alias '{alias}' ({reason}): set it in MLflow"
        ) from error
    return Version(cfg.model_name, str(found.version), str(found.run_id), dict(found.tags), (alias,))


def set_tags(cfg: Tracking, version: Version, tags: Mapping[str, str]) -> None:
    """Set tags of a model version, in place of those of the same name."""
    client, _ = connect(cfg)
    for name, value in tags.items():
        client.set_model_version_tag(version.name, version.version, name, value)


def describe(cfg: Tracking, version: Version, markdown: str) -> None:
    """Put a text on the version's page in MLflow, in place of what stood there; what is too long is cut."""
    client, _ = connect(cfg)
    client.update_model_version(version.name, version.version, markdown[:_DESCRIPTION_LIMIT])


def _as_version(cfg: Tracking, version: ModelVersion, aliases: Mapping[str, Any]) -> Version:
    number = str(version.version)
    own = sorted(name for name, target in aliases.items() if str(target) == number)
    return Version(cfg.model_name, number, str(version.run_id), dict(version.tags), tuple(own))


def _check_store(cfg: Tracking) -> None:
    """Refuse a local store that is not there yet, in place of making an empty one."""
    if (file := local_file(cfg)) is not None and not file.exists():
        raise NoVersion(f"no model registry at {file}: run `dvc repro` first, or correct tracking.uri")


def _make_version(
    client: MlflowClient,
    cfg: Tracking,
    swapper_folder: Path,
    tags: Mapping[str, str],
    artifacts: Mapping[str, Path],
    provenance: Provenance,
    run: Run,
    key: str,
) -> ModelVersion:
    mlflow = opened(cfg)
    package = Path(__file__).parents[1]
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
        with told(cfg), mlflow.start_run(run_id=run.run_id):
            info = mlflow.pyfunc.log_model(
                name="model",
                python_model=str(package / "registry/pyfunc_model.py"),
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
    if not client.search_registered_models(f"name = '{cfg.model_name}'"):
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
    # The last three mark the pictures that a served version draws.
    names = "torch numpy pandas pillow pydantic pyyaml safetensors mlflow blind-watermark c2pa-python cryptography"
    return [f"{name}=={version(name).split('+')[0]}" for name in names.split()]


def _versions(client: MlflowClient, name: str) -> list[ModelVersion]:
    page = client.search_model_versions(f"name = '{name}'")
    found = list(page)
    while page.token:
        page = client.search_model_versions(f"name = '{name}'", page_token=page.token)
        found += page
    return found
