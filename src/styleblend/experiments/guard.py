"""Runs a command of which nothing stays behind, however it or its caller ends.

python -m styleblend.guard PROJECT LOCK COMMAND...

Standard input is the line to the caller: when the caller dies, even of SIGKILL, the line closes and the guard ends the
command with all that it started. DVC alone would leave its stage, and the stage its Ray workers, training on.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from styleblend.experiments import overriding

GRACE_SECONDS = 10.0
"""Between SIGTERM, on which Ray and its workers shut down, and SIGKILL."""
_POLL_SECONDS = 0.2
_PR_SET_CHILD_SUBREAPER = 36


@contextmanager
def guarded(project: Path, command: Sequence[str], lock: int) -> Iterator[subprocess.Popen[str]]:
    """Run the command in the project below a guard; when the block ends, nothing of it runs any more.

    Args:
        lock: open file that all of them inherit: a lock on it holds for as long as one of them lives.
    Yields:
        the guard; `stdout` has the lines of the command, and its exit code is the command's.
    """
    with subprocess.Popen(
        [sys.executable, "-m", "styleblend.experiments.guard", str(project.resolve()), str(lock), *command],
        cwd=project,
        env=os.environ | {"PYTHONUNBUFFERED": "1", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        # A session of its own: ctrl-C in a terminal reaches the caller, and the caller ends this in order.
        start_new_session=True,
        pass_fds=[lock],
    ) as process:
        try:
            yield process
        finally:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.close()
            # Read to the end: a command that waits for its lines to be read could not end.
            for _ in process.stdout:
                pass
            process.wait()


def main(project: Path, lock: int, command: Sequence[str]) -> int:
    """Run the command to its end, or to the caller's. Returns its exit code, negative for a signal."""
    _adopt_orphans()
    told_to_end: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: told_to_end.append(number))
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True, pass_fds=[lock])
    try:
        while process.poll() is None:
            if told_to_end or _closed(sys.stdin.fileno()):
                return -signal.SIGTERM
        return process.returncode
    finally:
        _end_all(process)
        if line := overriding.restore(project):
            print(line, flush=True)


def _adopt_orphans() -> None:
    """What a child of a dead child was becomes a child of this process, so that it can be found and ended."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) failed")


def _closed(line: int) -> bool:
    readable, _, _ = select.select([line], [], [], _POLL_SECONDS)
    return bool(readable) and not os.read(line, 1024)


def _end_all(process: subprocess.Popen[bytes]) -> None:
    """End the command's group kindly, then by force whatever is left below this process, in whichever group.

    What outlives the group, as a daemon in a session of its own, has lost whoever would have ended it in order.
    """
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
    this = psutil.Process()
    deadline = time.monotonic() + GRACE_SECONDS
    while left := this.children(recursive=True):
        if time.monotonic() > deadline or not _group_lives(process):
            for child in left:
                child.kill()
        # Zombies that were adopted are reaped by this wait.
        psutil.wait_procs(left, timeout=_POLL_SECONDS)


def _group_lives(process: subprocess.Popen[bytes]) -> bool:
    process.poll()
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return False
    return True


if __name__ == "__main__":
    code = main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
    sys.exit(code if code >= 0 else 128 - code)
