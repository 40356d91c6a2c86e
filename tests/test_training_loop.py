"""The loop: resumes exactly, probes, goes back after a collapse, and stops with a clear error."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

import tiny_training as tiny
from styleblend import model
from styleblend.config.training import LossWeights, Training
from styleblend.errors import StyleBlendError
from styleblend.perception.identity import IdentityNetwork
from styleblend.training import checkpoint, inputs, loop, probe
from styleblend.training.batches import Batch, Faces
from styleblend.training.steps import Learner
from thread_workers import Together

PERCEPTION = tiny.perception()


@dataclass
class Notes(loop.Recorder):
    """A recorder that remembers, and that ends the run where told to."""

    stop_at: float = math.inf
    lines: list[str] = field(default_factory=list)
    tagged: dict[str, str] = field(default_factory=dict)
    figures: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    pictures: list[tuple[int, Tensor]] = field(default_factory=list)

    def metrics(self, step: int, values: dict[str, float]) -> None:
        self.figures.append((step, values))

    def picture(self, step: int, pixels: Tensor) -> None:
        self.pictures.append((step, pixels))

    def tags(self, values: dict[str, str]) -> None:
        self.tagged |= values

    def line(self, text: str) -> None:
        self.lines.append(text)
        if text.startswith(f"step {self.stop_at}/"):
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Faces, probe.Pairs]:
    written = tiny.write_inputs(tmp_path_factory.mktemp("inputs"))
    train, val = tiny.read_splits(written)
    return train, probe.read_pairs(written["splits"] / "val_pairs.parquet", val, torch.device("cpu"))


def states(learner: Learner) -> dict[str, Tensor]:
    """All tensors of a learner by name."""
    found: dict[str, Tensor] = {}
    for part in ("swapper", "averaged", "discriminator"):
        found |= {f"{part}.{name}": value for name, value in getattr(learner, part).state_dict().items()}
    for part in ("swapper_optimiser", "discriminator_optimiser"):
        for number, slots in getattr(learner, part).state_dict()["state"].items():
            found |= {f"{part}.{number}.{name}": torch.as_tensor(value) for name, value in slots.items()}
    return found


def train(cfg: Training, data, folder: Path, notes: Notes, learner: Learner | None = None):
    learner = learner or tiny.learner(cfg)
    return learner, loop.train(cfg, learner, PERCEPTION, *data, folder, loop.Worker(), notes).history


def test_a_resumed_run_equals_an_uninterrupted_one(data, tmp_path: Path) -> None:
    """Stopped after step 3 and started again, all weights, optimisers, averages and probes are bit-equal."""
    cfg = tiny.training(steps=5)
    whole, history = train(cfg, data, tmp_path / "whole", Notes())
    with pytest.raises(KeyboardInterrupt):
        train(cfg, data, tmp_path / "parts", Notes(stop_at=3))
    notes = Notes()
    resumed, history_again = train(cfg, data, tmp_path / "parts", notes)
    assert notes.lines[0] == "resumed at step 2 of 5"
    assert history_again == history and [row["step"] for row in history] == [0, 2, 4, 5]
    wanted = states(whole)
    assert states(resumed).keys() == wanted.keys()
    assert all(torch.equal(value, wanted[name]) for name, value in states(resumed).items())


def test_what_a_run_records(data, tmp_path: Path) -> None:
    """Terms under their own names at each log step, probes with a grid of three columns, lines with the pace."""
    cfg = tiny.training(steps=2)
    notes = Notes()
    train(cfg, data, tmp_path, notes)
    logged = {name for _, values in notes.figures for name in values}
    terms = {f"loss/{name}" for name in {*LossWeights.model_fields, "discriminator"} - {*tiny.NEEDS_MORE}}
    assert terms <= logged and {"same_person_probability", "seconds_per_step"} <= logged
    assert {f"probe/{name}" for name in ("identity_to_source", "identity_to_target", "pose_error_deg")} <= logged
    assert [step for step, _ in notes.pictures] == [0, 2]
    assert notes.pictures[0][1].shape == (4 * 32, 3 * 32, 3) and notes.pictures[0][1].dtype == torch.uint8
    assert any("s/step" in line for line in notes.lines)


def test_probe_is_the_same_for_any_number_of_workers(data) -> None:
    """Three workers that sum their shares see the figures of one."""
    swapper = tiny.learner(tiny.training()).averaged
    pairs = data[1]
    one = probe.look(swapper, PERCEPTION, pairs, 0, 1, loop.alone)
    shares: list[Tensor] = []
    for rank in range(3):
        probe.look(swapper, PERCEPTION, pairs, rank, 3, lambda tensors: shares.append(tensors[0].clone()))
    mean = torch.stack(shares).mean(0)

    def average(tensors) -> None:
        tensors[0].copy_(mean)

    several = probe.look(swapper, PERCEPTION, pairs, 1, 3, average)
    # Sums of other batches: a mean near 0 differs in its last digits alone.
    assert several == pytest.approx(one, rel=1e-5, abs=1e-6)


def test_probe_knows_a_copy_of_the_target(data) -> None:
    """A swapper that hands back the target copies it; one that hands back the source does not."""
    pairs = data[1]
    embeddings = PERCEPTION.identity(pairs.source), PERCEPTION.identity(pairs.target)
    pairs = probe.Pairs(pairs.source, pairs.target, *embeddings, pairs.target_landmarks)

    class Returns(torch.nn.Module):
        def __init__(self, which: int) -> None:
            super().__init__()
            self.which, self.encoder = which, model.build_encoder(tiny.MODEL)

        def forward(self, source: Tensor, target: Tensor) -> Tensor:
            return (source, target)[self.which]

    copied = probe.look(Returns(1), PERCEPTION, pairs, 0, 1, loop.alone)  # type: ignore[arg-type]
    assert copied["copies_target"] == 1 and copied["pose_error_deg"] == 0 and copied["outside_l1"] == 0
    assert copied["identity_to_target"] == pytest.approx(1, abs=1e-5)
    kept = probe.look(Returns(0), PERCEPTION, pairs, 0, 1, loop.alone)  # type: ignore[arg-type]
    assert kept["copies_target"] == 0 and kept["identity_to_source"] == pytest.approx(1, abs=1e-5)


def broken_at(bad: set[tuple[int, int]], monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Make the targets of these (attempt, step) not finite; returns the (attempt, step) that were learned or tried."""
    real = loop.Batches.at
    seen: list[tuple[int, int]] = []

    def broken(self, step: int, attempt: int) -> Batch:
        seen.append((attempt, step))
        batch = real(self, step, attempt)
        return batch._replace(target=batch.target * torch.nan) if (attempt, step) in bad else batch

    monkeypatch.setattr(loop.Batches, "at", broken)
    return seen


