"""The retraining flow, with a real Prefect and a real DVC on a pipeline of one little stage."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient

from local_servers import free_port, wait_for
from retraining_project import (
    REGISTERED,
    alive,
    ask,
    deployment,
    listening,
    make_project,
    notes,
    start_server,
    write_stage,
)
from styleblend.config.params import load_params
from styleblend.registry import mlflow_store, versions

pytestmark = pytest.mark.slow


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return make_project(tmp_path)


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prefect server; runs that share it need not start one each."""
    port = free_port()
    server = start_server(port, tmp_path_factory.mktemp("server") / "log")
    yield f"http://127.0.0.1:{port}/api"
    os.killpg(server.pid, signal.SIGKILL)
    server.wait()


def settings(project: Path, **retrain: object) -> None:
    """Change the section `retrain` of params.yaml."""
    values = yaml.safe_load((project / "params.yaml").read_text())
    values["retrain"] |= retrain
    (project / "params.yaml").write_text(yaml.safe_dump(values))


def registry(project: Path) -> Callable[[], str]:
    """A model registry with two versions, the first of them the champion. Gives what asks which one that is."""
    cfg = mlflow_store.resolved(load_params(project / "params.yaml").tracking, project)
    # Of both stores: MLflow would take the registry that another test has chosen for the process.
    client = MlflowClient(cfg.uri, cfg.uri)
    client.create_registered_model(cfg.model_name)
    for _ in range(2):
        run = client.create_run("0").info
        client.create_model_version(cfg.model_name, source=run.artifact_uri, run_id=run.run_id)
    versions.point_alias(cfg, "champion", "1")
    return lambda: versions.find_version(cfg, "champion").version


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


