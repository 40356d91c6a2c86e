"""Fetching a file over HTTP so that an interrupted download goes on where it stood."""

from __future__ import annotations

import codecs
import errno
import urllib.error
import urllib.request
from http.client import HTTPException, HTTPResponse
from pathlib import Path

from tqdm import tqdm

from styleblend.errors import StyleBlendError, TransientError

TIMEOUT_S = 30
BLOCK = 1 << 20

# What is wrong on this machine, and stays so however often a server is asked; urllib wraps what the network says.
_LOCAL = {
    errno.EACCES, errno.EDQUOT, errno.EEXIST, errno.EFBIG, errno.EISDIR, errno.ENAMETOOLONG, errno.ENOSPC,
    errno.ENOTDIR, errno.EPERM, errno.EROFS,
}  # fmt: skip


class DownloadError(StyleBlendError):
    """A file was not to be had, or not to its end. The message is the reason alone; the caller adds the remedy."""


class Interrupted(DownloadError, TransientError):
    """The same, and a later try may go better."""


def fetch(url: str, partial: Path) -> None:
    """Write what is behind `url` into `partial`; what is there already is gone on with, where the server can.

    A file beside it keeps the server's name for this state, so that halves of two files are never joined; without it
    all is fetched again. The caller checks the content, gives the final name, and each url a partial file of its own.

    Raises:
        DownloadError: the server has no such file, or gives it to nobody, or nothing can be written here.
        Interrupted: the server cannot be reached, is in trouble, or ended too early; what came is kept.
    """
    try:
        partial.parent.mkdir(parents=True, exist_ok=True)
        _fetch(url, partial)
    except (OSError, ValueError, HTTPException) as error:
        lasting = isinstance(error, ValueError) or getattr(error, "errno", None) in _LOCAL
        if isinstance(error, urllib.error.HTTPError):
            error.close()
            lasting = error.code < 500 and error.code not in (408, 429)
        reason = getattr(error, "reason", None) or error
        kind = DownloadError if lasting else Interrupted
        raise kind(" ".join(str(reason).split()) or type(error).__name__) from None


def forget(partial: Path) -> None:
    """Remove an unfinished download, which nobody wants to go on with."""
    partial.unlink(missing_ok=True)
    _state(partial).unlink(missing_ok=True)


def finish(partial: Path, path: Path) -> None:
    """Give a download that was found right its final name."""
    partial.replace(path)
    _state(partial).unlink(missing_ok=True)


def begun(partial: Path) -> int:
    """Bytes of an unfinished download that the next one goes on from; 0 where nobody knows of which file they are."""
    return partial.stat().st_size if partial.is_file() and _state(partial).is_file() else 0


def _state(partial: Path) -> Path:
    return partial.with_name(f"{partial.name}.state")


def _fetch(url: str, partial: Path) -> None:
    there = begun(partial)
    # Some servers turn away programs that do not say what they are.
    headers = {"User-Agent": "styleblend"}
    if there:
        headers |= {"Range": f"bytes={there}-", "If-Range": _state(partial).read_text()}
    try:
        answer: HTTPResponse = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if there and error.code == 416:  # nothing after what is there: it is whole
            error.close()
            return
        raise
    with answer:
        # A server that knows no ranges, or has another file by now, sends all of it again.
        goes_on = answer.status == 206
        start = there if goes_on else 0
        length = answer.headers.get("Content-Length")
        total = start + int(length) if length else None
        tag = answer.headers.get("ETag", "")
        mark = tag if tag and not tag.startswith("W/") else answer.headers.get("Last-Modified")
        with (
            partial.open("ab" if goes_on else "wb") as stream,
            tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=partial.stem, disable=None) as bar,
        ):
            if mark:
                _state(partial).write_text(mark)
            else:
                _state(partial).unlink(missing_ok=True)
            while block := answer.read(BLOCK):
                stream.write(block)
                bar.update(len(block))
    if total is not None and partial.stat().st_size < total:
        raise OSError(f"the connection ended at {partial.stat().st_size} of {total} bytes")


def is_web_page(path: Path) -> bool:
    """Whether a file is what a server shows, or answers in XML, in place of the file that was asked for."""
    with path.open("rb") as stream:
        begins = stream.read(512).removeprefix(codecs.BOM_UTF8)
    return begins.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml"))