def test_a_bad_batch_is_left_out_and_nothing_else_changes(data, tmp_path: Path, monkeypatch) -> None:
    """NaN at step 2: no weight, average, optimiser or power iteration moves in that step, and training goes on."""
    whole = tiny.learner(tiny.training(steps=2))
    train(tiny.training(steps=2, cool_down=0), data, tmp_path / "two", Notes(), whole)
    wanted = states(whole)
    broken_at({(0, 2)}, monkeypatch)
    notes = Notes()
    learner, _ = train(tiny.training(steps=3), data, tmp_path / "three", notes)
    found = states(learner)
    moved = [name for name, value in found.items() if not torch.equal(value, wanted[name])]
    assert not moved, moved
    assert "the gradients of step 2 are not finite: it is left out" in notes.lines
    assert (2, {"skipped_steps": 1}) in notes.figures
    # A state after a step that was left out is none to go back to for a while.
    assert [(each.step, each.good) for each in checkpoint.kept(tmp_path / "three")] == [(2, True), (3, False)]


def test_bad_batches_that_cluster_go_back_and_on_with_other_draws(data, tmp_path: Path, monkeypatch) -> None:
    """Three of four steps in a row, two allowed: back to the state before the first, on with attempt 1, to the end."""
    seen = broken_at({(0, 2), (0, 3), (0, 5)}, monkeypatch)
    notes = Notes()
    cfg = tiny.training(steps=6, max_skipped=2, skipped_within=4)
    learner, _ = train(cfg, data, tmp_path, notes)
    assert seen == [(0, step) for step in range(6)] + [(1, step) for step in range(2, 6)]
    (line,) = [line for line in notes.lines if line.startswith("rollback")]
    assert line.startswith(
        "rollback 1 to step 2: the gradients of 3 of the last 4 steps are not finite, those of step 5"
    )
    assert all(torch.isfinite(value).all() for value in states(learner).values())
    assert [(each.attempt, each.step) for each in checkpoint.kept(tmp_path)][-1] == (1, 6)


