"""Zip and tar files as folders: fetched with a checksum if they are elsewhere, unpacked once, never outside.

An entry that cannot become a file (a link, a device, a name that no disk takes, one that is larger than any picture) is
left out and named; an archive that is made to harm is refused as a whole.
"""

from __future__ import annotations

import errno
import json
import lzma
import os
import re
import shutil
import stat
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
from styleblend.errors import StyleBlendError, TransientError, shown
from styleblend.system import download
from styleblend.system.files import fingerprint, sha256, whole_file
from styleblend.system.parallel import spread

BLOCK = 1 << 20
# Parts of a zip that are unpacked one by one: enough for a bar, and few, for each reads the table of contents anew.
PARTS = 100
# Smaller tar files are unpacked before a line in a log would be of use.
LOGGED_BYTES = 100 * BLOCK
LARGEST_ENTRY = 1 << 30
"""Bytes; pictures of align.max_pixels' upper limit are smaller in any format but uncompressed 16-bit TIFF."""
BOMB_BYTES, BOMB_RATIO = 10 << 30, 100
"""An archive that grows to more bytes than this and by more than this factor is a bomb: photographs hardly shrink."""
_NO_NAME = (errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EILSEQ, errno.EINVAL)
"""What a disk says to a name that it cannot take, or that is a file and a folder at once."""


@dataclass(frozen=True)
class ZipPart:
    """Some files of a zip file, to be written below `folder`."""

    archive: Path
    folder: Path
    names: tuple[str, ...]


LeftOut = dict[str, str]
"""Names of entries that were not unpacked, as they are shown, with the reasons."""


def left_out(folder: Path) -> LeftOut:
    """What `unpacked` did not unpack into a folder that it gave; nothing for any other folder."""
    record = _record(folder)
    if not record.is_file():
        return {}
    found: LeftOut = json.loads(record.read_text())
    return found


def _record(folder: Path) -> Path:
    """Beside the folder: in it, it might be taken for an entry of the archive."""
    return folder.with_name(f"{folder.name}.left_out.json")


