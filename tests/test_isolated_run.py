"""Working copies of a project: what they hold, what they share with it, and that they leave nothing behind."""

from __future__ import annotations

import ast
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

import tiny_training as tiny
from styleblend.config.base import ConfigError
from styleblend.config.params import load_params
from styleblend.config.tracking import Tracking
from styleblend.errors import StyleBlendError
from styleblend.experiments import isolated_run
from styleblend.registry import lineage, mlflow_store
from styleblend.system.kept import kept
from styleblend.system.lock import only_one
from styleblend.training import checkpoint, ray_trainer, stage

GIT = ("git", "-c", "user.name=test", "-c", "user.email=test@localhost")
STAGES = {
    "one": {
        "cmd": "mkdir -p data && cp photographs/a.jpg data/one && echo seed >> data/one && echo x >> .state/ran",
        "deps": ["${download.origin}"],
        "params": ["evaluate.seed"],
        "outs": ["data/one"],
    }
}


def git(project: Path, *arguments: str) -> str:
    return subprocess.run([*GIT, *arguments], cwd=project, check=True, capture_output=True, text=True).stdout


@pytest.fixture(params=["a commit", "no commit", "no git"])
def project(request: pytest.FixtureRequest, root: Path, tmp_path: Path) -> Path:
    """A project with photographs that git ignores; `request` says how much of it git knows."""
    folder = tmp_path / "project"
    for name in (".dvc", "src/styleblend", "photographs", "data/pretrained/small", ".state"):
        (folder / name).mkdir(parents=True)
    shutil.copy(root / ".dvc/config", folder / ".dvc")
    shutil.copy(root / ".dvcignore", folder)
    (folder / ".gitignore").write_text("/.state/\n/photographs\n/data/one\n/mlflow.db\n/mlruns\n/reports\n")
    (folder / "photographs/a.jpg").write_bytes(b"a")
    (folder / "src/styleblend/code.py").write_text("first")
    (folder / "src/gone.py").write_text("")
    (folder / "data/pretrained/small/net").write_text("weights")
    values: dict[str, Any] = yaml.safe_load((root / "params.yaml").read_text())
    source = {"kind": "folder", "name": "photos", "path": "photographs", "licence": "own", "terms": "a test"}
    values["download"] |= {"origin": "photographs", "sources": [source]}
    values["pretrained"]["detector"] = values["align"]["detector"] = "yunet"
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": STAGES}))
    if request.param != "no git":
        git(folder, "init", "-q")
    else:
        # DVC asks for git unless it is told that there is none.
        (folder / ".dvc/config").write_text("[core]\n    no_scm = true\n    analytics = false\n")
    if request.param == "a commit":
        git(folder, "add", "-A")
        git(folder, "commit", "-qm", "first")
    return folder


def copy_of(project: Path, **evaluate: Any) -> Any:
    return isolated_run.working_copy(project, "test", isolated_run.values(project, {"evaluate": evaluate}))


def content(project: Path) -> dict[Path, bytes]:
    """All files outside git's and DVC's own folders."""
    files = {file for file in project.rglob("*") if file.is_file() and not {".git", ".dvc"} & set(file.parts)}
    return {file.relative_to(project): file.read_bytes() for file in files}


