"""Eight workers on a Ray cluster, and workers that come and go: what they share is a bucket alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from s3_server import at, s3_server
from styleblend.system.storage import Storage


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_eight_workers_learn_both_stages_from_a_bucket(root: Path, tmp_path: Path) -> None:
    """Stage 1, then stage 2 from its model; the project's files are out of the workers' reach the whole time.

    The second stage changes D alone, curves and run ids are there, and the bucket keeps checkpoints and no picture.
    """
    with s3_server() as options:
        storage = at("runs", options)
        command = [sys.executable, str(root / "tests" / "many_workers.py"), str(tmp_path), storage, "8"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        for stage in ("train_encoder", "finetune_decoder"):
            assert f"{stage}: 8 of 8 workers learn" in done.stdout and f"{stage}: step 2/2" in done.stdout
            left = Storage(storage).below(f"{stage}-0")
            assert [name for name in left.below("checkpoints").names() if "00000002-of-00000002" in name]
            assert not left.below("faces").names() and not left.below("inputs").names()
    first, second = (
        load_file(tmp_path / f"{stage}" / "swapper.safetensors") for stage in ("train_encoder", "finetune_decoder")
    )
    assert {name.split(".")[0] for name, value in second.items() if not torch.equal(value, first[name])} == {"decoder"}
    facts = json.loads((tmp_path / "finetune_decoder" / "run.json").read_text())
    assert facts["run_id"] and facts["parent_run_id"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_machine_that_comes_is_used_and_one_that_goes_is_done_without(root: Path, tmp_path: Path) -> None:
    """One to two workers on machines of one core: one learns, then two, and after a SIGKILL of a machine one again.

    Each goes on from a checkpoint of those before, in a folder that they share.
    """
    command = [sys.executable, str(root / "tests" / "many_workers.py"), str(tmp_path), str(tmp_path / "storage")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    lines = [line for line in done.stdout.splitlines() if "workers learn" in line or "resumed at" in line]
    assert [line.split(": ", 1)[1] for line in lines if "workers learn" in line] == [
        "1 of 2 workers learn",
        "2 of 2 workers learn",
        "1 of 2 workers learn",
    ], done.stdout + done.stderr
    steps = [int(line.split("resumed at step ")[1].split()[0]) for line in lines if "resumed" in line]
    assert len(steps) == 2 and 0 < steps[0] <= steps[1], lines
