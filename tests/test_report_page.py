"""The report page: whole in one file, with the figures that were measured and pictures that are marked."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
from html import unescape
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import tiny_project
from browser import browser_page
from styleblend import provenance
from styleblend.config.evaluation import Evaluate
from styleblend.config.registry import Register
from styleblend.config.tracking import Tracking
from styleblend.evaluation import extremes
from styleblend.provenance import verification
from styleblend.registry import versions
from styleblend.reporting import curves
from styleblend.reporting.figures import KEY_FIGURES
from styleblend.stages.evaluate import evaluate
from styleblend.training.record import FILE, Record
from test_stages_evaluate import CFG, inputs_of, own_authority, run_evaluate, run_register, signing

ROWS = [{"step": step, "identity_share": 0.5 + step / 1000, "judge_share": 0.5} for step in (0, 50, 100)]
RECORD = {
    "stages": {
        "train_encoder": {"probe": ROWS, "losses": [{"step": 50, "identity": 0.5}, {"step": 100, "identity": 0.2}]},
        "finetune_decoder": {"probe": ROWS[:2], "losses": [{"step": 50, "adversarial": -0.1}]},
    },
    "alarms": {"judge_gap": "the training network is <fooled>"},
    "events": [
        {"stage": "train_encoder", "step": 50, "alarm": "judge_gap", "state": "on", "text": "the network is <fooled>"}
    ],
}


@pytest.fixture(scope="module")
def project(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose model was registered, became the champion and was measured again, with a record of training."""
    folder = tmp_path_factory.mktemp("project")
    tiny_project.make(folder)
    (folder / "data/swapper" / FILE).write_text(json.dumps(RECORD))
    shutil.copy(root / "params.yaml", folder)
    before = Path.cwd()
    os.chdir(folder)
    try:
        run_evaluate(folder)
        run_register(Register())
        versions.point_alias(Tracking(), "champion", "1")
        run_evaluate(folder, CFG.model_copy(update={"report_rows": 2}))
    finally:
        os.chdir(before)
    return folder


def page_of(project: Path) -> str:
    return (project / "reports/evaluate/report.html").read_text()


def test_the_page_needs_nothing_else(project: Path) -> None:
    """It names no other file or address, has no script, and a browser shows every picture of it from the file alone."""
    html = page_of(project)
    assert not re.search(r"https?://|<script|<link|@import|url\(", html)
    assert all(source.startswith("data:image/") for source in re.findall(r'src="([^"]*)"', html))
    with browser_page() as page:
        asked: list[str] = []
        wrong: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: wrong.append(message.text))
        page.goto((project / "reports/evaluate/report.html").as_uri())
        widths = page.eval_on_selector_all("img", "pictures => pictures.map(each => each.naturalWidth)")
        assert len(widths) == 4 and all(widths)
        assert wrong == [] and {url.split(":")[0] for url in asked} <= {"file", "data"}
        assert page.inner_text("section.alarm li") == RECORD["alarms"]["judge_gap"]


def test_the_page_has_the_figures_that_were_measured(project: Path) -> None:
    """Each key figure of the model with its interval, and of every method beside it."""
    html = page_of(project)
    table = pd.read_csv(project / "reports/evaluate/figures.csv")
    for name, words, _ in KEY_FIGURES:
        (row,) = re.findall(rf"<tr><td>{re.escape(words)}<small>(.*?)</tr>", unescape(html), re.DOTALL)
        for method in table["method"].unique():
            own = table[(table["figure"] == name) & (table["method"] == method)]
            for _, found in own.iterrows():
                interval = f"{found['low']:.3g} to {found['high']:.3g}"
                assert f">{found['value']:.3g}<small>{interval}</small>" in row, (name, method)
    for part in ("yaw 1 to 85", "the network is &lt;fooled&gt;", "CC0-1.0", "judge-tiny", "train_encoder, step 50, on"):
        assert part in html, part
    assert "<fooled>" not in html


def test_earlier_versions_stand_beside(project: Path) -> None:
    """The champion, once where it is the newest version too; the same model is nowhere better."""
    html = page_of(project)
    assert "champion, version 1, of the same training" in html and "previous version" not in html
    assert 'class="better"' not in html and 'class="worse"' not in html


def test_pictures_of_the_page_are_marked_and_signed(project: Path, tmp_path: Path) -> None:
    """Each sheet of swaps says that it is synthetic, by the certificate of the settings."""
    sheets = re.findall(r"data:image/jpeg;base64,([A-Za-z0-9+/=]+)", page_of(project))
    assert len(sheets) == 3
    for number, sheet in enumerate(sheets):
        file = tmp_path / f"{number}.jpg"
        file.write_bytes(base64.b64decode(sheet))
        assert provenance.read_marks(file)["kind"] == "grid"
        assert verification.verify(file, own_authority(project)).c2pa.trusted
        with Image.open(file) as picture:
            # Source, target, swap, true swap and two warps of two pairs, below a line of captions.
            assert picture.width == 6 * 128 and picture.height > 2 * 128


def test_extremes_are_those_of_the_rule() -> None:
    """The first, the middle and the last of all pairs in the order of their margins; hidden pairs have no place."""
    random = np.random.default_rng(0)
    table = pd.DataFrame({"id_similarity_source": random.random(21), "id_similarity_target": random.random(21)})
    margin = extremes.margins(table)
    order = sorted(range(21), key=lambda row: margin[row], reverse=True)
    chosen = extremes.choose(margin, range(21), 3)
    assert chosen == {"best": order[:3], "median": order[9:12], "worst": order[18:]}
    shown = [row for row in range(21) if row not in order[:2]]
    assert extremes.choose(margin, shown, 3)["best"] == order[2:5]
    few = extremes.choose(margin, order[:4], 3)
    assert few == {"best": order[:1], "median": [order[1]], "worst": [order[3]]}
    assert extremes.choose(margin, [], 3) == {"best": [], "median": [], "worst": []}


def test_a_source_that_must_not_be_shown_is_measured_all_the_same(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `show: false` the report folder holds no picture of it, and the figures are those with it shown."""
    for name in ("data", "reports"):
        shutil.copytree(project / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    hidden = tiny_project.SOURCE.model_copy(update={"show": False})
    out = Path("reports/evaluate")
    before = json.loads(Path("reports/metrics.json").read_text())
    cfg = CFG.model_copy(update={"report_rows": 2})
    assert (
        evaluate(inputs_of(Path("data"), hidden), out, Path("reports/metrics.json"), cfg, Tracking(), signing())
        == before
    )
    assert {file.name for file in out.iterdir() if file.suffix in (".png", ".safetensors")} == {
        "blending.png",
        "figures.png",
    }
    html = page_of(tmp_path)
    assert "may not be shown" in html and "image/jpeg" not in html


def test_curves_run_over_both_stages() -> None:
    """Steps of the second stage go on where the first ended; what was not recorded has no panel; equal records give
    equal files."""
    record = Record(**RECORD)
    (likeness, losses, adversarial) = curves.panels(record)
    assert likeness.lines["training network"] == ([0, 50, 100, 100, 150], [0.5, 0.55, 0.6, 0.5, 0.55])
    assert losses.lines == {"identity": ([50, 100], [0.5, 0.2])} and losses.logarithmic
    assert adversarial.lines == {"adversarial": ([150], [-0.1])}
    assert curves.draw(record) == curves.draw(record) and "share of two pictures" in curves.draw(record)
    assert curves.draw(Record()) == ""


def test_rows_of_the_page_are_a_setting() -> None:
    """None is refused."""
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        Evaluate(report_rows=0)
