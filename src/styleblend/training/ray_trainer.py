"""Both training stages on Ray Train, which this module, `ray_cluster` and `ray_mailbox` alone know.

Every state that matters is written by the loop itself, into the state folder or the setting `storage`, so one rule
serves a lost worker, a killed stage and a stopped machine: start again, read the newest checkpoint. Ray's own
checkpoints are not used.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from styleblend.errors import StyleBlendError, TransientError
from styleblend.model import save
from styleblend.model.swapper import DESCRIPTION_FILE
from styleblend.perception import bending
from styleblend.system import ray_errors
from styleblend.system.files import whole_folder
from styleblend.system.lock import hold
from styleblend.system.process import exit_on_sigterm
from styleblend.training import beginning, checkpoint, inputs, loop, ray_cluster, ray_mailbox, record, resources, shared
from styleblend.training.job import CHECKPOINTS, ERROR, RESULT, Job
from styleblend.training.recording import PROGRESS, recorded, say, shown
from styleblend.training.repeatable import repeatable
from styleblend.weights import frozen

TRAINER_LOCK = "trainer.lock"
RESIZE_S = 60.0
"""So often Ray looks whether machines have come, for a training that may have more workers than it has."""
_LOCK_SECONDS = 60.0
"""What a killed run left, a trainer that ends its cluster or a worker that writes, is gone within seconds."""


def run(job: Job) -> Path:
    """Train until the end, going on from what is in job.state; returns the folder with the finished model.

    Raises:
        StyleBlendError: training gave up, an input is wrong, or another trainer works on the same state.
    """
    result = job.state / RESULT
    with lock(job.state / TRAINER_LOCK, wait_s=_LOCK_SECONDS), exit_on_sigterm():
        (job.state / ERROR).unlink(missing_ok=True)
        if not _is_finished(job):
            with shown(job.state / PROGRESS), ray_errors.told(job.training.ray_address):
                _fit_in_spite_of_failures(_prepared(job))
    return result


def _prepared(job: Job) -> Job:
    """With a storage: all that workers read is sent there."""
    if job.training.storage is None:
        return job
    job = shared.begin(job)
    count = shared.send(job)
    say(job, f"faces are in {count} shards in {shared.place_of(job).shown}")
    return job


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
            own = shared.checkpoints(job).own()
            done = (own[-1].attempt, own[-1].step) if own else (0, -1)
            failures, before = (1 if done > before else failures + 1), done
            if failures > job.training.max_failures:
                raise
            reason = " ".join(str(error).split())[:200]
            since = f"failure {failures} of {job.training.max_failures} since step {max(0, done[1])}"
            say(job, f"{since}, starting again: {reason}")


def _fit(job: Job) -> None:
    with ray_cluster.started(job.stage, job.training, job.state, partial(say, job)) as storage:
        if job.training.storage is None:
            _fit_on(job, {"job": job}, str(storage))
            return
        filesystem, path = shared.place_of(job).below("ray").opened()
        with recorded(job) as recorder, ray_mailbox.emptied_into(recorder) as box:
            _fit_on(job, {"job": job, "box": box}, path, filesystem)
        shared.receive_result(job, recorder.kept.run_id)


def _fit_on(job: Job, settings: dict[str, Any], storage: str, filesystem: Any = None) -> None:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    cfg = job.training
    # Ray's types are those of an older version of this class.
    scaling: dict[str, Any] = {
        "num_workers": cfg.workers if cfg.min_workers is None else (cfg.min_workers, cfg.workers),
        "elastic_resize_monitor_interval_s": RESIZE_S,
        "use_gpu": cfg.gpus_per_worker > 0,
        "resources_per_worker": resources.of_a_worker(cfg),
    }
    trainer = TorchTrainer(
        _work,
        train_loop_config=settings,
        scaling_config=ScalingConfig(**scaling),
        run_config=RunConfig(
            # A name that was used would bring back Ray's own idea of that run.
            name=f"{job.state.name}-{time.time_ns()}",
            storage_path=storage,
            storage_filesystem=filesystem,
            failure_config=FailureConfig(max_failures=0),
        ),
    )
    try:
        # Once more, for Ray's start put a handler of its own in place that aborts the process.
        with exit_on_sigterm():
            trainer.fit()
    except Exception as error:
        if (told := shared.error_of(job)) is not None:
            raise StyleBlendError(told) from error
        raise


def _work(settings: dict[str, Any]) -> None:
    """What each worker does. A user's mistake is written down for the stage, for Ray wraps what workers raise."""
    import ray.train
    import ray.train.torch

    job: Job = settings["job"]
    told = shared.error_of(job)
    if told is not None:
        # Ray starts workers again after any error; this one will not go away.
        raise StyleBlendError(told)
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    device = ray.train.torch.get_device()
    if device.type == "cpu":
        torch.set_num_threads(max(1, math.floor(job.training.cpus_per_worker)))
    # In units of what is learned from at once: a worker's share must divide into its parts, too.
    group, count = among(job.training.batch_size // job.training.accumulate, world_size)
    if rank >= count:
        # Ray gives the run what there is; a batch is shared evenly. It waits, with its machine, for more to come.
        return
    together = (partial(mean_over_workers, group=group), partial(from_the_first, group=group)) if count > 1 else ()
    worker = loop.Worker(rank, count, device, *together)
    try:
        if job.training.storage is None:
            train_job(job, worker)
        else:
            recorder = ray_mailbox.Sender(settings["box"]) if rank == 0 else loop.Recorder()
            idle = f", {world_size - count} more wait" if count < world_size else ""
            recorder.line(f"{count} of {job.training.workers} workers learn{idle}")
            _train_elsewhere(job, worker, recorder)
    except TransientError:
        # The trainer starts again, as often as max_failures says.
        raise
    except StyleBlendError as error:
        shared.tell_error(job, str(error))
        raise


def among(units: int, world_size: int) -> tuple[Any, int]:
    """How many of the workers share so many units of a batch evenly, and torch's group of them (None: the default one).

    The others hold their machines for the time when more have come. All workers must call it.
    """
    count = max(each for each in range(1, world_size + 1) if units % each == 0)
    if count == world_size:
        return None, count
    return torch.distributed.new_group(list(range(count))), count


def mean_over_workers(tensors: Sequence[Tensor], group: Any = None) -> None:
    """Replace tensors by their mean over the workers of torch.distributed, all in one exchange.

    Not DistributedDataParallel: a step uses each network three times and not every parameter at every step, which DDP
    allows only with searches for unused parameters, and one sum in one order makes runs repeatable. The cost is that
    sending does not overlap with the backward pass.
    """
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    torch.distributed.all_reduce(flat, group=group)
    flat /= torch.distributed.get_world_size(group)
    for tensor, mean in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(mean.view_as(tensor))


def from_the_first(tensors: Sequence[Tensor], group: Any = None) -> None:
    """Replace tensors by those of rank 0. Those on the CPU go by way of the GPU, where the exchange knows no other."""
    by_gpu = torch.distributed.get_backend(group) == "nccl"
    for tensor in tensors:
        sent = tensor.cuda() if by_gpu and not tensor.is_cuda else tensor
        torch.distributed.broadcast(sent, src=0, group=group)
        if sent is not tensor:
            tensor.copy_(sent)


def train_job(job: Job, worker: loop.Worker) -> None:
    """Train as one of the workers; rank 0 also records the run and writes job.state / "result".

    Raises:
        StyleBlendError: an input is wrong, or the run collapsed.
    """
    if worker.rank:
        _train(job, worker, loop.Recorder())
        return
    # A worker that outlived a killed stage for a moment may still be writing.
    with lock(job.state / "writer.lock", wait_s=_LOCK_SECONDS), recorded(job) as recorder:
        _train(job, worker, recorder)


def _train_elsewhere(job: Job, worker: loop.Worker, recorder: loop.Recorder) -> None:
    """The same where this machine has the storage alone; rank 0 leaves the result there."""
    mirror = shared.Mirror(job)
    there, bring = shared.receive(job)
    _train(there, worker, recorder, bring, mirror)
    if worker.rank == 0:
        shared.send_result(there)
    worker.wait()
    # Pictures of people stay on no machine.
    shutil.rmtree(there.state, ignore_errors=True)


def _train(
    job: Job,
    worker: loop.Worker,
    recorder: loop.Recorder,
    bring: Callable[[Path], None] | None = None,
    mirror: checkpoint.Mirror | None = None,
) -> None:
    with repeatable(job.training.deterministic):
        learner = beginning.learner(
            job.stage, job.model, job.training, job.networks, job.encoder, job.origin, worker.device
        )
        places = (job.networks, job.splits, job.faces, job.perceived)
        read = inputs.read(job.training, learner, *places, worker.device, bring)
        before = record.read(job.encoder) if job.encoder is not None else record.Record()
        everything = (job.training, learner, *read, job.state / CHECKPOINTS, worker, recorder)
        progress = loop.train(*everything, before.began_with, _first(job), mirror)
    if worker.rank:
        return
    run_id = recorder.finish()
    with whole_folder(job.state / RESULT) as folder:
        facts: dict[str, Any] = {"stage": job.stage, "step": job.training.steps, "fingerprint": job.fingerprint}
        save(learner.averaged, job.model, folder, **facts)
        if job.model.prior == "warp":
            shutil.copyfile(frozen.foreign(job.networks, "landmarks") or "", folder / bending.MESH_FILE)
        weights = {name: value.cpu().contiguous() for name, value in learner.discriminator.state_dict().items()}
        save_file(weights, folder / beginning.DISCRIMINATOR)
        (folder / "history.json").write_text(json.dumps(progress.history, indent=1) + "\n")
        record.write(folder, before, job.stage, progress, job.origin.words if job.origin else None)
        job.write_runs(folder, run_id)


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


def lock(file: Path, wait_s: float) -> AbstractContextManager[int]:
    """Hold a lock file of a state folder; a dead process holds none.

    Raises:
        StyleBlendError: another live process holds it for longer than wait_s; names its id.
    """
    return hold(file, f"process {os.getpid()} is already training", file.parent, wait_s)
