"""Workers begin alike: all get rank 0's state, bit for bit, and what each has read by itself is compared."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
import torch
from torch import Tensor

import tiny_training as tiny
from styleblend.errors import StyleBlendError
from styleblend.training import alike, checkpoint, loop
from styleblend.training.steps import Learner
from thread_workers import Together

PERCEPTION = tiny.perception()


def parts(learner: Learner) -> dict[str, checkpoint.Stateful]:
    return {each.name: getattr(learner, each.name) for each in fields(learner)}


def numbers(learner: Learner) -> list[Tensor]:
    """All tensors of a learner, optimisers with theirs."""
    found = []
    for part in parts(learner).values():
        state = part.state_dict()
        values = [slot for slots in state["state"].values() for slot in slots.values()] if "state" in state else state
        found += [torch.as_tensor(each) for each in (values.values() if isinstance(values, dict) else values)]
    return found


def test_all_workers_get_the_state_of_the_first(tmp_path: Path) -> None:
    """New learners of other random weights become rank 0's, whose optimisers have learned; facts come along."""
    inputs, cfg = tiny.write_inputs(tmp_path), tiny.training(steps=1, probe_every=9)
    learners = [tiny.learner(cfg) for _ in range(3)]
    for learner in learners[1:]:
        for part in (learner.swapper, learner.averaged, learner.discriminator):
            for value in part.parameters():
                torch.nn.init.normal_(value)
    # A step gives the first one's optimisers what new ones do not have.
    alone = loop.Worker()
    batch = tiny.first_batch(inputs, cfg)
    loop.both_steps(learners[0], PERCEPTION, batch, cfg, 0, alone.average)
    wanted = [value.clone() for value in numbers(learners[0])]
    facts = {"step": 7, "history": [{"step": 1, "x": 0.1}], "alarms": {"a": "b"}}

    def begin(worker: loop.Worker) -> dict:
        return alike.share(parts(learners[worker.rank]), facts if worker.rank == 0 else {}, worker)

    assert Together(3).run(begin) == [facts] * 3
    for learner in learners:
        found = numbers(learner)
        assert len(found) == len(wanted) and all(map(torch.equal, found, wanted))


def test_another_weight_of_a_frozen_network_ends_all_workers_in_one_line() -> None:
    """Worker 2 has one bit of one frozen network otherwise: both it and the others say who and what."""
    lines = []

    def look(worker: loop.Worker) -> None:
        networks = torch.nn.Linear(3, 3, bias=False)
        with torch.no_grad():
            networks.weight.fill_(0.5)
            if worker.rank == 2:
                networks.weight[1, 1] = torch.nextafter(torch.tensor(0.5), torch.tensor(1.0))
        try:
            alike.compare({"version of torch": "2", "set of frozen networks": [networks]}, worker)
        except StyleBlendError as error:
            lines.append(str(error))

    Together(4).run(look)
    assert len(lines) == 4 and len(set(lines)) == 1 and "\n" not in lines[0]
    assert lines[0].startswith("worker 2 of 4 begins with another set of frozen networks than worker 0: ")


@pytest.mark.parametrize("thing", [{"a": 1}, ["x", torch.zeros(2)], torch.tensor(3), "text", torch.zeros(0)])
def test_equal_things_pass(thing: object) -> None:
    """The same values in other objects are equal."""
    Together(2).run(lambda worker: alike.compare({"thing": thing}, worker))


def test_a_training_ends_where_workers_have_read_other_faces(tmp_path: Path) -> None:
    """Two workers, the second with one other face id in its table: refused before the first step."""
    inputs, cfg = tiny.write_inputs(tmp_path), tiny.training(steps=1)
    train, val = tiny.read_splits(inputs)
    other = train.__class__(**{**vars(train), "face_ids": ("other", *train.face_ids[1:])})
    pairs = loop.probe.read_pairs(inputs["splits"] / "val_pairs.parquet", val, torch.device("cpu"))

    def work(worker: loop.Worker) -> loop.Progress:
        faces = other if worker.rank else train
        return loop.train(cfg, tiny.learner(cfg), PERCEPTION, faces, pairs, tmp_path, worker, loop.Recorder())

    with pytest.raises(StyleBlendError, match="worker 1 of 2 begins with another table of faces than worker 0"):
        Together(2).run(work)
