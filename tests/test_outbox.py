"""What a training records reaches a real MLflow once and in full, whatever happens to MLflow or to the training."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

import tiny_training as tiny
from local_servers import answers, wait_for
from styleblend.config.tracking import Tracking
from styleblend.registry import mlflow_store, outbox, runs
from styleblend.registry.journal import Journal
from styleblend.training import loop, ray_trainer


@pytest.fixture
def cfg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tracking:
    """A local store with one run in it, so that all its tables are there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    found = mlflow_store.resolved(Tracking())
    runs.start_pipeline(found, "p", {})
    return found


def address(cfg: Tracking) -> outbox.Address:
    return outbox.Address(runs.start_pipeline(cfg, "p", {}), "train_encoder", "k", {"steps": 9})


def histories(cfg: Tracking, stage: str = "train_encoder") -> dict[str, list[tuple[int, float]]]:
    """Of the one run of a stage: by figure its steps and values in their order."""
    client, experiment = mlflow_store.connect(cfg)
    (run,) = client.search_runs([experiment], f"tags.`styleblend.stage` = '{stage}'")
    names = sorted(run.data.metrics)
    return {
        name: [(each.step, each.value) for each in client.get_metric_history(run.info.run_id, name)] for name in names
    }


def the_run(cfg: Tracking) -> Any:
    client, experiment = mlflow_store.connect(cfg)
    (run,) = client.search_runs([experiment], "tags.`styleblend.stage` = 'train_encoder'")
    return run


@contextmanager
def away(file: Path) -> Iterator[None]:
    """A store whose database is not there: a share that is not mounted, as MLflow sees it."""
    file.rename(file.with_name("away.db"))
    file.mkdir()
    try:
        yield
    finally:
        file.rmdir()
        file.with_name("away.db").rename(file)


def test_a_killed_writer_leaves_whole_entries_and_sends_none_twice(tmp_path: Path) -> None:
    """Half a line is taken off; what was sent is known over a restart; a lost mark sends all again."""
    journal = Journal(tmp_path)
    for number in range(5):
        journal.append({"number": number})
    entries, end = journal.pending(3)
    assert [entry["number"] for entry in entries] == [0, 1, 2]
    journal.sent(end)
    with (tmp_path / "entries.jsonl").open("ab") as stream:
        stream.write(b'{"number": 5')

    again = Journal(tmp_path)
    again.append({"number": 6})
    assert [entry["number"] for entry in again.pending(9)[0]] == [3, 4, 6]
    assert [entry["number"] for entry in again.entries()] == [0, 1, 2, 3, 4, 6]
    (tmp_path / "sent.txt").write_text("")
    assert len(Journal(tmp_path).pending(9)[0]) == 6


def test_a_full_disk_loses_no_entry(tmp_path: Path) -> None:
    """What a disk did not take comes with the next entry, in its order; half of it that was written is no entry."""
    journal = Journal(tmp_path)
    journal.append({"number": 0})
    (tmp_path / "entries.jsonl").rename(tmp_path / "kept")
    (tmp_path / "entries.jsonl").symlink_to("/dev/full")
    with pytest.raises(OSError):
        journal.append({"number": 1})
    assert not journal.all_sent
    (tmp_path / "entries.jsonl").unlink()
    (tmp_path / "kept").rename(tmp_path / "entries.jsonl")
    with (tmp_path / "entries.jsonl").open("ab") as stream:
        stream.write(b'{"num')
    journal.append({"number": 2})
    assert [entry["number"] for entry in Journal(tmp_path).entries()] == [0, 1, 2]


def test_figures_wait_for_a_locked_database(cfg: Tracking, tmp_path: Path) -> None:
    """All is recorded while another process holds the database, and is there once it lets go: each figure once."""
    said: list[str] = []
    with closing(sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)) as other:
        where = address(cfg)
        other.execute("BEGIN EXCLUSIVE")
        with outbox.opened(tmp_path / "box", cfg, where, said.append, 60) as box:
            box.begins(0)
            for step in range(20):
                box.metrics(step, {"loss": step / 2, "pace": 0.1})
            box.tags({"alarms": "none"})
            # The lock is still held: nothing of this has waited for it.
            assert len(Journal(tmp_path / "box").pending(99)[0]) == 22
            other.execute("ROLLBACK")
    assert histories(cfg)["loss"] == [(step, step / 2) for step in range(20)]
    run = the_run(cfg)
    assert run.info.status == "FINISHED" and run.data.tags["alarms"] == "none"
    outbox.deliver(cfg, said.append, tmp_path)
    assert not (tmp_path / "box").exists() and len(histories(cfg)["loss"]) == 20


