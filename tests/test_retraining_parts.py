"""Parts of the retraining flow that need no server: what has changed, settings of one run, webhooks, a guard."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import flow
import notify
import pipeline
import schedule
import watch
from local_servers import free_port, wait_for
from retraining_project import ROOT, Hook, alive, listening
from styleblend.config.base import ConfigError
from styleblend.config.params import load_params
from styleblend.config.retraining import Retrain
from styleblend.config.sources import Download, FolderSource
from styleblend.errors import StyleBlendError, TransientError
from styleblend.experiments import isolated_run
from styleblend.system import stage_record
from styleblend.system.lock import Locked, only_one


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "photographs"
    (folder / "a").mkdir(parents=True)
    (folder / "a/1.jpg").write_bytes(b"one")
    return folder


@pytest.fixture
def params(root: Path, tmp_path: Path) -> Path:
    file = tmp_path / "params.yaml"
    file.write_text((root / "params.yaml").read_text())
    return file


@pytest.fixture
def hook() -> Iterator[tuple[type[Hook], str]]:
    with listening() as (handler, url):
        yield handler, url


def test_snapshot_sees_every_change_and_nothing_else(photographs: Path) -> None:
    """New, removed, renamed and rewritten photographs change it; other files and a second look do not."""
    states = [watch.snapshot(photographs)]
    (photographs / "notes.txt").write_text("no picture")
    assert watch.snapshot(photographs) == states[0]
    (photographs / "2.png").write_bytes(b"two")
    states.append(watch.snapshot(photographs))
    (photographs / "2.png").rename(photographs / "3.png")
    states.append(watch.snapshot(photographs))
    (photographs / "3.png").write_bytes(b"six")
    os.utime(photographs / "3.png", (1, 1))
    states.append(watch.snapshot(photographs))
    (photographs / "3.png").unlink()
    assert watch.snapshot(photographs) == states[0]
    assert len(set(states)) == 4


def test_snapshot_of_an_archive_changes_with_it(tmp_path: Path) -> None:
    """A zip of a published data set is watched as a whole."""
    archive = tmp_path / "faces.zip"
    archive.write_bytes(b"one")
    before = watch.snapshot(archive)
    assert before is not None and watch.snapshot(archive) == before
    archive.write_bytes(b"another")
    assert watch.snapshot(archive) not in (None, before)


def test_an_empty_or_missing_folder_is_no_change(photographs: Path) -> None:
    """A disk that is not mounted gives no state, and what is known of it stays."""
    (photographs / "a/1.jpg").unlink()
    assert watch.snapshot(photographs) is None
    assert watch.snapshot(photographs / "gone") is None
    changes = watch.Changes({"photographs": "before"})
    assert not changes.settled({}, 0, 0) and not changes.settled({}, 0, 9)
    assert changes.known == {"photographs": "before"}


def test_a_run_starts_once_changes_have_come_to_rest() -> None:
    """Not for a folder seen first, not while files still arrive, once they rest, and again for the next change."""
    changes = watch.Changes({})
    assert not changes.settled({"f": "1"}, 10, 0)
    assert not changes.settled({"f": "1"}, 10, 50)
    for clock, state in ((60, "2"), (65, "3"), (74, "3")):
        assert not changes.settled({"f": state}, 10, clock)
    assert changes.settled({"f": "3"}, 10, 75)
    changes.known |= {"f": "3"}
    assert not changes.settled({"f": "3"}, 10, 90)
    assert not changes.settled({"f": "4"}, 10, 91) and changes.settled({"f": "4"}, 10, 101)


@pytest.mark.slow
def test_an_import_is_known_and_brought_up_to_date(tmp_path: Path) -> None:
    """DVC's import of a folder is found by its .dvc file, an update brings new pictures, and a second changes nothing.

    A folder that is merely tracked by DVC is no import.
    """
    upstream, project = tmp_path / "upstream", tmp_path / "project"
    for folder in (upstream, project, project / ".dvc", project / "own"):
        folder.mkdir()
    (upstream / "1.jpg").write_bytes(b"1")
    (project / "own.dvc").write_text("outs:\n- path: own\n")
    (project / ".dvc/config").write_text((ROOT / ".dvc/config").read_text())
    subprocess.run(["git", "init", "-q", project], check=True)
    dvc = [sys.executable, "-m", "dvc"]
    subprocess.run([*dvc, "import-url", "-q", str(upstream), "photographs"], cwd=project, check=True)
    photographs, own = (
        FolderSource(kind="folder", name=name, path=Path(name), licence="own", terms="a test")
        for name in ("photographs", "own")
    )
    cfg = Download(origin=Path(), sources=(photographs, own))
    assert watch.imports(project, cfg) == [project / "photographs.dvc"]
    before = watch.snapshot(project / "photographs")
    watch.update(project, project / "photographs.dvc")
    assert watch.snapshot(project / "photographs") == before
    (upstream / "2.jpg").write_bytes(b"2")
    watch.update(project, project / "photographs.dvc")
    assert (project / "photographs/2.jpg").is_file() and watch.snapshot(project / "photographs") != before


def test_wrong_overrides_are_refused_before_anything_is_written(params: Path) -> None:
    """An unknown key and a value out of range name themselves; params.yaml is untouched."""
    before = params.read_bytes()
    with pytest.raises(ConfigError, match="this run's overrides: split.vol: unknown key"):
        isolated_run.checked(params.parent, {"split": {"vol": 0.1}})
    with pytest.raises(ConfigError, match="split.val"):
        isolated_run.checked(params.parent, {"split": {"val": 7}})
    assert (
        params.read_bytes() == before and isolated_run.checked(params.parent, {"split": {"val": 0.2}}).split.val == 0.2
    )


def test_nothing_is_promoted_by_itself_without_a_gate(params: Path) -> None:
    """A run that was asked to promote is refused where the gate has no limit, also if it is the run that takes it away.

    Where there are limits what the run was asked for counts, whatever params.yaml says.
    """
    for folder in (".dvc", ".git"):
        (params.parent / folder).mkdir()
    no_limit = {"register": {"gate": {}}}
    refused = flow.check.fn(params.parent, no_limit, "auto")
    assert refused.name == pipeline.MISTAKE and "register.gate has no limit" in refused.message
    for asked in ("auto", "manual"):
        assert flow.check.fn(params.parent, {"retrain": {"promote": "auto"}}, asked).retrain.promote == asked
    assert flow.check.fn(params.parent, no_limit, "as set").retrain.promote == "manual"


@pytest.mark.parametrize("cron", ["every sunday", "0 3 * *"])
def test_a_schedule_that_cannot_be_read_changes_nothing(cron: str) -> None:
    """It is one line that names it; the schedule of before stays the one that params.yaml is compared with."""
    scheduled = schedule.Scheduled(schedule._schedule(Retrain()))
    with pytest.raises(StyleBlendError, match=f"retrain.cron '{re.escape(cron)}' is no cron line"):
        scheduled.follow(Retrain(cron=cron))
    scheduled.follow(Retrain())


def test_a_webhook_gets_the_line_and_no_error_shows_its_secret(
    hook: tuple[type[Hook], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The text arrives as JSON; what may pass is told from what will not; no message has the secret of the address."""
    handler, url = hook
    monkeypatch.setenv("HOOK_KEY", "s3cret")
    webhook = url + "/${HOOK_KEY}"
    handler.codes += [200, 503, 404]
    notify.send(webhook, "done")
    assert handler.got == [{"text": "done"}]
    with pytest.raises(TransientError, match="answered 503") as busy:
        notify.send(webhook, "done")
    with pytest.raises(StyleBlendError, match="answered 404") as wrong:
        notify.send(webhook, "done")
    assert not isinstance(wrong.value, TransientError)
    with pytest.raises(TransientError, match="ConnectionRefusedError") as nobody:
        notify.send(f"http://127.0.0.1:{free_port()}/${{HOOK_KEY}}", "done")
    monkeypatch.setenv("HOOK_KEY", "http://[s3cret")
    with pytest.raises(StyleBlendError, match="no http address") as broken:
        notify.send("${HOOK_KEY}", "done")
    for error in (busy, wrong, nobody, broken):
        assert "s3cret" not in "".join(traceback.format_exception(error.value))
    monkeypatch.delenv("HOOK_KEY")
    with pytest.raises(StyleBlendError, match="HOOK_KEY"):
        notify.expanded(webhook)


