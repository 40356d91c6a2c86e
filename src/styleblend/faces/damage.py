"""Picture files that are damaged outside their pixels: the same file without what is damaged.

A decoder stops at any damage, at that of a comment as well. What is left out here holds no pixels, and all that holds
pixels is handed on as it is: where some are missing, the decoder still says so.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Callable, Iterator

from PIL import Image

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_PIXELS = (b"IHDR", b"PLTE", b"IDAT")
_PNG_KEPT = (b"tRNS", b"iCCP", b"eXIf", b"gAMA", b"sRGB", b"cHRM")
"""Beside the pixels, if they are whole."""
_END = b"\xff\xd9"
_TAILS = (_END, b"\xaa" * 256 + _END, b"\x55\x33" * 128 + _END)
"""What may follow a JPEG's last byte. A decoder that lacks pixels draws them from what follows."""
_WEBP_PIXELS = (b"VP8X", b"ANIM", b"ANMF", b"ALPH", b"VP8 ", b"VP8L", b"ICCP")
_WEBP_BESIDE = 0x0C
"""Flags of VP8X that announce EXIF and XMP."""
_ICC_BYTES = 1 << 22


def without_damage(content: bytes, decode: Callable[[bytes], Image.Image]) -> Iterator[bytes]:
    """Contents to be decoded in place of a damaged file's, the one that keeps most first.

    Args:
        decode: the pixels of a content, as the file has them; raises an exception of whatever kind where it cannot.
    """
    if content.startswith(_PNG):
        yield from _png(content)
    elif content.startswith(b"\xff\xd8"):
        content = content.rstrip(b"\xff")  # half of a mark; in pixels a zero byte follows it
        for candidate in (content, _jpeg_without_comments(content)):
            if candidate is not None and _all_came(candidate, decode):
                yield candidate + _END
    elif content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        yield from _webp(content)


def _png(content: bytes) -> Iterator[bytes]:
    """The chunks that hold pixels, and of the others those with a right checksum; then the former alone."""
    pixels: list[bytes] = []
    everything: list[bytes] = []
    place = len(_PNG)
    while place + 12 <= len(content):
        (length,) = struct.unpack(">I", content[place : place + 4])
        kind, data = content[place + 4 : place + 8], content[place + 8 : place + 8 + length]
        checksum = content[place + 8 + length : place + 12 + length]
        chunk = content[place : place + 12 + length]
        place += 12 + length
        is_whole = checksum == struct.pack(">I", zlib.crc32(kind + data))
        if kind == b"IEND":
            break
        if kind in _PNG_PIXELS:
            if len(data) < length or not is_whole:
                return  # not outside the pixels
            pixels.append(chunk)
            everything.append(chunk)
        elif kind in _PNG_KEPT and is_whole and length <= _ICC_BYTES:
            everything.append(chunk)
    end = struct.pack(">I", 0) + b"IEND" + struct.pack(">I", zlib.crc32(b"IEND"))
    for chunks in (everything, pixels):
        yield b"".join([_PNG, *chunks, end])


def _all_came(content: bytes, decode: Callable[[bytes], Image.Image]) -> bool:
    """Whether the pixels of a JPEG are the same whatever follows its last byte: then they are all in it."""
    # libjpeg says nothing of pixels that are missing before the mark of the end, and makes them grey.
    try:
        # One large picture at a time.
        drawn = {hashlib.sha256(decode(content + tail).tobytes()).digest() for tail in _TAILS}
    except Exception:  # a decoder of arbitrary bytes raises nearly any; then this is no way to read them
        return False
    return len(drawn) == 1


def _jpeg_without_comments(content: bytes) -> bytes | None:
    """Without comments and applications' segments but JFIF's and Adobe's, which say what the colours are."""
    kept, place = [content[:2]], 2
    while place + 4 <= len(content) and content[place] == 0xFF:
        marker, (length,) = content[place + 1], struct.unpack(">H", content[place + 2 : place + 4])
        if marker == 0xDA:  # pixels begin
            return b"".join([*kept, content[place:]])
        if marker not in (*range(0xE1, 0xEE), 0xEF, 0xFE):
            kept.append(content[place : place + 2 + length])
        place += 2 + length
    return None


def _webp(content: bytes) -> Iterator[bytes]:
    """The whole chunks that hold pixels; what follows them, as a cut-off EXIF, is left out."""
    kept, place = [], 12
    while place + 8 <= len(content):
        kind, (length,) = content[place : place + 4], struct.unpack("<I", content[place + 4 : place + 8])
        data = content[place + 8 : place + 8 + length]
        if len(data) < length:
            if kind in _WEBP_PIXELS:
                return
            break
        if kind == b"VP8X" and data:
            data = bytes([data[0] & ~_WEBP_BESIDE]) + data[1:]
        if kind in _WEBP_PIXELS:
            kept.append(kind + struct.pack("<I", length) + data + b"\0" * (length % 2))
        place += 8 + length + length % 2
    body = b"WEBP" + b"".join(kept)
    yield b"RIFF" + struct.pack("<I", len(body)) + body
