"""Alarms: each is provoked by a run that really does what it is about, and a sound run raises none."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import tiny_training as tiny
from styleblend import model
from styleblend.config.params import load_params
from styleblend.config.training import LossWeights, Training
from styleblend.errors import StyleBlendError
from styleblend.faces import alignment
from styleblend.faces.pixels import from_8bit, to_8bit
from styleblend.model.swapper import Swapper
from styleblend.synthetic import factors, renderer
from styleblend.training import alarms, checkpoint, loop, probe, record, steps
from styleblend.training.batches import Faces
from styleblend.training.generated import load_perception
from styleblend.training.progress import LOSS_ROWS
from styleblend.weights.start import start

PERCEPTION = tiny.perception()
CPU = torch.device("cpu")


class CopiesSource(Swapper):
    """Hands the source back."""

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        return source


class CopiesTarget(Swapper):
    """Hands the target back."""

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        return target


class Overdrives(Swapper):
    """Swaps with ten times the contrast."""

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        return 10 * source


@dataclass
class Notes(loop.Recorder):
    """Remembers the alarms' figures, tags and lines."""

    figures: dict[str, list[float]] = field(default_factory=dict)
    tagged: dict[str, str] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)

    def metrics(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self.figures.setdefault(name, []).append(value)

    def tags(self, values: dict[str, str]) -> None:
        self.tagged |= values

    def line(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Faces, probe.Pairs]:
    """Faces of noise and validation pairs, with the embeddings that the untrained networks give."""
    inputs = tiny.write_inputs(tmp_path_factory.mktemp("inputs"))
    train, val = tiny.read_splits(inputs)
    pairs = probe.read_pairs(inputs["splits"] / "val_pairs.parquet", val, CPU, inputs["perceived"])
    assert PERCEPTION.identity_judge is not None
    seen = PERCEPTION.identity(pairs.source), PERCEPTION.identity(pairs.target)
    judged = PERCEPTION.identity_judge(pairs.source)
    return train, probe.Pairs(pairs.source, pairs.target, *seen, pairs.target_landmarks, judged)


def cfg(**changes: object) -> Training:
    """A short run whose probes count from the first step on; only the given terms have a weight."""
    off = dict.fromkeys(LossWeights.model_fields, 0.0)
    given = {"steps": 4, "probe_every": 2, "checkpoint_every": 50, "curriculum_steps": 0, "max_rollbacks": 0}
    loss = off | {"reconstruction": 1.0} | changes.pop("loss", {})  # type: ignore[operator]
    return tiny.training(**(given | changes), loss=loss)


def run(
    settings: Training,
    data: tuple[Faces, probe.Pairs],
    folder: Path,
    swapper: type[Swapper] = Swapper,
    perception: loop.Perception = PERCEPTION,
) -> tuple[loop.Progress, Notes]:
    """A real run; its probes look at a swapper of the given kind."""
    learner, notes = tiny.learner(settings), Notes()
    learner.averaged.__class__ = swapper
    progress = loop.train(settings, learner, perception, *data, folder, loop.Worker(), notes)
    return progress, notes


@pytest.mark.parametrize(
    ("swapper", "name", "words"),
    [
        (CopiesSource, "copies_source", "the pose is 0.0 degrees from the source's"),
        (CopiesTarget, "copies_target", "similarity is 1.00 to the target"),
        (Overdrives, "saturated", "of the colour values are at their limits"),
    ],
)
def test_a_swapper_that_does_it_raises_the_alarm_once(
    data: tuple[Faces, probe.Pairs], tmp_path: Path, swapper: type[Swapper], name: str, words: str
) -> None:
    """On at the second probe that counts and at the end; one line for the event, a figure at every probe, a tag."""
    progress, notes = run(cfg(), data, tmp_path, swapper)
    assert words in progress.alarms[name]
    assert notes.figures[f"alarm/{name}"] == [0, 0, 1] and name in notes.tagged["alarms"]
    said = [line for line in notes.lines if alarms.WORDS[name] in line]
    assert len(said) == 1 and said[0].startswith("ALARM at step 4: ")
    assert [(event["step"], event["state"]) for event in progress.events if event["alarm"] == name] == [(4, "on")]


def test_a_run_that_learns_nothing_is_flat(data: tuple[Faces, probe.Pairs], tmp_path: Path) -> None:
    """A learning rate of almost nothing: the likeness stays where it began."""
    progress, _ = run(cfg(learning_rate=1e-12), data, tmp_path)
    assert "identity_flat" in progress.alarms


def test_a_discriminator_that_learns_alone_wins(data: tuple[Faces, probe.Pairs], tmp_path: Path) -> None:
    """V learns at a high rate from swaps that do not change: its loss falls to nearly nothing and stays there."""
    settings = cfg(
        steps=45, probe_every=15, log_every=50, learning_rate=1e-12, discriminator_learning_rate=0.02,
        loss={"adversarial": 1.0},
    )  # fmt: skip
    progress, notes = run(settings, data, tmp_path)
    loss, share = (notes.figures[f"probe/{name}"] for name in ("discriminator_loss", "fooled_share"))
    assert loss[0] > 1 and share[-1] == 0
    assert "discriminator_wins" in progress.alarms
    assert notes.figures["alarm/discriminator_wins"][:2] == [0, 0]


def test_a_training_network_that_is_fooled_shows_in_the_gap_to_the_judge(
    data: tuple[Faces, probe.Pairs], tmp_path: Path
) -> None:
    """All sources have one embedding, so one picture of any kind pleases the training network, and the judge sees
    nothing of it. Where the judge is that very network, the same run has no gap."""
    faces, pairs = data
    wanted = torch.nn.functional.normalize(torch.randn(8, generator=torch.Generator().manual_seed(3)), dim=0)
    of_pairs = wanted.expand(len(pairs.source), 8)
    faces = replace(faces, identity=wanted.expand(len(faces), 8))
    pairs = replace(pairs, source_identity=of_pairs, target_identity=-of_pairs)
    settings = cfg(
        steps=20, probe_every=5, log_every=50, learning_rate=1e-2, loss={"identity": 10.0, "reconstruction": 0}
    )
    progress, notes = run(settings, (faces, pairs), tmp_path / "apart")
    assert "judge_gap" in progress.alarms and notes.figures["alarm/judge_gap"][:2] == [0, 0]
    pairs, same = replace(pairs, source_judge=of_pairs), PERCEPTION._replace(identity_judge=PERCEPTION.identity)
    again, _ = run(settings, (faces, pairs), tmp_path / "same", perception=same)
    assert again.history[-1]["identity_share"] == again.history[-1]["judge_share"] > 0.9
    assert "judge_gap" not in again.alarms


def test_an_alarm_that_is_over_is_said_and_kept(data: tuple[Faces, probe.Pairs], tmp_path: Path) -> None:
    """A stage that goes on from a flat one is measured against where training began, and its record holds both."""
    flat, _ = run(cfg(learning_rate=1e-12), data, tmp_path / "first")
    record.write(tmp_path, record.Record(), "train_encoder", flat)
    before = record.read(tmp_path)
    assert before.began_with == flat.history[0] and before.alarms == flat.alarms
    low = {**flat.history[0], "identity_share": flat.history[0]["identity_share"] - 1}
    settings = cfg(learning_rate=1e-12)
    notes = Notes()
    second = loop.train(
        settings, tiny.learner(settings), PERCEPTION, *data, tmp_path / "second", loop.Worker(), notes, low
    )
    assert "identity_flat" in flat.alarms and "identity_flat" not in second.alarms
    record.write(tmp_path, before, "finetune_decoder", second)
    both = record.read(tmp_path)
    assert list(both.stages) == ["train_encoder", "finetune_decoder"] and both.alarms == second.alarms
    assert both.began_with == flat.history[0] and {event["stage"] for event in both.events} >= {"train_encoder"}
    (tmp_path / record.FILE).write_text("{")
    with pytest.raises(StyleBlendError, match=r"training.json is damaged .* run `dvc repro`"):
        record.read(tmp_path)
    assert record.read(tmp_path / "nowhere") == record.Record()


def test_rows_of_losses_stay_few_and_even() -> None:
    """Whatever the length of a run, at most so many rows, from its first half as from its second, and its last."""
    settings, progress = cfg(steps=5001, log_every=2), loop.Progress()
    for step in [*range(2, 5001, 2), 5001]:
        progress.step = step
        progress.keep_terms(settings, {"identity": float(step)})
    kept = [row["step"] for row in progress.losses]
    assert LOSS_ROWS / 2 - 1 <= len(kept) <= LOSS_ROWS and kept[-1] == 5001
    assert len(set(np.diff(kept[:-1]))) == 1 and kept[0] == kept[1] - kept[0]


def test_probe_counts_once_swaps_are_half_of_what_is_learned() -> None:
    """While most samples are self pairs, a run that gives the target back is right to."""
    rows = [{"step": step, "copies_target": 1.0, "identity_to_target": 1.0, "identity_to_source": 0.0}
            for step in (10, 20, 30, 40)]  # fmt: skip
    settings = cfg(steps=40, curriculum_steps=40, curriculum_start=1, curriculum_end=0)
    assert alarms.raised(rows[:2], rows[0], settings) == alarms.raised(rows[:1], rows[0], settings) == {}
    assert "copies_target" in alarms.raised(rows[:3], rows[0], settings)


def test_what_is_not_finite_is_an_alarm_of_its_step(data: tuple[Faces, probe.Pairs], tmp_path: Path) -> None:
    """A learning rate that cannot work goes back, with the figure and the event, before the run is given up."""
    notes = Notes()
    settings = cfg(learning_rate=1e30, max_rollbacks=1, steps=50)
    with pytest.raises(StyleBlendError, match="not finite"):
        loop.train(settings, tiny.learner(settings), PERCEPTION, *data, tmp_path, loop.Worker(), notes)
    assert 1.0 in notes.figures["alarm/non_finite"] and notes.figures["rollbacks"] == [1]
    state = torch.load(checkpoint.kept(tmp_path)[-1].path, weights_only=True)["facts"]
    assert {(event["alarm"], event["state"]) for event in state["events"]} >= {("non_finite", "on")}


def test_a_sound_run_raises_no_alarm(small_run: tuple[loop.Progress, Notes]) -> None:
    """The demo's networks and weights on rendered faces, for some steps: likeness and pose go where they should."""
    progress, notes = small_run
    assert progress.alarms == {} and progress.events == []
    assert notes.tagged["alarms"] == "none" and not any("ALARM" in line for line in notes.lines)
    rise = progress.history[-1]["identity_share"] - progress.history[0]["identity_share"]
    assert rise > alarms.IDENTITY_RISE or progress.history[-1]["identity_share"] > alarms.IDENTITY_REACHED


@pytest.fixture(scope="module")
def small_run(root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[loop.Progress, Notes]:
    """Some steps of stage 1 with this project's small networks."""
    folder, small = tmp_path_factory.mktemp("small"), root / "data/pretrained/small"
    settings = load_params(root / "params.yaml")
    changes = {"steps": 24, "workers": 1, "batch_size": 4, "probe_every": 12, "log_every": 10, "curriculum_steps": 0}
    changes |= {"cool_down": 0, "swap_every": 100, "worn_faces": 0, "known_swaps": 0}
    training = settings.train_encoder.model_copy(update=changes)
    perception = load_perception(small, training.loss, CPU)
    faces = rendered_faces(folder, perception)
    val = rendered_faces(folder, perception, first=100)
    torch.manual_seed(0)
    swapper = model.build(settings.model)
    start(swapper, settings.model, small, "pretrained")
    learner = steps.new_learner(swapper, model.build_discriminator(settings.model), "train_encoder", training)
    rows = torch.arange(len(val))
    source, target = val.images(rows), val.images(rows.roll(3))
    judged = perception.identity_judge(source)
    pairs = probe.Pairs(source, target, val.identity, val.identity.roll(3, 0), val.landmarks.roll(3, 0), judged)
    means = probe.same_person(val.identity, val.persons), probe.same_person(judged, val.persons)
    notes = Notes()
    pairs = replace(pairs, same_person=means)
    return loop.train(training, learner, perception, faces, pairs, folder / "state", loop.Worker(), notes), notes


def rendered_faces(folder: Path, perception: loop.Perception, first: int = 0) -> Faces:
    """Three pictures each of six people, aligned at 64 px."""
    people = np.repeat(np.arange(first, first + 6), 3)
    drawn = renderer.render(factors.sample(7, people.tolist(), [0, 1, 2] * 6), 112, supersample=1)
    files, points, faces = [], [], []
    for row, person in enumerate(people):
        quad = alignment.quad_from_landmarks(drawn.landmarks_px[row].numpy())
        photograph = Image.fromarray(to_8bit(drawn.images[row]).permute(1, 2, 0).numpy())
        files.append(folder / f"{person}-{row}.png")
        face = alignment.crop(photograph, quad, 64)
        face.save(files[-1])
        points.append(alignment.to_aligned(drawn.landmarks_px[row].numpy(), quad).reshape(68, 2))
        faces.append(from_8bit(torch.from_numpy(np.array(face)).permute(2, 0, 1)))
    with torch.no_grad():
        seen = perception.identity(torch.stack(faces))
    landmarks = torch.from_numpy(np.stack(points)).float()
    names = tuple(file.stem for file in files)
    return Faces(names, tuple(files), people.astype(np.int64) - first, seen, landmarks, 64)
