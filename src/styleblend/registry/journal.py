"""A file of entries that are kept in their order until they were sent; whole after a kill at any moment."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from styleblend.system.files import whole_file


class Journal:
    """Entries, a line of JSON each, and up to where they were sent. One writer; another thread may read and send."""

    def __init__(self, folder: Path) -> None:
        """Open the journal of a folder, or begin one; half a line, which a kill left, is taken off."""
        self._file, self._mark = folder / "entries.jsonl", folder / "sent.txt"
        self._held = b""
        content = self._file.read_bytes() if self._file.exists() else b""
        self._size = content.rfind(b"\n") + 1
        self._sent = min(_number(self._mark), self._size)

    def append(self, entry: Mapping[str, Any]) -> None:
        """Keep an entry; on the disk when this returns.

        Raises:
            OSError: the disk does not take it. It is held in memory, and comes with the next entry.
        """
        self._held += json.dumps(entry).encode() + b"\n"
        with self._file.open("ab") as stream:
            # A disk that was full has taken part of it.
            stream.truncate(self._size)
            stream.write(self._held)
            stream.flush()
            os.fsync(stream.fileno())
        self._size, self._held = self._size + len(self._held), b""

    def pending(self, most: int) -> tuple[list[dict[str, Any]], int]:
        """The first entries that were not sent, at most so many, and what `sent` wants to hear once they are."""
        found: list[dict[str, Any]] = []
        end, size = self._sent, self._size
        if end < size:
            with self._file.open("rb") as stream:
                stream.seek(end)
                while end < size and len(found) < most:
                    line = stream.readline()
                    end += len(line)
                    found.append(json.loads(line))
        return found, end

    def sent(self, end: int) -> None:
        """Note what was sent. A kill before this sends the same entries again."""
        with whole_file(self._mark) as partial:
            partial.write_text(f"{end}\n")
        self._sent = end

    @property
    def all_sent(self) -> bool:
        return self._sent == self._size and not self._held

    def entries(self) -> Iterator[dict[str, Any]]:
        """All entries, sent or not."""
        if self._size:
            with self._file.open("rb") as stream:
                while stream.tell() < self._size:
                    yield json.loads(stream.readline())


def _number(file: Path) -> int:
    """The number in a file; 0 where there is none, so that all is sent again, which makes nothing double."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return 0
