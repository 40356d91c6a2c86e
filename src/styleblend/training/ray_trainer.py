"""Both training stages on Ray Train, which this module and `ray_cluster` alone know.

Every state that matters is in the state folder, written by the loop itself, so one rule serves a lost worker, a killed
stage and a stopped machine: start again, read the newest checkpoint. Ray's own checkpoints are not used. On several
machines the state folder, the inputs and the MLflow store must be visible to all of them.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from styleblend.config.model import Model
from styleblend.config.tracking import Tracking
from styleblend.config.training import Training
from styleblend.errors import StyleBlendError, TransientError
from styleblend.model import save
from styleblend.model.swapper import DESCRIPTION_FILE
from styleblend.perception import bending
from styleblend.provenance import save_picture
from styleblend.registry import outbox
from styleblend.system.files import whole_file, whole_folder
from styleblend.system.lock import hold
from styleblend.system.process import exit_on_sigterm
from styleblend.training import beginning, checkpoint, inputs, loop, ray_cluster, ray_errors, record, resources
from styleblend.training.steps import Stage
from styleblend.weights import frozen

RESULT, CHECKPOINTS, TRAINER_LOCK = "result", "checkpoints", "trainer.lock"
_ERROR = "error.txt"
_PROGRESS = "progress.log"
_LOCK_SECONDS = 60.0
"""What a killed run left, a trainer that ends its cluster or a worker that writes, is gone within seconds."""


@dataclass(frozen=True)
class Job:
    """All that a worker needs; paths are absolute, for workers run in a folder of their own."""

    stage: Stage
    fingerprint: str
    model: Model
    training: Training
    tracking: Tracking
    parent_run_id: str
    state: Path
    splits: Path
    faces: Path
    perceived: Path
    networks: Path
    encoder: Path | None = None
    """Folder of the first stage's model; None in the first stage."""
    origin: beginning.Origin | None = None
    """What continue_from names."""


def run(job: Job) -> Path:
    """Train until the end, going on from what is in job.state; returns the folder with the finished model.

    Raises:
        StyleBlendError: training gave up, an input is wrong, or another trainer works on the same state.
    """
    result = job.state / RESULT
    with lock(job.state / TRAINER_LOCK, wait_s=_LOCK_SECONDS), exit_on_sigterm():
        (job.state / _ERROR).unlink(missing_ok=True)
        if not _is_finished(job):
            with _shown(job.state / _PROGRESS), ray_errors.told(job.training.ray_address):
                _fit_in_spite_of_failures(job)
    return result


def _is_finished(job: Job) -> bool:
    """Whether the result is there, and is one of as many steps as are wanted now."""
    description = job.state / RESULT / DESCRIPTION_FILE
    return description.is_file() and json.loads(description.read_text()).get("step") == job.training.steps


def _fit_in_spite_of_failures(job: Job) -> None:
    """Start again after a lost worker, node or cluster, as long as there is progress.

    Not Ray's own count, which is one for the whole run: a run of weeks would spend it. Here a failure counts only until
    the next checkpoint.
    """
    failures, before = 0, (0, -1)
    while True:
        try:
            _fit(job)
            return
        except StyleBlendError:
            raise
        # Whatever Ray raises for workers, nodes and its own processes: it has no common base.
        except Exception as error:
            own = loop.checkpoints(job.training, job.state / CHECKPOINTS).own()
            done = (own[-1].attempt, own[-1].step) if own else (0, -1)
            failures, before = (1 if done > before else failures + 1), done
            if failures > job.training.max_failures:
                raise
            reason = " ".join(str(error).split())[:200]
            since = f"failure {failures} of {job.training.max_failures} since step {max(0, done[1])}"
            _say(job, f"{since}, starting again: {reason}")


def _fit(job: Job) -> None:
    cfg = job.training
    with ray_cluster.started(job.stage, cfg, job.state, partial(_say, job)) as storage:
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer

        trainer = TorchTrainer(
            _work,
            train_loop_config={"job": job},
            scaling_config=ScalingConfig(
                num_workers=cfg.workers,
                use_gpu=cfg.gpus_per_worker > 0,
                resources_per_worker=resources.of_a_worker(cfg),
            ),
            run_config=RunConfig(
                # A name that was used would bring back Ray's own idea of that run.
                name=f"{job.state.name}-{time.time_ns()}",
                storage_path=str(storage),
                failure_config=FailureConfig(max_failures=0),
            ),
        )
        try:
            # Once more, for Ray's start put a handler of its own in place that aborts the process.
            with exit_on_sigterm():
                trainer.fit()
        except Exception as error:
            message = job.state / _ERROR
            if message.exists():
                raise StyleBlendError(message.read_text()) from error
            raise


def _work(settings: dict[str, Any]) -> None:
    """What each worker does. A user's mistake is written down for the stage, for Ray wraps what workers raise."""
    import ray.train
    import ray.train.torch

    job: Job = settings["job"]
    message = job.state / _ERROR
    if message.exists():
        # Ray starts workers again after any error; this one will not go away.
        raise StyleBlendError(message.read_text())
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    device = ray.train.torch.get_device()
    if device.type == "cpu":
        torch.set_num_threads(max(1, math.floor(job.training.cpus_per_worker)))
    worker = loop.Worker(rank, world_size, device, mean_over_workers if world_size > 1 else loop.alone)
    try:
        train_job(job, worker)
    except TransientError:
        # The trainer starts again, as often as max_failures says.
        raise
    except StyleBlendError as error:
        with whole_file(message) as partial:
            partial.write_text(str(error))
        raise


