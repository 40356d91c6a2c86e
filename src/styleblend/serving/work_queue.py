"""A bounded queue of jobs with a deadline, in front of a few threads.

A thread cannot be ended from outside: an overdue job is cancelled, ends before its next step, and occupies its thread
until then. So there are never more jobs at work than threads.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from styleblend.swapping.swap import CancelCheck


class JobCancelled(Exception):
    """Ends a cancelled job in its thread; nobody waits for it any more."""


class QueueFull(Exception):
    """Every place is taken, or no thread became free before the deadline."""


class DeadlineExceeded(Exception):
    """The job began, and did not end before the deadline."""


@dataclass(frozen=True)
class _Job:
    result: Future[bytes]
    cancelled: threading.Event


class WorkQueue:
    """Threads and the jobs that wait for them. Its methods are called in the event loop."""

    def __init__(self, at_once: int, waiting: int, seconds: float) -> None:
        """Args:
        at_once: threads.
        waiting: jobs that may wait for a thread.
        seconds: from the call to the result, with the time in the queue.
        """
        self._at_once, self._places, self._seconds = at_once, at_once + waiting, seconds
        self._threads = ThreadPoolExecutor(at_once, thread_name_prefix="swap")
        self._jobs: list[_Job] = []

    @property
    def full(self) -> bool:
        """Whether another job would be refused."""
        return len(self._unfinished()) >= self._places

    @property
    def overdue(self) -> int:
        """Cancelled jobs that still occupy a thread."""
        return sum(job.cancelled.is_set() for job in self._unfinished())

    @property
    def stuck(self) -> bool:
        """Whether every thread is occupied by an overdue job."""
        return self.overdue >= self._at_once

    async def run(self, work: Callable[[CancelCheck], bytes]) -> bytes:
        """Run a job in a thread and return its result.

        Args:
            work: gets a cancel check, which it calls before each step that takes long.
        Raises:
            QueueFull, DeadlineExceeded: there is no result before the deadline.
        """
        if self.full:
            raise QueueFull
        cancelled = threading.Event()

        def cancel_check() -> None:
            if cancelled.is_set():
                raise JobCancelled

        result = self._threads.submit(work, cancel_check)
        self._jobs.append(_Job(result, cancelled))
        try:
            return await asyncio.wait_for(asyncio.wrap_future(result), self._seconds)
        except TimeoutError:
            # The timeout cancelled the future, which takes a job that has not begun out of the queue.
            raise (QueueFull if result.cancelled() else DeadlineExceeded) from None
        finally:
            cancelled.set()

    def close(self) -> None:
        """Cancel all jobs and wait for the threads."""
        for job in self._jobs:
            job.cancelled.set()
        self._threads.shutdown(cancel_futures=True)

    def _unfinished(self) -> list[_Job]:
        self._jobs = [job for job in self._jobs if not job.result.done()]
        return self._jobs
