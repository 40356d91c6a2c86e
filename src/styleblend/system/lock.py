"""One at a time: who trains in a project or writes its params.yaml, and whoever started it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from styleblend.errors import StyleBlendError


class ProjectLocked(StyleBlendError):
    """Somebody else holds the project."""


@contextmanager
def only_one(project: Path, who: str) -> Iterator[int]:
    """Hold the project's lock; yields its open file, for processes that shall hold it as long as they live.

    Args:
        who: what is at work, as others shall read it: "a retraining".
    Raises:
        ProjectLocked: another process holds it. A dead process holds none.
    """
    file = project / ".state" / "retrain.lock"
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.seek(0)
            # Empty for a moment after it was taken.
            holder = stream.read() or "another run"
            raise ProjectLocked(f"{holder} is at work in {project.resolve()}: wait for its end, or end it") from None
        stream.truncate(0)
        stream.write(f"{who} (process {os.getpid()}, since {datetime.now():%Y-%m-%d %H:%M})")
        stream.flush()
        yield stream.fileno()
