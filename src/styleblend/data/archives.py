"""Zip and tar files as folders: fetched with a checksum if they are elsewhere, unpacked once, never outside."""

from __future__ import annotations

import lzma
import re
import shutil
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import IO

from tqdm import tqdm

from styleblend.config.sources import PackedSource
from styleblend.errors import StyleBlendError, TransientError
from styleblend.system import download
from styleblend.system.files import fingerprint, sha256
from styleblend.system.parallel import spread

BLOCK = 1 << 20
# Parts of a zip that are unpacked one by one: enough for a bar, and few, for each reads the table of contents anew.
PARTS = 100
# Smaller tar files are unpacked before a line in a log would be of use.
LOGGED_BYTES = 100 * BLOCK


@dataclass(frozen=True)
class ZipPart:
    """Some files of a zip file, to be written below `folder`."""

    archive: Path
    folder: Path
    names: tuple[str, ...]


def unpacked(source: PackedSource, state: Path, workers: int = 1, wanted: re.Pattern[str] | None = None) -> Path:
    """A folder with the archive's files; made once, and gone on with after an interruption.

    A zip file is unpacked by `workers` processes; a tar file is one stream, and so is a download.

    Args:
        wanted: names of the files to unpack, without their folders; None: all.
    Raises:
        StyleBlendError: the archive cannot be had or read, has another SHA-256, or names a file outside itself.
    """
    archive = source.path if source.url is None else fetched(source.url, source.sha256 or "", state)
    assert archive is not None
    if not archive.is_file():
        what = "is a folder" if archive.is_dir() else "does not exist"
        raise StyleBlendError(f"{archive} {what}: set the path of source '{source.name}' to a zip or tar file")
    content = sha256(archive)
    if source.sha256 is not None and content != source.sha256:
        raise StyleBlendError(
            f"{archive} has sha256 {content}, wanted {source.sha256}: get it again, or correct the line"
        )
    folder = state / f"unpacked-{fingerprint(content, wanted.pattern if wanted else '')}"
    if not folder.exists():
        partial = folder.with_name(f"{folder.name}.part")
        partial.mkdir(parents=True, exist_ok=True)
        _unpack(archive, partial, workers, wanted or re.compile(".*", re.DOTALL))
        partial.rename(folder)
    return folder


def fetched(url: str, wanted: str, state: Path) -> Path:
    """The file behind `url`, with this SHA-256; what an earlier, interrupted call has left is gone on with.

    Raises:
        StyleBlendError: it cannot be fetched, or its content is another.
    """
    file = state / "archives" / wanted[:16]
    if file.is_file():
        return file
    partial = file.with_name(f"{file.name}.part")
    try:
        download.fetch(url, partial)
    except download.DownloadError as error:
        kind = TransientError if isinstance(error, TransientError) else StyleBlendError
        raise kind(
            f"{url} cannot be fetched ({error}): start again to go on from "
            f"{download.begun(partial)} bytes, or fetch it by other means and set path"
        ) from None
    found = sha256(partial)
    if found != wanted:
        download.forget(partial)
        raise StyleBlendError(f"{url} gives a file with sha256 {found}, wanted {wanted}: correct url or sha256")
    download.finish(partial, file)
    return file


def _unpack(archive: Path, folder: Path, workers: int, wanted: re.Pattern[str]) -> None:
    """Write every wanted file of the archive; links and devices are left out, and files of the right size kept."""
    with _readable(archive):
        zipped, tarred = zipfile.is_zipfile(archive), tarfile.is_tarfile(archive)
    if zipped:
        _unpack_zip(archive, folder, workers, wanted)
    elif tarred:
        with _readable(archive):
            _unpack_tar(archive, folder, wanted)
    else:
        raise StyleBlendError(f"{archive} is neither a zip nor a tar file: get it again, or name another")


@contextmanager
def _readable(archive: Path) -> Iterator[None]:
    """Damage to an archive, of whichever kind, as one line."""
    try:
        yield
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError, RuntimeError) as error:
        text = f"{error}): get it again"
        if isinstance(error, RuntimeError):  # a password, or a compression that Python does not know
            text = f"{error}): unpack it by other means and name the folder"
        elif isinstance(error, OSError) and error.errno is not None:  # not the archive's fault: a full disk, as a rule
            text = f"{error.strerror}): mend that and start again to go on"
        raise StyleBlendError(f"{archive} cannot be unpacked ({text}") from None


def _unpack_zip(archive: Path, folder: Path, workers: int, wanted: re.Pattern[str]) -> None:
    with _readable(archive), zipfile.ZipFile(archive) as zipped:
        names = [entry.filename for entry in zipped.infolist() if not entry.is_dir()]
    for name in names:
        _place(archive, folder, name)
    names = [name for name in names if wanted.fullmatch(PurePosixPath(name).name)]
    count = min(PARTS, len(names))
    limits = [len(names) * k // count for k in range(count + 1)] if names else []
    parts = [ZipPart(archive, folder, tuple(names[start:end])) for start, end in pairwise(limits)]
    for _ in spread(_unpack_part, parts, workers, f"unpack {archive.name}"):
        pass


def _unpack_part(part: ZipPart) -> None:
    with _readable(part.archive), zipfile.ZipFile(part.archive) as zipped:
        for name in part.names:
            target, size = _place(part.archive, part.folder, name), zipped.getinfo(name).file_size
            if not _is_there(target, size):
                with zipped.open(name) as content:
                    _write(content, target)


def _unpack_tar(archive: Path, folder: Path, wanted: re.Pattern[str]) -> None:
    with archive.open("rb") as raw, tarfile.open(fileobj=raw) as tar:
        for member in _shown(tar, raw, archive):
            target = _place(archive, folder, member.name)
            if member.isreg() and wanted.fullmatch(target.name) and not _is_there(target, member.size):
                file = tar.extractfile(member)
                assert file is not None  # only for what is no regular file
                with file:
                    _write(file, target)


def _shown(tar: tarfile.TarFile, raw: IO[bytes], archive: Path) -> Iterator[tarfile.TarInfo]:
    """Members, with a bar in a terminal and about ten lines in a log; how many there are is only known at the end."""
    total, label, said = archive.stat().st_size, f"unpack {archive.name}", 0
    with tqdm(total=total, unit="B", unit_scale=True, desc=label, disable=None) as bar:
        for member in tar:
            yield member
            bar.update(raw.tell() - bar.n)
            tenths = 10 * raw.tell() // total
            if not sys.stderr.isatty() and total >= LOGGED_BYTES and tenths > said:
                said = tenths
                print(f"{label}: {10 * said} of 100 %", flush=True)


def _place(archive: Path, folder: Path, name: str) -> Path:
    place = PurePosixPath(name)
    if place.is_absolute() or ".." in place.parts:
        raise StyleBlendError(f"{archive} names {name}, a file outside itself: it is not to be trusted")
    return folder / place


def _is_there(target: Path, size: int) -> bool:
    return target.is_file() and target.stat().st_size == size


def _write(content: IO[bytes], target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as stream:
        shutil.copyfileobj(content, stream, BLOCK)
