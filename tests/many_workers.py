"""Both stages on a Ray cluster of this machine with a storage, as a program of its own: see test_many_workers.py.

python many_workers.py FOLDER STORAGE WORKERS   # both stages
python many_workers.py FOLDER STORAGE           # one to two workers, for which a machine comes and goes
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

# Ray's patience with its own processes is too short for a machine that is busy.
PATIENCE = {"RAY_raylet_start_wait_time_s": "600", "RAY_agent_register_timeout_ms": "600000"}
os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", **PATIENCE}

from ray.cluster_utils import Cluster  # noqa: E402

import tiny_training as tiny  # noqa: E402
from styleblend.config.tracking import Tracking  # noqa: E402
from styleblend.registry import runs  # noqa: E402
from styleblend.training import ray_trainer, shared  # noqa: E402
from styleblend.training.job import Job  # noqa: E402
from styleblend.training.recording import PROGRESS  # noqa: E402

NODE: dict[str, Any] = {"include_dashboard": False, "object_store_memory": 100 * 2**20}


def job_of(folder: Path, stage: str, parent: str, encoder: Path | None = None, **changes: object) -> Job:
    """The smallest job of a stage, its files in `folder`."""
    cfg = tiny.training(**changes)
    names = {"splits": "splits", "faces": "faces", "perceived": "perceived.parquet", "networks": "networks"}
    inputs = {name: folder / file for name, file in names.items()}
    tracking = Tracking(uri=f"sqlite:///{folder}/mlflow.db")
    state = folder / ".state" / f"{stage}-0"
    return Job(stage, "0" * 16, tiny.MODEL, cfg, tracking, parent, state, **inputs, encoder=encoder)  # type: ignore[arg-type]


def hidden_while_training(job: Job) -> None:
    """Train while no file of the project is at its place: workers have what the storage gives."""
    folder = job.state.parents[1]
    inputs = [job.splits, job.faces, job.perceived, job.networks, *([job.encoder] if job.encoder else [])]
    for path in inputs:
        path.rename(folder / f"hidden-{path.name}")
    try:
        fit(job)
    finally:
        for path in inputs:
            (folder / f"hidden-{path.name}").rename(path)


fit = ray_trainer._fit


def both_stages(folder: Path, storage: str, workers: int) -> None:
    """Stage 1 and 2 on `workers` workers of one cluster."""
    ray_trainer._fit = hidden_while_training
    parent = runs.start_pipeline(Tracking(uri=f"sqlite:///{folder}/mlflow.db"), "test", {})
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": workers, **NODE})
    settings = {"steps": 2, "workers": workers, "batch_size": workers, "ray_address": cluster.address}
    encoder = None
    for stage in ("train_encoder", "finetune_decoder"):
        job = job_of(folder, stage, parent, encoder, storage=storage, **settings)
        result = ray_trainer.run(job)
        encoder = result.replace(folder / stage)
        shared.retire(job)
    cluster.shutdown()


def coming_and_going(folder: Path, storage: str) -> None:
    """Stage 1, endless, on one to two workers; a machine comes, and goes; ends once the rest has learned on."""
    parent = runs.start_pipeline(Tracking(uri=f"sqlite:///{folder}/mlflow.db"), "test", {})
    # A machine that comes in a thread may set no handler of signals; the cluster is shut down below.
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **NODE}, shutdown_at_exit=False)
    cluster.add_node(num_cpus=1, **NODE)
    ray_trainer.RESIZE_S = 2.0
    settings = {"workers": 2, "min_workers": 1, "steps": 10**6, "checkpoint_every": 5, "probe_every": 10**6}
    job = job_of(folder, "train_encoder", parent, storage=storage, ray_address=cluster.address, **settings)
    log = job.state / PROGRESS

    def act() -> None:
        try:
            come_and_go()
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    def come_and_go() -> None:
        after = wait_until(log, 0, "1 of 2 workers learn", "step 7/")
        other = cluster.add_node(num_cpus=1, **NODE)
        after = wait_until(log, after, "2 of 2 workers learn", "resumed at step", "  discriminator")
        cluster.remove_node(other, allow_graceful=False)
        wait_until(log, after, "failure 1 of 2", "1 of 2 workers learn", "resumed at step", "  discriminator")

    threading.Thread(target=act, daemon=True).start()
    try:
        ray_trainer.run(job)
    finally:
        cluster.shutdown()


def wait_until(log: Path, after: int, *texts: str) -> int:
    """Until the texts have come in this order behind a place of the log; returns the place behind the last."""
    for text in texts:
        while (place := log.read_text().find(text, after) if log.exists() else -1) < 0:
            time.sleep(0.2)
        after = place + len(text)
    return after


if __name__ == "__main__":
    tiny.write_inputs(Path(sys.argv[1]))
    if len(sys.argv) > 3:
        both_stages(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
    else:
        coming_and_going(Path(sys.argv[1]), sys.argv[2])