def mean_over_workers(tensors: Sequence[Tensor]) -> None:
    """Replace tensors by their mean over the workers of torch.distributed, all in one exchange.

    Not DistributedDataParallel: a step uses each network three times and not every parameter at every step, which DDP
    allows only with searches for unused parameters, and one sum in one order makes runs repeatable. The cost is that
    sending does not overlap with the backward pass.
    """
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    torch.distributed.all_reduce(flat)
    flat /= torch.distributed.get_world_size()
    for tensor, mean in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(mean.view_as(tensor))


def train_job(job: Job, worker: loop.Worker) -> None:
    """Train as one of the workers; rank 0 also records the run and writes job.state / "result".

    Raises:
        StyleBlendError: an input is wrong, or the run collapsed.
    """
    learner = beginning.learner(
        job.stage, job.model, job.training, job.networks, job.encoder, job.origin, worker.device
    )
    places = (job.networks, job.splits, job.faces, job.perceived)
    read = inputs.read(job.training, learner, *places, worker.device)
    before = record.read(job.encoder) if job.encoder is not None else record.Record()
    everything = (job.training, learner, *read, job.state / CHECKPOINTS, worker)
    first = _first(job)
    if worker.rank:
        loop.train(*everything, loop.Recorder(), before.began_with, first)
        return
    # A worker that outlived a killed stage for a moment may still be writing.
    with lock(job.state / "writer.lock", wait_s=_LOCK_SECONDS), _recorded(job) as recorder:
        progress = loop.train(*everything, recorder, before.began_with, first)
        recorder.kept.end("FINISHED", job.tracking.patience_s)
        with whole_folder(job.state / RESULT) as folder:
            facts: dict[str, Any] = {"stage": job.stage, "step": job.training.steps, "fingerprint": job.fingerprint}
            save(learner.averaged, job.model, folder, **facts)
            if job.model.prior == "warp":
                shutil.copyfile(frozen.foreign(job.networks, "landmarks") or "", folder / bending.MESH_FILE)
            weights = {name: value.cpu().contiguous() for name, value in learner.discriminator.state_dict().items()}
            save_file(weights, folder / beginning.DISCRIMINATOR)
            (folder / "history.json").write_text(json.dumps(progress.history, indent=1) + "\n")
            record.write(folder, before, job.stage, progress, job.origin.words if job.origin else None)
            runs = {"parent_run_id": job.parent_run_id, "run_id": recorder.kept.run_id}
            (folder / "run.json").write_text(json.dumps(runs, indent=1) + "\n")


def _first(job: Job) -> checkpoint.Kept | None:
    """The checkpoint that continue_from names, if it names one."""
    if job.origin is None or not job.origin.is_checkpoint:
        return None
    first = checkpoint.named(job.origin.path)
    if first is None:
        raise StyleBlendError(
            f"{job.stage}.continue_from is {job.origin.path.name}, which is no checkpoint's name: give it the name that"
            " training gave it, step-...pt"
        )
    return first


class OutboxRecorder(loop.Recorder):
    """A loop.Recorder that keeps what MLflow is to get, and writes lines for the stage to show."""

    def __init__(self, kept: outbox.Outbox, job: Job) -> None:
        self.kept, self.job = kept, job

    def begins(self, attempt: int) -> None:
        self.kept.begins(attempt)

    def metrics(self, step: int, values: dict[str, float]) -> None:
        self.kept.metrics(step, values)

    def picture(self, step: int, pixels: Tensor) -> None:
        grid, model = Image.fromarray(pixels.numpy()), f"styleblend {self.job.stage}"
        save = partial(save_picture, grid, model=model, kind="grid")
        self.kept.picture(f"step-{step:07d}.png", "probe", save)

    def tags(self, values: dict[str, str]) -> None:
        self.kept.tags(values)

    def line(self, text: str) -> None:
        _say(self.job, text)


def outbox_of(job: Job) -> Path:
    """The folder with what MLflow is to get: beside the state, for it may outlive that."""
    return job.state.parent / outbox.PLACE.name / job.state.name


@contextmanager
def _recorded(job: Job) -> Iterator[OutboxRecorder]:
    params = {"model": job.model.model_dump(mode="json"), job.stage: job.training.model_dump(mode="json")}
    address = outbox.Address(job.parent_run_id, job.stage, job.fingerprint, params)
    say = partial(_say, job)
    with outbox.opened(outbox_of(job), job.tracking, address, say, job.tracking.patience_s) as kept:
        yield OutboxRecorder(kept, job)


def _say(job: Job, text: str) -> None:
    """A line of progress for people, from whichever process."""
    with (job.state / _PROGRESS).open("a") as stream:
        stream.write(f"{job.stage}: {text}\n")


@contextmanager
def _shown(path: Path) -> Iterator[None]:
    """Print what workers write into a new file `path`, while the block runs and what is left at its end."""
    path.write_text("")
    done = threading.Event()

    def follow() -> None:
        with path.open() as stream:
            ended = False
            while not ended:
                ended = done.wait(0.2)
                if text := stream.read():
                    print(text, end="", flush=True)

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def lock(file: Path, wait_s: float) -> AbstractContextManager[int]:
    """Hold a lock file of a state folder; a dead process holds none.

    Raises:
        StyleBlendError: another live process holds it for longer than wait_s; names its id.
    """
    return hold(file, f"process {os.getpid()} is already training", file.parent, wait_s)