def test_bad_batches_far_apart_are_no_cluster(data, tmp_path: Path, monkeypatch) -> None:
    """Every third step of nine is bad, one is allowed in three steps: three are left out, and no rollback comes."""
    broken_at({(0, 1), (0, 4), (0, 7)}, monkeypatch)
    notes = Notes()
    cfg = tiny.training(steps=9, max_skipped=1, skipped_within=3, probe_every=100)
    train(cfg, data, tmp_path, notes)
    assert sum("left out" in line for line in notes.lines) == 3 and not any("rollback" in line for line in notes.lines)


def test_rollbacks_are_forgotten_after_good_progress(data, tmp_path: Path, monkeypatch) -> None:
    """Three collapses, each two good steps after the last, end no run that may have one; closer together they do."""
    settings = {"steps": 8, "max_skipped": 0, "max_rollbacks": 1, "skipped_within": 1}
    bad = {(0, 1), (1, 3), (2, 5)}
    broken_at(bad, monkeypatch)
    notes = Notes()
    train(tiny.training(**settings, recovered_after=2), data, tmp_path / "far", notes)
    assert [line.split(":")[0] for line in notes.lines if "rollback" in line] == [
        "rollback 1 to step 1", "rollback 2 to step 3", "rollback 3 to step 5"
    ]  # fmt: skip
    with pytest.raises(StyleBlendError, match="collapsed at step 3 after 1 rollbacks without 3 good steps: .*step 3"):
        train(tiny.training(**settings, recovered_after=3), data, tmp_path / "near", Notes())


@pytest.mark.parametrize("rank", [0, 1])
def test_a_bad_share_of_a_batch_is_left_out_by_all_workers(data, tmp_path: Path, monkeypatch, rank: int) -> None:
    """Two workers, one of which alone has NaN: both leave the step out, and end with equal weights."""
    real = loop.Batches.at

    def broken(self, step: int, attempt: int) -> Batch:
        batch = real(self, step, attempt)
        mine = self.samples.start == 2 * rank
        return batch._replace(target=batch.target * torch.nan) if mine and step == 1 else batch

    monkeypatch.setattr(loop.Batches, "at", broken)
    cfg, notes = tiny.training(steps=3, probe_every=100), Notes()
    learners = [tiny.learner(cfg) for _ in range(2)]

    def work(worker: loop.Worker) -> loop.Progress:
        recorder = loop.Recorder() if worker.rank else notes
        return loop.train(cfg, learners[worker.rank], PERCEPTION, *data, tmp_path, worker, recorder)

    progress = Together(2).run(work)
    assert [each.skips for each in progress] == [1, 1]
    one, other = (states(learner) for learner in learners)
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert all(torch.isfinite(value).all() for value in one.values())


def test_gradients_of_both_are_clipped_where_asked(data, tmp_path: Path) -> None:
    """A norm that is always exceeded makes gradients of that norm, of G's and of V's, whatever they were."""
    cfg = tiny.training(steps=1, clip_norm=1e-3, discriminator_clip_norm=2e-3)
    learner, _ = train(cfg, data, tmp_path, Notes())
    for part, norm in (("swapper", 1e-3), ("discriminator", 2e-3)):
        gradients = [each.grad for each in getattr(learner, part).parameters() if each.grad is not None]
        assert float(torch.nn.utils.get_total_norm(gradients)) == pytest.approx(norm, rel=1e-3)