def test_a_version_is_news_once(tmp_path: Path) -> None:
    """What was there before the first run is none, a new version is until it was told, an old one back is none."""
    file = tmp_path / "reports/registered.json"
    file.parent.mkdir()
    file.write_text(json.dumps({"version": "1"}))
    notify.begin(tmp_path)
    assert not notify.is_new(tmp_path)
    file.write_text(json.dumps({"version": "2"}))
    notify.begin(tmp_path)
    assert notify.is_new(tmp_path), "a run that died before it told anybody left this"
    notify.mark_notified(tmp_path)
    assert not notify.is_new(tmp_path)
    file.write_text(json.dumps({"version": "1"}))
    assert not notify.is_new(tmp_path)


def test_a_guard_ends_all_when_its_caller_dies(tmp_path: Path) -> None:
    """The caller is killed: the command, its stubborn child and its child in another session end, and the lock is free.

    While one of them lives, it holds the lock that the caller held.
    """
    command = f"""
import pathlib, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, lambda *_: (pathlib.Path({str(tmp_path / "kind")!r}).touch(), sys.exit(1)))
stray = subprocess.Popen(["sleep", "600"], start_new_session=True)
pathlib.Path({str(tmp_path / "pids")!r}).write_text(f"{{__import__('os').getpid()}} {{stray.pid}}")
time.sleep(600)
"""
    caller = f"""
import sys, pathlib
from styleblend.system import lock, process
project = pathlib.Path({str(tmp_path)!r})
with lock.only_one(project, "a test") as held:
    with process.guarded([sys.executable, "-c", {command!r}], project, held) as guard:
        guard.wait()
"""
    process = subprocess.Popen([sys.executable, "-c", caller])
    try:
        wait_for(lambda: (tmp_path / "pids").exists() and (tmp_path / "pids").read_text())
        pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
        family = [each.pid for each in psutil.Process(process.pid).children(recursive=True)]
        assert set(pids) <= set(family)
        # The guard cannot act while it is stopped: the rest of the family holds the lock without the caller.
        guard = psutil.Process(process.pid).children()[0]
        guard.suspend()
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    with pytest.raises(Locked, match="a test"), only_one(tmp_path, "another"):
        pass
    guard.resume()
    wait_for(lambda: not any(map(alive, family)), seconds=120)
    assert (tmp_path / "kind").exists(), "it was asked kindly first"
    with only_one(tmp_path, "another"):
        pass


