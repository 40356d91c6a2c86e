"""What `make serve` starts: a real server and deployment, used through Prefect's API as its pages use it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from zoneinfo import ZoneInfo

import psutil
import pytest
import yaml
from PIL import Image

from browser import browser_page
from local_servers import answers, free_port, wait_for
from retraining_project import ROOT, alive, ask, deployment, make_project, notes, write_stage

pytestmark = pytest.mark.slow

# A training that goes on where a killed one stood, with a helper in a session of its own, as Ray's.
LONG = """\
import signal
done = pathlib.Path(".state/part")
if not done.exists():
    child = subprocess.Popen(["sleep", "600"], start_new_session=True)
    done.write_text("half")
    (project / "pids").write_text(f"{os.getpid()} {child.pid}")
    time.sleep(600)
"""
KEEPS_PARAMS = "(project / 'seen').write_text(pathlib.Path('params.yaml').read_text())"


@dataclass
class Served:
    """The served project and its deployment."""

    process: subprocess.Popen[bytes]
    api: str
    project: Path
    deployment: str
    log: Path

    def run(self, **parameters: Any) -> str:
        """Ask for a run as the page does; returns its id."""
        path = f"/deployments/{self.deployment}/create_flow_run"
        given = {"state": {"type": "SCHEDULED"}, "parameters": {"project": str(self.project)} | parameters}
        return str(ask(self.api, path, given)["id"])

    def state(self, run: str) -> dict[str, Any]:
        found: dict[str, Any] = ask(self.api, f"/flow_runs/{run}")["state"]
        return found

    def end(self, run: str) -> dict[str, Any]:
        """The state in which the run ended."""
        final = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
        wait_for(lambda: self.state(run)["type"] in final)
        return self.state(run)

    def runs(self, **wanted: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = ask(self.api, "/flow_runs/filter", {"flow_runs": wanted})
        return found

    def begin_long(self, **parameters: Any) -> tuple[str, list[int]]:
        """Start a run whose stage is at work for ever; returns its id and the processes of the stage."""
        self.prepare_long()
        return self.run(**parameters), self.pids()

    def prepare_long(self, first: str = "") -> None:
        """Make the stage of the next run one that is at work for ever, after what it does first."""
        for name in ("pids", ".state/part"):
            (self.project / name).unlink(missing_ok=True)
        write_stage(self.project, f"{first}\n{LONG}", version=str(len(notes(self.project)) + 100))

    def pids(self) -> list[int]:
        """The processes of the stage that is at work for ever, once it is."""
        wait_for((self.project / "pids").exists)
        return [int(pid) for pid in wait_for(lambda: (self.project / "pids").read_text().split())]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    project = make_project(
        tmp_path_factory.mktemp("project"), watch_seconds=0.5, settle_seconds=1, timezone="Asia/Tokyo"
    )
    with pytest.MonkeyPatch.context() as patch:
        # A server of its own: in that of another test file a deployment of the same name may stand already.
        patch.setenv("PREFECT_HOME", str(tmp_path_factory.mktemp("prefect")))
        patch.setenv("PREFECT_RUNNER_POLL_FREQUENCY", "1")
        patch.setenv("PREFECT_SERVER_DEPLOYMENTS_CONCURRENCY_SLOT_WAIT_SECONDS", "1")
        yield from serve(project, tmp_path_factory.mktemp("log") / "serve.log")


def serve(project: Path, log: Path) -> Iterator[Served]:
    port = free_port()
    api = f"http://127.0.0.1:{port}/api"
    with log.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, ROOT / "flows/server.py", "--port", str(port), "--project", project],
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    family: list[psutil.Process] = []
    try:
        wait_for(lambda: answers(f"{api}/health") or process.poll() is not None, seconds=280)

        def found() -> Any:
            assert process.poll() is None, log.read_text()
            return deployment(api)

        served = Served(process, api, project, wait_for(found)["id"], log)
        family = psutil.Process(process.pid).children(recursive=True)
        yield served
    finally:
        process.kill()
        process.wait()
        for each in family:
            if each.is_running():
                each.kill()


def test_the_schedule_of_params_yaml_stands(served: Served) -> None:
    """The server plans the next runs itself, at the times of retrain.cron in retrain.timezone."""
    planned = wait_for(lambda: served.runs(state={"type": {"any_": ["SCHEDULED"]}}))
    assert all(run["auto_scheduled"] for run in planned)
    times = [datetime.fromisoformat(run["expected_start_time"]).astimezone(ZoneInfo("Asia/Tokyo")) for run in planned]
    assert {(time.strftime("%A"), time.hour, time.minute) for time in times} == {("Sunday", 3, 0)}


@pytest.fixture(scope="module")
def on_demand(served: Served) -> Iterator[str]:
    """A finished run with a setting of its own; params.yaml is as it was."""
    project = served.project
    before = (project / "params.yaml").read_bytes()
    (project / "reports/evaluate").mkdir()
    Image.new("RGB", (640, 640), "red").save(project / "reports/evaluate/swap_grid.png")
    metrics = {"pose_error_deg": 4.25, "pose_error_deg_low": 4, "pose_error_deg_high": 4.5}
    (project / "reports/metrics.json").write_text(json.dumps(metrics))
    write_stage(project, KEEPS_PARAMS)
    run = served.run(overrides={"evaluate": {"seed": 77}})
    state = served.end(run)
    assert state["type"] == "COMPLETED", served.log.read_text()
    assert seed_seen(project) == 77
    assert (project / "params.yaml").read_bytes() == before
    yield run


def seed_seen(project: Path) -> int:
    """The setting evaluate.seed that the stage ran with."""
    seed: int = yaml.safe_load((project / "seen").read_text())["evaluate"]["seed"]
    return seed


def test_wrong_parameters_start_nothing(served: Served) -> None:
    """What the flow does not take is refused by the page's question; an unknown setting ends the run before a stage."""
    before = (served.project / "runs").exists() and (served.project / "runs").read_text()
    with pytest.raises(HTTPError, match="409"):
        served.run(force="perhaps")
    state = served.end(served.run(overrides={"evaluate": {"sede": 1}}))
    assert state["type"] == "FAILED" and "evaluate.sede: unknown key" in state["message"]
    assert ((served.project / "runs").exists() and (served.project / "runs").read_text()) == before