def unpacked(source: PackedSource, state: Path, workers: int = 1, wanted: re.Pattern[str] | None = None) -> Path:
    """A folder with the archive's files; made once, and gone on with after an interruption.

    A zip file is unpacked by `workers` processes; a tar file is one stream, and so is a download.

    Args:
        wanted: names of the files to unpack, without their folders; None: all.
    Raises:
        StyleBlendError: the archive cannot be had or read, has another SHA-256, names a file outside itself, or holds
            more than the disk takes.
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
        missing = _unpack(archive, partial, workers, wanted or re.compile(".*", re.DOTALL))
        if missing:
            first = next(iter(missing.items()))
            print(f"{archive.name}: {len(missing)} entries left out, as {first[0]}: {first[1]}", flush=True)
            with whole_file(_record(folder)) as record:
                record.write_text(json.dumps(missing, indent=1))
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


def _unpack(archive: Path, folder: Path, workers: int, wanted: re.Pattern[str]) -> LeftOut:
    """Write every wanted file of the archive that can be one, keep those of the right size; return the others."""
    with _readable(archive):
        zipped, tarred = zipfile.is_zipfile(archive), tarfile.is_tarfile(archive)
    if zipped:
        return _unpack_zip(archive, folder, workers, wanted)
    if tarred:
        with _readable(archive):
            return _unpack_tar(archive, folder, wanted)
    raise StyleBlendError(f"{archive} is neither a zip nor a tar file: get it again, or name another")


def _expect_room(archive: Path, size: int, missing: int) -> None:
    """Refuse what is a bomb, or has no room, before the disk is full.

    Args:
        size: bytes of all that is unpacked. missing: bytes of it that are still to be written.
    """
    if size > BOMB_BYTES and size > BOMB_RATIO * archive.stat().st_size:
        packed = f"{archive.stat().st_size / 1e6:.1f} MB would become {size / 1e9:.1f} GB"
        raise StyleBlendError(f"{archive} seems to be a decompression bomb ({packed}): it is not to be trusted")
    if missing > (free := shutil.disk_usage(archive.parent).free):
        raise StyleBlendError(
            f"{archive} unpacks to {missing / 1e9:.1f} GB more, {free / 1e9:.1f} GB are free: make room, start again"
        )


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


def _unpack_zip(archive: Path, folder: Path, workers: int, wanted: re.Pattern[str]) -> LeftOut:
    with _readable(archive), zipfile.ZipFile(archive) as zipped:
        # Of entries with the same name the last counts, as anywhere.
        entries = {entry.filename: entry for entry in zipped.infolist() if not entry.is_dir()}
    for name in entries:
        _place(archive, folder, name)
    sizes = {name: e.file_size for name, e in entries.items() if wanted.fullmatch(PurePosixPath(name).name)}
    missing: LeftOut = {}
    for name, size in sizes.items():
        if stat.S_ISLNK(entries[name].external_attr >> 16):
            missing[name] = _LINK
        elif size > LARGEST_ENTRY:
            missing[name] = _too_large(size)
    names = [name for name in sizes if name not in missing]
    _expect_room(archive, sum(sizes[name] for name in names), sum(_lacking(folder / n, sizes[n]) for n in names))
    count = min(PARTS, len(names))
    limits = [len(names) * k // count for k in range(count + 1)] if names else []
    parts = [ZipPart(archive, folder, tuple(names[start:end])) for start, end in pairwise(limits)]
    for unwritten in spread(_unpack_part, parts, workers, f"unpack {archive.name}"):
        missing |= unwritten
    return {shown(name): reason for name, reason in missing.items()}


_LINK = "a link in an archive, which is not followed"


def _too_large(size: int) -> str:
    return f"it unpacks to {size / 1e9:.1f} GB, more than any picture has: it may be a decompression bomb"


def _lacking(target: Path, size: int) -> int:
    return 0 if _is_there(target, size) else size


def _unpack_part(part: ZipPart) -> LeftOut:
    missing: LeftOut = {}
    with _readable(part.archive), zipfile.ZipFile(part.archive) as zipped:
        for name in part.names:
            target, size = _place(part.archive, part.folder, name), zipped.getinfo(name).file_size
            if not _is_there(target, size):
                with zipped.open(name) as content:
                    _write(content, target, name, missing)
    return missing


def _unpack_tar(archive: Path, folder: Path, wanted: re.Pattern[str]) -> LeftOut:
    missing: LeftOut = {}
    total = 0
    with archive.open("rb") as raw, tarfile.open(fileobj=raw) as tar:
        for member in _shown(tar, raw, archive):
            target = _place(archive, folder, member.name)
            if member.isdir() or not wanted.fullmatch(target.name):
                continue
            if not member.isreg():
                missing[member.name] = _LINK if member.islnk() or member.issym() else "a device or pipe, not a file"
            elif member.size > LARGEST_ENTRY:
                missing[member.name] = _too_large(member.size)
            else:
                total += member.size
                _expect_room(archive, total, _lacking(target, member.size))
                if not _is_there(target, member.size):
                    file = tar.extractfile(member)
                    assert file is not None  # only for what is no regular file
                    with file:
                        _write(file, target, member.name, missing)
    return {shown(name): reason for name, reason in missing.items()}


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
        raise StyleBlendError(f"{archive} names {shown(name)}, a file outside itself: it is not to be trusted")
    return folder / place


def _is_there(target: Path, size: int) -> bool:
    # Path.is_file raises an error at a name that is too long.
    return os.path.isfile(target) and os.path.getsize(target) == size


def _write(content: IO[bytes], target: Path, name: str, missing: LeftOut) -> None:
    """Write an entry, or note in `missing` that no file can have its name."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        stream = target.open("wb")
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno not in _NO_NAME:
            raise
        missing[name] = f"no file can have its name ({getattr(error, 'strerror', None) or error})"
        return
    with stream:
        shutil.copyfileobj(content, stream, BLOCK)
