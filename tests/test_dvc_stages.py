"""Which stages DVC would run again after a change to the code, asked of DVC itself, for every module of the package."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import yaml

from package_imports import PACKAGE, modules, reached
from test_architecture import UNWATCHED, watched, within

NO_STAGE = frozenset({"commands", "experiments", "serving", "swapping", "config.product", "config.retraining"})
"""What people run beside the pipeline, and its settings."""


@pytest.fixture
def project(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The code and dvc.yaml with an output of a few bytes for each stage, all as dvc.lock has it."""
    shutil.copytree(root / "src" / PACKAGE, tmp_path / "src" / PACKAGE, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("params.yaml", ".dvcignore"):
        shutil.copy(root / name, tmp_path)
    pipeline = yaml.safe_load((root / "dvc.yaml").read_text())
    for stage in pipeline["stages"].values():
        # DVC does not look at the dependencies of a frozen stage.
        stage.pop("frozen", None)
        for out in (*stage.get("outs", ()), *stage.get("metrics", ())):
            path = tmp_path / (out if isinstance(out, str) else next(iter(out)))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("made")
    # No stage makes it for DVC: git holds it.
    (tmp_path / "data/forgotten").mkdir()
    (tmp_path / "data/forgotten/README.md").write_text("")
    (tmp_path / "data/pretrained/faces").mkdir(parents=True)
    (tmp_path / "data/pretrained/faces/card.json").write_text("{}")
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump(pipeline))
    monkeypatch.chdir(tmp_path)
    from dvc.repo import Repo

    with Repo.init(no_scm=True) as repo:
        repo.commit(force=True)
    return tmp_path


def changed(edited: list[Path]) -> set[tuple[str, str]]:
    """Pairs of a stage and a dependency of it that DVC finds changed when these files are, which stay as they were."""
    from dvc.repo import Repo

    before = {file: file.read_bytes() for file in edited}
    for file, content in before.items():
        file.write_bytes(content + b"\n# changed\n")
    with Repo() as repo:
        status = repo.status()
    for file, content in before.items():
        file.write_bytes(content)
    return {(stage, dep) for stage, found in status.items() for dep in found[0]["changed deps"]}


def batches(names: list[str], places: set[str]) -> list[list[str]]:
    """The modules in few groups, in none of which a place that some stage watches holds two of them."""
    groups: list[tuple[list[str], set[str]]] = []
    for name in names:
        around = {place for place in places if within(name, [place])}
        group = next((group for group in groups if not group[1] & around), None)
        if group is None:
            groups.append(group := ([], set()))
        group[0].append(name)
        group[1].update(around)
    return [group for group, _ in groups]


def test_a_changed_module_runs_the_stages_that_use_it_and_no_others(root: Path, project: Path) -> None:
    """For each module DVC names the stages whose deps cover it, and those are all that import it, lazily too."""
    trees, places, source = modules(root), watched(root), project / "src" / PACKAGE
    assert changed([]) == set()
    found: dict[str, set[str]] = {name: set() for name in trees}
    for group in batches(list(trees), set().union(*places.values())):
        files = [source / name.replace(".", os.sep) for name in group]
        for stage, dep in changed(
            [file / "__init__.py" if file.is_dir() else file.with_suffix(".py") for file in files]
        ):
            place = Path(dep).relative_to(f"src/{PACKAGE}").with_suffix("").as_posix().replace("/", ".")
            (name,) = (name for name in group if within(name, [place]))
            found[name].add(stage)
    assert found == {name: {stage for stage, own in places.items() if within(name, own)} for name in trees}
    code = {name for name, tree in trees.items() if len(tree.body) > 1 and not within(name, UNWATCHED)}
    for stage in places:
        missed = {name for name in reached(f"stages.{stage}", trees, UNWATCHED) & code if stage not in found[name]}
        assert not missed, f"{stage} uses {missed}, and DVC would not run it"
    assert not {name: stages for name, stages in found.items() if stages and within(name, NO_STAGE)}
    assert found["config.provenance"] == {"evaluate", "register"}
    assert found["training.losses"] == {"train_encoder", "finetune_decoder", "pretrain", "pretrain_faces"}