def test_a_training_ends_without_its_store_and_the_next_stage_sends_its_figures(
    cfg: Tracking, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A store that is away for all of a training costs it nothing: the model is there, and later every figure."""
    inputs = tiny.write_inputs(tmp_path)
    job = ray_trainer.Job(
        stage="train_encoder",
        fingerprint="0" * 16,
        model=tiny.MODEL,
        training=tiny.training(steps=2),
        tracking=cfg.model_copy(update={"patience_s": 0}),
        parent_run_id=runs.start_pipeline(cfg, "p", {}),
        state=tmp_path / "train_encoder",
        **inputs,
    )
    with away(tmp_path / "mlflow.db"):
        ray_trainer.train_job(job, loop.Worker())
        assert json.loads((job.state / ray_trainer.RESULT / "run.json").read_text())["run_id"] is None
        log = (job.state / "progress.log").read_text()
        assert "figures wait in " in log and "step 2/2" in log
        outbox.deliver(cfg, print, tmp_path / "tracking")
        assert "figures still wait in " in capsys.readouterr().out
    outbox.deliver(cfg, print, tmp_path / "tracking")
    assert not any((tmp_path / "tracking").iterdir())
    kept = json.loads((job.state / ray_trainer.RESULT / "training.json").read_text())["stages"]["train_encoder"]
    sent, run = histories(cfg), the_run(cfg)
    assert sent["loss/identity"] == [(row["step"], row["identity"]) for row in kept["losses"]]
    assert sent["probe/pose_error_deg"] == [(row["step"], row["pose_error_deg"]) for row in kept["probe"]]
    assert run.info.status == "FINISHED"
    client, _ = mlflow_store.connect(cfg)
    assert len(client.list_artifacts(run.info.run_id, "probe")) == 2


WRITER = """
import os, sys
from pathlib import Path
from styleblend.config.tracking import Tracking
from styleblend.registry import outbox
cfg, first, last = Tracking(uri=sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
with outbox.opened(Path(sys.argv[1]), cfg, outbox.Address(sys.argv[5], "train_encoder", "k", {}), print, 120) as box:
    box.begins(0)
    for step in range(first, last):
        box.metrics(step, {"loss": step / 2, "nan": float("nan")})
    print("written", flush=True)
    sys.stdin.read()
"""


@pytest.mark.slow
def test_a_server_that_is_killed_and_a_writer_that_is_killed_make_neither_gap_nor_double(
    mlflow_server: tuple[str, subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    """MLflow's server dies, the training is killed, goes on from before its last figures, and the server comes back."""
    url, server = mlflow_server
    cfg, box = Tracking(uri=url), tmp_path / "box"
    parent = runs.start_pipeline(cfg, "p", {})

    def writer(first: int, last: int) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", WRITER, str(box), url, str(first), str(last), parent]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None and process.stdout.readline() == "written\n"
        return process

    killed = writer(0, 300)
    wait_for(lambda: (box / "sent.txt").exists())
    os.killpg(server.pid, signal.SIGKILL)
    server.wait()
    killed.kill()
    killed.communicate()

    # It repeats what came after its checkpoint, with nobody to send to.
    again = writer(250, 400)
    assert again.stdout is not None and "figures are kept in " in again.stdout.readline()
    # As after a crash in the middle of sending: what the server may have is sent once more.
    (box / "sent.txt").write_text("0\n")
    back = subprocess.Popen(server.args, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        wait_for(lambda: answers(f"{url}/health"), 120)
        output, _ = again.communicate()
        assert again.returncode == 0 and "figures are sent again" in output, output
        assert histories(cfg)["loss"] == [(step, step / 2) for step in range(400)]
        assert [step for step, _ in histories(cfg)["nan"]] == list(range(400))
    finally:
        os.killpg(back.pid, signal.SIGKILL)
        back.wait()


def test_attempts_and_new_stores_get_all_figures(cfg: Tracking, tmp_path: Path) -> None:
    """After a rollback the same steps come again, with other figures; a store that is new gets all from the start."""
    where = address(cfg)
    with outbox.opened(tmp_path / "box", cfg, where, print, 60) as box:
        box.begins(0)
        for step in (1, 2, 3):
            box.metrics(step, {"loss": step})
        box.begins(1)
        for step in (2, 3):
            box.metrics(step, {"loss": 10 * step})
    with outbox.opened(tmp_path / "box", cfg, where, print, 60) as box:
        box.begins(1)
        for step in (3, 4):
            box.metrics(step, {"loss": 10 * step})
    wanted = [(1, 1), (2, 2), (2, 20), (3, 3), (3, 30), (4, 40)]
    assert sorted(histories(cfg)["loss"]) == wanted

    other = Tracking(uri=f"sqlite:///{tmp_path}/new/mlflow.db")
    with outbox.opened(tmp_path / "box", other, where, print, 60) as box:
        box.begins(1)
        box.metrics(5, {"loss": 50})
    assert sorted(histories(other)["loss"]) == [*wanted, (5, 50)]
    shutil.rmtree(tmp_path / "box")
