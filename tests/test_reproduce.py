"""Making a version again with the real git, DVC and MLflow, on a pipeline whose stages take no time."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from styleblend.config.tracking import Tracking
from styleblend.errors import StyleBlendError
from styleblend.experiments import reproduce
from styleblend.registry import lineage, mlflow_store, runs, versions

pytestmark = pytest.mark.slow

GIT = ("git", "-c", "user.name=test", "-c", "user.email=test@localhost")
# The package of this little project has the name of the installed one: its own must be the one that runs.
CODE = {
    "src/styleblend/__init__.py": "",
    "src/styleblend/faces.py": """\
        import pathlib, sys
        pathlib.Path("data").mkdir(exist_ok=True)
        pathlib.Path("data/faces").write_text(sys.argv[1])
        """,
    "src/styleblend/train.py": """\
        import json, os, pathlib, sys
        import numpy, yaml
        from safetensors.numpy import save_file
        out = pathlib.Path(sys.argv[1])
        out.mkdir(parents=True)
        seed = yaml.safe_load(open("params.yaml"))["train"]["seed"] + len(pathlib.Path("data/faces").read_text())
        weights = numpy.random.default_rng(seed).normal(size=9).astype("float32")
        drift = pathlib.Path({drift!r})
        weights[3] += float(drift.read_text()) if drift.exists() else 0
        save_file({{"w": weights, "same": numpy.ones(2, "float32"), "none": numpy.ones(0, "float32")}},
                  out / "swapper.safetensors")
        (out / "run.json").write_text(json.dumps({{"run_id": str(os.getpid())}}))
        """,
    "src/styleblend/measure.py": """\
        import json, pathlib
        import pandas
        from safetensors.numpy import load_file
        pose = abs(load_file("data/models/swapper/swapper.safetensors")["w"])
        out = pathlib.Path("reports/evaluate")
        out.mkdir(parents=True)
        names = [str(k) for k in range(len(pose))]
        table = pandas.DataFrame({"source_id": names, "target_id": names, "source_rank": 1, "target_rank": 1,
                                  "pose_error_deg": pose, "pose_error_source_deg": 90.0, "method": "model"})
        table.to_parquet(out / "pairs.parquet")
        found = {"n_pairs": 9, "pose_error_deg": float(pose.mean())}
        found |= {"pose_error_deg_low": float(pose.min()), "pose_error_deg_high": float(pose.max())}
        pathlib.Path("reports/metrics.json").write_text(json.dumps(found))
        """,
}
STAGES = {
    "align": {"cmd": "python -m styleblend.faces faces", "deps": ["src/styleblend/faces.py"], "outs": ["data/faces"]},
    "train_encoder": {
        "cmd": "python -m styleblend.train data/models/encoder",
        "deps": ["src/styleblend/train.py", "data/faces"],
        "params": ["train"],
        "outs": ["data/models/encoder"],
    },
    "finetune_decoder": {
        "cmd": "python -m styleblend.train data/models/swapper",
        "deps": ["src/styleblend/train.py", "data/faces", "data/models/encoder"],
        "params": ["train"],
        "outs": ["data/models/swapper"],
    },
    "evaluate": {
        "cmd": "python -m styleblend.measure",
        "deps": ["src/styleblend/measure.py", "data/models/swapper"],
        "outs": ["reports/evaluate"],
        "metrics": ["reports/metrics.json"],
    },
}


def git(project: Path, *arguments: str) -> str:
    return subprocess.run([*GIT, *arguments], cwd=project, check=True, capture_output=True, text=True).stdout


def register(project: Path, key: str) -> versions.Version:
    """As the stage does, with what the project stands at."""
    track = mlflow_store.resolved(Tracking(), project)
    scratch = project / ".state" / f"record-{key}"
    scratch.mkdir(parents=True)
    record = lineage.collect(project / "params.yaml", scratch)
    files = {"metrics": project / "reports/metrics.json", "evaluation": project / "reports/evaluate", **record.files}
    parent = runs.start_pipeline(track, "p", {})
    with runs.child_run(track, parent, "register", key, {}) as run:
        return versions.register_version(
            track, project / "data/models/swapper", {}, record.facts, files, None, run=run, key=key
        )


@pytest.fixture(scope="module")
def drift(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A number in this file is added to a weight: what no record knows of."""
    return tmp_path_factory.mktemp("machine") / "drift"