def test_a_run_on_demand_has_its_own_settings_and_a_page(served: Served, on_demand: str) -> None:
    """Overrides count for one run and leave params.yaml alone; the page has the stages, the table and the grid."""
    of_run = {"flow_runs": {"id": {"any_": [on_demand]}}}
    assert "register" in {task["name"] for task in ask(served.api, "/task_runs/filter", of_run)}
    found = ask(served.api, "/artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [on_demand]}}})
    artifacts = {artifact["key"]: artifact for artifact in found}
    assert artifacts["stages"]["data"] == 100
    page = artifacts["result"]["data"]
    assert "| pose error, degrees (lower is better) | **4.25** (4 to 4.5) |" in page and "Gate: **passed**" in page
    assert "](data:image/jpeg;base64," in page and len(page) < 400_000


def test_a_person_looks_runs_and_cancels_in_prefects_pages(served: Served, on_demand: str) -> None:
    """A browser shows a run's table and grid, starts one with a setting by the form, and ends it by the button.

    The cancelled training's processes are gone within seconds.
    """
    project, site = served.project, served.api.removesuffix("/api")
    before = (project / "params.yaml").read_bytes()
    with browser_page() as page:
        page.set_default_timeout(60_000)
        page.goto(f"{site}/runs/flow-run/{on_demand}")
        page.get_by_text("Artifacts", exact=True).click()
        page.get_by_role("link").filter(has_text="result").click()
        table = page.get_by_role("table").filter(has_text="pose error, degrees")
        assert "4.25 (4 to 4.5)" in table.inner_text()
        assert page.get_by_text("Gate: passed").is_visible()
        width = page.get_by_alt_text("swap grid").evaluate("image => image.decode().then(() => image.naturalWidth)")
        assert width == 480

        served.prepare_long(KEEPS_PARAMS)
        page.goto(f"{site}/deployments/deployment/{served.deployment}")
        page.get_by_role("button", name="Run", exact=True).click()
        page.get_by_text("Custom run").click()
        page.get_by_text("dict", exact=True).click()
        page.locator("textarea.p-code-input__textarea").fill('{"evaluate": {"seed": 81}}')
        with page.expect_response("**/create_flow_run"):
            page.get_by_role("button", name="Submit").click()
        pids = served.pids()
        assert seed_seen(project) == 81
        (run,) = served.runs(state={"type": {"any_": ["RUNNING"]}})
        page.goto(f"{site}/runs/flow-run/{run['id']}")
        page.get_by_role("button", name="Cancel").click()
        with page.expect_response("**/set_state"):
            page.get_by_role("dialog").get_by_role("button", name="Confirm").click()
        wait_for(lambda: not any(map(alive, pids)), seconds=20)
        page.get_by_text("Cancelled", exact=True).first.wait_for()
    assert served.end(run["id"])["type"] == "CANCELLED"
    assert (project / "params.yaml").read_bytes() == before


def test_cancelling_ends_everything_within_seconds(served: Served) -> None:
    """Processes of the stage, also those of another session, end; params.yaml is never touched, DVC is free, people are
    notified.
    """
    before = (served.project / "params.yaml").read_bytes()
    served.prepare_long(KEEPS_PARAMS)
    run = served.run(overrides={"evaluate": {"seed": 78}})
    pids = served.pids()
    assert seed_seen(served.project) == 78
    assert (served.project / "params.yaml").read_bytes() == before
    ask(served.api, f"/flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}})
    wait_for(lambda: not any(map(alive, pids)), seconds=20)
    assert served.end(run)["type"] == "CANCELLED"
    assert (served.project / "params.yaml").read_bytes() == before
    assert wait_for(lambda: notes(served.project))[-1].startswith("cancelled")
    status = subprocess.run([sys.executable, "-m", "dvc", "status"], cwd=served.project, capture_output=True, text=True)
    assert status.returncode == 0, status.stderr


def test_a_killed_flow_leaves_nothing_and_the_next_run_goes_on(served: Served) -> None:
    """After SIGKILL no process is left, params.yaml is as it was; the next run goes on from what the stage kept."""
    before = (served.project / "params.yaml").read_bytes()
    run, pids = served.begin_long(overrides={"evaluate": {"seed": 79}})
    guard = next(
        each for each in psutil.Process(pids[0]).parents() if "styleblend.system.process" in " ".join(each.cmdline())
    )
    flow = guard.parent()
    assert flow is not None
    flow.kill()
    wait_for(lambda: not any(map(alive, (*pids, guard.pid))), seconds=20)
    assert (served.project / "params.yaml").read_bytes() == before
    assert served.end(run)["type"] == "CRASHED"
    assert wait_for(lambda: [note for note in notes(served.project) if note.startswith("crashed")])
    assert (served.project / ".state/part").read_text() == "half"
    assert served.end(served.run())["type"] == "COMPLETED"
    assert "gate passed" in notes(served.project)[-1]


def test_changed_photographs_start_one_run_that_waits_its_turn(served: Served) -> None:
    """New photographs start a run once they rest; while another is at work it waits, and more changes add none."""
    project = served.project
    photographs = project / "photographs"
    photographs.mkdir()
    (photographs / "a.jpg").write_bytes(b"a")
    source = {"kind": "folder", "name": "photos", "path": "photographs", "licence": "own", "terms": "a test"}
    values = yaml.safe_load((project / "params.yaml").read_text())
    values["download"] |= {"origin": "photographs", "sources": [source]}
    values["pretrained"]["detector"] = values["align"]["detector"] = "yunet"
    (project / "params.yaml").write_text(yaml.safe_dump(values))
    wait_for((project / ".state/retrain/watched.json").exists)

    run, pids = served.begin_long()
    changed = {"tags": {"all_": ["photographs changed"]}}
    (photographs / "b.jpg").write_bytes(b"b")
    waiting = wait_for(lambda: served.runs(**changed))
    (photographs / "c.jpg").write_bytes(b"c")
    time.sleep(3)
    assert alive(pids[0]) and served.state(run)["type"] == "RUNNING"
    assert served.state(waiting[0]["id"])["type"] == "SCHEDULED"
    ask(served.api, f"/flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}})
    assert served.end(waiting[0]["id"])["type"] == "COMPLETED"
    assert len(served.runs(**changed)) == 1


def test_one_ctrl_c_ends_all(served: Served) -> None:
    """SIGINT to `make serve`'s process while a run is at work: server, flow, stage and its children are gone."""
    _, pids = served.begin_long()
    family = psutil.Process(served.process.pid).children(recursive=True)
    begin = time.monotonic()
    assert any("prefect" in " ".join(each.cmdline()) for each in family)
    served.process.send_signal(signal.SIGINT)
    assert served.process.wait(120) == 0
    assert time.monotonic() - begin < 35, "the run was told, and was not waited for"
    left = [each for each in family if alive(each.pid)]
    assert not left and not any(map(alive, pids))
    assert not answers(f"{served.api}/health")
    assert "Traceback" not in served.log.read_text()
