"""The Ray cluster that a training runs on: one of its own on this machine, or one that runs elsewhere."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import torch

from styleblend.config.training import Training
from styleblend.errors import StyleBlendError, TransientError
from styleblend.system import environment
from styleblend.system.ray_address import join
from styleblend.training import resources

SOCKET_NAME = len("sb-12345678/r/session_2026-01-31_12-00-00_123456_4194304/sockets/plasma_store.4194304")
"""The longest path of a socket that Ray makes below the temporary folder."""
_LOOK_S, _SAY_S = 5.0, 60.0
_STARTS, _START_S = 2, 120


class NoRoom(TransientError):
    """The cluster has no room for the workers now; it may grow, or others may leave."""


class NotStarted(TransientError):
    """Ray did not start on this machine, which may be busy."""


@contextmanager
def started(stage: str, cfg: Training, state: Path, say: Callable[[str], None]) -> Iterator[Path]:
    """Ray, with room for the workers; yields the folder for what Ray Train keeps. At the end the cluster goes.

    Args:
        state: folder on this machine that outlives a kill. say: takes lines while a cluster has no room yet.
    Raises:
        StyleBlendError: the machine or cluster has no room for the workers, or nobody answers at ray_address.
    """
    if cfg.ray_address is None:
        expect_room_here(stage, cfg)
        # Also for Ray's own children. The cluster of this run listens on this machine alone, and ends with it.
        environment.apply(environment.ray_changes(os.environ))
        os.environ["RAY_AUTH_MODE"] = "disabled"
    # Read by Ray when it is imported or started here; nothing is sent anywhere, none is held back.
    os.environ |= {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        # Ray's default of 15 starves training whenever anything else runs on the machine.
        "RAY_worker_niceness": "0",
        # Its default of 30 s is too short for a machine that is busy.
        "RAY_raylet_start_wait_time_s": str(_START_S),
    }
    import ray

    # Sockets live in a folder of a short name. What a killed run left there goes first.
    note = state / "scratch.txt"
    if note.exists():
        shutil.rmtree(note.read_text(), ignore_errors=True)
    scratch = Path(tempfile.mkdtemp(prefix="sb-", dir=environment.socket_folder(SOCKET_NAME)))
    note.write_text(str(scratch))
    threads = str(max(1, math.floor(cfg.cpus_per_worker)))
    # Figures wait on disk for MLflow (registry/outbox.py): there is no need to wait for it in each request.
    workers_env = {"OMP_NUM_THREADS": threads, "OMP_WAIT_POLICY": "PASSIVE", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
    try:
        if cfg.ray_address is None:
            _start_here(cfg, scratch / "r", workers_env, say)
        else:
            join(cfg.ray_address, f"{stage}.ray_address", workers_env)
            _wait_for_room(stage, cfg, say)
        yield state / "ray" if cfg.ray_address else scratch / "storage"
    finally:
        ray.shutdown()
        shutil.rmtree(scratch, ignore_errors=True)


def _start_here(cfg: Training, folder: Path, workers_env: dict[str, str], say: Callable[[str], None]) -> None:
    """Start a cluster on this machine; again where its processes took too long.

    Raises:
        NotStarted: it took too long each time.
    """
    import ray

    for left in reversed(range(_STARTS)):
        before = set(psutil.Process().children(recursive=True))
        try:
            ray.init(
                # Not left to Ray, which would look for a cluster that somebody else has started here.
                address="local",
                num_cpus=max(math.ceil(cfg.workers * cfg.cpus_per_worker), os.cpu_count() or 1),
                include_dashboard=False,
                # Ray would pass on every word of its own processes; what people want is in the progress file.
                log_to_driver=False,
                object_store_memory=100 * 2**20,
                _temp_dir=str(folder),
                runtime_env={"env_vars": workers_env},
            )
            return
        # Ray has no class of its own for this.
        except Exception as error:
            if "timed out during startup" not in str(error):
                raise
            # Ray knows nothing any more of what it has started until then.
            for child in set(psutil.Process().children(recursive=True)) - before:
                with suppress(psutil.NoSuchProcess):
                    child.kill()
            if not left:
                raise NotStarted(
                    f"Ray's processes did not start on this machine in {_STARTS} times {_START_S} s: it is too busy"
                    " or short of memory: end other work, then run again"
                ) from error
            say(f"Ray's processes took more than {_START_S} s to start: once more")


def expect_room_here(stage: str, cfg: Training) -> None:
    """CPUs can be shared, GPUs cannot: workers that want more than this machine has would wait for ever.

    Raises:
        StyleBlendError: there are fewer GPUs than are wanted.
    """
    cpus = math.ceil(cfg.workers * cfg.cpus_per_worker)
    problem = resources.lack(stage, cfg, [{"CPU": cpus, "GPU": torch.cuda.device_count()}], "this machine")
    if problem is not None:
        raise StyleBlendError(problem)


def _wait_for_room(stage: str, cfg: Training, say: Callable[[str], None]) -> None:
    """Wait until the cluster has room for the workers, and ask an autoscaler for it; a line a minute.

    Raises:
        NoRoom: after cfg.wait_for_cluster_s.
    """
    from ray.autoscaler.sdk import request_resources

    began, said, asked = time.monotonic(), -math.inf, False
    try:
        while (problem := _lack(stage, cfg)) is not None:
            waited = time.monotonic() - began
            if waited >= cfg.wait_for_cluster_s:
                raise NoRoom(f"{problem}, or raise {stage}.wait_for_cluster_s ({cfg.wait_for_cluster_s:g})")
            if not asked:
                request_resources(bundles=[resources.of_a_worker(cfg)] * cfg.workers)
                asked = True
            if waited - said >= _SAY_S:
                say(f"waited {waited:.0f} of {cfg.wait_for_cluster_s:g} s for the cluster: {problem}")
                said = waited
            time.sleep(min(_LOOK_S, max(0.1, cfg.wait_for_cluster_s - waited)))
    finally:
        if asked:
            # The workers themselves ask from here on.
            request_resources(bundles=[])


def _lack(stage: str, cfg: Training) -> str | None:
    """What the cluster lacks in all, or what of it others use; None if the workers fit."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    problem = resources.lack(stage, cfg, nodes, f"the cluster at {cfg.ray_address}")
    if problem is not None:
        return problem
    free = ray.available_resources()
    wanted = {kind: cfg.fewest_workers * each for kind, each in resources.of_a_worker(cfg).items()}
    short = [kind for kind, amount in wanted.items() if free.get(kind, 0) + 1e-6 < amount]
    if not short:
        return None
    said = ", ".join(f"{free.get(kind, 0):g} of {wanted[kind]:g} {kind}s" for kind in short)
    return f"{stage}: others use the cluster at {cfg.ray_address}, free are {said}: wait, or lower {stage}.workers"