@pytest.fixture(scope="module")
def project(root: Path, drift: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Version 1 made by a revision that has passed: code, settings and data are others by now."""
    folder = tmp_path_factory.mktemp("project")
    git(folder, "init", "-q")
    (folder / ".dvc").mkdir()
    shutil.copy(root / ".dvc/config", folder / ".dvc")
    shutil.copy(root / ".dvcignore", folder)
    (folder / ".gitignore").write_text(
        "/data\n/reports\n/.state\n/mlflow.db\n/mlruns\n__pycache__\n/.dvc/cache\n/.dvc/tmp\n"
    )
    for name, text in CODE.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        lines = text.replace("\n        ", "\n").removeprefix("        ")
        (folder / name).write_text(lines.format(drift=str(drift)) if name.endswith("train.py") else lines)
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": STAGES}))
    (folder / "params.yaml").write_text("train: {seed: 1}\n")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "first")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = os.environ | {"PATH": path, "PYTHONPATH": str(folder / "src")}
    subprocess.run([sys.executable, "-m", "dvc", "repro", "-q"], cwd=folder, env=env, check=True)
    assert register(folder, "a").tags["git_changes"] == "none"
    train = folder / "src/styleblend/train.py"
    train.write_text(train.read_text().replace("size=9", "size=8"))
    (folder / "params.yaml").write_text("train: {seed: 2}\n")
    git(folder, "commit", "-qam", "second")
    (folder / "data/faces").write_text("other faces")
    return folder


@pytest.fixture
def track(project: Path, drift: Path) -> Iterator[Tracking]:
    yield mlflow_store.resolved(Tracking(), project)
    drift.unlink(missing_ok=True)
    # Whatever happened, no worktree stays behind.
    assert len(git(project, "worktree", "list").splitlines()) == 1
    assert not (project / ".state/isolated/reproduce").exists()


def cached(project: Path) -> set[str]:
    return {str(file) for file in (project / ".dvc/cache").rglob("*")}


def test_the_same_comes_out_bit_for_bit_and_nothing_else_changes(project: Path, track: Tracking) -> None:
    """From the old revision, settings and data, by training and not from DVC's memory; the project stays as it is."""
    before, lock = cached(project), (project / "dvc.lock").read_text()
    record = versions.fetch_record(track, "1", project / ".state/version")
    weights = lineage.sha256(record / "swapper/swapper.safetensors")
    outcome = reproduce.reproduce(project, track, "1")
    assert outcome.same, outcome.text
    assert f"bit for bit: swapper.safetensors has the sha256 {weights}" in outcome.text
    assert cached(project) == before and (project / "dvc.lock").read_text() == lock
    assert (project / "data/faces").read_text() == "other faces"
    assert git(project, "status", "--porcelain", "--", "src", "params.yaml") == ""


def test_what_is_not_the_same_is_measured(
    project: Path, track: Tracking, drift: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The largest difference of a weight, what differs in what went in, and the figures of both with intervals."""
    drift.write_text("0.25")
    # A killed run left its worktree.
    git(project, "worktree", "add", "--detach", ".state/isolated/reproduce", "HEAD")
    installed = lineage.environment()
    monkeypatch.setattr(lineage, "environment", lambda: re.sub(r"(?m)^torch==.*$", "torch==0.1", installed))
    outcome = reproduce.reproduce(project, track, "1")
    assert not outcome.same
    assert "largest weight difference 0.25, in w; 1 of 2 tensors differ" in outcome.text
    assert re.search(r"(?m)^packages that differ: torch \S+, now 0.1$", outcome.text)
    assert "inputs that differ" not in outcome.text
    (row,) = [line for line in outcome.text.splitlines() if line.startswith("| pose error")]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[1] != cells[2] and "to" in cells[1] and "to" in cells[2]


def test_data_that_is_in_no_cache_is_made_again(project: Path, track: Tracking) -> None:
    """The stages before training run, and the model is the same."""
    lock = yaml.safe_load((project / "dvc.lock").read_text())
    md5 = lock["stages"]["align"]["outs"][0]["md5"]
    file = project / ".dvc/cache/files/md5" / md5[:2] / md5[2:]
    kept = file.rename(project / ".state" / "kept")
    try:
        assert reproduce.reproduce(project, track, "1").same
    finally:
        kept.rename(file)


def test_quick_compares_the_version_with_its_lock(project: Path, track: Tracking) -> None:
    """DVC's own hash of the model's folder is that of the version's files; a changed byte is found."""
    assert reproduce.verify(track, "1").same
    weights = next(project.glob("mlruns/**/swapper/swapper.safetensors"))
    before = weights.read_bytes()
    try:
        weights.write_bytes(before[:-1] + b"\x00")
        outcome = reproduce.verify(track, "1")
    finally:
        weights.write_bytes(before)
    assert not outcome.same and "not the same" in outcome.text


def test_what_cannot_be_made_again_is_said_in_one_line(project: Path, track: Tracking) -> None:
    """Changes that git lacks, no git, another clone's revision, a stage that fails: which, and what to do."""
    train = project / "src/styleblend/train.py"
    text = train.read_text()
    train.write_text(text + "\n# changed\n")
    version = register(project, "b")
    train.write_text(text)
    cases = [
        ({}, r"changes that git does not have \(src/styleblend/train.py\)"),
        ({"git_changes": "none", "git_revision": "f" * 40}, f"{'f' * 40}, which is not in this clone"),
        ({"git_revision": "unknown"}, "made outside git"),
    ]
    for tags, message in cases:
        versions.set_tags(track, version, tags)
        with pytest.raises(StyleBlendError, match=message) as caught:
            reproduce.reproduce(project, track, version.version)
        assert "\n" not in str(caught.value)
    train.write_text("raise SystemExit('no memory')")
    git(project, "commit", "-qam", "broken")
    broken = register(project, "c")
    with pytest.raises(StyleBlendError, match="stage train_encoder failed"):
        reproduce.reproduce(project, track, broken.version)
    with pytest.raises(StyleBlendError, match="no version or alias '9'"):
        reproduce.reproduce(project, track, "9")


def test_a_version_without_a_lock_is_refused(project: Path, track: Tracking) -> None:
    """One that a stage registered by hand, before DVC ran."""
    parent = runs.start_pipeline(track, "p", {})
    facts = {"git_revision": git(project, "rev-parse", "HEAD").strip(), "git_changes": "none"}
    with runs.child_run(track, parent, "register", "d", {}) as run:
        folder = project / "data/models/swapper"
        version = versions.register_version(track, folder, {}, facts, {}, None, run=run, key="d")
    with pytest.raises(StyleBlendError, match=r"without params.yaml and dvc.lock"):
        reproduce.reproduce(project, track, version.version)


def test_the_command_says_it_by_its_exit_code(root: Path, project: Path, track: Tracking, tmp_path: Path) -> None:
    """0 where it is the same, 1 where it is not or cannot be, without a traceback."""
    params = yaml.safe_load((root / "params.yaml").read_text())
    params["tracking"]["uri"] = track.uri
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))

    def command(version: str) -> subprocess.CompletedProcess[str]:
        arguments = [
            "styleblend.commands.cli",
            "reproduce",
            version,
            "--quick",
            "--params",
            str(tmp_path / "params.yaml"),
        ]
        return subprocess.run([sys.executable, "-m", *arguments], capture_output=True, text=True, check=False)

    done = command("1")
    assert (done.returncode, done.stderr) == (0, "") and "is the one that its dvc.lock names" in done.stdout
    done = command("nobody")
    assert done.returncode == 1 and done.stderr.startswith("styleblend reproduce: model 'styleblend' has no version")
