"""The true swap goes exactly the way that the target's own picture went."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import tiny_project
from styleblend.evaluation import baselines, protocol
from styleblend.faces import pixels

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
