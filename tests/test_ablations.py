"""Ablations: what is run, what is kept, and what the table says."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from local_servers import wait_for
from retraining_project import alive, make_project
from styleblend.config.params import load_params
from styleblend.errors import StyleBlendError
from styleblend.experiments import ablations
from styleblend.system.lock import Locked, only_one


@pytest.fixture
def project(root: Path, tmp_path: Path) -> Path:
    """Settings and variants of the project, and some code."""
    (tmp_path / "src").mkdir()
    (tmp_path / "src/code.py").write_text("1\n")
    (tmp_path / "presets/ablations").mkdir(parents=True)
    shutil.copy(root / ablations.VARIANTS, tmp_path / ablations.VARIANTS)
    shutil.copy(root / "params.yaml", tmp_path)
    return tmp_path


class Trainer:
    """In the place of `dvc repro`: figures that follow from the settings, and a note of what ran."""

    def __init__(self, fails: str = "") -> None:
        self.ran: list[str] = []
        self.fails = fails

    def __call__(self, project: Path, name: str, lock: int) -> None:
        if name == self.fails:
            raise StyleBlendError("killed")
        self.ran.append(name)
        cfg = load_params(project / "params.yaml")
        pose = 3.0 if cfg.train_encoder.loss.landmarks else 9.0
        metrics: dict[str, Any] = {
            "pose_error_deg": pose,
            "pose_error_deg_low": pose - 1,
            "pose_error_deg_high": pose + 1,
        }
        for name in ("outside_l1", "id_similarity_source"):
            metrics |= {name: 0.1, f"{name}_low": 0.05, f"{name}_high": 0.2}
        (project / "reports/evaluate").mkdir(parents=True, exist_ok=True)
        (project / "reports/metrics.json").write_text(json.dumps(metrics))
        near = f"yaw_0_{cfg.evaluate.yaw_bins_deg[0]:g}"
        (project / "reports/evaluate/groups.csv").write_text(
            f"group,figure,value,low,high,n\nyaw_40_up,pose_error_deg,8,7,9,9\n"
            f"{near},pose_error_deg,{pose},{pose - 1},{pose + 1},9\n"
        )


def test_every_variant_changes_what_it_says_and_is_valid(root: Path) -> None:
    """Each variant gives settings that the pipeline accepts, differs from `full`, and names a figure that exists."""
    plan = ablations.read_plan(root / ablations.VARIANTS)
    values = yaml.safe_load((root / "params.yaml").read_text())
    full = ablations.settings(values, plan, ablations.FULL)
    keys = {name for name, _, _ in ablations.KEY_FIGURES}
    for name, variant in plan.variants.items():
        own = ablations.settings(values, plan, name)
        assert (own == full) == (name == ablations.FULL), name
        assert name == variant.against or own != ablations.settings(values, plan, variant.against), name
        assert variant.figure is None or variant.figure in keys
    for name in ("swap_consistency", "no_landmarks"):
        assert plan.variants[name].paper, "the paper reports on it"


def test_only_what_is_missing_runs_and_settings_come_back(project: Path) -> None:
    """A second call runs nothing, other settings or other code run anew, and params.yaml is as it was."""
    before = (project / "params.yaml").read_text()
    names = ("full", "no_landmarks")
    first = Trainer()
    ablations.ablate(project, names, first)
    assert first.ran == ["full", "no_landmarks"]
    assert (project / "params.yaml").read_text() == before
    again = Trainer()
    ablations.ablate(project, names, again)
    assert again.ran == []
    (project / "src/code.py").write_text("2\n")
    ablations.ablate(project, ("full",), again)
    assert again.ran == ["full"]
    (project / "params.yaml").write_text(before + "\n# a comment changes nothing\n")
    ablations.ablate(project, ("full",), again)
    assert again.ran == ["full"]


def test_an_interrupted_run_goes_on(project: Path) -> None:
    """What was done is kept, and settings, lock and outputs of the project are never those of a variant."""
    (project / "dvc.lock").write_text("stages: {}")
    (project / "reports").mkdir()
    (project / "reports/metrics.json").write_text("the pipeline's own")
    own = {name: (project / name).read_bytes() for name in ("params.yaml", "dvc.lock", "reports/metrics.json")}

    def kill(folder: Path, name: str, lock: int) -> None:
        (folder / "dvc.lock").write_text("of a variant")
        Trainer(fails="no_landmarks")(folder, name, lock)
        assert {name: (project / name).read_bytes() for name in own} == own

    with pytest.raises(StyleBlendError, match="killed"):
        ablations.ablate(project, ("full", "no_landmarks"), kill)
    # As SIGKILL leaves it.
    left = project / ".state/isolated/ablate/data"
    left.mkdir(parents=True)
    trainer = Trainer()
    ablations.ablate(project, ("full", "no_landmarks"), trainer)
    assert trainer.ran == ["no_landmarks"] and not left.exists()
    assert {name: (project / name).read_bytes() for name in own} == own


def test_while_another_is_at_work_nothing_changes(project: Path) -> None:
    """A retraining and a second ablation are refused with the holder's name while one holds the project."""
    text = (project / "params.yaml").read_text()
    with only_one(project, "a retraining"):
        before = sorted(project.rglob("*"))
        with pytest.raises(StyleBlendError, match=rf"^a retraining \(process {os.getpid()}, since .* is at work"):
            ablations.ablate(project, ("full",), Trainer())
        assert (project / "params.yaml").read_text() == text and sorted(project.rglob("*")) == before

    def run(folder: Path, name: str, lock: int) -> None:
        variant = (folder / "params.yaml").read_text()
        assert variant != text
        with pytest.raises(StyleBlendError, match=r"^styleblend ablate \(process .* is at work"):
            ablations.ablate(project, ("no_landmarks",), Trainer())
        assert (folder / "params.yaml").read_text() == variant and (project / "params.yaml").read_text() == text
        os.fstat(lock)
        Trainer()(folder, name, lock)

    ablations.ablate(project, ("full",), run)
    assert (project / "params.yaml").read_text() == text


