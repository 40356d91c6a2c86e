"""Files and folders that are either whole or not there, and hashes of what they hold."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it gets the final name only if the block ends without an error.

    Its content is on the disk before it has the name, so neither a kill nor a power cut leaves half of it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        # mkstemp makes files that only the owner can read; outputs follow the user's umask instead.
        umask = os.umask(0)
        os.umask(umask)
        partial.chmod(0o666 & ~umask)
        flush(partial)
        os.replace(partial, path)
        flush(path.parent)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; it replaces `path` only if the block ends without an error.

    As with whole_file, all its content is on the disk first.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    partial.chmod(0o755)
    try:
        yield partial
        _flush_all(partial)
        if path.exists():
            shutil.rmtree(path)
        os.replace(partial, path)
        flush(path.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def flush(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk.

    Without it a final name can outlive a power cut and its content not. A file system that cannot do it, as some that
    are reached over a network, does what it can.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(handle)


def _flush_all(folder: Path) -> None:
    """The same for all below a folder, by one call to its file system: fsync takes milliseconds for each file."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(handle):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(folder))
    finally:
        os.close(handle)


def sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hex."""
    return _digest(path, "sha256")


def md5(path: Path) -> str:
    """MD5 of a file's content, in hex, for comparing with what others publish."""
    return _digest(path, "md5")


def _digest(path: Path, algorithm: str) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, algorithm).hexdigest()


def fingerprint(*parts: Path | str) -> str:
    """16 hex digits that change with any part: a text, a file's content, or all files below a folder.

    File names count relative to the given folder, so that the place of a checkout does not matter.
    """
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            digest.update(part.encode())
        elif part.is_dir():
            for file in sorted(part.rglob("*")):
                if file.is_file() and "__pycache__" not in file.parts:
                    digest.update(str(file.relative_to(part)).encode() + b"\0" + sha256(file).encode())
        else:
            digest.update(sha256(part).encode())
        digest.update(b"\0")
    return digest.hexdigest()[:16]
