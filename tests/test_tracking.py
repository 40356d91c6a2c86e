"""Runs and versions in a real MLflow store (sqlite) of a temporary project."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from styleblend.config.tracking import Tracking
from styleblend.errors import TransientError
from styleblend.registry import mlflow_store, runs, versions


@pytest.fixture
def cfg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tracking:
    """Settings as in the committed params.yaml, in an empty project."""
    monkeypatch.chdir(tmp_path)
    return Tracking()


def _client(cfg: Tracking):
    from mlflow import MlflowClient

    return MlflowClient(mlflow_store.resolved(cfg).uri)


def test_runs_nest_resume_and_end_with_their_status(cfg: Tracking, tmp_path: Path) -> None:
    """A stage that starts again continues its run, keeps parameters, and its status tells how it ended."""
    parent = runs.start_pipeline(cfg, "pipeline-1", {"model": {"style_dim": 8}})
    assert runs.start_pipeline(cfg, "pipeline-1", {"model": {"style_dim": 9}, "new": 1}) == parent
    assert runs.start_pipeline(cfg, "pipeline-2", {}) != parent

    ids = []
    with pytest.raises(RuntimeError), runs.child_run(cfg, parent, "train", "k", {"steps": 3}) as run:
        ids.append(run.run_id)
        run.log_metrics({"loss/total": 2.0}, step=1)
        raise RuntimeError("killed")
    assert _client(cfg).get_run(ids[0]).info.status == "FAILED"

    (tmp_path / "note.txt").write_text("n")
    with runs.child_run(cfg, parent, "train", "k", {"steps": 3}) as run:
        ids.append(run.run_id)
        run.log_metrics({"loss/total": 1.0}, step=2)
        run.log_artifact(tmp_path / "note.txt", "notes")
        assert _client(cfg).get_run(run.run_id).info.status == "RUNNING"

    assert ids[0] == ids[1]
    stored = _client(cfg).get_run(ids[0])
    assert stored.info.status == "FINISHED"
    assert stored.data.tags["mlflow.parentRunId"] == parent
    assert [(m.step, m.value) for m in _client(cfg).get_metric_history(ids[0], "loss/total")] == [(1, 2), (2, 1)]
    assert _client(cfg).get_run(parent).data.params == {"model.style_dim": "8", "new": "1"}
    assert list(tmp_path.glob("mlruns/**/notes/note.txt"))


def test_resolved_settings_lead_to_one_store_from_any_folder(
    cfg: Tracking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker with another current folder writes to the project's store, and leaves nothing where it stands."""
    absolute = mlflow_store.resolved(cfg)
    parent = runs.start_pipeline(cfg, "p", {})
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert runs.start_pipeline(absolute, "p", {}) == parent
    assert not list(elsewhere.iterdir())


def test_unknown_parent_is_made_once(cfg: Tracking) -> None:
    """A model whose parent run lives in another store still gets one parent here."""
    parents = []
    for stage in ("evaluate", "register"):
        with runs.child_run(cfg, "0" * 32, stage, "k", {}) as run:
            parents.append(run.parent_run_id)
    assert parents[0] == parents[1]
    _client(cfg).get_run(parents[0])


def test_telemetry_is_off_and_import_is_free_of_mlflow() -> None:
    """Importing the module neither imports MLflow nor changes the environment; using it turns telemetry off."""
    code = (
        "import os, sys; before = dict(os.environ); from styleblend.registry import mlflow_store;"
        "assert 'mlflow' not in sys.modules and dict(os.environ) == before;"
        "mlflow_store.mlflow_at('sqlite:///unused.db');"
        "from mlflow.telemetry import get_telemetry_client; assert get_telemetry_client() is None"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_missing_registry_and_reference_are_named(cfg: Tracking, tmp_path: Path) -> None:
    """Asking for a version that is not there says what is there, and makes no empty store."""
    with pytest.raises(mlflow_store.TrackingError, match="no model registry at .*mlflow.db"):
        versions.find_version(cfg, "champion")
    assert not (tmp_path / "mlflow.db").exists()
    runs.start_pipeline(cfg, "p", {})
    with pytest.raises(mlflow_store.TrackingError, match="'styleblend' has no version"):
        versions.fetch_version(cfg, "champion", tmp_path / "out")


def test_a_silent_server_may_pass_and_a_wrong_address_will_not(cfg: Tracking, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody at an http address is a transient error, which retraining tries again; an unknown scheme is a mistake."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(mlflow_store.TrackingUnreachable, match="127.0.0.1:9"):
        versions.find_version(Tracking(uri="http://127.0.0.1:9"), "champion")
    with pytest.raises(mlflow_store.TrackingError) as mistake:
        versions.find_version(Tracking(uri="nosuch://x"), "champion")
    assert not isinstance(mistake.value, TransientError)


def test_registered_version_comes_back_and_loads_by_its_own_code(cfg: Tracking, tmp_path: Path) -> None:
    """Register, fetch, load: the bytes are the same, the version carries its code, and nothing is pickled."""
    swapper = tmp_path / "swapper"
    swapper.mkdir()
    (swapper / "swapper.safetensors").write_bytes(b"weights")
    (swapper / "model.json").write_text("{}")
    (tmp_path / "card.md").write_text("# card")

    def register(alias: str | None, key: str) -> versions.Version:
        parent = runs.start_pipeline(cfg, "p", {})
        with runs.child_run(cfg, parent, "register", key, {}) as run:
            return versions.register_version(
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
        folder = versions.fetch_version(cfg, reference, tmp_path / "fetched")
        assert {file.name: file.read_bytes() for file in folder.iterdir()} == {
            "swapper.safetensors": b"weights",
            "model.json": b"{}",
        }
    with pytest.raises(mlflow_store.TrackingError, match="'champion'.*versions 1, 2 and aliases candidate"):
        versions.fetch_version(cfg, "champion", tmp_path / "fetched")

    stored = {file.name for file in tmp_path.glob("mlruns/**/*") if file.is_file()}
    assert {"pyfunc_model.py", "versions.py", "card.md", "MLmodel"} <= stored
    assert not [name for name in stored if name.endswith((".pkl", ".pickle", ".pt", ".pyc"))]
    assert _client(cfg).get_run(second.run_id).data.metrics == {"psnr": 20.0}
