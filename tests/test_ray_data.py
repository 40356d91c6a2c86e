"""system.ray_data: align and perceive on the machines of a Ray cluster, which share nothing with this one."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

import tiny_project
from cluster_run import STORE_MB
from styleblend.config.data import Align, Perceive
from styleblend.config.sources import Download, RenderedSource
from styleblend.data import sources
from styleblend.data.align import align_faces
from styleblend.data.perceived import perceive_folder
from styleblend.system import ray_data
from styleblend.system.files import sha256


@pytest.fixture(scope="module")
def ran(root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder in which a cluster has worked whose second machine has the only core, and what the program said."""
    folder = tmp_path_factory.mktemp("cluster")
    source = RenderedSource(kind="rendered", identities=6, pictures_per_identity=2, size_px=64, supersample=1, seed=1)
    cfg = Download(sources=(source,), workers=1, origin=Path("src/styleblend/synthetic"))
    sources.gather(cfg, folder / "raw", folder / "gathered")
    tiny_project.make(folder / "project")
    left = Path(tempfile.gettempdir(), f"{ray_data._PLACE}{2**30}-x")  # of a process that there is not
    left.mkdir()
    # Relative names, as DVC gives them: the cluster's processes stand in another folder.
    names = (".", "raw", "project/data")
    command = [sys.executable, str(root / "tests" / "cluster_run.py"), *names]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not left.exists()
    assert "noted: 1 of 151 not sent, for their files cannot be read" in done.stdout
    return folder, json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_another_machine_works_and_its_results_come_back(ran: tuple[Path, dict[str, Any]]) -> None:
    """150 files of 4 MB go by way of object stores of a third of that, without a disk: each is read whole, from a
    copy, beside the networks, on the machine that has a core; a file that is lost is left out; nothing else is kept."""
    folder, said = ran
    assert 2 * STORE_MB < 150 * 4 and said["files"] == 150
    assert {kept["bytes"] for kept in said["kept"]} == {8 + 4 * 2**20}
    assert len(said["works"]) == 1 and {kept["machine"] for kept in said["kept"]} == set(said["works"])
    assert all(kept["networks"] == ["net.bin"] for kept in said["kept"])
    assert not [kept for kept in said["kept"] if Path(kept["place"]).is_relative_to(folder)]
    assert not [kept for kept in said["kept"] if Path(kept["place"]).exists()]


@pytest.mark.slow
def test_a_tasks_own_line_and_a_cluster_that_does_not_answer(ran: tuple[Path, dict[str, Any]]) -> None:
    """An error that is meant for users arrives as it was; without a cluster it is one line that names the setting."""
    said = ran[1]
    assert said["error"] == "the value is wrong: give another"
    assert said["nobody"].startswith("perceive.ray_address is 127.0.0.1:1, where no Ray cluster answers (")
    assert said["nobody"].endswith("): start or correct it")


@pytest.mark.slow
def test_stages_write_the_same_on_a_cluster(ran: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    """Faces, tables and rows that were looked at by other machines are those of this one, byte for byte."""
    folder = ran[0]
    raw, data = folder / "raw", folder / "project" / "data"
    align_faces(raw, raw, tmp_path / "faces", Align(detector="annotations", workers=1, min_face_px=16, size_px=32))
    here, there = (
        {file.name: sha256(file) for file in each.rglob("*.*")} for each in (tmp_path / "faces", folder / "faces")
    )
    assert len(here) == 12 + 2 and here == there
    seen = tmp_path / "perceived.parquet"
    perceive_folder(data / "faces", data / "networks", seen, Perceive(batch_size=8, workers=1))
    assert seen.read_bytes() == (folder / "perceived.parquet").read_bytes()


def test_an_address_of_rays_client_is_refused() -> None:
    """By it this machine is no part of the cluster, and nobody could read its pictures."""
    for section, given in ((Align, {"detector": "yunet"}), (Perceive, {})):
        with pytest.raises(ValidationError, match="ray_address 'ray://head:10001' is of Ray's Client"):
            section(ray_address="ray://head:10001", **given)