def test_a_new_version_is_notified_and_no_change_is_no_version(
    root: Path, project: Path, api: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first run registers; the second runs nothing and says so. The stage's lines reach the log.

    The first needs no server: it brings its own for as long as it runs. The second tells a webhook, whose key comes
    from the environment and is kept nowhere: not in what it prints, in the project nor among Prefect's records. Who
    promotes is a person: `champion` stays.
    """
    champion = registry(project)
    write_stage(project, "print('learning hard', flush=True)", version="2")
    process = start(root, project)
    out = finish(process)
    assert process.returncode == 0, out
    assert "learning hard" in out
    assert "Task run 'register'" in out, "each stage is a task run of its name"
    monkeypatch.setenv("HOOK_KEY", "s3cret-key")
    with listening() as (hook, url):
        values = yaml.safe_load((project / "params.yaml").read_text())
        values["retrain"]["webhook"] = url + "/${HOOK_KEY}"
        (project / "params.yaml").write_text(yaml.safe_dump(values))
        hook.codes.append(404)
        process = start(root, project, api)
        out = finish(process)
    assert process.returncode == 0, out
    first, second, third = notes(project)
    assert "m version 2 registered, gate passed, alias candidate" in first
    assert "nothing new: m version 2" in second and hook.got == [{"text": second}]
    assert third == "not sent to the webhook: retrain.webhook answered 404: see that its address is right"
    assert champion() == "1"
    assert (project / "runs").read_text() == "x"
    records = [file for file in Path(os.environ["PREFECT_HOME"]).rglob("*") if file.is_file()]
    assert "s3cret-key" not in out
    assert any(b"nothing new: m version 2" in file.read_bytes() for file in records), "this is where records are"
    for file in (*records, *project.rglob("*")):
        assert not file.is_file() or b"s3cret-key" not in file.read_bytes(), file


def test_a_mistake_is_not_tried_again_and_a_loss_is(root: Path, project: Path, api: str) -> None:
    """What a stage says to a person ends the flow at once, in one line; a worker that was lost is retried.

    With `promote: auto` the champion is another version when that has passed its gate, and not before.
    """
    champion = registry(project)
    settings(project, promote="auto")
    write_stage(project, "raise errors.StyleBlendError('the gate names a figure that was not measured')")
    process = start(root, project, api)
    out = finish(process)
    assert process.returncode == 1
    assert "Traceback" not in out
    assert "retrain: styleblend register: the gate names" in out
    assert (project / "runs").read_text() == "x"
    assert notes(project)[-1].startswith("failed: styleblend register: the gate")

    once = "if len((project / 'runs').read_text()) == 2: sys.exit('a worker was lost')"
    write_stage(project, once, gate="failed", alias=None, version="2", reasons=["id_retrieval_top1 is 0.1, below 0.3"])
    process = start(root, project, api)
    out = finish(process)
    assert process.returncode == 0, out
    assert (project / "runs").read_text() == "xxx"
    assert notes(project)[-1].endswith("but the gate is shut: id_retrieval_top1 is 0.1, below 0.3")
    assert champion() == "1"

    # What a stage says may pass is tried again, although it was said to a person.
    lost = "if len((project / 'runs').read_text()) == 4: raise errors.TransientError('no answer')"
    write_stage(project, lost, version="2")
    process = start(root, project, api)
    out = finish(process)
    assert process.returncode == 0, out
    assert (project / "runs").read_text() == "xxxxx"
    assert notes(project)[-1] == "m version 2 registered, gate passed, promoted to champion" and champion() == "2"


def test_two_runs_never_overlap_and_ending_one_ends_its_training(root: Path, project: Path, api: str) -> None:
    """While one holds the project another is refused; SIGTERM to the flow ends DVC and the stage; then all is free."""
    write_stage(project, "(project / 'pid').write_text(str(os.getpid())); time.sleep(300)")
    process = start(root, project, api)
    try:
        wait_for(lambda: (project / "pid").is_file() and (project / "pid").read_text())
        with (project / ".state/retrain.lock").open() as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        second = start(root, project, api)
        out = finish(second)
        assert second.returncode == 1
        assert "a retraining (process" in out and "is at work in" in out
        assert notes(project)[-1].startswith("not run: a retraining")
        process.send_signal(signal.SIGTERM)
        finish(process)
        assert process.returncode == 128 + signal.SIGTERM
    finally:
        process.kill()
    stage = int((project / "pid").read_text())
    wait_for(lambda: not alive(stage))
    with (project / ".state/retrain.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_bad_settings_end_before_anything_starts(root: Path, project: Path) -> None:
    """An unknown key, a schedule that is none, or nothing that judges what is promoted: one line, exit code 1."""
    values = yaml.safe_load((project / "params.yaml").read_text())
    (project / "params.yaml").write_text(yaml.safe_dump(values | {"nosuch": 1}))
    process = start(root, project)
    assert finish(process).splitlines()[-1].endswith("nosuch: unknown key; remove it or correct its spelling")
    assert process.returncode == 1
    values["register"]["gate"] = {}
    values["retrain"]["promote"] = "auto"
    (project / "params.yaml").write_text(yaml.safe_dump(values))
    process = start(root, project)
    assert "retrain.promote is 'auto' but register.gate has no limit" in finish(process).splitlines()[-1]
    assert process.returncode == 1
    values["retrain"] |= {"promote": "manual", "cron": "every sunday"}
    (project / "params.yaml").write_text(yaml.safe_dump(values))
    done = subprocess.run(
        [sys.executable, root / "flows/retrain.py", "--serve", "--project", project], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "retrain.cron 'every sunday' is no cron line" in done.stderr
    assert not (project / "runs").exists()


def test_a_run_that_died_unseen_gives_its_place_back(root: Path, project: Path, api: str) -> None:
    """A run that a lost machine left as running is crashed at the next start, so that others can run.

    Another schedule in params.yaml counts from the next look at it, without a start.
    """
    with served(root, project, api):
        found = wait_for(lambda: deployment(api))
        run = ask(api, f"/deployments/{found['id']}/create_flow_run", {"state": {"type": "RUNNING"}})["id"]
    settings(project, watch_seconds=0.5)
    with served(root, project, api):
        wait_for(lambda: ask(api, f"/flow_runs/{run}")["state"]["type"] == "CRASHED")
        settings(project, cron="5 4 * * 1", timezone="Asia/Tokyo")

        def planned() -> list[tuple[str, str]]:
            found = [each["schedule"] for each in deployment(api)["schedules"]]
            return [(schedule["cron"], schedule["timezone"]) for schedule in found]

        wait_for(lambda: planned() == [("5 4 * * 1", "Asia/Tokyo")])


@contextmanager
def served(root: Path, project: Path, api: str) -> Iterator[None]:
    """The deployment is served while the block runs, and then its process is killed."""
    command = [sys.executable, root / "flows/retrain.py", "--serve", "--project", project]
    process = subprocess.Popen(command, env=os.environ | {"PREFECT_API_URL": api}, stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def test_the_registered_file_of_this_test_is_the_stage_s(root: Path) -> None:
    """The keys that the flow reads are those that the stage register writes, through reporting.registration."""
    source = (root / "src/styleblend/reporting/registration.py").read_text()
    for key in json.loads(json.dumps(REGISTERED)):
        assert f'"{key}"' in source
