"""Grids, charts and tables show what they were given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from styleblend import provenance
from styleblend.errors import StyleBlendError
from styleblend.evaluation.metrics import METRICS
from styleblend.reporting.charts import figure_chart, swap_grid
from styleblend.reporting.figures import KEY_FIGURES, caveat, figure_table
from styleblend.reporting.summary import closing_lines
from styleblend.reporting.table import columns, markdown


def test_grid_places_each_picture_and_marks_the_sheet(tmp_path: Path) -> None:
    """Columns stand in the given order, rows below one another, and the file says that it is synthetic."""
    levels = {"source": (10, 60), "target": (110, 160), "swapped": (210, 250)}
    columns = {
        name: torch.stack([torch.full((3, 16, 16), level, dtype=torch.uint8) for level in pair])
        for name, pair in levels.items()
    }
    swap_grid(columns, tmp_path / "grid.png", model="test")
    with Image.open(tmp_path / "grid.png") as picture:
        sheet = np.asarray(picture)
    cell = sheet.shape[1] // 3
    caption = sheet.shape[0] - 2 * cell
    for x, pair in enumerate(levels.values()):
        for y, level in enumerate(pair):
            middle = sheet[caption + y * cell + cell // 2, x * cell + cell // 2]
            assert middle.tolist() == [level] * 3
    assert sheet[:caption].min() < 100, "captions are drawn"
    assert provenance.read_marks(tmp_path / "grid.png")["kind"] == "grid"


def test_table_holds_model_interval_floor_and_ceiling() -> None:
    """A row a measured figure; what a method has not stays empty."""
    metrics = {
        "pose_error_deg": 3.0, "pose_error_deg_low": 2.5, "pose_error_deg_high": 3.5, "copy_target/pose_error_deg": 0.1,
    }  # fmt: skip
    table = figure_table(metrics, ["model", "copy_target", "true_swap"]).splitlines()
    assert len(table) == 3
    assert table[2] == "| pose error, degrees (lower is better) | **3** (2.5 to 3.5) | 0.1 |  |"


def test_chart_is_written_whole(tmp_path: Path) -> None:
    """Methods without a figure are left out of its panel, not drawn as zero or failed on."""
    rows = [
        (method, figure, value, value - 0.1, value + 0.1)
        for method, value in (("model", 0.5), ("copy_target", 0.2))
        for figure in ("id_retrieval_top1", "outside_l1")
    ]
    rows.append(("true_swap", "id_retrieval_top1", 0.9, 0.8, 1.0))
    figures = pd.DataFrame(rows, columns=["method", "figure", "value", "low", "high"])
    figure_chart(figures, tmp_path / "figures.png")
    with Image.open(tmp_path / "figures.png") as chart:
        assert chart.width > 800
    assert [file.name for file in tmp_path.iterdir()] == ["figures.png"]


def test_unfinished_run_is_said(tmp_path: Path) -> None:
    """Closing lines of a run that did not end name the missing file and the command."""
    with pytest.raises(StyleBlendError, match="metrics.json is missing: run `dvc repro`"):
        closing_lines(tmp_path)


def test_networks_that_hardly_count_are_no_reason_to_warn() -> None:
    """Photographs judged by networks of others need no warning for small ones beside the paper's terms."""
    small, other = {"origin": "made by this project, see its card"}, {"origin": "https://example.com"}
    photographs = pd.DataFrame({"render_seed": [None, None]})
    weighty = ("identity", "identity_judge", "landmarks", "attributes_judge", "decoder")
    networks = dict.fromkeys(weighty, other) | {"landmarks_3d": small, "attributes": small}
    assert caveat(photographs, networks) == ""
    assert "identity_judge learned from rendered faces" in caveat(photographs, networks | {"identity_judge": small})
    decoder = networks | {"decoder": small, "encoder": small}
    assert "encoder, decoder learned" in caveat(photographs, decoder)
    assert caveat(photographs, decoder | {"starter": small}) == "", "a starter stands where these would"


def test_tables_are_markdown_or_columns() -> None:
    """Cells of any kind, in Markdown; in a terminal they are aligned, and nothing trails behind the last."""
    assert markdown(("a", "b"), [(1, "x"), ("y", 2.5)]) == "| a | b |\n|---|---|\n| 1 | x |\n| y | 2.5 |"
    rows = [("name", "size", "note"), ("long name", "7", ""), ("b", "10000", "x")]
    assert columns(rows, right=(1,), rule=True) == [
        "name        size  note",
        "---------  -----  ----",
        "long name      7",
        "b          10000  x",
    ]
    assert columns(rows)[2] == "b          10000  x"


def test_words_of_a_metric_are_those_of_every_report() -> None:
    """The key figures are the metrics with words, in the order of the table of metrics."""
    assert {name: words for name, words, _ in KEY_FIGURES} == {
        name: metric.words for name, metric in METRICS.items() if metric.words
    }
    assert [name for name, _, better in KEY_FIGURES if better == "down"] == [
        "target_retrieval_top1", "judge_gap", "pose_error_deg", "expression_error", "landmark_error", "outside_l1",
        "feature_distance_outside", "feature_distance_true_swap",
    ]  # fmt: skip
