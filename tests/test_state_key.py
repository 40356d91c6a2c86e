"""What a training that was ended goes on with: the same arithmetic, whatever else has changed; and from where else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import tiny_training as tiny
from package_imports import modules, reached
from styleblend import model
from styleblend.config.params import Config, load_params
from styleblend.config.training import PACE, Training
from styleblend.errors import StyleBlendError
from styleblend.registry import mlflow_store, runs, versions
from styleblend.system.code import code_fingerprint
from styleblend.training import checkpoint, loop, probe, ray_trainer, record, stage
from styleblend.training.beginning import Origin
from test_architecture import UNWATCHED, within

NO_PART = frozenset({"training.probe", "config"})
"""The probe looks on; settings count by their values."""


@pytest.fixture(scope="module")
def cfg(root: Path) -> Config:
    return load_params(root / "params.yaml")


def key(cfg: Config, training: Training, encoder: Path | None = None, origin: Origin | None = None) -> str:
    return stage.state_key("train_encoder", cfg, training, [], encoder, origin)


OTHERS = {
    "discriminator_adam_betas": (0.5, 0.9), "ray_address": "auto", "continue_from": "3", "precision": "bfloat16",
    "tf32": True, "channels_last": True, "compile": True, "storage": "/shared", "deterministic": True,
}  # fmt: skip


def other(cfg: Training, name: str) -> Any:
    """Another value of a setting."""
    value = getattr(cfg, name)
    if name in OTHERS:
        return OTHERS[name]
    if name == "loss":
        return value.model_copy(update={"identity": value.identity + 1})
    if name == "adam_betas":
        return (value[0] / 2, value[1])
    if name == "encoder_start":
        return "new"
    return 0.25 if value is None else value + 1


def test_settings_that_leave_the_arithmetic_alone_are_no_part_of_the_key(cfg: Config, monkeypatch) -> None:
    """Every setting of a training is either in PACE and changes no key, or changes it."""
    monkeypatch.setattr(stage, "code_fingerprint", lambda *places: "")
    before = key(cfg, cfg.train_encoder)
    same = set()
    for name in Training.model_fields:
        if key(cfg, cfg.train_encoder.model_copy(update={name: other(cfg.train_encoder, name)})) == before:
            same.add(name)
    assert same == PACE | {"continue_from"}
    named = {"workers", "max_failures", "log_every", "checkpoint_every", "probe_every", "ray_address", "steps"}
    assert same >= named | {"cpus_per_worker", "max_rollbacks"}
    assert (
        key(cfg.model_copy(update={"model": cfg.model.model_copy(update={"style_dim": 8})}), cfg.train_encoder)
        != before
    )


def test_words_about_code_are_no_part_of_the_key(tmp_path: Path) -> None:
    """Comments, docstrings and layout can change; a number, an operator, a file and a name cannot."""
    source = '"""A module."""\n\nHALF = 0.5\n"""Of one."""\n\n\ndef f(x):\n    """Doc."""\n    return x * HALF\n'
    file = tmp_path / "package" / "code.py"
    file.parent.mkdir()

    def of(text: str) -> str:
        file.write_text(text)
        return code_fingerprint(file.parent)

    before = of(source)
    for same in (
        "# A comment.\n" + source,
        source.replace("A module", "Another text"),
        source.replace("Doc.", "Says more."),
        source.replace("Of one.", "Of two."),
        source.replace('    """Doc."""\n', ""),
        source.replace("x * HALF", "(\n        x * HALF\n    )  # why"),
    ):
        assert of(same) == before
    for changed in (
        source.replace("0.5", "0.25"),
        source.replace("x * HALF", "x / HALF"),
        source.replace("f(x)", "f(x, y=1)"),
        source.replace("return x * HALF", "return 'Doc.'"),
        source + "HALF = 1\n",
    ):
        assert of(changed) != before
    of(source)
    (tmp_path / "package" / "table.json").write_text("[1]")
    assert code_fingerprint(file.parent) != before


def test_all_that_computes_is_in_the_key(root: Path) -> None:
    """What a step, a batch, the inputs and the beginning import is in CODE, and nothing in CODE is idle."""
    trees = modules(root)
    start = ("steps", "stream", "inputs", "beginning", "repeatable")
    computing = set().union(*(reached(f"training.{name}", trees, UNWATCHED | NO_PART) for name in start))
    places = [name.removesuffix(".py").replace("/", ".") for name in stage.CODE]
    code = {name for name in computing if len(trees[name].body) > 1 and not within(name, UNWATCHED | NO_PART)}
    assert not {name for name in code if not within(name, places)}
    assert not {place for place in places if not any(within(name, [place]) for name in computing)}


def test_what_only_tells_or_distributes_can_change_in_the_middle(root: Path) -> None:
    """Modules of training that are not in CODE are those that log, keep, judge, say and start; DVC watches all."""
    named = {name.removeprefix("training/").removesuffix(".py") for name in stage.CODE if name.startswith("training/")}
    here = {file.stem for file in (root / "src/styleblend/training").glob("*.py")} - {"__init__"}
    rest = {"alarms", "alike", "checkpoint", "job", "loop", "probe", "progress", "record", "recording", "resources"}
    rest |= {"shards", "shared", "stage"}
    assert here - named == rest | {"ray_cluster", "ray_mailbox", "ray_trainer"}


def test_curves_and_ids_of_runs_are_no_part_of_what_the_second_stage_begins_with(cfg: Config, tmp_path: Path) -> None:
    """The same weights, registered under other runs, continue the same second stage; other weights do not."""
    (tmp_path / "swapper.safetensors").write_bytes(b"weights")
    (tmp_path / "run.json").write_text("1")
    before = key(cfg, cfg.finetune_decoder, tmp_path)
    (tmp_path / "run.json").write_text("2")
    assert key(cfg, cfg.finetune_decoder, tmp_path) == before
    (tmp_path / "swapper.safetensors").write_bytes(b"other weights")
    assert key(cfg, cfg.finetune_decoder, tmp_path) != before


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return tiny.write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def run(inputs: dict[str, Path]) -> Callable[..., tuple[dict[str, torch.Tensor], loop.Progress, list[str]]]:
    """Trains in a folder; returns the averaged weights, the progress, and the lines that were said."""
    train, val = tiny.read_splits(inputs)
    pairs = probe.read_pairs(inputs["splits"] / "val_pairs.parquet", val, torch.device("cpu"))
    perception = tiny.perception()

    def trained(folder: Path, first: checkpoint.Kept | None = None, **changes: Any):
        cfg, lines = tiny.training(**{"probe_every": 100, "log_every": 100} | changes), tiny.Lines()
        learner = tiny.learner(cfg)
        progress = loop.train(cfg, learner, perception, train, pairs, folder, loop.Worker(), lines, first=first)
        loop.checkpoints(cfg, folder).finish()
        return learner.averaged.state_dict(), progress, lines.said

    return trained


@pytest.mark.parametrize(("cool_down", "began_at"), [(0.0, 4), (0.5, 3)])
def test_more_steps_continue_a_finished_training(run, tmp_path: Path, cool_down: float, began_at: int) -> None:
    """Four steps and then six more give the weights of ten in one go: with a rate that falls, from where it fell."""
    run(tmp_path / "parts", steps=4, cool_down=cool_down)
    assert {each.step for each in checkpoint.kept(tmp_path / "parts")} == {began_at, 4}
    longer, _, said = run(tmp_path / "parts", steps=10, cool_down=cool_down)
    assert said[0] == f"resumed at step {began_at} of 10"
    assert any("not used: the checkpoint of step 4, of a training of 4 steps" in line for line in said) is (
        began_at < 4
    )
    whole, _, _ = run(tmp_path / "whole", steps=10, cool_down=cool_down)
    assert all(torch.equal(value, longer[name]) for name, value in whole.items())


def test_a_training_goes_on_from_a_checkpoint_with_other_settings(run, tmp_path: Path) -> None:
    """Steps, draws, moments and curves go on; the checkpoint stays; one with all the steps already is refused."""
    run(tmp_path / "before", steps=2)
    (first,) = checkpoint.kept(tmp_path / "before")[-1:]
    _, progress, said = run(tmp_path / "after", first=first, steps=4, learning_rate=1e-4)
    assert said[0] == "continued at step 2 of 4" and first.path.exists()
    assert [row["step"] for row in progress.history] == [0, 2, 4]
    with pytest.raises(StyleBlendError, match="has 2 steps already, steps is 2: raise it"):
        run(tmp_path / "none", first=first, steps=2)
    # Killed and begun again it goes on with its own.
    _, _, said = run(tmp_path / "after", first=first, steps=4, learning_rate=1e-4)
    assert said[0] == "resumed at step 4 of 4"
    first.path.write_bytes(first.path.read_bytes()[:50])
    with pytest.raises(StyleBlendError, match="is damaged: 50 bytes"):
        run(tmp_path / "other", first=first, steps=4)


def test_a_training_goes_on_from_a_registered_version(
    cfg: Config, inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its networks and V are what training begins with, and the record of the new model says which version it was."""
    monkeypatch.chdir(tmp_path)
    store = mlflow_store.resolved(cfg.tracking)
    parent = runs.start_pipeline(store, "test", {})
    job = ray_trainer.Job(
        stage="train_encoder",
        fingerprint="0" * 16,
        model=tiny.MODEL,
        training=tiny.training(steps=1, encoder_start="new"),
        tracking=store,
        parent_run_id=parent,
        state=tmp_path / "first",
        **inputs,
    )
    ray_trainer.train_job(job, loop.Worker())
    made = job.state / ray_trainer.RESULT
    with runs.child_run(store, parent, "register", "k", {}) as registering:
        version = versions.register_version(store, made, {}, {}, {}, None, run=registering, key="k")
    origin = stage.origin_of("train_encoder", version.version, cfg)
    assert origin is not None and origin.words == f"styleblend version 1 (run {version.run_id})"
    again = ray_trainer.Job(**{**vars(job), "state": tmp_path / "second", "origin": origin})
    ray_trainer.train_job(again, loop.Worker())
    result = again.state / ray_trainer.RESULT
    began, ended = (json.loads((folder / "history.json").read_text()) for folder in (result, made))
    assert {**began[0], "step": 1} == ended[-1], "the first probe sees what the last one of the version saw"
    assert record.read(result).continued_from == {"train_encoder": origin.words}
    weights = [load_file(folder / "discriminator.safetensors") for folder in (origin.path, made)]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    assert key(cfg, job.training, origin=origin) != key(cfg, job.training)
    # A model folder serves as well, and what does not fit or is not there is named.
    folder = stage.origin_of("train_encoder", f"{made}/", cfg)
    assert folder is not None and key(cfg, job.training, origin=folder) == key(cfg, job.training, origin=origin)
    wider = model.build(tiny.MODEL.model_copy(update={"style_dim": 32}))
    model.save(wider, tiny.MODEL.model_copy(update={"style_dim": 32}), Path(shutil.copytree(made, tmp_path / "wider")))
    misfit = ray_trainer.Job(**{**vars(again), "origin": Origin(tmp_path / "wider", "wider"), "state": tmp_path / "no"})
    with pytest.raises(StyleBlendError, match=r"train_encoder.continue_from, wider, does not fit the section model"):
        ray_trainer.train_job(misfit, loop.Worker())
    for named, problem in (("7", "no version or alias '7'"), ("nowhere/x.pt", "neither a checkpoint nor a model")):
        with pytest.raises(StyleBlendError, match=problem):
            stage.origin_of("train_encoder", named, cfg)


def test_what_a_training_can_go_on_from() -> None:
    """A number, also as YAML reads it, a file, a folder; an alias moves and is refused with its value."""
    for given, kept in ((3, "3"), ("3", "3"), ("a/b.pt", "a/b.pt"), ("b.pt", "b.pt"), ("models/x", "models/x")):
        assert tiny.training(continue_from=given).continue_from == kept
    with pytest.raises(ValueError, match="continue_from 'champion' is no version's number"):
        tiny.training(continue_from="champion")
