"""What a step holds is a pure function of seed and step."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import tiny_training as tiny
from styleblend.errors import StyleBlendError
from styleblend.training.batches import draw, read_faces, same_person_probability
from styleblend.training.stream import Batches

PERSONS = np.repeat(np.arange(5), [1, 4, 2, 3, 6])


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return tiny.write_inputs(tmp_path_factory.mktemp("inputs"))


def test_a_sample_does_not_depend_on_who_draws_it() -> None:
    """Sample 5 of step 3 is the same alone, among others, and in any order; other steps and attempts differ."""
    cfg = tiny.training()
    together, alone = draw(cfg, PERSONS, 3, range(8)), draw(cfg, PERSONS, 3, [5])
    for of_batch, single in zip(together, alone, strict=True):
        assert np.array_equal(of_batch[5], single[0])
    seeds = {draw(cfg, PERSONS, step, [5], attempt).noise_seeds for step in (3, 4) for attempt in (0, 1)}
    assert len(seeds) == 4


def test_curriculum_goes_linearly_from_start_to_end() -> None:
    """At the start every pair is a self pair; later the share follows the line; after it the end holds."""
    cfg = tiny.training(curriculum_start=1.0, curriculum_end=0.2, curriculum_steps=10)
    assert same_person_probability(cfg, 0) == 1
    assert same_person_probability(cfg, 5) == pytest.approx(0.6)
    assert same_person_probability(cfg, 10) == same_person_probability(cfg, 99) == pytest.approx(0.2)
    assert draw(cfg, PERSONS, 0, range(50)).same_person.all()
    assert 0.1 < draw(cfg, PERSONS, 50, range(500)).same_person.mean() < 0.3


def test_sources_and_negatives_are_of_the_persons_they_should_be() -> None:
    """Self pairs share the person, others never; negatives are never of the source's person."""
    cfg = tiny.training(curriculum_start=0.5, curriculum_end=0.5, same_person=0.5, negatives=20)
    drawn = draw(cfg, PERSONS, 0, range(2000))
    same = PERSONS[drawn.source] == PERSONS[drawn.target]
    assert np.array_equal(same, drawn.same_person)
    assert (PERSONS[drawn.negatives] != PERSONS[drawn.source][:, None]).all()
    # Half of the self pairs of a person with several pictures take another one.
    several = drawn.same_person & (PERSONS[drawn.target] > 0)
    assert 0.4 < (drawn.source[several] != drawn.target[several]).mean() < 0.6
    alone = drawn.same_person & (PERSONS[drawn.target] == 0)
    assert alone.any() and (drawn.source[alone] == drawn.target[alone]).all()


def test_draws_are_even() -> None:
    """Every face is drawn as target, as source and as a negative, about equally often among those allowed."""
    cfg = tiny.training(curriculum_start=0, curriculum_end=0)
    drawn = draw(cfg, PERSONS, 0, range(4000))
    targets = Counter(drawn.target.tolist())
    assert set(targets) == set(range(16)) and max(targets.values()) < 1.4 * min(targets.values())
    of_others = Counter(drawn.source[PERSONS[drawn.target] == 4].tolist())
    assert set(of_others) == set(range(10)) and max(of_others.values()) < 1.6 * min(of_others.values())


def test_workers_share_the_batch_of_one(inputs: dict[str, Path]) -> None:
    """The slices of two workers are the batch of a single one, read ahead or not."""
    cfg = tiny.training()
    faces = read_faces(inputs["splits"] / "train.parquet", inputs["faces"], inputs["perceived"], 32)
    one, first, second = Batches(cfg, faces, 0, 1), Batches(cfg, faces, 0, 2), Batches(cfg, faces, 1, 2)
    for step in (0, 1, 5):
        whole, *halves = (batches.at(step, 0) for batches in (one, first, second))
        for part, *pieces in zip(whole, *halves, strict=True):
            if isinstance(part, torch.Tensor):
                assert torch.equal(part, torch.cat(pieces))
            elif part is None:
                assert pieces == [None, None]
            else:
                assert part == pieces[0] + pieces[1]
        assert whole.source.min() >= -1 and whole.source.max() <= 1 and whole.source.std() > 0.1
    for batches in (one, first, second):
        batches.close()


