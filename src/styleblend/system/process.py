"""Processes that end with whoever started them, and with all that they started themselves.

As a program this module is the guard of a command: python -m styleblend.system.process LOCK COMMAND...
The guard's standard input is a pipe from the caller. When the caller dies, even of SIGKILL, the pipe closes, and the
guard ends the command with all its descendants. DVC alone would leave its stage running, and the stage its Ray workers.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import psutil

GRACE_SECONDS = 10.0
"""Between SIGTERM, on which Ray and its workers shut down, and SIGKILL."""
_POLL_SECONDS = 0.2
_SHELLS = ("sh", "bash", "dash", "ksh", "zsh", "fish")
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


@contextmanager
def guarded(
    command: Sequence[str], folder: Path, lock: int, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Run a command in `folder` below a guard; when the block ends, none of its processes is left.

    Args:
        lock: open file that all of them inherit: a lock on it holds for as long as one of them lives.
        env: variables of the command, in addition to those of this process.
    Yields:
        the guard; `stdout` has the lines of the command, and its exit code is the command's.
    """
    # The command alone gets `env`: the guard must not import another version of this package by it.
    own = ["env", *(f"{name}={value}" for name, value in (env or {}).items()), *command]
    with subprocess.Popen(
        [sys.executable, "-m", __name__, str(lock), *own],
        cwd=folder,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
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


@contextmanager
def running(
    command: Sequence[str], env: Mapping[str, str], patience_s: float, output: IO[bytes] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command while the block runs; it gets SIGINT at the end, SIGKILL `patience_s` later, SIGTERM if this dies.

    In a session of its own: ctrl-C in a terminal reaches the caller, who keeps the order in which commands end.

    Args:
        output: open file for all that the command prints, which then reads no input; None: where this process prints.
    """
    process = subprocess.Popen(
        command,
        env=os.environ | env,
        stdin=None if output is None else subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
        preexec_fn=_end_with_parent,
    )
    try:
        yield process
    finally:
        # To its group, as a terminal does: Prefect's runner would wait for a run that hears of nothing.
        _signal(process, signal.SIGINT)
        try:
            process.wait(patience_s)
        except subprocess.TimeoutExpired:
            _signal(process, signal.SIGKILL)
            process.wait()


@contextmanager
def exit_on_sigterm() -> Iterator[None]:
    """SIGTERM ends the block by SystemExit, as ctrl-C does by KeyboardInterrupt, so that `finally` blocks run."""

    def end(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def end_with_dvc() -> None:
    """Have this process get SIGTERM soon after the DVC that runs it as a stage is gone; nothing for others.

    DVC that is killed leaves its stage at work, and the next `dvc repro` would find it there.
    """
    if "DVC_STAGE" not in os.environ:
        return
    above = psutil.Process().parents()
    # Some shells stay between DVC and the command, others become it.
    dvc = next((each for each in above if each.name() not in _SHELLS), None)
    if dvc is not None:
        threading.Thread(target=_end_after, args=(dvc,), daemon=True).start()


def _end_after(other: psutil.Process) -> None:
    # One that was killed stays a zombie for as long as nobody has asked for its exit code.
    with contextlib.suppress(psutil.NoSuchProcess):
        while other.is_running() and other.status() != psutil.STATUS_ZOMBIE:
            time.sleep(_POLL_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)


def main(lock: int, command: Sequence[str]) -> int:
    """Run the command until it or the caller ends. Returns its exit code, negative for a signal."""
    _adopt_orphans()
    signals: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: signals.append(number))
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True, pass_fds=[lock])
    try:
        while process.poll() is None:
            if signals or _closed(sys.stdin.fileno()):
                return -signal.SIGTERM
        return process.returncode
    finally:
        _end_all(process)


def _adopt_orphans() -> None:
    """Make this process the parent of descendants whose own parent dies, so that they can be found and ended."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) failed")


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def _closed(pipe: int) -> bool:
    readable, _, _ = select.select([pipe], [], [], _POLL_SECONDS)
    return bool(readable) and not os.read(pipe, 1024)


def _end_all(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM to the command's group, then SIGKILL to every descendant that is left, in whichever group."""
    if process.poll() is None:
        _signal(process, signal.SIGTERM)
    this = psutil.Process()
    deadline = time.monotonic() + GRACE_SECONDS
    while left := this.children(recursive=True):
        if time.monotonic() > deadline or not _signal(process, 0):
            for child in left:
                child.kill()
        # Zombies that were adopted are reaped by this wait.
        psutil.wait_procs(left, timeout=_POLL_SECONDS)


def _signal(process: subprocess.Popen[bytes], number: int) -> bool:
    """Signal the process's group. Returns whether any of the group is left; 0 only asks."""
    process.poll()
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return False
    return True


if __name__ == "__main__":
    code = main(int(sys.argv[1]), sys.argv[2:])
    sys.exit(code if code >= 0 else 128 - code)
