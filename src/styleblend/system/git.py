"""The one door to git: its answers, its own words where it refuses, and a wait where another git is at work."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

from styleblend.errors import StyleBlendError

_LOCKED = ("index.lock': File exists", "another git process seems to be running")
_PATIENCE_S, _POLL_SECONDS = 10.0, 0.5


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run git in a folder; a missing git is exit code 127, and a lock of another git is waited for a while.

    Names of files that are not UTF-8 are in the output as Python has them (surrogate escapes).
    """
    # Its words are compared, so they must be English; asking must not lock out a person's own git.
    env = os.environ | {"LC_ALL": "C", "LANGUAGE": "C", "GIT_OPTIONAL_LOCKS": "0"}
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            done = subprocess.run(
                ["git", *arguments], cwd=folder, env=env, capture_output=True, text=True, errors="surrogateescape"
            )
        except FileNotFoundError:
            return subprocess.CompletedProcess(arguments, 127, "", "git is not installed, or the folder is gone")
        except OSError as error:
            return subprocess.CompletedProcess(arguments, 126, "", f"git cannot be started: {error.strerror}")
        if not done.returncode or time.monotonic() > deadline or not any(word in done.stderr for word in _LOCKED):
            return done
        time.sleep(_POLL_SECONDS)


def words(done: subprocess.CompletedProcess[str]) -> str:
    """What git said of a failure, in one line."""
    said = " ".join(done.stderr.split()).replace("fatal: ", "").rstrip(":")
    return said.encode(errors="surrogateescape").decode(errors="replace") or f"git ended with {done.returncode}"


def refusal(folder: Path) -> str | None:
    """Why git cannot be asked about a folder, in its own words; None where it can."""
    done = run(folder, "rev-parse", "--git-dir")
    return words(done) if done.returncode else None


def expect_repository(folder: Path) -> None:
    """Do nothing where git can be asked about the folder.

    Raises:
        StyleBlendError: it cannot; the message has its own words.
    """
    if (refused := refusal(folder)) is not None:
        raise StyleBlendError(f"git cannot be asked in {folder}: {refused}")
