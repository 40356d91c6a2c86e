"""Results that outlive the run that made them, found by what they were made from.

DVC removes a stage's outputs before the stage runs. What is kept here, below .state, stays: a killed stage goes on
where it was, and a later one does only what is new. A result is never taken for another's: its key names everything
that it depends on, and its content is checked when it is read.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from styleblend.system import lock
from styleblend.system.files import whole_file

_DIGEST_BYTES = 32


def is_guest(state: Path) -> bool:
    """Whether this process uses a state that is another's: it runs in a working copy of a project, which lies inside
    the project's own .state. A guest adds to the state and goes on from what is there, but removes only what guests
    made: the project itself still needs the rest.
    """
    return Path.cwd().resolve().is_relative_to(state.resolve())


@dataclass(frozen=True)
class Kept:
    """Results in a folder, by keys of hex digits. Several processes may read and write it at once."""

    folder: Path

    def file(self, key: str, suffix: str = "") -> Path:
        """Where the result of a key, or a file that belongs to it, lies or will lie."""
        return self.folder / key[:2] / f"{key}{suffix}"

    def get(self, key: str) -> bytes | None:
        """What was put under the key; None if nothing was, or if it is damaged."""
        try:
            stored = self.file(key).read_bytes()
        except OSError:
            return None
        content = stored[_DIGEST_BYTES:]
        return content if hashlib.sha256(content).digest() == stored[:_DIGEST_BYTES] else None

    def put(self, key: str, content: bytes) -> None:
        """Keep a result, whole or not at all."""
        with whole_file(self.file(key), lasting=False) as partial:
            partial.write_bytes(hashlib.sha256(content).digest() + content)

    def keep_only(self, names: set[str]) -> None:
        """Remove every file of another name, such as what a killed process left half written."""
        for place in self.folder.glob("*/*"):
            if place.name not in names:
                place.unlink()


@contextmanager
def kept(state: Path | None, stage: str, made_by: str, out: Path) -> Iterator[tuple[Kept, set[str]]]:
    """Open what earlier runs of a stage finished; at the end everything goes that this run did not use.

    That takes what came of removed inputs and what other settings made. It waits for a later run where another process
    is at work with the same stage, whose results it would take away; where the block ends with an error; and in a
    guest (see is_guest), whose other settings would take the project's own results away.

    Args:
        state: folder for all stages; None keeps nothing beyond the block.
        made_by: fingerprint of what changes every result: settings, networks, code.
        out: what the stage writes; without `state` the results lie beside it, on the same file system.
    Yields:
        the results, and an empty set for the names of the files in use.
    """
    if state is None:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as folder:
            yield Kept(Path(folder)), set()
        return
    place = state / stage
    # Not in the folder of results, which may be removed: a lock on a removed file protects nothing.
    with lock.share(place / "lock") as alone:
        store, used = Kept(place / made_by), set[str]()
        yield store, used
        if not is_guest(state) and alone():
            for other in place.iterdir():
                if other.is_dir() and other != store.folder:
                    shutil.rmtree(other)
            store.keep_only(used)


def linked(file: Path, place: Path) -> None:
    """Give a finished file a second name, without a second copy where the file system can.

    Nothing in this project writes into a file that is there: a new one takes its name.
    """
    try:
        os.link(file, place)
    except OSError:
        shutil.copyfile(file, place)
