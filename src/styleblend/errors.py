"""Errors whose messages are meant for users, and the one way in which names of files are shown to them."""

from __future__ import annotations

import io
import os
import re
import sys

UNSHOWN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Characters that a terminal obeys, that break or turn a line, and bytes that are not UTF-8 (lone surrogates)."""


def shown(name: str | os.PathLike[str]) -> str:
    """A file's name, or a text with such names in it, as one line that any terminal, log or table takes.

    A name is bytes on Linux. Those that are not UTF-8, which Python keeps as lone surrogates, become `\\xfc` and the
    like, and characters that a terminal would obey or that break a line become escapes. Other text stays as it is, so
    that what was shown once can be shown again.
    """
    return UNSHOWN.sub(_escaped, os.fspath(name))


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    if 0xDC80 <= code <= 0xDCFF:  # how Python keeps a byte that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return found[0].encode("unicode_escape").decode()


def printable_anywhere() -> None:
    """Let this process print what its terminal's encoding lacks: as escapes, not as an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


class StyleBlendError(Exception):
    """An error that the user can fix. The message is one line: what was wrong, the value, the remedy."""

    def __str__(self) -> str:
        return shown(super().__str__())


class TransientError(StyleBlendError):
    """A failure that may pass, as of a network or a server: worth a retry."""


def reason_of(error: BaseException) -> str:
    """A library's own reason: the first line of its message that holds words, else the kind of error."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
