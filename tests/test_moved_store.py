"""A local MLflow store that was moved, copied, left half behind, locked or spoilt: real sqlite, real MLflow."""

from __future__ import annotations

import logging
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from styleblend.commands import cli, doctor
from styleblend.config.base import ConfigError
from styleblend.config.params import parse_params
from styleblend.config.tracking import Tracking
from styleblend.errors import StyleBlendError, TransientError
from styleblend.registry import mlflow_store, runs, versions
from styleblend.system.files import fingerprint

WEIGHTS = b"weights"


def at(project: Path) -> Tracking:
    return mlflow_store.resolved(Tracking(), project)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a version, in a folder whose name an address has to escape."""
    folder = tmp_path_factory.mktemp("store") / "my project %20 #1 é"
    (folder / "swapper").mkdir(parents=True)
    (folder / "swapper/swapper.safetensors").write_bytes(WEIGHTS)
    cfg = at(folder)
    parent = runs.start_pipeline(cfg, "p", {})
    with runs.child_run(cfg, parent, "register", "k", {}) as run:
        run.log_artifact(folder / "swapper/swapper.safetensors", "notes #1")
        versions.register_version(cfg, folder / "swapper", {}, {}, {}, "candidate", run=run, key="k")
    return folder


def texts(file: Path) -> Iterator[str]:
    """Every text in every column of every table of a database."""
    with closing(sqlite3.connect(file)) as database:
        for (table,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            for row in database.execute(f'SELECT * FROM "{table}"'):
                yield from (value for value in row if isinstance(value, str))


def test_a_copied_project_uses_its_own_files_and_the_first_stays_as_it_is(made: Path, tmp_path: Path) -> None:
    """Versions of the copy come from the copy, new files go into it, no table names the other place any more, and of
    the other place not a byte changes."""
    copy = tmp_path / "copy"
    shutil.copytree(made, copy)
    before = fingerprint(made)
    (model,) = copy.glob("mlruns/models/*/artifacts/artifacts/swapper/swapper.safetensors")
    model.write_bytes(b"of the copy")
    found = versions.fetch_version(at(copy), "candidate", tmp_path / "fetched")
    assert (found / "swapper.safetensors").read_bytes() == b"of the copy"
    with runs.child_run(at(copy), "0" * 32, "evaluate", "new", {}) as run:
        run.log_artifact(found, "new")
    assert list(copy.glob("mlruns/**/new/swapper.safetensors"))
    assert fingerprint(made) == before
    found_in = list(texts(copy / "mlflow.db"))
    assert sum(str(copy) in text for text in found_in) >= 5
    assert not [text for text in found_in if made.as_uri() in text or str(made) in text]
    kept = versions.fetch_version(at(made), "candidate", tmp_path / "first")
    assert (kept / "swapper.safetensors").read_bytes() == WEIGHTS


def test_a_moved_project_says_so_once_and_leaves_its_old_place_alone(
    made: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """After a rename versions can be used, the old place does not come back, and a second use says nothing."""
    first, second = tmp_path / "first", tmp_path / "sub folder/second"
    shutil.copytree(made, first)
    versions.find_version(at(first), "candidate")
    second.parent.mkdir()
    first.rename(second)
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger=mlflow_store.__name__):
        for _ in range(2):
            assert versions.fetch_version(at(second), "1", tmp_path / "out").is_dir()
    assert [record.getMessage() for record in caplog.records] == [
        f"{second}/mlflow.db was moved or copied from {first}: its files are those in {second}/mlruns now"
    ]
    assert not first.exists()


def test_a_database_without_its_files_belongs_elsewhere(
    made: Path, tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is refused, by doctor in the same words, as long as the files are at the other place alone; nothing is written
    there. Where they are nowhere the project goes on, and the version says that its files are lost."""
    origin, alone = tmp_path / "origin", tmp_path / "alone"
    shutil.copytree(made, origin)
    versions.find_version(at(origin), "1")
    alone.mkdir()
    shutil.copy(origin / "mlflow.db", alone)
    before = fingerprint(origin)
    for use in (versions.find_version, versions.alias_holder):
        with pytest.raises(mlflow_store.TrackingError) as refused:
            use(at(alone), "candidate")
    with pytest.raises(mlflow_store.TrackingError):
        runs.start_pipeline(at(alone), "p", {})
    assert f"copy {origin}/mlruns to {alone}/mlruns" in str(refused.value)
    assert [(found.verdict, found.text) for found in doctor.store(Tracking(), alone)] == [("FAIL", str(refused.value))]
    shutil.copy(root / "params.yaml", alone)
    for name in (".dvc", ".git"):
        (alone / name).mkdir()
    with pytest.raises(SystemExit) as ended:
        cli.main(["check", "--params", str(alone / "params.yaml")])
    assert str(ended.value) == f"styleblend check: {refused.value}"
    assert fingerprint(origin) == before
    origin.rename(tmp_path / "gone")
    (note, _) = doctor.store(Tracking(), alone)
    assert note.verdict == "note" and f"still names {origin}/mlruns" in note.text
    with pytest.raises(mlflow_store.TrackingError, match="styleblend version 1 has lost its files"):
        versions.fetch_version(at(alone), "1", tmp_path / "out")
    runs.start_pipeline(at(alone), "p", {})
    monkeypatch.chdir(tmp_path)
    cli.main(["tracking", "--params", "alone/params.yaml"])