def test_faces_come_with_their_own_perception(inputs: dict[str, Path]) -> None:
    """Rows of the tables meet by face_id, and persons stand in blocks."""
    import pandas as pd

    faces = read_faces(inputs["splits"] / "train.parquet", inputs["faces"], inputs["perceived"], 32)
    known = pd.read_parquet(inputs["perceived"]).set_index("face_id")
    assert len(faces) == 12 and (np.diff(faces.persons) >= 0).all()
    for index, face_id in enumerate(faces.face_ids):
        assert faces.files[index].stem == face_id
        assert np.array_equal(faces.identity[index].numpy(), known.loc[face_id, "identity"])
        assert np.array_equal(faces.landmarks[index].numpy().ravel(), known.loc[face_id, "landmarks"])


def test_bad_inputs_are_named(inputs: dict[str, Path], tmp_path: Path) -> None:
    """An unknown face, a split of one person, a missing and a wrongly sized picture: one clear line each."""
    import pandas as pd

    def read(rows: list[tuple[str, str]], side: int = 32):
        pd.DataFrame(rows, columns=["face_id", "person"]).to_parquet(tmp_path / "split.parquet")
        return read_faces(tmp_path / "split.parquet", inputs["faces"], inputs["perceived"], side)

    with pytest.raises(StyleBlendError, match="has 1 faces unknown to"):
        read([("tiny-0-0", "p0"), ("other", "p1")])
    with pytest.raises(StyleBlendError, match="needs two persons"):
        read([("tiny-0-0", "p0"), ("tiny-0-1", "p0")])
    faces = read([("tiny-0-0", "p0"), ("tiny-1-0", "p1")], side=64)
    with pytest.raises(StyleBlendError, match=r"is 32x32 px, model.input_px is 64"):
        faces.images([0])
    with pytest.raises(StyleBlendError, match="batch_size 4 does not divide evenly over 3 workers"):
        Batches(tiny.training(), faces, 0, 3)


def test_faces_are_drawn_as_their_sources_weigh() -> None:
    """With weights 1 and 3 a face of the second kind is drawn three times as often, as source, target and negative."""
    weights = np.where(PERSONS % 2, 3.0, 1.0)
    chances = np.concatenate([[0.0], weights.cumsum()])
    cfg = tiny.training(curriculum_start=0, curriculum_end=0)
    drawn = draw(cfg, PERSONS, 0, range(3000), chances=chances)
    heavy = np.where(PERSONS % 2, weights, 0)
    # A face of another person is drawn from what that person leaves over.
    own, own_heavy = (np.array([each[person == PERSONS].sum() for person in PERSONS]) for each in (weights, heavy))
    of_others = (heavy.sum() - own_heavy) / (weights.sum() - own)
    for faces, wanted in (
        (drawn.target, heavy.sum() / weights.sum()),
        (drawn.source, of_others[drawn.target].mean()),
        (drawn.negatives, of_others[drawn.source].mean()),
    ):
        assert abs((PERSONS[faces] % 2).mean() - wanted) < 0.04
    assert (PERSONS[drawn.source] != PERSONS[drawn.target]).all()
    assert (PERSONS[drawn.negatives] != PERSONS[drawn.source][:, None]).all()
    assert set(drawn.target.tolist()) == set(range(len(PERSONS)))


def test_equal_weights_draw_as_no_weights(tmp_path: Path) -> None:
    """Sources of one weight, whichever, leave every draw as it is without weights."""
    inputs = tiny.write_inputs(tmp_path)
    manifest = inputs["faces"] / "manifest.parquet"
    read = partial(read_faces, inputs["splits"] / "train.parquet", inputs["faces"], inputs["perceived"], tiny.SIDE_PX)
    table = pd.read_parquet(manifest)
    table.assign(weight=2.5).to_parquet(manifest)
    assert read().chances is None
    table.assign(weight=[1.0, 2.0] * (len(table) // 2)).to_parquet(manifest)
    chances = read().chances
    assert chances is not None and chances[0] == 0 and len(chances) == len(read()) + 1
