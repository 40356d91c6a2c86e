"""What the two training stages share: from declared inputs to a finished model folder."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import styleblend
from styleblend.registry import mlflow_store, outbox, runs
from styleblend.system.files import fingerprint, whole_folder
from styleblend.training import ray_trainer
from styleblend.training.steps import Stage

if TYPE_CHECKING:
    from styleblend.config.params import Config

CODE = (
    "faces/mean_box.py",
    "faces/pixels.py",
    "faces/regions.py",
    "faces/resize.py",
    "faces/template.py",
    "faces/warp.py",
    "faces/mesh_template.py",
    "model",
    "perception",
    "training",
    "weights/formats",
    "weights/frozen.py",
    "weights/start.py",
    "weights/starter.py",
)
"""Changing these begins the training anew. Comments count too: a run half of old code would be worth nothing."""


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

    The live state is in .state/<stage>-<fingerprint> of the current folder until `out` is written, undeclared to DVC:
    a stage that was killed goes on, one whose parameters, data or code changed begins anew.

    Args:
        parent_run_id: run of the pipeline; None finds or makes it.
    Raises:
        StyleBlendError: see ray_trainer.run.
    """
    training = cfg.train_encoder if stage == "train_encoder" else cfg.finetune_decoder
    package = Path(styleblend.__file__).parent
    inputs = {"splits": splits, "faces": faces, "perceived": perceived, "networks": networks}
    inputs |= {"encoder": encoder} if encoder else {}
    parts = (faces / "manifest.parquet", perceived, splits, networks, *([encoder] if encoder else []))
    code = (package / name for name in CODE)
    key = fingerprint(stage, cfg.model.model_dump_json(), training.model_dump_json(), *parts, *code)
    store = mlflow_store.resolved(cfg.tracking)
    state = Path(".state", f"{stage}-{key}").resolve()
    # What a run that goes on has recorded names its parent, also while MLflow does not answer.
    known = outbox.address_of(outbox.PLACE / state.name)
    parent_run_id = parent_run_id or (known.parent_run_id if known else None)
    job = ray_trainer.Job(
        stage=stage,
        fingerprint=key,
        model=cfg.model,
        training=training,
        tracking=store,
        parent_run_id=parent_run_id or runs.start_pipeline(store, key, cfg.model_dump(mode="json")),
        state=state,
        **{name: path.resolve() for name, path in inputs.items()},
    )
    result = ray_trainer.run(job)
    with whole_folder(out) as partial:
        shutil.copytree(result, partial, dirs_exist_ok=True)
    shutil.rmtree(job.state)
    outbox.deliver(store, print)
