"""The true swap goes exactly the way that the target's own picture went."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import tiny_project
import tiny_training as tiny
from styleblend.data.true_swaps import FOLDER, write_true_swaps
from styleblend.evaluation import baselines, protocol, true_swap
from styleblend.faces import pixels
from styleblend.training import samples
from styleblend.training.batches import Faces, as_images, draw, read_faces

SOURCES = {"rendered": tiny_project.SOURCE}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> protocol.Pairs:
    root = tmp_path_factory.mktemp("tiny")
    tiny_project.make(root)
    return protocol.read_pairs(root / "data/splits", root / "data/faces", root / "data/perceived.parquet")


def _batch(pairs: protocol.Pairs, source: torch.Tensor, target: torch.Tensor) -> protocol.Batch:
    pictures = (pixels.from_8bit(pairs.pictures(rows)) for rows in (source, target))
    return protocol.Batch(pairs, source, target, *pictures)


def test_swap_with_oneself_gives_the_stored_face(pairs: protocol.Pairs) -> None:
    """With the target as its own source the data path gives back the very bytes of the data set."""
    rows = torch.arange(5)
    swapped = baselines.true_swaps(_batch(pairs, rows, rows), SOURCES)
    assert pixels.to_8bit(swapped).equal(pairs.pictures(rows))


def test_true_swap_differs_from_both_and_ignores_the_source_picture(pairs: protocol.Pairs) -> None:
    """Another identity changes the face; another picture of the same source person changes nothing."""
    source, target = torch.tensor([0, 1]), torch.tensor([4, 4])
    swapped = pixels.to_8bit(baselines.true_swaps(_batch(pairs, source, target), SOURCES))
    assert not swapped[0].equal(pairs.pictures(target)[0]) and not swapped[0].equal(pairs.pictures(source)[0])
    assert swapped[0].equal(swapped[1])


def test_rows_do_not_depend_on_their_batch(pairs: protocol.Pairs) -> None:
    """Sources and photograph sizes may be mixed; each row is framed by its own target."""
    sources = SOURCES | {"other": tiny_project.SOURCE}
    mixed = replace(pairs, table=pairs.table.assign(source=["rendered", "other"] * 6))
    source, target = torch.tensor([0, 3, 6]), torch.tensor([5, 8, 9])
    together = baselines.true_swaps(_batch(mixed, source, target), sources)
    for row in range(3):
        alone = baselines.true_swaps(_batch(pairs, source[row : row + 1], target[row : row + 1]), sources)
        assert (together[row] - alone[0]).abs().max() <= 2 / 127.5


def test_photographs_have_no_true_swap(pairs: protocol.Pairs) -> None:
    """One face without factors among the pairs, and there is no true swap; a face outside the pairs does no
    harm.
    """
    assert baselines.has_true_swap(pairs)
    for row, expected in ((int(pairs.target[0]), False), (None, True)):
        table = pairs.table.copy()
        if row is None:
            outsider = replace(pairs, source=pairs.source[:2], target=pairs.target[:2])
            table.iloc[-1, table.columns.get_loc("render_seed")] = None
            assert baselines.has_true_swap(replace(outsider, table=table)) is expected
        else:
            table.iloc[row, table.columns.get_loc("render_seed")] = None
            assert baselines.has_true_swap(replace(pairs, table=table)) is expected


def test_a_training_face_and_its_true_swap_teach_both_ways(tmp_path: Path) -> None:
    """Written beside the splits, read by training: the picture is that of the evaluation's own true swap; as the target
    of a self pair it has the photograph as its answer, and as the answer of a swap the source is of its identity."""
    tiny_project.make(tmp_path)
    data = tmp_path / "data"
    manifest = pd.read_parquet(data / "faces/manifest.parquet")
    train = manifest[["face_id", "person"]]
    train.to_parquet(data / "splits/train.parquet")
    assert write_true_swaps(train, manifest, SOURCES, 0, data / "splits" / FOLDER, workers=1) == len(train)
    faces = read_faces(data / "splits/train.parquet", data / "faces", data / "perceived.parquet", tiny.SIDE_PX)
    assert faces.true_swaps is not None
    other = faces.true_swaps.identity
    assert (faces.persons[other] != faces.persons).all()
    rows = manifest.set_index("face_id").loc[list(faces.face_ids)].reset_index()
    wanted = true_swap.true_swaps(rows.iloc[other], rows, SOURCES, tiny.SIDE_PX)
    for row in range(len(faces)):
        assert np.array_equal(faces.true_swap(row), wanted[row])

    cfg = tiny.training(curriculum_start=0.5, curriculum_end=0.5, worn_faces=1, known_swaps=1, same_person=1)
    drawn = draw(cfg, faces.persons, 0, range(64), true_swaps=other)
    made = samples.pictures(faces, drawn, prior=False)
    swaps = ~drawn.same_person
    assert swaps.any() and not swaps.all() and drawn.answered.all()
    assert np.array_equal(faces.persons[drawn.source[swaps]], faces.persons[other[drawn.target[swaps]]])
    assert (faces.persons[drawn.negatives] != faces.persons[drawn.source][:, None]).all()
    photographs, dressed = faces.images(drawn.target), as_images(wanted[drawn.target])
    for row, is_swap in enumerate(swaps):
        target, truth = (photographs, dressed) if is_swap else (dressed, photographs)
        assert torch.equal(made.target[row], target[row]) and torch.equal(made.truth[row], truth[row])


def test_faces_without_a_true_swap_are_left_as_they_are(tmp_path: Path) -> None:
    """Photographs beside rendered faces: those have no true swap, wear nobody's face and answer no swap."""
    tiny_project.make(tmp_path)
    data = tmp_path / "data"
    manifest = pd.read_parquet(data / "faces/manifest.parquet")
    train = manifest[["face_id", "person"]]
    train.to_parquet(data / "splits/train.parquet")
    mixed = manifest.assign(source=["rendered", "photographs"] * (len(manifest) // 2))
    assert write_true_swaps(train, mixed, SOURCES, 0, data / "splits" / FOLDER, workers=1) == len(train) // 2
    faces = read_faces(data / "splits/train.parquet", data / "faces", data / "perceived.parquet", tiny.SIDE_PX)
    assert faces.true_swaps is not None and (faces.true_swaps.identity < 0).sum() == len(train) // 2
    cfg = tiny.training(curriculum_start=0.5, curriculum_end=0.5, worn_faces=1, known_swaps=1)
    other = faces.true_swaps.identity
    drawn = draw(cfg, faces.persons, 0, range(64), true_swaps=other)
    nobody = read_faces_of(tmp_path / "none", train, manifest.assign(source="photographs"), data)
    assert nobody.true_swaps is not None and (nobody.true_swaps.identity == -1).all()
    assert (draw(cfg, nobody.persons, 0, range(64), true_swaps=nobody.true_swaps.identity).worn < 0).all()
    # Where no answer is rendered a bent one may stand, and a rendered one is not replaced.
    more = draw(cfg.model_copy(update={"warped_swaps": 1.0}), faces.persons, 0, range(64), true_swaps=other)
    assert more.answered.all() and np.array_equal(more.bent, ~drawn.answered) and more.bent.any()
    assert np.array_equal(more.source, drawn.source)
    plain = faces.true_swaps.identity[drawn.target] < 0
    assert plain.any() and (drawn.worn[plain] < 0).all()
    assert np.array_equal(drawn.answered[plain], drawn.same_person[plain])


def read_faces_of(splits: Path, train: pd.DataFrame, manifest: pd.DataFrame, data: Path) -> Faces:
    """Faces of a split that is written to `splits`, none of which is rendered."""
    splits.mkdir()
    train.to_parquet(splits / "train.parquet")
    assert write_true_swaps(train, manifest, SOURCES, 0, splits / FOLDER, workers=1) == 0
    return read_faces(splits / "train.parquet", data / "faces", data / "perceived.parquet", tiny.SIDE_PX)
