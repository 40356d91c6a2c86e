"""The batches of a worker, one after the other, with all that steps need, made while earlier ones are learned."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from styleblend.config.training import Training
from styleblend.errors import StyleBlendError
from styleblend.training import samples
from styleblend.training.batches import Batch, Faces, draw
from styleblend.training.ready import ready


class Batches:
    """The share of one worker of every step's batch, read ahead by threads; on its way to a GPU in pinned memory.

    A GPU waits for nobody, so each of the worker's CPUs (`cpus_per_worker`) reads a batch ahead for it. On the CPU one
    thread does, for the step needs the others.
    """

    def __init__(
        self,
        cfg: Training,
        faces: Faces,
        rank: int,
        world_size: int,
        prior: bool = False,
        resolutions: Sequence[int] = (),
        device: torch.device | None = None,
    ) -> None:
        """Args:
            prior: whether sources are bent onto targets, too.
            resolutions: of the decoder that noise is drawn for; none leaves that to the step.
            device: that batches are on their way to; None is the CPU.
        Raises:
            StyleBlendError: the batch cannot be shared evenly.
        """
        share, rest = divmod(cfg.batch_size, world_size)
        if rest:
            raise StyleBlendError(f"batch_size {cfg.batch_size} does not divide evenly over {world_size} workers")
        if share % cfg.accumulate:
            raise StyleBlendError(
                f"accumulate is {cfg.accumulate}, but each of {world_size} workers has {share} pictures of batch_size"
                f" {cfg.batch_size}: choose a divisor of {share}"
            )
        self.cfg, self.faces, self.prior, self.resolutions = cfg, faces, prior, resolutions
        self.samples = range(rank * share, (rank + 1) * share)
        self.pinned = device is not None and device.type == "cuda"
        self.threads = max(1, math.floor(cfg.cpus_per_worker)) if self.pinned else 1
        # A thread that pins memory without a device of its own would open one on the first GPU, another worker's.
        begin = (torch.cuda.set_device, (device,)) if self.pinned else (None, ())
        self.pool = ThreadPoolExecutor(self.threads, "batches", *begin)
        self.ahead: deque[tuple[tuple[int, int], Future[Batch]]] = deque()

    def at(self, step: int, attempt: int) -> Batch:
        """This worker's samples of a step."""
        while self.ahead and self.ahead[0][0] != (step, attempt):
            self.ahead.popleft()[1].cancel()
        for wanted in range(step + len(self.ahead), step + self.threads + 1):
            self.ahead.append(((wanted, attempt), self.pool.submit(self._read, wanted, attempt)))
        return self.ahead.popleft()[1].result()

    def close(self) -> None:
        """End the reading threads."""
        self.pool.shutdown(cancel_futures=True)

    def _read(self, step: int, attempt: int) -> Batch:
        faces = self.faces
        known = None if faces.true_swaps is None else faces.true_swaps.identity
        drawn = draw(self.cfg, faces.persons, step, self.samples, attempt, faces.chances, known)
        seen = samples.pictures(faces, drawn, self.prior)
        same_person, landmarks = torch.from_numpy(drawn.same_person), faces.landmarks[drawn.target]
        mesh = None if faces.mesh is None else torch.from_numpy(faces.mesh[drawn.target])
        facts = (drawn.noise_seeds, same_person, landmarks, mesh, faces.size_px)
        batch = Batch(
            source=seen.source,
            target=seen.target,
            source_identity=faces.identity[drawn.source],
            target_identity=faces.identity[drawn.target],
            target_landmarks=landmarks,
            same_person=same_person,
            negatives=faces.identity[drawn.negatives],
            noise_seeds=drawn.noise_seeds,
            truth=seen.truth,
            answered=torch.from_numpy(drawn.answered),
            target_mesh=mesh,
            warped=seen.warped,
            ready=ready(self.cfg, self.resolutions, *facts) if self.resolutions else None,
        )
        if self.cfg.channels_last:
            batch = batch.each(_channels_last)
        return batch.each(Tensor.pin_memory) if self.pinned else batch


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor
