"""Who is at work on an answer, who waits for a turn, and what becomes of work that nobody waits for any more.

A thread cannot be ended from outside, so work that takes too long is told to end and does so before its next step.
Until then it keeps its place: no more is ever at work than was granted.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

GoOn = Callable[[], None]
"""Called between the steps of a work; raises GivenUp where nobody waits for it any more."""


class GivenUp(Exception):
    """Ends work in its thread; nobody hears of it."""


class Busy(Exception):
    """All places are taken, or the turn did not come in time."""


class TooLong(Exception):
    """The work was begun, and did not end in time."""


@dataclass(frozen=True)
class _Piece:
    result: Future[bytes]
    given_up: threading.Event


class Workplace:
    """Threads that work, and a queue before them. Its methods are called in the event loop."""

    def __init__(self, at_once: int, waiting: int, seconds: float) -> None:
        self._at_once, self._places, self._seconds = at_once, at_once + waiting, seconds
        self._threads = ThreadPoolExecutor(at_once, thread_name_prefix="swap")
        self._pieces: list[_Piece] = []

    @property
    def full(self) -> bool:
        """Whether another piece of work would be refused."""
        return len(self._open()) >= self._places

    @property
    def overdue(self) -> int:
        """Threads whose work nobody waits for any more, but which have not come to their next step."""
        return sum(piece.given_up.is_set() for piece in self._open())

    @property
    def stuck(self) -> bool:
        """Whether every thread is overdue, so that no work is done."""
        return self.overdue >= self._at_once

    async def do(self, work: Callable[[GoOn], bytes]) -> bytes:
        """What the work gives.

        Args:
            work: runs in a thread, and calls what it is given before each step that takes long.
        Raises:
            Busy, TooLong: there is no result within the granted seconds, the waiting for a turn among them.
        """
        if self.full:
            raise Busy
        given_up = threading.Event()

        def go_on() -> None:
            if given_up.is_set():
                raise GivenUp

        result = self._threads.submit(work, go_on)
        self._pieces.append(_Piece(result, given_up))
        try:
            return await asyncio.wait_for(asyncio.wrap_future(result), self._seconds)
        except TimeoutError:
            # What has not begun was taken out of the queue by this.
            raise (Busy if result.cancelled() else TooLong) from None
        finally:
            given_up.set()

    def close(self) -> None:
        """Wait for the threads; what they are at ends before its next step."""
        for piece in self._pieces:
            piece.given_up.set()
        self._threads.shutdown(cancel_futures=True)

    def _open(self) -> list[_Piece]:
        self._pieces = [piece for piece in self._pieces if not piece.result.done()]
        return self._pieces
