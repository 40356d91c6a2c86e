"""The one door to DVC: whether it would run in a project, its own words where it fails, a wait where it is busy."""

from __future__ import annotations

import configparser
import subprocess
import sys
import time
from pathlib import Path

from styleblend.errors import StyleBlendError, TransientError

_BUSY = ("is busy, it is being blocked", "Unable to acquire lock")
_BROKEN_OFF = "failed to run"
_PATIENCE_S, _POLL_SECONDS = 20.0, 1.0


class DvcBusy(TransientError):
    """Another DVC is at work in the project."""


def command(*arguments: str) -> list[str]:
    """The command line of DVC in this environment."""
    return [sys.executable, "-m", "dvc", *arguments]


def says(folder: Path, *arguments: str) -> str:
    """What DVC prints; where another DVC is at work, its end is waited for a while.

    Raises:
        DvcBusy: it was at work for longer.
        StyleBlendError: DVC failed; the message has its own reason.
    """
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        done = subprocess.run(
            command(*arguments), cwd=folder, capture_output=True, text=True, errors="surrogateescape", check=False
        )
        if not done.returncode:
            return done.stdout
        why = reason(done.stderr or done.stdout) or f"it ended with {done.returncode}"
        busy = is_busy(why)
        if not busy or time.monotonic() > deadline:
            raise (DvcBusy if busy else StyleBlendError)(f"dvc {' '.join(arguments)} failed in {folder}: {why}")
        time.sleep(_POLL_SECONDS)


def reason(output: str) -> str | None:
    """DVC's own reason of a failure in one line, from what it printed; None where it gave none."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    start = next((at for at in reversed(range(len(lines))) if lines[at].startswith("ERROR: ")), None)
    if start is None:
        return next((line for line in lines if line.endswith("is invalid.")), None)
    # A list of who is in the way follows a colon.
    end = start + 2 if lines[start].endswith(":") else start + 1
    return " ".join(lines[start:end]).removeprefix("ERROR: ")


def is_busy(reason: str) -> bool:
    """Whether DVC failed because another DVC is at work."""
    return any(word in reason for word in _BUSY)


def may_pass(reason: str | None) -> bool:
    """Whether the same command may succeed later: DVC was busy, or a stage broke off without a word."""
    return reason is None or is_busy(reason) or _BROKEN_OFF in reason


def refusal(project: Path) -> str | None:
    """Why DVC would refuse to run in a project; None where it would not. Nothing is started."""
    if not (project / ".dvc").is_dir():
        return f"{project.resolve()} has no folder .dvc, so DVC refuses it: take it from the repository, or `dvc init`"
    here = project.resolve()
    if any((folder / ".git").exists() for folder in (here, *here.parents)) or _without_git(project):
        return None
    return (
        f"{here} is not a git repository, and DVC refuses it: `git init` there, or, where no git is wanted, "
        "`dvc config --local core.no_scm true`"
    )


def expect_project(project: Path) -> None:
    """Do nothing where DVC would run.

    Raises:
        StyleBlendError: it would refuse the project.
    """
    if (refused := refusal(project)) is not None:
        raise StyleBlendError(refused)


def _without_git(project: Path) -> bool:
    settings = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        settings.read([project / ".dvc/config", project / ".dvc/config.local"])
        return settings.getboolean("core", "no_scm", fallback=False)
    except (configparser.Error, ValueError, UnicodeDecodeError):
        # DVC says what is wrong with them.
        return True
