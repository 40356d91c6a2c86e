"""One retraining at a time in a project, whoever started it."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from styleblend.errors import StyleBlendError


class Busy(StyleBlendError):
    """Another retraining holds the project."""


@contextmanager
def only_one(project: Path) -> Iterator[int]:
    """Hold the project's lock; yields its open file, for processes that shall hold it as long as they live.

    Raises:
        Busy: another process holds it. A dead process holds none.
    """
    file = project / ".state" / "retrain.lock"
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy(f"another retraining runs in {project}: wait for its end, or end it") from None
        yield stream.fileno()