def test_a_run_that_keeps_collapsing_stops_with_one_clear_line(data, tmp_path: Path) -> None:
    """A learning rate that cannot work ends after max_rollbacks, with what was seen and what to do."""
    cfg = tiny.training(steps=50, learning_rate=1e30, max_rollbacks=1)
    with pytest.raises(
        StyleBlendError, match=r"after 1 rollbacks without .* not finite; lower learning_rate"
    ) as caught:
        train(cfg, data, tmp_path, Notes())
    assert "\n" not in str(caught.value)


def test_copying_the_target_for_long_is_a_collapse(data, tmp_path: Path, monkeypatch) -> None:
    """Three probes in a row that copy, past the curriculum, go back to the last good probe; fewer do not."""
    real = probe.look
    verdicts = iter([0.0, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0])

    def told(*arguments):
        return {**real(*arguments), "copies_target": next(verdicts)}

    monkeypatch.setattr(probe, "look", told)
    notes = Notes()
    _, history = train(tiny.training(steps=5, probe_every=1, curriculum_steps=0), data, tmp_path, notes)
    assert any(line.startswith("rollback 1 to step 1: 3 probes in a row copy the target") for line in notes.lines)
    assert [row["step"] for row in history] == [0, 1, 2, 3, 4, 5]
    assert all(row["copies_target"] == 0 for row in history)


def test_a_loss_without_weights_is_refused(data, tmp_path: Path) -> None:
    """Nothing to learn from is a user's mistake."""
    off = dict.fromkeys(LossWeights.model_fields, 0.0)
    with pytest.raises(StyleBlendError, match="give one a weight"):
        train(tiny.training(loss=off), data, tmp_path, Notes())


def test_pairs_of_unknown_faces_are_named(data, tmp_path: Path) -> None:
    """A pair list of another split is refused."""
    import pandas as pd

    pd.DataFrame([("x", "tiny-0-0")], columns=["source_id", "target_id"]).to_parquet(tmp_path / "pairs.parquet")
    with pytest.raises(StyleBlendError, match=r"unknown faces \['x'\]"):
        probe.read_pairs(tmp_path / "pairs.parquet", data[0], torch.device("cpu"))


def test_a_networks_own_comparison_reaches_the_probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `inputs.read` says of two pictures of one person is by the metric of the network, here a distance."""
    places = tiny.write_inputs(tmp_path)
    known = pd.read_parquet(places["perceived"])
    random = np.random.default_rng(0)
    # A person's vectors lie near each other and are not of unit length, so that a cosine would be another number.
    of_person = {face_id[:6]: 1.5 * np.eye(8)[k % 8] for k, face_id in enumerate(known["face_id"])}
    vectors = [of_person[face_id[:6]] + random.normal(0, 0.1, 8) for face_id in known["face_id"]]
    known.assign(identity=[vector.astype(np.float32) for vector in vectors]).to_parquet(places["perceived"])
    monkeypatch.setattr(IdentityNetwork, "metric", "distance")
    cfg = tiny.training()
    order = (places[name] for name in ("networks", "splits", "faces", "perceived"))
    read = inputs.read(cfg, tiny.learner(cfg), *order, torch.device("cpu"))
    val = tiny.read_splits(places)[1]
    alike = [
        1 - float((val.identity[a] - val.identity[b]).square().sum())
        for a in range(len(val))
        for b in range(len(val))
        if a != b and val.persons[a] == val.persons[b]
    ]
    wanted = sum(alike) / len(alike)
    assert 0.1 < wanted < 0.95 and read.pairs.same_person[0] == pytest.approx(wanted, abs=1e-6)
    assert len(read.faces) > len(val) and read.pairs.source_judge is not None
