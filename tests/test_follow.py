"""A program follows an alias of a real MLflow: it moves, it moves back, and nothing that is wrong stops the program."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from local_servers import wait_for
from styleblend.config.product import Follow
from styleblend.config.tracking import Tracking
from styleblend.errors import StyleBlendError
from styleblend.registry import runs, versions
from styleblend.registry.follow import LiveModel

FAST = Follow(every_s=0.1)


def register(track: Tracking, folder: Path, weights: str, alias: str | None = None) -> versions.Version:
    """A version whose model is a text."""
    folder.mkdir(exist_ok=True)
    (folder / "swapper.safetensors").write_text(weights)
    parent = runs.start_pipeline(track, "p", {})
    with runs.child_run(track, parent, "register", weights, {}) as run:
        return versions.register_version(track, folder, {}, {}, {}, alias, run=run, key=weights)


def load(folder: Path) -> str:
    text = (folder / "swapper.safetensors").read_text()
    if text == "broken":
        raise StyleBlendError("these weights\nfit nothing")
    return text


@pytest.fixture(scope="module")
def track(tmp_path_factory: pytest.TempPathFactory) -> Tracking:
    """A store with the versions 1 (one), 2 (two) and 3, which cannot be loaded."""
    folder = tmp_path_factory.mktemp("store")
    track = Tracking(uri=f"sqlite:///{folder}/mlflow.db")
    for weights in ("one", "two", "broken"):
        register(track, folder / "swapper", weights)
    return track


def test_the_model_follows_the_alias_and_goes_back(track: Tracking, tmp_path: Path) -> None:
    """Setting the alias changes model and name together without a restart; setting it back is the rollback."""
    versions.point_alias(track, "champion", "1")
    with LiveModel(track, load, FAST, tmp_path / "kept") as followed:
        assert (followed.current.model, followed.current.name) == ("one", "styleblend version 1")
        held = followed.current
        versions.point_alias(track, "champion", "2")
        wait_for(lambda: followed.current.model == "two")
        assert followed.current.name == "styleblend version 2"
        assert held.model == "one", "work that began with the old model ends with it"
        versions.point_alias(track, "champion", "1")
        wait_for(lambda: followed.current.name == "styleblend version 1")
    versions.point_alias(track, "champion", "2")
    time.sleep(0.5)
    assert followed.current.model == "one", "nothing follows after the block"


def test_a_version_that_cannot_be_loaded_changes_nothing(
    track: Tracking, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The old one stays, the log says so once in one line, and the next good version is taken."""
    versions.point_alias(track, "champion", "1")
    with LiveModel(track, load, FAST, tmp_path / "kept") as followed:
        versions.point_alias(track, "champion", "3")
        wait_for(lambda: "still using styleblend version 1: these weights\\nfit nothing" in caplog.messages)
        time.sleep(0.5)
        assert [record.levelno for record in caplog.records].count(logging.WARNING) == 1
        assert followed.current.model == "one"
        with pytest.raises(StyleBlendError, match="fit nothing"):
            followed.refresh()
        versions.point_alias(track, "champion", "2")
        wait_for(lambda: followed.current.model == "two")


def test_an_alias_that_was_taken_away_changes_nothing(
    track: Tracking, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Between two clicks of a person nobody is champion: the product serves on."""
    from mlflow import MlflowClient

    versions.point_alias(track, "champion", "1")
    with LiveModel(track, load, FAST, tmp_path / "kept") as followed:
        MlflowClient(track.uri, track.uri).delete_registered_model_alias(track.model_name, "champion")
        wait_for(lambda: any("alias 'champion'" in message for message in caplog.messages))
        assert followed.current.model == "one"


def test_without_a_first_version_it_does_not_start(track: Tracking, tmp_path: Path) -> None:
    """No alias, no store, a version that cannot be loaded: each is one line, and no thread stays."""
    versions.point_alias(track, "broken", "3")
    cases = [
        (track, Follow(alias="nobody"), "alias 'nobody'.* set it in MLflow"),
        (track, Follow(alias="broken"), "fit nothing"),
        (Tracking(uri=f"sqlite:///{tmp_path}/none.db"), Follow(), "no model registry"),
    ]
    for store, cfg, message in cases:
        followed = LiveModel(store, load, cfg, tmp_path / "kept")
        with pytest.raises(StyleBlendError, match=message), followed:
            pass
        with pytest.raises(StyleBlendError, match="no model is loaded"):
            _ = followed.current
    assert not (tmp_path / "none.db").exists()


@pytest.mark.slow
def test_a_server_is_followed_and_may_go_away(
    mlflow_server: tuple[str, subprocess.Popen[bytes]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Over HTTP it is the same; when the server is gone the model in use stays."""
    # MLflow tries for minutes otherwise.
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    url, process = mlflow_server
    track = Tracking(uri=url)
    register(track, tmp_path / "swapper", "one", "champion")
    register(track, tmp_path / "swapper", "two")
    with LiveModel(track, load, FAST, tmp_path / "kept") as followed:
        versions.point_alias(track, "champion", "2")
        wait_for(lambda: followed.current.model == "two")
        versions.point_alias(track, "champion", "1")
        wait_for(lambda: followed.current.model == "one")
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        wait_for(lambda: any("still using styleblend version 1" in message for message in caplog.messages))
        assert followed.current.model == "one"
