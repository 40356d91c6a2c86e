"""What the two training stages share: from declared inputs to a finished model folder."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import styleblend
from styleblend.config.training import PACE, Training
from styleblend.errors import StyleBlendError
from styleblend.model.swapper import DESCRIPTION_FILE, WEIGHTS_FILE
from styleblend.registry import mlflow_store, outbox, runs, versions
from styleblend.system.code import code_fingerprint
from styleblend.system.files import fingerprint, sha256, whole_folder
from styleblend.system.kept import is_guest
from styleblend.system.lock import Locked
from styleblend.training import checkpoint, ray_trainer, shared
from styleblend.training.beginning import Origin
from styleblend.training.job import CHECKPOINTS, Job
from styleblend.training.steps import Stage

if TYPE_CHECKING:
    from styleblend.config.params import Config

VERSIONS = Path(".state/versions")
"""Where fetched versions are kept, as by those that follow an alias."""

_MADE_BY_GUEST = "guest"
"""Name of a file in the state of a training that only working copies of the project have used."""

CODE = (
    "faces/mean_box.py",
    "faces/mesh_template.py",
    "faces/pixels.py",
    "faces/regions.py",
    "faces/resize.py",
    "faces/template.py",
    "faces/warp.py",
    "model",
    "perception",
    "training/adam.py",
    "training/batches.py",
    "training/beginning.py",
    "training/generated.py",
    "training/inputs.py",
    "training/jitter.py",
    "training/losses.py",
    "training/ready.py",
    "training/repeatable.py",
    "training/samples.py",
    "training/steps.py",
    "training/stream.py",
    "weights/formats",
    "weights/frozen.py",
    "weights/start.py",
    "weights/starter.py",
)
"""What computes: when its code changes, training begins anew. Words about it (see code_fingerprint), and what logs,
keeps, judges or distributes, can change in the middle of a run."""

_WHAT_THEY_SAY = PACE | {"continue_from"}
"""Settings that are no part of a state's name. What a training goes on from is, by its content."""


def train_stage(
    stage: Stage,
    cfg: Config,
    splits: Path,
    faces: Path,
    perceived: Path,
    networks: Path,
    out: Path,
    encoder: Path | None = None,
    parent_run_id: str | None = None,
) -> None:
    """Run a training stage, or go on with it, and write the model folder `out`.

    The live state is in .state/<stage>-<fingerprint> of the current folder, undeclared to DVC. The fingerprint holds
    what changes the arithmetic of a step: a stage that was killed goes on, also with more steps or another number of
    workers, and one whose data, losses, rates or computing code changed begins anew. Of the finished trainings the last
    one keeps its last checkpoint, for more steps.

    Args:
        parent_run_id: run of the pipeline; None finds or makes it.
    Raises:
        StyleBlendError: see ray_trainer.run.
    """
    training = cfg.train_encoder if stage == "train_encoder" else cfg.finetune_decoder
    inputs = {"splits": splits, "faces": faces, "perceived": perceived, "networks": networks}
    inputs |= {"encoder": encoder} if encoder else {}
    store = mlflow_store.resolved(cfg.tracking)
    origin = origin_of(stage, training.continue_from, cfg)
    key = state_key(stage, cfg, training, [faces / "manifest.parquet", perceived, splits, networks], encoder, origin)
    state = _state(f"{stage}-{key}")
    # What a run that goes on has recorded names its parent, also while MLflow does not answer.
    known = outbox.address_of(outbox.PLACE / state.name)
    parent_run_id = parent_run_id or (known.parent_run_id if known else None)
    job = Job(
        stage=stage,
        fingerprint=key,
        model=cfg.model,
        training=training,
        tracking=store,
        parent_run_id=parent_run_id or runs.start_pipeline(store, key, cfg.model_dump(mode="json")),
        state=state,
        origin=origin,
        ticket=None,
        **{name: path.resolve() for name, path in inputs.items()},
    )
    result = ray_trainer.run(job)
    with whole_folder(out) as partial:
        shutil.copytree(result, partial, dirs_exist_ok=True)
    _retire(job)
    outbox.deliver(store, print)


