"""Picture files as the world sends them: damaged, disguised, huge, of odd kinds and odd names. All are made here."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, PngImagePlugin

from hostile_faces import LOOKS, PROFILE, PROFILE_DEG, Face, rendered

ENDINGS = (".png", ".jpg", ".webp", ".gif", ".tif", ".bmp", ".avif", ".jp2", ".ppm")
NAMES = (
    b"face", "Zo\u00eb".encode(), "\u5b57\u3000\u4f53".encode(), "\u0646\u0627\u0645\u200c".encode(),
    "\U0001f469\u200d\U0001f9b0".encode(), b"M\xfcller", b"a\nb", b"\x1b[31m", b"-rf", b"%s{0}", b" ", b"x" * 240,
)  # fmt: skip


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_that_claims(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header promises a huge picture."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def encoded(image: Image.Image, ending: str, **options: object) -> bytes:
    """A picture as the content of a file with this ending."""
    stream = io.BytesIO()
    image.save(stream, Image.registered_extensions()[ending], **options)
    return stream.getvalue()


def with_chunk(png: bytes, kind: bytes, data: bytes, checksum: int = 0) -> bytes:
    """A PNG with one more chunk behind its header, its checksum changed by so much."""
    added = chunk(kind, data)
    (right,) = struct.unpack(">I", added[-4:])
    return png[:33] + added[:-4] + struct.pack(">I", right ^ checksum) + png[33:]


def flipped(content: bytes, random: np.random.Generator, bits: int) -> bytes:
    """So many bits turned anywhere."""
    changed = bytearray(content)
    for place in random.integers(0, len(content) * 8, bits):
        changed[place // 8] ^= 1 << (place % 8)
    return bytes(changed)


def _animated(image: Image.Image, random: np.random.Generator) -> tuple[bytes, str]:
    ending = (".gif", ".webp", ".png", ".tif")[random.integers(4)]
    return encoded(image, ending, save_all=True, append_images=[image.rotate(9), image.rotate(5)]), ending


def _exif_turned(image: Image.Image, random: np.random.Generator) -> tuple[bytes, str]:
    exif = Image.Exif()
    exif[0x0112] = int(random.integers(0, 12))  # 9 and more are none
    ending = (".jpg", ".png", ".webp", ".tif")[random.integers(4)]
    return encoded(image, ending, exif=exif), ending


def _profile(image: Image.Image, random: np.random.Generator) -> tuple[bytes, str]:
    kept = ImageCms.ImageCmsProfile(ImageCms.createProfile(("sRGB", "LAB", "XYZ")[random.integers(3)])).tobytes()
    given = flipped(kept, random, int(random.integers(0, 40)))
    return encoded(image, ".jpg", icc_profile=given), ".jpg"


def _moded(image: Image.Image, random: np.random.Generator) -> tuple[bytes, str]:
    mode, ending = (
        ("CMYK", ".jpg"), ("CMYK", ".tif"), ("P", ".png"), ("P", ".gif"), ("L", ".png"), ("LA", ".png"),
        ("RGBA", ".webp"), ("1", ".png"), ("YCbCr", ".tif"), ("LAB", ".tif"), ("F", ".tif"), ("I", ".tif"),
    )[random.integers(12)]  # fmt: skip
    if mode in ("F", "I"):
        image = image.convert("L")
    converted = image.convert("LAB") if mode == "LAB" else image.convert(mode)
    return encoded(converted, ending), ending


def _sixteen(image: Image.Image, random: np.random.Generator) -> tuple[bytes, str]:
    levels = np.asarray(image.convert("L")).astype(np.uint16) * 257
    ending = (".png", ".tif")[random.integers(2)]
    return encoded(Image.fromarray(levels), ending), ending


def _text(image: Image.Image, random: np.random.Generator) -> tuple[bytes, str]:
    png = encoded(image, ".png")
    if random.random() < 0.5:
        return with_chunk(png, b"tEXt", b"Comment\0hello", checksum=1), ".png"
    info = PngImagePlugin.PngInfo()
    info.add_itxt("Comment", "x" * 3_000_000, zip=True)
    return encoded(image, ".png", pnginfo=info), ".png"


def _huge(image: Image.Image, random: np.random.Generator) -> tuple[bytes, str]:
    if random.random() < 0.8:
        return png_that_claims(30_000, 30_000), ".png"
    # As many pixels as are let in, in a file of some kilobytes: the most that a worker has to hold.
    return encoded(Image.new("P", (9_990, 9_990)), ".png", transparency=0), ".png"


def _crowd(image: Image.Image, random: np.random.Generator) -> tuple[bytes, str]:
    crowd = Image.new("RGB", (8 * image.width, 6 * image.height))
    for number in range(48):
        crowd.paste(image, (number % 8 * image.width, number // 8 * image.height))
    return encoded(crowd, ".jpg"), ".jpg"


def _nobody(image: Image.Image, random: np.random.Generator) -> tuple[bytes, str]:
    return encoded(Image.fromarray(random.integers(0, 256, (90, 120, 3), dtype=np.uint8)), ".png"), ".png"


def _cut(image: Image.Image, random: np.random.Generator) -> tuple[bytes, str]:
    content, ending = _plain(image, random)
    return content[: int(len(content) * random.random())], ending


def _unended(image: Image.Image, random: np.random.Generator) -> tuple[bytes, str]:
    ending, last = ((".jpg", 2), (".png", 12), (".gif", 1))[random.integers(3)]
    return encoded(image, ending)[:-last], ending


def _flipped(image: Image.Image, random: np.random.Generator) -> tuple[bytes, str]:
    content, ending = _plain(image, random)
    return flipped(content, random, int(2 ** random.integers(0, 10))), ending


def _disguised(image: Image.Image, random: np.random.Generator) -> tuple[bytes, str]:
    content, _ = _plain(image, random)
    return content, (*ENDINGS, ".txt", "", ".heic", ".jpg.1", ".JPEG")[random.integers(len(ENDINGS) + 5)]


def _zeros(image: Image.Image, random: np.random.Generator) -> tuple[bytes, str]:
    return bytes(int(random.integers(2)) * 5000), ENDINGS[random.integers(len(ENDINGS))]


def _no_picture(image: Image.Image, random: np.random.Generator) -> tuple[bytes, str]:
    content = (b"<!doctype html>", b"%PDF-1.7 ", b"\0\0\0\x18ftypheic", b"PK\x03\x04", random.bytes(300))[
        random.integers(5)
    ]
    return content + bytes(64), ENDINGS[random.integers(len(ENDINGS))]


def _plain(image: Image.Image, random: np.random.Generator) -> tuple[bytes, str]:
    ending = ENDINGS[random.integers(len(ENDINGS))]
    return encoded(image, ending), ending


MUTATIONS: dict[str, Callable[[Image.Image, np.random.Generator], tuple[bytes, str]]] = {
    "plain": _plain, "truncated": _cut, "no end mark": _unended, "bits flipped": _flipped, "wrong ending": _disguised,
    "zero bytes": _zeros, "no picture": _no_picture, "damaged or long text": _text, "colour mode": _moded,
    "16 bit": _sixteen, "animated": _animated, "turned by EXIF": _exif_turned, "colour profile": _profile,
    "crowd": _crowd, "nobody": _nobody, "huge": _huge,
}  # fmt: skip


KINDS = (*MUTATIONS, *LOOKS, PROFILE)


def write(
    folder: Path, faces: Sequence[Face], number: int, seed: int, kinds: tuple[str, ...]
) -> tuple[Path, str, list[float] | None]:
    """Write file `number` of a collection; all of it follows from the faces, seed and number.

    Returns its path and kind, and the landmarks of its face, where they are known.
    """
    random = np.random.default_rng((seed, number))
    kind, turn = kinds[number % len(kinds)], number // len(kinds)
    face = faces[turn % len(faces)]
    if kind == PROFILE:
        face = rendered(face.image.width, PROFILE_DEG[turn % len(PROFILE_DEG)], person=turn)
    image = LOOKS[kind](face, random) if kind in LOOKS else face.image
    content, ending = MUTATIONS.get(kind, _plain)(image, random)
    name = os.fsdecode(NAMES[random.integers(len(NAMES))] + b"%d" % number) + ending
    file = folder / f"{number % 7}" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return file, kind, face.landmarks
