"""Workers of one training as threads of this process: an exchange that is independent of torch.distributed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from torch import Tensor

from styleblend.training import loop

Found = TypeVar("Found")


class Together:
    """`count` workers that meet in `average`, which sums in the order of ranks, and in `broadcast`."""

    def __init__(self, count: int, timeout_s: float = 120) -> None:
        self.count = count
        self._meet = threading.Barrier(count, timeout=timeout_s)
        self._given: list[list[Tensor]] = [[] for _ in range(count)]

    def worker(self, rank: int) -> loop.Worker:
        """The worker of a rank."""

        def average(tensors: Sequence[Tensor]) -> None:
            sums = [torch.stack(each).sum(0) for each in zip(*self._all(rank, tensors), strict=True)]
            for tensor, total in zip(tensors, sums, strict=True):
                tensor.detach().copy_(total / self.count)

        def broadcast(tensors: Sequence[Tensor]) -> None:
            for tensor, first in zip(tensors, self._all(rank, tensors)[0], strict=True):
                tensor.detach().copy_(first)

        return loop.Worker(rank, self.count, torch.device("cpu"), average, broadcast)

    def run(self, work: Callable[[loop.Worker], Found]) -> list[Found]:
        """Do `work` as each of the workers, at the same time. One that raises ends the waiting of the others, and
        is what is raised here: another may find the meeting broken that it was about to leave."""

        def one(rank: int) -> Found:
            try:
                return work(self.worker(rank))
            except BaseException:
                self._meet.abort()
                raise

        with ThreadPoolExecutor(self.count) as pool:
            begun = [pool.submit(one, rank) for rank in range(self.count)]
            errors = [error for each in begun if (error := each.exception()) is not None]
        if errors:
            raise next((each for each in errors if not isinstance(each, threading.BrokenBarrierError)), errors[0])
        return [each.result() for each in begun]

    def _all(self, rank: int, tensors: Sequence[Any]) -> list[list[Tensor]]:
        self._given[rank] = [tensor.detach().clone() for tensor in tensors]
        self._meet.wait()
        given = list(self._given)
        self._meet.wait()
        return given
