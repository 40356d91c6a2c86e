"""Runs and versions in a real MLflow store (sqlite) of a temporary project."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from styleblend import config, tracking
from styleblend.errors import TransientError


@pytest.fixture
def cfg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> config.Tracking:
    """Settings as in the committed params.yaml, in an empty project."""
    monkeypatch.chdir(tmp_path)
    return config.Tracking()


def _client(cfg: config.Tracking):
    from mlflow import MlflowClient

    return MlflowClient(tracking.resolved(cfg).uri)


def test_runs_nest_resume_and_end_with_their_status(cfg: config.Tracking, tmp_path: Path) -> None:
    """A stage that starts again continues its run, keeps parameters, and its status tells how it ended."""
    parent = tracking.start_pipeline(cfg, "pipeline-1", {"model": {"style_dim": 8}})
    assert tracking.start_pipeline(cfg, "pipeline-1", {"model": {"style_dim": 9}, "new": 1}) == parent
    assert tracking.start_pipeline(cfg, "pipeline-2", {}) != parent

    ids = []
    with pytest.raises(RuntimeError), tracking.child_run(cfg, parent, "train", "k", {"steps": 3}) as run:
        ids.append(run.run_id)
        run.log_metrics({"loss/total": 2.0}, step=1)
        raise RuntimeError("killed")
    assert _client(cfg).get_run(ids[0]).info.status == "FAILED"

    (tmp_path / "note.txt").write_text("n")
    with tracking.child_run(cfg, parent, "train", "k", {"steps": 3}) as run:
        ids.append(run.run_id)
        run.log_metrics({"loss/total": 1.0}, step=2)
        run.log_artifact(tmp_path / "note.txt", "notes")
        assert _client(cfg).get_run(run.run_id).info.status == "RUNNING"

    assert ids[0] == ids[1]
    stored = _client(cfg).get_run(ids[0])
    assert stored.info.status == "FINISHED"
    assert stored.data.tags["mlflow.parentRunId"] == parent
    assert [(m.step, m.value) for m in _client(cfg).get_metric_history(ids[0], "loss/total")] == [
        (1, 2),
        (2, 1),
    ]
    assert _client(cfg).get_run(parent).data.params == {"model.style_dim": "8", "new": "1"}
    assert list(tmp_path.glob("mlruns/**/notes/note.txt"))


def test_resolved_settings_lead_to_one_store_from_any_folder(
    cfg: config.Tracking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker with another current folder writes to the project's store, and leaves nothing where it stands."""
    absolute = tracking.resolved(cfg)
    parent = tracking.start_pipeline(cfg, "p", {})
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert tracking.start_pipeline(absolute, "p", {}) == parent
    assert not list(elsewhere.iterdir())


def test_unknown_parent_is_made_once(cfg: config.Tracking) -> None:
    """A model whose parent run lives in another store still gets one parent here."""
    parents = []
    for stage in ("evaluate", "register"):
        with tracking.child_run(cfg, "0" * 32, stage, "k", {}) as run:
            parents.append(run.parent_run_id)
    assert parents[0] == parents[1]
    _client(cfg).get_run(parents[0])


def test_telemetry_is_off_and_import_is_free_of_mlflow() -> None:
    """Importing the module neither imports MLflow nor changes the environment; using it turns telemetry off."""
    code = (
        "import os, sys; before = dict(os.environ); from styleblend import tracking;"
        "assert 'mlflow' not in sys.modules and dict(os.environ) == before;"
        "tracking._mlflow('sqlite:///unused.db');"
        "from mlflow.telemetry import get_telemetry_client; assert get_telemetry_client() is None"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_missing_registry_and_reference_are_named(cfg: config.Tracking, tmp_path: Path) -> None:
    """Asking for a version that is not there says what is there, and makes no empty store."""
    with pytest.raises(tracking.TrackingError, match="no model registry at .*mlflow.db"):
        tracking.find_version(cfg, "champion")
    assert not (tmp_path / "mlflow.db").exists()
    tracking.start_pipeline(cfg, "p", {})
    with pytest.raises(tracking.TrackingError, match="'styleblend' has no version"):
        tracking.fetch_version(cfg, "champion", tmp_path / "out")


def test_a_silent_server_may_pass_and_a_wrong_address_will_not(
    cfg: config.Tracking, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody at an http address is a transient error, which retraining tries again; an unknown scheme is a mistake."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(tracking.TrackingUnreachable, match="127.0.0.1:9"):
        tracking.find_version(config.Tracking(uri="http://127.0.0.1:9"), "champion")
    with pytest.raises(tracking.TrackingError) as mistake:
        tracking.find_version(config.Tracking(uri="nosuch://x"), "champion")
    assert not isinstance(mistake.value, TransientError)


def test_registered_version_comes_back_and_loads_by_its_own_code(cfg: config.Tracking, tmp_path: Path) -> None:
    """Register, fetch, load: the bytes are the same, the version carries its code, and nothing is pickled."""
    swapper = tmp_path / "swapper"
    swapper.mkdir()
    (swapper / "swapper.safetensors").write_bytes(b"weights")
    (swapper / "model.json").write_text("{}")
    (tmp_path / "card.md").write_text("# card")

    def register(alias: str | None, key: str) -> tracking.Version:
        parent = tracking.start_pipeline(cfg, "p", {})
        with tracking.child_run(cfg, parent, "register", key, {}) as run:
            return tracking.register_version(
                cfg,
                swapper,
                {"psnr": 20.0},
                {"gate": "passed"},
                {"card": tmp_path / "card.md"},
                alias,
                run=run,
                key=key,
            )

    first = register("candidate", "a")
    assert (first.version, first.aliases, first.tags["gate"]) == ("1", ("candidate",), "passed")
    assert register("candidate", "a").version == "1"
    second = register(None, "b")
    assert (second.version, second.aliases) == ("2", ())

    for reference in ("candidate", "1", "2"):
        folder = tracking.fetch_version(cfg, reference, tmp_path / "fetched")
        assert {file.name: file.read_bytes() for file in folder.iterdir()} == {
            "swapper.safetensors": b"weights",
            "model.json": b"{}",
        }
    with pytest.raises(tracking.TrackingError, match="'champion'.*versions 1, 2 and aliases candidate"):
        tracking.fetch_version(cfg, "champion", tmp_path / "fetched")

    stored = {file.name for file in tmp_path.glob("mlruns/**/*") if file.is_file()}
    assert {"registered_model.py", "tracking.py", "card.md", "MLmodel"} <= stored
    assert not [name for name in stored if name.endswith((".pkl", ".pickle", ".pt", ".pyc"))]
    assert _client(cfg).get_run(second.run_id).data.metrics == {"psnr": 20.0}