def state_key(
    stage: Stage, cfg: Config, training: Training, data: Sequence[Path], encoder: Path | None, origin: Origin | None
) -> str:
    """16 hex digits that change with what changes the arithmetic of a step, or what the first step begins with.

    Args:
        data: the files and folders that faces, pairs and frozen networks come from.
        encoder: folder of the first stage's model. origin: what continue_from names.
    """
    package = Path(styleblend.__file__).parent
    # Off, it is as it was before there was such a setting.
    unsaid = _WHAT_THEY_SAY if training.deterministic else _WHAT_THEY_SAY | {"deterministic"}
    return fingerprint(
        stage,
        cfg.model.model_dump_json(),
        training.model_dump_json(exclude=set(unsaid)),
        *data,
        *(_weights(encoder) if encoder else ()),
        *(_weights(origin.path) if origin else ()),
        code_fingerprint(*(package / name for name in CODE)),
    )


def _weights(place: Path) -> list[Path]:
    """A checkpoint, or of a model folder what is learned: its curves and the ids of its runs teach nothing."""
    return [place] if place.is_file() else sorted(file for file in place.iterdir() if file.suffix != ".json")


def origin_of(stage: Stage, named: str | None, cfg: Config) -> Origin | None:
    """What continue_from names; a version is fetched.

    Raises:
        StyleBlendError: there is no such version, file or model folder.
    """
    if named is None:
        return None
    if named.isdecimal():
        version = versions.find_version(cfg.tracking, named)
        folder = versions.kept_version(cfg.tracking, version, VERSIONS)
        return Origin(folder.resolve(), f"{version.title} (run {version.run_id})")
    path = Path(named)
    if not (path.is_file() or (path / DESCRIPTION_FILE).is_file()):
        raise StyleBlendError(
            f"{stage}.continue_from is {named}, where there is neither a checkpoint nor a model folder: name a file of"
            " .state/*/checkpoints, a folder with a model.json, or the number of a version"
        )
    weights = path if path.is_file() else path / WEIGHTS_FILE
    return Origin(path.resolve(), f"{path.name} (sha256 {sha256(weights)[:16]})")


def _state(name: str) -> Path:
    """The folder of a training's state, made where it is new."""
    state = Path(".state", name).resolve()
    if not state.exists():
        state.mkdir(parents=True)
        if is_guest(state.parent):
            (state / _MADE_BY_GUEST).touch()
    return state


def _retire(job: Job) -> None:
    """Leave of a finished training what a longer one begins from, and nothing of the stage's earlier finished ones.

    A kill before DVC has seen the output costs nothing so: the next call is at the end at once. In a working copy of
    the project only those go that began in one, too: the project's own are there when it needs them.
    """
    guest = is_guest(job.state.parent)
    stay = {ray_trainer.TRAINER_LOCK, *([_MADE_BY_GUEST] if guest else [])}
    shared.retire(job)
    for entry in job.state.iterdir():
        if entry.is_dir() and entry.name != CHECKPOINTS:
            shutil.rmtree(entry)
        elif entry.is_file() and entry.name not in stay:
            entry.unlink()
    for other in job.state.parent.glob(f"{job.stage}-*"):
        if guest and not (other / _MADE_BY_GUEST).exists():
            continue
        found = checkpoint.kept(other / CHECKPOINTS)
        finished = {each.planned for each in found if each.step == each.planned}
        if other != job.state and found and all(each.planned in finished for each in found):
            # Not one that another run is at: runs with settings of their own share the folder.
            with suppress(Locked), ray_trainer.lock(other / ray_trainer.TRAINER_LOCK, wait_s=0):
                shutil.rmtree(other)
