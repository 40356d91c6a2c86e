"""Two versions side by side: what counts as a clear difference, and on which faces they are shown."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import tiny_model
from styleblend import model, provenance
from styleblend.errors import StyleBlendError
from styleblend.evaluation.protocol import EXAMPLES, MODEL, summarise
from styleblend.reporting import comparison
from styleblend.reporting.comparison import Contender

PAIRS = 60


def measured(folder: Path, title: str, pose_error_deg: float, first_pair: int = 0) -> Contender:
    """A version whose pose errors scatter much more from pair to pair than they differ from another version's."""
    shared = np.random.default_rng(0).normal(10, 5, PAIRS)
    own = np.random.default_rng(len(title)).normal(0, 0.05, PAIRS)
    table = pd.DataFrame(
        {
            "source_id": [f"s{first_pair + k}" for k in range(PAIRS)],
            "target_id": [f"t{first_pair + k}" for k in range(PAIRS)],
            "source_rank": 1,
            "target_rank": 9,
            "pose_error_deg": shared + own + pose_error_deg,
            "pose_error_source_deg": 90.0,
            "id_similarity_source": 0.5,
        }
    )
    folder.mkdir()
    other = table.assign(method="copy_target", pose_error_deg=0.0)
    pd.concat([table.assign(method=MODEL), other]).to_parquet(folder / "pairs.parquet")
    summary = summarise(table, 200, 0)
    values: dict[str, object] = {"n_pairs": PAIRS, "network_judge": "judge", "network_attributes": "seer"}
    for name, row in summary.iterrows():
        values |= {str(name): row["value"], f"{name}_low": row["low"], f"{name}_high": row["high"]}
    facts = {"git_revision": "a" * 40, "gate": "passed", "data_licences": "CC0-1.0 | MIT"}
    return Contender(title, facts, folder / "swapper", folder, values)


def row_of(table: str, words: str) -> list[str]:
    (line,) = [line for line in table.splitlines() if line.startswith(f"| {words}")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_small_steady_difference_is_clear_on_the_same_pairs(tmp_path: Path) -> None:
    """Pair by pair it stands out, though the intervals of the two means overlap almost wholly; equal figures do not."""
    new, old = measured(tmp_path / "a", "version 2", 0.0), measured(tmp_path / "b", "version 11", 0.3)
    table = comparison.table(new, old)
    pose = row_of(table, "pose error, degrees (lower is better)")
    assert pose[3] == "version 2 is better"
    assert float(pose[1].split("to ")[1].rstrip(")")) > float(pose[2].split()[0]), "the intervals overlap"
    assert row_of(table, "similarity to the source")[3] == "none"
    assert row_of(table, "source found at rank 1")[3] == "none"
    assert "paired difference" in table and "different test pairs" not in table
    assert "1 figures clearly better, 0 clearly worse" in comparison.verdict(new, old)
    assert "0 figures clearly better, 1 clearly worse" in comparison.verdict(old, new)


def test_other_pairs_need_intervals_that_lie_apart(tmp_path: Path) -> None:
    """On other pairs the same difference proves nothing and a large one does; the table says on what ground."""
    new = measured(tmp_path / "a", "version 2", 0.0)
    near, far = (measured(tmp_path / name, "version 1", gap, 7) for name, gap in (("b", 0.3), ("c", 30.0)))
    table = comparison.table(new, near)
    assert row_of(table, "pose error")[3] == "none"
    assert "different test pairs" in table and "lie apart" in table
    assert row_of(comparison.table(new, far), "pose error")[3] == "version 2 is better"
    assert row_of(comparison.table(far, new), "pose error")[3] == "version 2 is better"


def test_other_judges_are_an_objection(tmp_path: Path) -> None:
    """Figures of different networks do not compare, and both networks are named."""
    new, old = measured(tmp_path / "a", "version 2", 0.0), measured(tmp_path / "b", "version 1", 0.0)
    old = replace(old, metrics={**old.metrics, "network_judge": "arcface"})
    assert "network_judge: judge and arcface" in comparison.figures(new, old)


def test_table_says_what_each_is_made_of(tmp_path: Path) -> None:
    """Hashes by their first digits, unknown facts as unknown, and nothing breaks a row."""
    new, old = measured(tmp_path / "a", "version 2", 0.0), measured(tmp_path / "b", "version 1", 0.0)
    table = comparison.table(new, replace(old, facts={"gate": "failed"}))
    assert row_of(table, "git revision") == ["git revision", "a" * 12, "unknown"]
    assert row_of(table, "gate") == ["gate", "passed", "failed"]
    assert row_of(table, "licences of the data") == ["licences of the data", "CC0-1.0 / MIT", "unknown"]


def with_model(which: Contender, seed: int) -> Contender:
    torch.manual_seed(seed)
    which.swapper.mkdir()
    model.save(model.build(tiny_model.MODEL), tiny_model.MODEL, which.swapper)
    return which


def test_picture_shows_both_on_the_pairs_of_the_first(tmp_path: Path) -> None:
    """Source, target, both swaps and the true swap; where the first brings no pairs, those of the second are taken."""
    new = with_model(measured(tmp_path / "a", "version 2", 0.0), 0)
    old = with_model(measured(tmp_path / "b", "version 1", 0.0), 1)
    with pytest.raises(StyleBlendError, match="neither version 2 nor version 1"):
        comparison.picture(new, old, tmp_path / "none.png")

    def pairs(level: int) -> dict[str, torch.Tensor]:
        return {
            name: torch.full((2, 3, 64, 64), level + k, dtype=torch.uint8)
            for k, name in enumerate(("source", "target", "true_swap"))
        }

    def columns(file: Path) -> list[np.ndarray]:
        with Image.open(file) as image:
            sheet = np.asarray(image)
        assert sheet.shape[1] == 5 * 128
        return [sheet[-128:, k * 128 : (k + 1) * 128] for k in range(5)]

    save_file(pairs(20), old.evaluation / EXAMPLES)
    comparison.picture(new, old, tmp_path / "old.png")
    assert [columns(tmp_path / "old.png")[k].max() for k in (0, 1, 4)] == [20, 21, 22]
    save_file(pairs(120), new.evaluation / EXAMPLES)
    comparison.picture(new, old, tmp_path / "new.png")
    shown = columns(tmp_path / "new.png")
    assert [shown[k].max() for k in (0, 1, 4)] == [120, 121, 122]
    assert (shown[2] != shown[3]).any(), "each model draws its own"
    assert provenance.read_marks(tmp_path / "new.png")["kind"] == "grid"
    assert not (tmp_path / "none.png").exists()
