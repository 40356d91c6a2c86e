"""Zip and tar files as folders: fetched with a checksum if they are elsewhere, unpacked once, never outside."""

from __future__ import annotations

import shutil
import tarfile
import zipfile
from pathlib import Path, PurePosixPath
from typing import IO

from tqdm import tqdm

from styleblend import downloads
from styleblend.config import ArchiveSource
from styleblend.errors import StyleBlendError
from styleblend.files import fingerprint, sha256

BLOCK = 1 << 20


def unpacked(source: ArchiveSource, state: Path) -> Path:
    """A folder with the archive's files; made once, and gone on with after an interruption.

    Raises:
        StyleBlendError: the archive cannot be had or read, has another SHA-256, or names a file outside itself.
    """
    archive = source.path if source.url is None else fetched(source.url, source.sha256 or "", state)
    assert archive is not None
    if not archive.is_file():
        raise StyleBlendError(f"{archive} does not exist: set the path of source '{source.name}' to a zip or tar file")
    content = sha256(archive)
    if source.sha256 is not None and content != source.sha256:
        raise StyleBlendError(
            f"{archive} has sha256 {content}, wanted {source.sha256}: get it again, or correct the line"
        )
    folder = state / f"unpacked-{fingerprint(content)}"
    if not folder.exists():
        partial = folder.with_name(f"{folder.name}.part")
        _unpack(archive, partial)
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
        downloads.fetch(url, partial)
    except downloads.DownloadError as error:
        raise StyleBlendError(
            f"{url} cannot be fetched ({error}): start again to go on from "
            f"{partial.stat().st_size if partial.exists() else 0} bytes, or fetch it by other means and set path"
        ) from None
    found = sha256(partial)
    if found != wanted:
        downloads.forget(partial)
        raise StyleBlendError(f"{url} gives a file with sha256 {found}, wanted {wanted}: correct url or sha256")
    downloads.finish(partial, file)
    return file


def _unpack(archive: Path, folder: Path) -> None:
    """Write every regular file of the archive; links and devices are left out, and files of the right size kept."""
    label = f"unpack {archive.name}"
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as zipped:
                for entry in tqdm(zipped.infolist(), desc=label, disable=None):
                    target = _place(archive, folder, entry.filename)
                    if not entry.is_dir() and not _is_there(target, entry.file_size):
                        with zipped.open(entry) as content:
                            _write(content, target)
        elif tarfile.is_tarfile(archive):
            with tarfile.open(archive) as tar:
                for member in tqdm(tar, desc=label, disable=None):
                    target = _place(archive, folder, member.name)
                    if member.isreg() and not _is_there(target, member.size):
                        file = tar.extractfile(member)
                        assert file is not None  # only for what is no regular file
                        with file:
                            _write(file, target)
        else:
            raise StyleBlendError(f"{archive} is neither a zip nor a tar file: get it again, or name another")
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, OSError) as error:
        raise StyleBlendError(f"{archive} cannot be unpacked ({error}): get it again") from None


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
