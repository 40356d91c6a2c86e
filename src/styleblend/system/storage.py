"""A folder that several machines reach: one that they share, or the part of a bucket behind a URL.

There are no locks in it, and no names that change: what is written under a name is whole or not there, and readers who
must be sure compare a hash. pyarrow, which knows the kinds of storage, is imported when one is opened.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from styleblend.errors import StyleBlendError, TransientError, reason_of
from styleblend.system.files import sha256, whole_file

_BLOCK = 1 << 22


class Storage:
    """A folder by its address: a whole path, or a URL as s3://bucket/folder. Names in it may have slashes.

    Keys are those that the machine's own environment or role gives, never part of the address.
    """

    def __init__(self, address: str) -> None:
        """Raises:
        StyleBlendError: nothing here understands the address.
        """
        self.address = address.rstrip("/") if "?" not in address else address
        self._local = Path(address) if address.startswith("/") else None
        self._opened: tuple[Any, str] | None = None

    def below(self, name: str) -> Storage:
        """A folder in this one."""
        path, mark, options = self.address.partition("?")
        return Storage(f"{path.rstrip('/')}/{name}{mark}{options}")

    def names(self) -> list[str]:
        """Names of the files in the folder itself, in order; none where there is no folder."""
        from pyarrow.fs import FileSelector, FileType

        with self._told("list"):
            filesystem, root = self._open()
            found = filesystem.get_file_info(FileSelector(root, allow_not_found=True))
            # A whole file never begins with a dot: that is one which is still being written, or was given up.
            files = [each.base_name for each in found if each.type == FileType.File]
            return sorted(name for name in files if not name.startswith("."))

    def read(self, name: str) -> bytes | None:
        """What is under a name; None where nothing is."""
        with self._told("read"):
            filesystem, root = self._open()
            try:
                with filesystem.open_input_stream(f"{root}/{name}") as stream:
                    return bytes(stream.read())
            except FileNotFoundError:
                return None

    def write(self, name: str, content: bytes) -> None:
        """Put a small content under a name."""
        with self._told("write to"), self._writing(name) as stream:
            stream.write(content)

    def send(self, file: Path, name: str | None = None) -> None:
        """Put a copy of a file there, under its own name or another."""
        with self._told("write to"), file.open("rb") as given, self._writing(name or file.name) as stream:
            shutil.copyfileobj(given, stream, _BLOCK)

    def fetch(self, file: Path, name: str | None = None, expected: str | None = None) -> None:
        """Write what is under a name to a file, which is whole or not there.

        Args:
            name: if it is another than the file's. expected: SHA-256 of the content, or the beginning of it.
        Raises:
            StyleBlendError: there is nothing, or another content.
        """
        name = name or file.name
        with self._told("read"), whole_file(file, lasting=False) as partial:
            filesystem, root = self._open()
            with filesystem.open_input_stream(f"{root}/{name}") as given, partial.open("wb") as stream:
                shutil.copyfileobj(given, stream, _BLOCK)
            if expected is not None and not sha256(partial).startswith(expected):
                raise StyleBlendError(
                    f"{name} in {self.shown} has another content than was sent there: remove it, and start the training"
                    " again, which sends it"
                )

    def remove(self, name: str) -> None:
        """Take a file away, if it is there."""
        with self._told("write to"):
            filesystem, root = self._open()
            try:
                filesystem.delete_file(f"{root}/{name}")
            except FileNotFoundError:
                return

    def rename(self, name: str, to: str) -> None:
        """Give a file another name."""
        with self._told("write to"):
            filesystem, root = self._open()
            filesystem.move(f"{root}/{name}", f"{root}/{to}")

    def opened(self) -> tuple[Any, str]:
        """pyarrow's file system, and the folder's path in it, for libraries that take these."""
        with self._told("open"):
            return self._open()

    def clear(self) -> None:
        """Take the whole folder away, if it is there."""
        with self._told("write to"):
            filesystem, root = self._open()
            try:
                filesystem.delete_dir(root)
            except FileNotFoundError:
                return

    def _open(self) -> tuple[Any, str]:
        if self._opened is None:
            from pyarrow.fs import FileSystem, LocalFileSystem

            local = self._local is not None
            self._opened = (LocalFileSystem(), self.address) if local else FileSystem.from_uri(self.address)
        return self._opened

    @contextmanager
    def _writing(self, name: str) -> Iterator[IO[bytes]]:
        """A stream to a name. In a bucket it appears when the stream is closed; a folder needs a rename for that."""
        if self._local is not None:
            with whole_file(self._local / name) as partial, partial.open("wb") as stream:
                yield stream
            return
        filesystem, root = self._open()
        with filesystem.open_output_stream(f"{root}/{name}") as stream:
            yield stream

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """What pyarrow and the system raise, as one line."""
        try:
            yield
        except FileNotFoundError as error:
            raise StyleBlendError(f"storage {self.shown} lacks what was sent there: {reason_of(error)}") from None
        except (OSError, ValueError, NotImplementedError) as error:
            raise TransientError(
                f"cannot {what} storage {self.shown}, {_in_short(error)}: see that this machine reaches it and has"
                " keys for it, and start again"
            ) from None

    @property
    def shown(self) -> str:
        """The address without its options, for people."""
        return self.address.partition("?")[0]


def _in_short(error: Exception) -> str:
    return " ".join(reason_of(error).split())[:200]


def scratch_of_user(folder: str) -> Path:
    """A folder of this user below a temporary folder, that nobody else can read or lay anything into."""
    place = Path(folder) / f"styleblend-{os.getuid()}"
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    if place.stat().st_uid != os.getuid() or place.is_symlink():
        raise StyleBlendError(f"{place} belongs to somebody else: remove it, or set TMPDIR to another folder")
    return place