def test_the_page_of_a_run_has_its_figures_and_why_the_gate_is_shut(root: Path, tmp_path: Path) -> None:
    """Each figure has its interval; without a champion, or as the champion, the version stands alone."""
    metrics = {"pose_error_deg": 4.25, "pose_error_deg_low": 4.0, "pose_error_deg_high": 4.5, "n_pairs": 240}
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports/metrics.json").write_text(json.dumps(metrics))
    registered = {"name": "m", "version": "7", "gate": "failed", "reasons": ["pose_error_deg is 4.25, above 4"]}
    cfg = load_params(root / "params.yaml")
    text = pipeline.markdown(tmp_path, cfg, "headline", registered)
    assert "| pose error, degrees (lower is better) | **4.25** (4 to 4.5) |\n" in text and "![" not in text
    assert "Gate: **failed**; pose_error_deg is 4.25, above 4" in text and "champion" not in text
    assert pipeline.markdown(tmp_path, cfg, "headline", registered, "7") == text
    # One that cannot be compared is said, and nothing is lost.
    beside = pipeline.markdown(tmp_path, cfg, "headline", registered, "5")
    assert beside.startswith(text.rstrip()) and "Not compared with the champion, version 5: " in beside


@pytest.mark.parametrize(("error", "code"), [("StyleBlendError", 1), ("TransientError", os.EX_TEMPFAIL)])
def test_a_stage_says_by_its_exit_code_what_may_pass(error: str, code: int, root: Path) -> None:
    """The one line is the same; DVC passes the code on, and the flow tries again or does not."""
    program = (
        "from styleblend import errors\nfrom styleblend.stages.entry import run\n"
        f"def main(given, cfg):\n    raise errors.{error}('no answer')\nrun('register', main)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (code, "styleblend register: no answer\n")


@pytest.mark.parametrize(
    ("body", "state"),
    [
        ("pass", ("finished", "", True)),
        ("raise errors.StyleBlendError('wrong')", ("failed", "styleblend register: wrong", False)),
        ("raise errors.TransientError('no answer')", ("failed", "styleblend register: no answer", True)),
        ("sys.exit(3)", ("failed", "", True)),
        ("os.kill(os.getpid(), 9)", ("running", "", True)),
    ],
)
def test_a_stage_keeps_a_record_for_the_run_that_it_belongs_to(
    body: str, state: tuple[str, str, bool], tmp_path: Path, root: Path
) -> None:
    """How it ended, and whether the same may succeed later; none without a run, and another run sees none."""
    program = (
        "import os, sys\nfrom styleblend import errors\nfrom styleblend.stages.entry import run\n"
        f"def main(given, cfg):\n    {body}\nrun('register', main)"
    )
    command = [sys.executable, "-c", program, "--params", str(root / "params.yaml")]
    subprocess.run(command, cwd=tmp_path, capture_output=True)
    assert not (tmp_path / ".state").exists()
    subprocess.run(command, cwd=tmp_path, capture_output=True, env=os.environ | {stage_record.RUN: "one"})
    (record,) = stage_record.records(tmp_path, "one")
    assert (record.stage, record.status, record.message, record.may_pass) == ("register", *state)
    assert stage_record.records(tmp_path, "two") == []
