"""The retraining flow, with a real Prefect and a real DVC on a pipeline of one little stage."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.slow

REGISTERED = {"name": "m", "version": "1", "gate": "passed", "alias": "candidate", "reasons": []}
STAGE = """\
import json, pathlib, sys, time
pathlib.Path("runs").open("a").write("x")
{body}
pathlib.Path("reports/registered.json").write_text(json.dumps({registered!r}))
"""


@pytest.fixture
def project(root: Path, tmp_path: Path) -> Path:
    """A DVC project with one stage, which makes registered.json and counts its runs in the file `runs`."""
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    (tmp_path / ".dvc").mkdir()
    (tmp_path / "reports").mkdir()
    shutil.copy(root / ".dvc/config", tmp_path / ".dvc")
    shutil.copy(root / "params.yaml", tmp_path)
    stage = {"cmd": "python stage.py", "deps": ["stage.py"], "outs": ["reports/registered.json"]}
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"register": stage}}))
    write_stage(tmp_path)
    return tmp_path


def write_stage(project: Path, body: str = "", **registered: object) -> None:
    (project / "stage.py").write_text(STAGE.format(body=body, registered=REGISTERED | registered))


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prefect server as `make serve` starts it; runs that share it need not start one each."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log"
    with log.open("w") as stream:
        server = subprocess.Popen(
            [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)],
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            wait_for(lambda: answers(f"http://127.0.0.1:{port}/api/health") or server.poll() is not None)
            assert server.poll() is None, log.read_text()
            yield f"http://127.0.0.1:{port}/api"
        finally:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except OSError:
        return False


def start(root: Path, project: Path, api: str | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, root / "flows/retrain.py", "--project", project],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | ({"PREFECT_API_URL": api} if api else {}),
    )


def finish(process: subprocess.Popen[str]) -> str:
    out, _ = process.communicate(timeout=120)
    return out


def notes(project: Path) -> list[str]:
    """What was notified, without the times."""
    return [line.split(" ", 1)[1] for line in (project / "reports/notifications.log").read_text().splitlines()]


def test_a_new_version_is_notified_and_no_change_is_no_version(root: Path, project: Path, api: str) -> None:
    """The first run registers; the second runs nothing and says so. The stage's lines reach the log.

    The first needs no server: it brings its own for as long as it runs.
    """
    write_stage(project, "print('learning hard', flush=True)")
    process = start(root, project)
    out = finish(process)
    assert process.returncode == 0, out
    assert "learning hard" in out
    process = start(root, project, api)
    out = finish(process)
    assert process.returncode == 0, out
    first, second = notes(project)
    assert "m version 1 registered, gate passed, alias candidate" in first
    assert "nothing new: m version 1" in second
    assert (project / "runs").read_text() == "x"


def test_a_mistake_is_not_tried_again_and_a_loss_is(root: Path, project: Path, api: str) -> None:
    """What a stage says to a person ends the flow at once, in one line; a worker that was lost is retried."""
    write_stage(project, "sys.exit('styleblend register: the gate names a figure that was not measured')")
    process = start(root, project, api)
    out = finish(process)
    assert process.returncode == 1
    assert "Traceback" not in out
    assert "retrain: styleblend register: the gate names" in out
    assert (project / "runs").read_text() == "x"
    assert notes(project)[-1].startswith("failed: styleblend register: the gate")

    once = "if len(open('runs').read()) == 2: sys.exit('a worker was lost')"
    write_stage(project, once, gate="failed", alias=None, reasons=["id_retrieval_top1 is 0.1, below 0.3"])
    process = start(root, project, api)
    out = finish(process)
    assert process.returncode == 0, out
    assert (project / "runs").read_text() == "xxx"
    assert notes(project)[-1].endswith("but the gate is shut: id_retrieval_top1 is 0.1, below 0.3")


def test_two_runs_never_overlap_and_ending_one_ends_its_training(root: Path, project: Path, api: str) -> None:
    """While one holds the project another is refused; SIGTERM to the flow ends DVC and the stage; then all is free."""
    write_stage(project, "open('pid', 'w').write(str(__import__('os').getpid())); time.sleep(300)")
    process = start(root, project, api)
    try:
        wait_for(lambda: (project / "pid").is_file() and (project / "pid").read_text())
        with (project / ".state/retrain.lock").open() as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        second = start(root, project, api)
        out = finish(second)
        assert second.returncode == 1
        assert "another retraining runs in" in out
        process.send_signal(signal.SIGTERM)
        finish(process)
        assert process.returncode == 128 + signal.SIGTERM
    finally:
        process.kill()
    stage = int((project / "pid").read_text())
    wait_for(lambda: not Path(f"/proc/{stage}").exists() or "Z" in Path(f"/proc/{stage}/stat").read_text().split()[2])
    with (project / ".state/retrain.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_bad_settings_end_before_anything_starts(root: Path, project: Path) -> None:
    """An unknown key or a schedule that is none: one line, exit code 1, no server."""
    values = yaml.safe_load((project / "params.yaml").read_text())
    (project / "params.yaml").write_text(yaml.safe_dump(values | {"nosuch": 1}))
    process = start(root, project)
    assert finish(process).splitlines()[-1].endswith("nosuch: unknown key; remove it or correct its spelling")
    assert process.returncode == 1
    values["retrain"]["cron"] = "every sunday"
    (project / "params.yaml").write_text(yaml.safe_dump(values))
    done = subprocess.run(
        [sys.executable, root / "flows/retrain.py", "--serve", "--project", project], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "retrain.cron 'every sunday' is no cron line" in done.stderr
    assert not (project / "runs").exists()


def wait_for(condition: object, seconds: float = 90) -> None:
    assert callable(condition)
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.2)


def test_the_registered_file_of_this_test_is_the_stage_s(root: Path) -> None:
    """The keys that the flow reads are those that the stage register writes."""
    source = (root / "src/styleblend/stages/register.py").read_text()
    for key in json.loads(json.dumps(REGISTERED)):
        assert f'"{key}"' in source