def test_a_place_that_a_person_chose_stays(tmp_path: Path) -> None:
    """Files in a folder of another name were put there on purpose."""
    chosen = tmp_path / "large disk/artifacts"
    project = tmp_path / "project"
    project.mkdir()
    mlflow = mlflow_store.mlflow_at(at(project).uri)
    mlflow.MlflowClient(at(project).uri).create_experiment("styleblend", chosen.as_uri())
    with runs.child_run(at(project), "0" * 32, "evaluate", "k", {}) as run:
        (tmp_path / "note.txt").write_text("n")
        run.log_artifact(tmp_path / "note.txt")
    assert list(chosen.glob("*/artifacts/note.txt")) and not (project / "mlruns").exists()


def test_a_path_that_no_address_can_hold_is_refused_at_the_door(tmp_path: Path) -> None:
    """A question mark in the project's path, or in tracking.uri, is named; doctor says the same."""
    odd = tmp_path / "what?"
    odd.mkdir()
    with pytest.raises(mlflow_store.TrackingError, match="what\\?/mlflow.db has a question mark") as refused:
        at(odd)
    assert [found.text for found in doctor.store(Tracking(), odd)] == [str(refused.value)]
    with pytest.raises(ConfigError, match="sqlite:///mlflow.db\\?timeout=9' has a question mark"):
        parse_params({"tracking": {"uri": "sqlite:///mlflow.db?timeout=9"}}, "params.yaml")


@pytest.fixture
def impatient() -> Iterator[None]:
    """MLflow waits for a lock for 20 s; here for a moment."""
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    def shorter(connection, cursor, statement, parameters, context, executemany):  # type: ignore[no-untyped-def]
        return statement.replace("busy_timeout = 20000", "busy_timeout = 50"), parameters

    event.listen(Engine, "before_cursor_execute", shorter, retval=True)
    yield
    event.remove(Engine, "before_cursor_execute", shorter)


def test_a_locked_database_is_waited_for_and_then_is_one_line_that_may_pass(
    made: Path, tmp_path: Path, impatient: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A lock that goes costs a second try; one that stays is MLflow's own reason, without SQL and traceback."""
    copy = tmp_path / "copy"
    shutil.copytree(made, copy)
    version = versions.find_version(at(copy), "1")
    monkeypatch.setattr(mlflow_store, "_PAUSE_S", 0.5)
    with closing(sqlite3.connect(copy / "mlflow.db", isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        timer = threading.Timer(0.3, other.execute, ["ROLLBACK"])
        timer.start()
        versions.set_tags(at(copy), version, {"looked_at": "yes"})
        timer.join()
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(mlflow_store.TrackingUnreachable) as locked:
            versions.set_tags(at(copy), version, {"looked_at": "no"})
    assert isinstance(locked.value, TransientError)
    assert "database is locked" in str(locked.value) and "\n" not in str(locked.value)
    assert versions.find_version(at(copy), "1").tags["looked_at"] == "yes"
    assert not [record for record in caplog.records if record.exc_info]
    assert any("once more" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("content", [b"no database at all, but a text of some length" * 9, b""], ids=["text", "empty"])
def test_what_is_no_database_is_one_line_or_a_new_one(content: bytes, tmp_path: Path) -> None:
    """A spoilt file is a mistake with SQLite's own reason; an empty one is a store without anything."""
    (tmp_path / "mlflow.db").write_bytes(content)
    with pytest.raises(mlflow_store.TrackingError) as found:
        versions.find_version(at(tmp_path), "champion")
    assert "\n" not in str(found.value) and not isinstance(found.value, TransientError)
    assert ("file is not a database" if content else "has no version") in str(found.value)


def test_an_error_of_our_own_code_is_not_taken_for_the_stores() -> None:
    """Only what MLflow and its libraries raise is told as theirs."""
    for error in (KeyError("ours"), StyleBlendError("ours")):
        with pytest.raises(type(error)) as found, mlflow_store.told(Tracking()):
            raise error
        assert found.value is error
