"""Lock files: one holder at a time, or several that share; a dead process holds none."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from pathlib import Path

from styleblend.errors import StyleBlendError

_POLL_SECONDS = 0.5


class Locked(StyleBlendError):
    """Another process holds the lock."""


@contextmanager
def hold(file: Path, holder: str, place: Path, wait_s: float = 0) -> Iterator[int]:
    """Hold a lock file while the block runs.

    Args:
        holder: what others read while they are refused: "process 7 is already training".
        place: what the lock protects, for the same message.
        wait_s: how long to wait for another holder.
    Yields:
        the open file: a process that inherits it holds the lock for as long as it lives.
    Raises:
        Locked: another process holds it for longer than `wait_s`.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a+") as stream:
        deadline = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    stream.seek(0)
                    # Empty for a moment after it was taken.
                    other = stream.read() or "another run is at work"
                    raise Locked(f"{other} in {place}: wait for its end, or end it") from None
                time.sleep(_POLL_SECONDS)
        stream.truncate(0)
        stream.write(holder)
        stream.flush()
        yield stream.fileno()


@contextmanager
def share(file: Path) -> Iterator[Callable[[], bool]]:
    """Hold a lock file together with others that share it, while the block runs; wait for one that has it alone.

    Yields:
        a function that asks to have it alone until the end of the block: False where others hold it, too.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_SH)

        def alone() -> bool:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

        yield alone


def only_one(project: Path, who: str) -> AbstractContextManager[int]:
    """Hold the project: whoever retrains, runs ablations or writes params.yaml does so alone.

    Args:
        who: "a retraining", as in "a retraining (process 7, since 2026-01-31 09:00) is at work".
    """
    holder = f"{who} (process {os.getpid()}, since {datetime.now():%Y-%m-%d %H:%M}) is at work"
    return hold(project / ".state" / "retrain.lock", holder, project.resolve())
