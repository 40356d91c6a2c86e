"""Read picture files of any common format as upright 8-bit RGB, in training and inference alike.

A file that is damaged outside its pixels is read without what is damaged, and that is noted; one that lacks pixels is
refused. CMYK and grey with a colour profile are converted to sRGB. RGB keeps its values and its profile. 16 bits become
8 by dropping the lower byte.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from styleblend.faces.damage import without_damage
from styleblend.faces.picture_kinds import FORMATS, guessed

_LARGEST_FILE = 1 << 29
"""Bytes of a file that is looked through for damage outside its pixels; larger ones are decoded as they are."""
_FIRST = 64
_UNDECODED = "cannot be decoded: "
_WHITE_IS_ZERO = 0
_PHOTOMETRIC = 262


class UnusablePicture(Exception):
    """A picture cannot be used. The message is the reason in one line, without the file's name.

    may_be_damage: the decoder stopped, perhaps at something that holds no pixels.
    """

    def __init__(self, reason: str, may_be_damage: bool = False) -> None:
        super().__init__(reason)
        self.may_be_damage = may_be_damage


@dataclass(frozen=True)
class Picture:
    """An upright photograph.

    rgb: the colours, under transparent parts too; `info` holds at most their `icc_profile`.
    alpha: mode L, of the same size; None where everything is opaque.
    grey: the file has no colour channels.
    notes: what was lost or assumed while reading, a phrase each.
    """

    rgb: Image.Image
    alpha: Image.Image | None = None
    grey: bool = False
    notes: tuple[str, ...] = ()

    def opaque(self, background: str = "white") -> Image.Image:
        """The RGB picture over a plain background: the input of networks."""
        if self.alpha is None:
            return self.rgb
        flat = Image.new("RGB", self.rgb.size, background)
        flat.paste(self.rgb, mask=self.alpha)
        flat.info = dict(self.rgb.info)
        return flat

    def with_colours(self, rgb: Image.Image) -> Image.Image:
        """Give another RGB picture this one's profile, and its transparency as RGBA.

        The given picture is changed in place, since a copy of a large one costs memory.
        """
        rgb.info = dict(self.rgb.info)
        if self.alpha is not None:
            rgb.putalpha(self.alpha)
        return rgb


def open_picture(file: Path | BinaryIO, max_pixels: int) -> Picture:
    """Decode a file, or the content of one.

    Raises:
        UnusablePicture: not decodable, truncated, of 32 bits, or of more than `max_pixels` pixels (checked before
            decoding).
    """
    try:
        with _reasons(file), Image.open(file, formats=FORMATS) as image:
            return as_picture(image, max_pixels)
    except UnusablePicture as refused:
        if not refused.may_be_damage:
            raise
        found = _without_damage(file, max_pixels)
        if found is None:
            raise
        picture, reason = found, str(refused).removeprefix(_UNDECODED)
    return replace(picture, notes=(*picture.notes, f"damage outside its pixels was passed over ({reason})"))


def width_px(file: Path) -> int:
    """The width that a file states, without decoding it.

    Raises:
        UnusablePicture: it states none.
    """
    with _reasons(file), Image.open(file, formats=FORMATS) as image:
        return image.width


def as_picture(image: Image.Image, max_pixels: int) -> Picture:
    """Convert a picture that Pillow has opened; of several frames the current one.

    Raises:
        UnusablePicture: as `open_picture`.
    """
    with _reasons(image):
        _expect_at_most(max_pixels, image)
        notes = []
        # Cameras store MPO, a JPEG with a preview or a second view behind it: not worth a note.
        if getattr(image, "is_animated", False) and image.format != "MPO":
            notes.append("it has several frames or pages, of which the first is used")
        image.load()
        return _converted(_upright(_eight_bit(image)), notes)


def _expect_at_most(max_pixels: int, image: Image.Image) -> None:
    if image.width * image.height > max_pixels:
        raise UnusablePicture(f"{image.width}x{image.height} px is more than align.max_pixels {max_pixels}")


def _without_damage(file: Path | BinaryIO, max_pixels: int) -> Picture | None:
    """The picture of a file that lacks none of its pixels, whatever else is damaged; None: it lacks some."""
    content = _content(file)
    if content is None:
        return None

    def decode(content: bytes) -> Image.Image:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            _expect_at_most(max_pixels, image)
            image.load()
            return image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for candidate in without_damage(content, decode):
            try:
                with _reasons(candidate), Image.open(io.BytesIO(candidate), formats=FORMATS) as image:
                    return as_picture(image, max_pixels)
            except UnusablePicture:
                continue
        # The first frame of an animation, or the first page, where a later one is damaged.
        with suppress(Exception), Image.open(io.BytesIO(content), formats=("GIF", "TIFF")) as image:
            _expect_at_most(max_pixels, image)
            image.load()
            return _converted(_upright(_eight_bit(image)), [])
    return None


def _content(file: Path | BinaryIO) -> bytes | None:
    """All of a file; None: it is too large to be looked through, or cannot be read."""
    try:
        if isinstance(file, Path):
            return file.read_bytes() if file.stat().st_size <= _LARGEST_FILE else None
        file.seek(0)
        content = file.read(_LARGEST_FILE + 1)
    except (OSError, ValueError):
        return None
    return content if len(content) <= _LARGEST_FILE else None


@contextmanager
def _reasons(file: object) -> Iterator[None]:
    """Turn whatever decoding raises into an UnusablePicture."""
    try:
        with warnings.catch_warnings():
            # Pillow warns of large and slightly damaged files; here max_pixels is the limit, and damage is an error.
            warnings.simplefilter("ignore")
            yield
    except UnusablePicture:
        raise
    except Image.DecompressionBombError:
        raise UnusablePicture("so many pixels that it may be a decompression bomb, and is not decoded") from None
    except UnidentifiedImageError:
        reason = f"no picture of a kind that is read here ({', '.join(FORMATS)})"
        if (kind := _guessed(file)) is not None:
            reason = f"it seems to be {kind}" if kind.startswith("a damaged") else f"it seems to be {kind}, {reason}"
        raise UnusablePicture(f"{_UNDECODED}{reason}", may_be_damage=True) from None
    except MemoryError:
        raise UnusablePicture("there is not enough memory to decode it") from None
    except Exception as error:
        # Decoders of arbitrary bytes raise nearly any exception (OSError, SyntaxError, KeyError, struct.error, ...).
        # None may end a run: the picture is refused with the decoder's message.
        reason = " ".join(str(error).replace(str(file), "the file").split()) or type(error).__name__
        raise UnusablePicture(f"{_UNDECODED}{reason}", may_be_damage=True) from None


def _guessed(file: object) -> str | None:
    """What a file seems to be that no decoder takes."""
    if isinstance(file, Path):
        with suppress(OSError), file.open("rb") as stream:
            return guessed(stream.read(_FIRST))
    return None


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:
        # A damaged EXIF block (again any exception) does not make a decodable picture unusable.
        return image.copy()


def _eight_bit(image: Image.Image) -> Image.Image:
    # Pillow has 16 bits for grey only (it reads 16-bit colour as 8), and reads 16-bit PGM files in mode I.
    sixteen = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM")
    if image.mode in ("I", "F") and not sixteen:
        raise UnusablePicture(f"pixels of 32 bit (mode {image.mode}): save it with 8 or 16 bit")
    if not sixteen:
        return image
    levels = np.asarray(image).astype(np.uint16)
    if getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        levels = ~levels
    reduced = Image.fromarray((levels >> 8).astype(np.uint8))
    reduced.info = dict(image.info)
    return reduced


def _converted(image: Image.Image, notes: list[str]) -> Picture:
    grey = image.mode in ("1", "L", "LA", "La")
    alpha = None
    if image.has_transparency_data:
        image = image.convert("LA" if grey else "RGBA")
        alpha = image.getchannel("A")
        image = image.convert("L" if grey else "RGB")
        if alpha.getextrema() == (255, 255):
            alpha = None
    rgb, profile = _to_rgb(image, image.info.get("icc_profile"), notes)
    rgb.info = {} if profile is None else {"icc_profile": profile}
    return Picture(rgb, alpha, grey, tuple(notes))


def _to_rgb(image: Image.Image, profile: bytes | None, notes: list[str]) -> tuple[Image.Image, bytes | None]:
    """The picture in RGB, and the profile that is still valid for it."""
    plain = image if image.mode == "RGB" else image.convert("RGB")
    if profile is None:
        return plain, None
    try:
        described = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = described.profile.xcolor_space.strip()
        if space == "RGB" and image.mode != "CMYK":
            return plain, profile
        if space != {"CMYK": "CMYK", "L": "GRAY"}.get(image.mode):
            raise ImageCms.PyCMSError(f"a profile for {space} on {image.mode}")
        srgb, intent = ImageCms.createProfile("sRGB"), ImageCms.Intent.RELATIVE_COLORIMETRIC
        flags = ImageCms.Flags.BLACKPOINTCOMPENSATION
        converted = ImageCms.profileToProfile(image, described, srgb, intent, outputMode="RGB", flags=flags)
    except (ImageCms.PyCMSError, OSError):
        notes.append("its colour profile is damaged or not its own, so colours are approximate")
        return plain, None
    assert converted is not None  # Pillow returns None for conversions in place only.
    return converted, None