def test_a_copy_holds_the_present_files_and_goes_without_a_trace(project: Path) -> None:
    """Changed, new and deleted files count; settings are the copy's own; photographs, .state and MLflow's store are the
    project's, by links that its end does not follow. A version that was made there tells the truth about its code.
    """
    (project / "src/styleblend/code.py").write_text("changed")
    (project / "src/new.py").write_text("new")
    (project / "src/gone.py").unlink()
    # What a killed run left.
    (project / ".state/isolated/test").mkdir(parents=True)
    (project / ".state/isolated/test/left").write_text("")
    before = content(project)
    with copy_of(project, seed=5) as folder:
        assert folder.is_relative_to(project / ".state")
        assert (folder / "src/styleblend/code.py").read_text() == "changed"
        assert (folder / "src/new.py").exists()
        assert not (folder / "src/gone.py").exists() and not (folder / "left").exists()
        assert (folder / "data/pretrained/small/net").read_text() == "weights"
        cfg = load_params(folder / "params.yaml")
        assert cfg.evaluate.seed == 5 and load_params(project / "params.yaml").evaluate.seed == 0
        assert (folder / "photographs").is_symlink() and (folder / cfg.download.origin / "a.jpg").exists()
        assert (folder / ".state").resolve() == project / ".state"
        assert mlflow_store.resolved(cfg.tracking, folder) == mlflow_store.resolved(cfg.tracking, project)
        if (project / ".git").exists() and lineage.git_revision(project) != lineage.UNKNOWN:
            assert lineage.git_revision(folder) == lineage.git_revision(project)
            assert lineage.changed_code(folder) == lineage.changed_code(project) != []
        (folder / "src/new.py").write_text("of the run")
    assert not any((project / ".state/isolated").iterdir())
    before.pop(Path(".state/isolated/test/left"))
    assert content(project) == before
    if (project / ".git").exists():
        assert len(git(project, "worktree", "list").splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("project", ["a commit", "no git"], indirect=True)
def test_dvc_shares_its_cache_and_adopts_what_came_out(project: Path) -> None:
    """A run with other settings leaves the project's outputs alone until they are adopted; what either made is found by
    the other and not made again, and deps have the same names in both locks.
    """
    with only_one(project, "a test") as lock:
        assert isolated_run.run_dvc(project, "repro", lock=lock) == 0
        (project / "data/one").write_text("edited")
        with copy_of(project, seed=0) as folder:
            assert isolated_run.run_dvc(folder, "repro", lock=lock) == 0
            assert (folder / "data/one").read_text() == "aseed\n"
        own = (project / "dvc.lock").read_text()
        assert (project / ".state/ran").read_text() == "x\n"
        with copy_of(project, seed=5) as folder:
            assert isolated_run.run_dvc(folder, "repro", lock=lock) == 0
            assert (project / "dvc.lock").read_text() == own and (project / "data/one").read_text() == "edited"
            isolated_run.adopt(folder, project)
        assert (project / ".state/ran").read_text() == "x\nx\n"
        assert (project / "dvc.lock").read_text() == own.replace("evaluate.seed: 0", "evaluate.seed: 5")
        assert (project / "data/one").read_text() == "aseed\n"
        assert isolated_run.run_dvc(project, "repro", lock=lock) == 0
        assert (project / ".state/ran").read_text() == "x\nx\n" and (project / "dvc.lock").read_text() == own


@pytest.mark.parametrize("project", ["a commit"], indirect=True)
def test_a_finished_variant_removes_nothing_of_the_project(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Finished trainings and kept results of the project outlive those of other settings in a working copy, which
    remove their own predecessors alone; what they leave goes when the project itself finishes the stage again.
    """

    def finish(name: str) -> None:
        state = stage._state(f"train_encoder-{name}")
        checkpoint.save(state / ray_trainer.CHECKPOINTS, {}, {}, step=4, planned=4, attempt=0, good=True)
        places = dict.fromkeys(("splits", "faces", "perceived", "networks"), Path())
        job = ray_trainer.Job(
            stage="train_encoder", fingerprint=name, model=tiny.MODEL, training=tiny.training(steps=4),
            tracking=Tracking(), parent_run_id="", state=state, **places,
        )  # fmt: skip
        stage._retire(job)
        with kept(Path(".state"), "align", name, Path("out")) as (store, used):
            store.put("ab" * 32, name.encode())
            used.add("ab" * 32)

    def left() -> tuple[set[str], set[str]]:
        trainings = {
            place.name.removeprefix("train_encoder-") for place in (project / ".state").glob("train_encoder-*")
        }
        return trainings, {place.name for place in (project / ".state/align").iterdir() if place.is_dir()}

    monkeypatch.chdir(project)
    finish("own")
    with copy_of(project, seed=5) as folder:
        monkeypatch.chdir(folder)
        for variant in ("first", "second"):
            finish(variant)
        assert left() == ({"own", "second"}, {"own", "first", "second"})
        # Of the same settings as the project's own it is the project's, and remains so.
        finish("own")
        assert left() == ({"own"}, {"own", "first", "second"})
        finish("second")
        monkeypatch.chdir(project)
    assert left() == ({"own", "second"}, {"own", "first", "second"})
    finish("own")
    assert left() == ({"own"}, {"own"})


def test_paths_out_of_the_project_and_wrong_settings(project: Path) -> None:
    """A relative path that leaves the project is absolute in the copy, a local store there too; an unknown setting
    leaves no copy.
    """
    outside = {"download": {"origin": "../photographs"}, "tracking": {"uri": "sqlite:///../mlflow.db"}}
    values = isolated_run.values(project, outside)
    values["download"]["sources"][0]["path"] = "../photographs"
    with isolated_run.working_copy(project, "test", values) as folder:
        cfg = load_params(folder / "params.yaml")
        assert cfg.download.origin == project.parent / "photographs" == cfg.download.places[0]
        assert cfg.tracking.uri == f"sqlite:///{project.parent / 'mlflow.db'}"
    with pytest.raises(ConfigError, match="evaluate.sede: unknown key"), copy_of(project, sede=1):
        pass
    assert not (project / ".state/isolated/test").exists()


def test_a_pipeline_that_dvc_cannot_adopt_is_one_line(project: Path) -> None:
    """DVC's own words, and where."""
    with copy_of(project, seed=5) as folder:
        (folder / "dvc.lock").write_text("no: lock")
        with pytest.raises(StyleBlendError, match="dvc checkout .* failed in") as caught:
            isolated_run.adopt(folder, project)
    assert "\n" not in str(caught.value)


def test_locks_and_signals_stand_in_one_place_each(root: Path) -> None:
    """flock is called in system/lock.py alone, killpg and prctl in system/process.py."""
    places: dict[str, set[str]] = {"flock": set(), "killpg": set(), "prctl": set()}
    for file in (*(root / "src").rglob("*.py"), *(root / "flows").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Attribute) and node.attr in places:
                places[node.attr].add(str(file.relative_to(root / "src/styleblend")))
    assert places == {"flock": {"system/lock.py"}, "killpg": {"system/process.py"}, "prctl": {"system/process.py"}}
