"""The batches of a worker, one after the other, each read while the one before is learned from."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

import torch

from styleblend.config.training import Training
from styleblend.errors import StyleBlendError
from styleblend.training import samples
from styleblend.training.batches import Batch, Faces, draw


class Batches:
    """The share of one worker of every step's batch, read one step ahead in a thread."""

    def __init__(self, cfg: Training, faces: Faces, rank: int, world_size: int, prior: bool = False) -> None:
        if cfg.batch_size % world_size:
            raise StyleBlendError(f"batch_size {cfg.batch_size} does not divide evenly over {world_size} workers")
        self.cfg, self.faces, self.prior = cfg, faces, prior
        share = cfg.batch_size // world_size
        self.samples = range(rank * share, (rank + 1) * share)
        self.thread = ThreadPoolExecutor(1)
        self.ahead: tuple[tuple[int, int], Future[Batch]] | None = None

    def at(self, step: int, attempt: int) -> Batch:
        """This worker's samples of a step."""
        if self.ahead is not None and self.ahead[0] == (step, attempt):
            batch = self.ahead[1].result()
        else:
            batch = self._read(step, attempt)
        self.ahead = ((step + 1, attempt), self.thread.submit(self._read, step + 1, attempt))
        return batch

    def close(self) -> None:
        """End the reading thread."""
        self.thread.shutdown(cancel_futures=True)

    def _read(self, step: int, attempt: int) -> Batch:
        faces = self.faces
        known = None if faces.true_swaps is None else faces.true_swaps.identity
        drawn = draw(self.cfg, faces.persons, step, self.samples, attempt, faces.chances, known)
        seen = samples.pictures(faces, drawn, self.prior)
        return Batch(
            source=seen.source,
            target=seen.target,
            source_identity=faces.identity[drawn.source],
            target_identity=faces.identity[drawn.target],
            target_landmarks=faces.landmarks[drawn.target],
            same_person=torch.from_numpy(drawn.same_person),
            negatives=faces.identity[drawn.negatives],
            noise_seeds=drawn.noise_seeds,
            truth=seen.truth,
            answered=torch.from_numpy(drawn.answered),
            target_mesh=None if faces.mesh is None else torch.from_numpy(faces.mesh[drawn.target]),
            warped=seen.warped,
        )
