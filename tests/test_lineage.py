"""What a version is recorded to be made with, against the real git and the real DVC."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from styleblend.registry import lineage

GIT = ("git", "-c", "user.name=test", "-c", "user.email=test@localhost")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A committed project of one file of code."""
    (tmp_path / "src").mkdir()
    (tmp_path / "src/code.py").write_text("1\n")
    (tmp_path / "params.yaml").write_text("a: 1\n")
    for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "first"]):
        subprocess.run([*GIT, *arguments], cwd=tmp_path, check=True)
    return tmp_path


def test_only_code_that_git_lacks_counts_as_a_change(project: Path) -> None:
    """Settings, DVC's lock and notes are no change, for the first two go with the version; code is, new code too."""
    (project / "params.yaml").write_text("a: 2\n")
    (project / "dvc.lock").write_text("stages: {}\n")
    (project / "notes.txt").write_text("n")
    assert lineage.changed_code(project) == []
    (project / "src/code.py").write_text("2\n")
    (project / "src/new file.py").write_text("3\n")
    assert lineage.changed_code(project) == ["src/code.py", "src/new file.py"]
    assert len(lineage.git_revision(project)) == 40


def test_a_record_holds_copies_and_their_hashes(project: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """What changes in the project afterwards changes no record."""
    (project / "dvc.lock").write_text("stages: {}\n")
    (project / "reports").mkdir()
    (project / "reports/data_profile.json").write_text("{}")
    folder = tmp_path_factory.mktemp("record")
    record = lineage.collect(project / "params.yaml", folder)
    (project / "dvc.lock").write_text("changed")
    assert (folder / "dvc.lock").read_text() == "stages: {}\n"
    assert set(record.files) == {"params.yaml", "dvc.lock", "environment.txt", "data_profile.json"}
    assert record.facts["git_changes"] == "none"
    assert record.facts["params_sha256"] == "37b128c59f1f5097f73f82691cb519f1f568667faab5ced1b4ab979d36837eae"


def test_without_git_or_lock_things_are_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exported archive, a clone before its first commit and a machine without git all give a record."""
    (tmp_path / "params.yaml").write_text("a: 1\n")
    (tmp_path / "record").mkdir()
    facts = lineage.collect(tmp_path / "params.yaml", tmp_path / "record").facts
    assert (facts["git_revision"], facts["git_changes"], facts["dvc_lock_sha256"]) == ("unknown", "unknown", "none yet")
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    assert lineage.git_revision(tmp_path) == "unknown"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert lineage.git_revision(tmp_path) == "unknown"


def test_environment_lists_every_package_as_pip_does(tmp_path: Path) -> None:
    """Name and exact version of what is installed, this project aside, readable again and by pip."""
    text = lineage.environment()
    listed = lineage.packages(text)
    frozen = subprocess.run(
        [sys.executable, "-m", "pip", "list", "--format", "freeze"], capture_output=True, text=True, check=True
    ).stdout
    wanted = {name.lower().replace("_", "-"): number for name, number in lineage.packages(frozen).items()}
    wanted.pop("styleblend", None)
    assert listed == wanted
    assert text.startswith(f"# Python {sys.version_info.major}.{sys.version_info.minor}.")


def test_hash_of_a_folder_is_dvcs(tmp_path: Path) -> None:
    """The MD5 that DVC itself writes for a file and for a nested folder."""
    folder = tmp_path / "out"
    (folder / "deep").mkdir(parents=True)
    for name in ("b.bin", "a.txt", "deep/ä.txt", "deep.txt"):
        (folder / name).write_text(name)
    for command in (["init", "-q", "--no-scm"], ["add", "-q", "out"]):
        subprocess.run([sys.executable, "-m", "dvc", *command], cwd=tmp_path, check=True)
    assert f"md5: {lineage.dvc_md5(folder)}" in (tmp_path / "out.dvc").read_text()
    assert lineage.dvc_md5(folder / "a.txt") == "a5e54d1fd7bb69a228ef0dcd2431367e"
