"""git and DVC refuse, are busy, or are not there: their own words in one line, and a wait where it helps."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from retraining_project import make_project
from styleblend.commands import cli, doctor
from styleblend.errors import StyleBlendError, TransientError
from styleblend.experiments import isolated_run
from styleblend.registry import lineage
from styleblend.system import dvc, git


@pytest.fixture
def project(root: Path, tmp_path: Path) -> Path:
    """A project as from an archive: DVC's folder, and no git."""
    (tmp_path / ".dvc").mkdir()
    shutil.copy(root / ".dvc/config", tmp_path / ".dvc")
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    shutil.copy(root / "params.yaml", tmp_path)
    return tmp_path


def test_a_project_outside_git_fails_doctor_and_is_refused_at_the_start_in_the_same_words(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`styleblend check`, with which `make demo` begins, says what doctor fails; DVC itself refuses the same project,
    and none of them once git is there or DVC is told that there is none."""
    (found,) = doctor.history(project)
    assert found.verdict == "FAIL" and f"{project} is not a git repository, and DVC refuses it" in found.text
    with pytest.raises(SystemExit) as ended:
        cli.main(["check", "--params", str(project / "params.yaml")])
    assert str(ended.value) == f"styleblend check: {found.text}"
    with pytest.raises(StyleBlendError, match="is not a git repository") as own:
        dvc.says(project, "status")
    assert "\n" not in str(own.value) and not isinstance(own.value, TransientError)
    (project / ".dvc/config.local").write_text("[core]\n    no_scm = true\n")
    assert dvc.refusal(project) is None and dvc.says(project, "status", "--quiet") == ""
    (project / ".dvc/config.local").unlink()
    subprocess.run(["git", "init", "-q", project], check=True)
    (found,) = doctor.history(project)
    assert found.verdict == "note" and found.text.endswith("there is no commit yet")
    shutil.rmtree(project / ".dvc")
    (found,) = doctor.history(project)
    assert found.verdict == "FAIL" and "has no folder .dvc" in found.text


def test_a_retraining_outside_git_is_refused_before_its_first_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The flow's check ends as a mistake, which nobody tries again, with doctor's words."""
    from flow import check
    from pipeline import MISTAKE

    project = make_project(tmp_path / "project")
    assert getattr(check.fn(project, {}, "as set"), "name", "settings") != MISTAKE
    shutil.rmtree(project / ".git")
    state = check.fn(project, {}, "as set")
    assert (state.name, state.message) == (MISTAKE, dvc.refusal(project))


def test_gits_own_words_are_shown(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A repository of another owner is no repository without a commit; a version asked for there says so, too."""
    subprocess.run(["git", "init", "-q", project], check=True)
    who = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    subprocess.run(["git", *who, "commit", "-q", "--allow-empty", "-m", "one"], cwd=project, check=True)
    assert lineage.git_refusal(project) is None and isolated_run.has_commit(project, "HEAD")
    # git's own switch for its tests of this refusal.
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    (found,) = doctor.history(project)
    assert found.verdict == "note" and "detected dubious ownership" in found.text
    assert f"git config --global --add safe.directory {project}" in found.text and "\n" not in found.text
    with pytest.raises(StyleBlendError, match="git cannot be asked in .*dubious ownership"):
        isolated_run.has_commit(project, "HEAD")
    monkeypatch.setenv("PATH", str(project))
    assert "git is not installed" in str(lineage.git_refusal(project))


def test_a_lock_of_another_git_is_waited_for(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that finds the index locked waits for the lock to go, and says git's words where it stays."""
    subprocess.run(["git", "init", "-q", project], check=True)
    lock = project / ".git/index.lock"
    lock.write_text("")
    timer = threading.Timer(0.7, lock.unlink)
    timer.start()
    assert git.run(project, "add", "dvc.yaml").returncode == 0
    timer.join()
    lock.write_text("")
    monkeypatch.setattr(git, "_PATIENCE_S", 0.0)
    assert "index.lock': File exists" in git.words(git.run(project, "add", "params.yaml"))


def test_names_that_are_not_utf_8_do_not_end_a_question(project: Path) -> None:
    """git lists names as bytes: such a file counts as changed code, and its name can be shown."""
    subprocess.run(["git", "init", "-q", project], check=True)
    (project / "src").mkdir()
    Path(os.fsdecode(os.fsencode(project / "src") + b"/\xff.py")).write_text("")
    assert lineage.changed_code(project) == ["dvc.yaml", "src/\ufffd.py"]


def test_a_busy_dvc_is_waited_for_and_then_may_pass(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DVC refuses outputs that another DVC writes; that is no mistake, and its words name the other process."""
    (project / ".dvc/config.local").write_text("[core]\n    no_scm = true\n")
    stage = {"cmd": "echo hi > o", "outs": ["o"]}
    (project / "dvc.yaml").write_text(json.dumps({"stages": {"a": stage}}))
    held = project / ".dvc/tmp/rwlock"
    held.parent.mkdir()
    writer = {"pid": os.getpid(), "cmd": f"{sys.executable} -m dvc repro"}
    held.write_text(json.dumps({"read": {}, "write": {str(project / "o"): writer}}))
    monkeypatch.setattr(dvc, "_PATIENCE_S", 0.0)
    with pytest.raises(dvc.DvcBusy, match=f"is busy, it is being blocked by: .PID {os.getpid()}") as busy:
        dvc.says(project, "repro")
    assert "\n" not in str(busy.value)
    monkeypatch.setattr(dvc, "_PATIENCE_S", 60.0)
    timer = threading.Timer(1.0, held.unlink)
    timer.start()
    dvc.says(project, "repro")
    timer.join()
    assert (project / "o").read_text() == "hi\n"


@pytest.mark.parametrize(
    ("said", "reason", "may_pass"),
    [
        ("Running stage 'a':\nERROR: failed to reproduce 'a': failed to run: x, exited with 137\n",
         "failed to reproduce 'a': failed to run: x, exited with 137", True),
        ("ERROR: failed to reproduce 'a': [Errno 2] No such file or directory: '/p/nothere'\n\nmore\n",
         "failed to reproduce 'a': [Errno 2] No such file or directory: '/p/nothere'", False),
        ("'./dvc.yaml' is invalid.\n\nWhile parsing\n", "'./dvc.yaml' is invalid.", False),
        ("Killed\n", None, True),
    ],
)  # fmt: skip
def test_dvcs_reason_is_found_among_its_lines(said: str, reason: str | None, may_pass: bool) -> None:
    """As DVC 3.67 prints them; a stage that broke off may pass, a mistake in the pipeline will not."""
    assert dvc.reason(said) == reason and dvc.may_pass(reason) is may_pass
