"""Hashes of what files and folders hold."""

from __future__ import annotations

import hashlib
from pathlib import Path


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
