"""A local MLflow store that was moved or copied: its database still names files at the place where it was made.

MLflow writes absolute addresses of its files into its database. Files of a store belong beside the database, in
`mlruns`; where a database names another `mlruns`, the addresses are rewritten, once and all of them, as soon as the
files themselves are beside it. Nothing is ever read from the other place or written into it.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

FOLDER = "mlruns"
_COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""Where the database has addresses of files."""
_OWNERS = _COLUMNS[1:3]
"""Those with a folder of files each."""
_PATIENCE_S = 20.0


@dataclass(frozen=True)
class Move:
    """A store's folder of files as its database has it, and as it should be.

    address: of `old`, in the database's words. left_behind: folders of files that are at `old` alone, below it.
    """

    file: Path
    old: Path
    new: Path
    address: str
    left_behind: tuple[str, ...]

    @property
    def refusal(self) -> str:
        """Why the store cannot be used, in one line."""
        count = len(self.left_behind)
        return (
            f"MLflow's {self.file} came without its files: {count} folders of them are in {self.old} alone, where "
            f"nothing is written: copy {self.old} to {self.new}, or move {self.file.name} away to begin anew"
        )


def home(file: Path) -> Path:
    """Where the files of a store belong."""
    return file.parent / FOLDER


def find(file: Path, experiment: str) -> Move | None:
    """Whether the database names another `mlruns` than its own; None where it does not, or lets a server keep files.

    Raises:
        sqlite3.Error: the database cannot be read.
    """
    with _connected(file) as database:
        if not _has(database, "experiments", "artifact_location"):
            return None
        query = "SELECT artifact_location FROM experiments WHERE name = ?"
        row = database.execute(query, (experiment,)).fetchone()
        old = None if row is None or row[0] is None else _path(row[0])
        # What a person has named otherwise was chosen, and is no trace of a move.
        if old is None or old == home(file) or old.name != FOLDER:
            return None
        address = str(row[0]).rstrip("/")
        inside = _inside(database, address)
    left = sorted(each for each in inside if os.path.exists(old / each) and not os.path.exists(home(file) / each))
    return Move(file, old, home(file), address, tuple(left))


def settle(move: Move) -> None:
    """Rewrite the addresses of the database, all or none.

    Raises:
        sqlite3.Error: the database cannot be written.
    """
    with _connected(move.file) as database:
        database.execute("BEGIN IMMEDIATE")
        for table, column in _COLUMNS:
            if not _has(database, table, column):
                continue
            # MLflow's own experiment is recorded as a plain path.
            for old, new in ((move.address, move.new.as_uri()), (str(move.old), str(move.new))):
                database.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                    f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                    (new, len(old) + 1, old, len(old) + 1, f"{old}/"),
                )
        database.execute("COMMIT")


@contextmanager
def _connected(file: Path) -> Iterator[sqlite3.Connection]:
    # Transactions are begun by hand; one that is open is rolled back.
    with closing(sqlite3.connect(file, timeout=_PATIENCE_S, isolation_level=None)) as database:
        yield database


def _has(database: sqlite3.Connection, table: str, column: str) -> bool:
    return any(row[1] == column for row in database.execute(f"PRAGMA table_info({table})"))


def _inside(database: sqlite3.Connection, address: str) -> set[str]:
    """Folders of files below an address, relative to it, as paths."""
    found = set()
    for table, column in _OWNERS:
        if _has(database, table, column):
            for (place,) in database.execute(f"SELECT {column} FROM {table} WHERE {column} IS NOT NULL"):
                if place.startswith(f"{address}/"):
                    relative = place.removeprefix(f"{address}/").removesuffix("/artifacts")
                    found.add(url2pathname(relative))
    return found


def _path(address: str) -> Path | None:
    """The folder of an address on this machine; None for an address elsewhere."""
    parts = urlsplit(address)
    if parts.scheme == "file":
        return Path(url2pathname(parts.path))
    return Path(address) if not parts.scheme and address.startswith("/") else None
