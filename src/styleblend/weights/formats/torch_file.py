"""Torch files, read so that nothing in them can run, and what a file is by its first bytes."""

from __future__ import annotations

import pickle
import re
import warnings
from pathlib import Path
from typing import Any, Literal

import torch

from styleblend.errors import StyleBlendError
from styleblend.system.download import is_web_page

Kind = Literal["torch", "pickle"]

_DAMAGE = (pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError, TypeError, LookupError, AttributeError)

# A torch file from before version 1.6 begins with the pickled number 0x1950A86A20F9469CFC6C.
_OLD_TORCH = re.compile(rb"\x80.\x8a\x0a" + re.escape(0x1950A86A20F9469CFC6C.to_bytes(10, "little")), re.DOTALL)


def kind_of(path: Path) -> Kind:
    """Whether a weight file is torch's or a plain pickle; its name does not matter.

    Raises:
        StyleBlendError: it cannot be read, or is neither; says what it looks like.
    """
    if (kind := maybe_kind_of(path)) is not None:
        return kind
    begins = _begins(path)
    what = "a web page" if is_web_page(path) else "empty" if not begins else f"a file that begins with {begins[:8]!r}"
    raise StyleBlendError(f"{path} is {what}, neither a torch file nor a pickle: fetch it again")


def maybe_kind_of(path: Path) -> Kind | None:
    """As `kind_of`, for files that may be of other formats, too: None where it is neither.

    Raises:
        StyleBlendError: it cannot be read.
    """
    begins = _begins(path)
    if begins.startswith(b"PK\x03\x04") or _OLD_TORCH.match(begins):
        return "torch"
    return "pickle" if re.match(rb"\x80[\x02-\x05]", begins) else None


def _begins(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(512)
    except OSError as error:
        raise StyleBlendError(f"{path} cannot be read: {error.strerror}") from None


def read_torch(path: Path) -> Any:
    """What torch.save wrote, on the CPU: tensors and plain containers of them, nothing else.

    Raises:
        StyleBlendError: the file is damaged or no torch file, or holds something that would have to be run; names it.
    """
    kind_of(path)
    try:
        with warnings.catch_warnings():
            # Damaged files make torch warn of its own insides before it gives up.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except _DAMAGE as error:
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        message = f"{path} is a damaged torch file ({reason}): fetch it again"
        if isinstance(error, pickle.UnpicklingError) and (refused := re.search(r"GLOBAL (\S+)", str(error))):
            message = f"{path} holds {refused[1]}, which is code and not weights: it was not run; use another file"
        raise StyleBlendError(message) from None
