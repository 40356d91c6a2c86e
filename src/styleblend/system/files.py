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

from styleblend.errors import UNSHOWN

_PARTIAL = ".partial-"
_LONGEST_ENDING = 16
_LONGEST_NAME = 255
"""Bytes; the limit of nearly every file system."""
_ROOM = 15
"""Bytes that other tools may append to a name, as for a temporary one."""
_READABLE = 48
"""Characters that are kept of a name that cannot stay; at most four bytes each."""


@contextmanager
def whole_file(path: Path, lasting: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it gets the final name only if the block ends without an error.

    Args:
        lasting: whether its content is on the disk before it has the name, so that a power cut, too, leaves no half of
            it. Not needed, and slow for thousands of files, where a hash is compared before the file is used, or a
            whole_folder takes it in.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Writers choose a format by the ending. The rest of the name stays out: with it, a name of 240 bytes has no room.
    ending = path.suffix if len(os.fsencode(path.suffix)) <= _LONGEST_ENDING else ""
    handle, name = tempfile.mkstemp(prefix=_PARTIAL, suffix=ending, dir=path.parent)
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        # mkstemp makes files that only the owner can read; outputs follow the user's umask instead.
        umask = os.umask(0)
        os.umask(umask)
        partial.chmod(0o666 & ~umask)
        if lasting:
            flush(partial)
        os.replace(partial, path)
        if lasting:
            flush(path.parent)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; it replaces `path` only if the block ends without an error.

    As with whole_file, all its content is on the disk first.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=path.parent))
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


def safe_name(relative: Path) -> Path:
    """A relative path that every table, archive and tool takes: UTF-8, without control characters, not too long.

    Parts that are so already stay as they are. Another keeps what can be read of it, and is told from its like by a
    hash of its bytes.
    """
    return Path(*map(_safe_part, relative.parts))


def fitting_name(name: str, ending: str = "") -> str:
    """A file's name with something appended; one that grows too long is cut, and told from its like by a hash."""
    whole = name + ending
    if len(os.fsencode(whole)) <= _LONGEST_NAME:
        return whole
    kept = os.fsencode(name)[: _LONGEST_NAME - len(os.fsencode(ending)) - 9].decode(errors="ignore")
    return f"{kept}-{_hash(name)[:8]}{ending}"


def _safe_part(part: str) -> str:
    if UNSHOWN.search(part) is None and len(os.fsencode(part)) <= _LONGEST_NAME - _ROOM:
        return part
    stem, ending = os.path.splitext(part)
    if not ending.isascii() or UNSHOWN.search(ending) or len(ending) > _LONGEST_ENDING:
        stem, ending = part, ""
    readable = UNSHOWN.sub("_", stem)
    return f"{readable[:_READABLE]}-{_hash(part)[:12]}{ending}"


def _hash(name: str) -> str:
    return hashlib.sha256(os.fsencode(name)).hexdigest()


def sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hex."""
    return _digest(path, "sha256")


def md5(path: Path) -> str:
    """MD5 of a file's content, in hex, for comparing with what others publish."""
    return _digest(path, "md5")


def _digest(path: Path, algorithm: str) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, algorithm).hexdigest()


def files_below(folder: Path) -> Iterator[Path]:
    """All files of a folder, at any depth, in order, without what Python keeps of modules."""
    for file in sorted(folder.rglob("*")):
        if file.is_file() and "__pycache__" not in file.parts:
            yield file


def fingerprint(*parts: Path | str) -> str:
    """16 hex digits that change with any part: a text, a file's content, or all files below a folder.

    File names count relative to the given folder, so that the place of a checkout does not matter.
    """
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            digest.update(os.fsencode(part))
        elif part.is_dir():
            for file in files_below(part):
                digest.update(os.fsencode(file.relative_to(part)) + b"\0" + sha256(file).encode())
        else:
            digest.update(sha256(part).encode())
        digest.update(b"\0")
    return digest.hexdigest()[:16]