STAGE = """
import os, pathlib, shutil, time
shutil.copy("params.yaml", {project!r} + "/seen")
(pathlib.Path({project!r}) / "pid").write_text(str(os.getpid()))
time.sleep(300)
"""


@pytest.mark.slow
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGKILL])
def test_ending_it_ends_its_training(tmp_path: Path, sign: signal.Signals) -> None:
    """With the real DVC: nobody else gets the project while it runs; Ctrl-C and SIGKILL leave no process and a free
    project, whose settings and lock were never a variant's.
    """
    project = make_project(tmp_path)
    for file, text in (
        ("stage.py", STAGE.format(project=str(project))),
        ("src/code.py", ""),
        ("dvc.lock", "schema: '2.0'\n"),
        ("dvc.yaml", "stages: {evaluate: {cmd: python stage.py, params: [evaluate.seed], outs: [never]}}"),
        (ablations.VARIANTS, "{shared: {}, variants: {full: {change: nothing, set: {evaluate: {seed: 5}}}}}"),
    ):
        (project / file).parent.mkdir(parents=True, exist_ok=True)
        (project / file).write_text(text)
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost"]
    for arguments in (["add", "-A"], ["commit", "-qm", "first"]):
        subprocess.run([*git, *arguments], cwd=project, check=True)
    before = (project / "params.yaml").read_text()
    process = subprocess.Popen(
        [sys.executable, "-m", "styleblend.commands.cli", "ablate"],
        cwd=project,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        # A shell's background jobs, as this may be one of, ignore Ctrl-C, and their children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        wait_for(lambda: (project / "pid").is_file() and (project / "pid").read_text(), 120)
        assert yaml.safe_load((project / "seen").read_text())["evaluate"]["seed"] == 5
        assert (project / "params.yaml").read_text() == before
        with pytest.raises(Locked, match="styleblend ablate"), only_one(project, "a retraining"):
            pass
        stage = int((project / "pid").read_text())
        family = [each.pid for each in psutil.Process(process.pid).children(recursive=True)]
        assert stage in family
        process.send_signal(sign)
        process.communicate(timeout=120)
    finally:
        process.kill()
        process.wait()
    wait_for(lambda: not any(map(alive, family)), 30)
    assert (project / "params.yaml").read_text() == before
    with only_one(project, "a retraining"):
        pass
    assert (project / ".state/isolated/ablate").exists() == (sign == signal.SIGKILL)
    assert (project / "dvc.lock").read_text() == "schema: '2.0'\n"


def test_table_says_what_is_worse_and_what_cannot_be_told(project: Path) -> None:
    """Worse where the intervals lie apart, no clear difference where they meet, and what has not run is named."""
    report = ablations.ablate(project, ("full", "no_landmarks", "no_pathway"), Trainer()).read_text()
    rows = {line.split("|")[1].strip(): line for line in report.splitlines() if line.startswith("| no_")}
    assert "pose_error_deg: worse" in rows["no_landmarks"] and "not preserved" in rows["no_landmarks"]
    assert "outside_l1: no clear difference" in rows["no_pathway"]
    assert "9 (8 to 10)" in report and "Not run yet: swap_consistency" in report


def test_profile_variants_differ_from_profile_and_are_shown_by_yaw(project: Path) -> None:
    """What is compared with `profile` has its faces, stands in a table of its own, and in those by yaw."""
    plan = ablations.read_plan(project / ablations.VARIANTS)
    values = yaml.safe_load((project / "params.yaml").read_text())
    own, base = (ablations.settings(values, plan, name) for name in ("profile_shape_3d", "profile"))
    assert own["download"] == base["download"] != ablations.settings(values, plan, "full")["download"]
    assert own["train_encoder"]["loss"].pop("shape_3d") and own["train_encoder"] == base["train_encoder"]
    names = ("full", "profile", "profile_shape_3d")
    report = ablations.ablate(project, names, Trainer()).read_text()
    assert "## Against `full`" in report and "## Against `profile`" in report
    by_yaw = report.split("## By yaw")[1]
    assert (
        "| variant | 0 to 20 | 40 and more |" in by_yaw and "| profile_shape_3d | 3 (2 to 4) | 8 (7 to 9) |" in by_yaw
    )
    assert "| full |" not in by_yaw


def test_what_a_variant_is_compared_with_stands_above_it(project: Path) -> None:
    """The section of a base that is a variant of `full` itself shows the base's own figures, too."""
    names = ("full", "no_attributes", "no_landmarks_no_attributes")
    section = ablations.ablate(project, names, Trainer()).read_text().split("## Against `no_attributes`")[1]
    rows = [line.split("|")[1].strip() for line in section.splitlines() if line.startswith("| no_")]
    assert rows == ["no_attributes", "no_landmarks_no_attributes", "no_landmarks_no_attributes"]


def test_mistakes_are_one_line(project: Path) -> None:
    """An unknown variant, a variant with an unknown key and a torn file each say so before anything runs."""
    with pytest.raises(StyleBlendError, match="no variant 'nothing'.*full"):
        ablations.ablate(project, ("nothing",), Trainer())
    file = project / ablations.VARIANTS
    plan = yaml.safe_load(file.read_text())
    plan["variants"]["full"]["set"] = {"train_encoder": {"stepz": 1}}
    file.write_text(yaml.safe_dump(plan))
    with pytest.raises(StyleBlendError, match="stepz"):
        ablations.ablate(project, (), Trainer())
    plan["variants"]["full"] = {"change": "nothing", "set": {}, "against": "nobody"}
    file.write_text(yaml.safe_dump(plan))
    with pytest.raises(StyleBlendError, match="no variant 'nobody'"):
        ablations.ablate(project, (), Trainer())
    file.write_text("variants: {}")
    with pytest.raises(StyleBlendError, match="not in order"):
        ablations.ablate(project, (), Trainer())
    file.unlink()
    with pytest.raises(StyleBlendError, match="missing"):
        ablations.ablate(project, (), Trainer())
