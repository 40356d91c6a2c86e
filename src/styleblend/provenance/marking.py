"""Embed the marks: the watermark in the pixels, XMP in the file, the signature over both."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from PIL import Image, PngImagePlugin

from styleblend.errors import StyleBlendError
from styleblend.provenance import xmp
from styleblend.provenance.xmp import Kind
from styleblend.system.files import whole_file

if TYPE_CHECKING:
    from styleblend.provenance.credentials import Credentials

FileFormat = Literal["PNG", "JPEG"]

_TEXT_KEY, _TEXT = "StyleBlend", "synthetic"
_FORMATS: dict[str, FileFormat] = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}


def picture_format(path: Path) -> FileFormat:
    """`PNG` or `JPEG`, by the suffix of a file to be written.

    Raises:
        StyleBlendError: any other suffix, since marks are defined for these formats only.
    """
    try:
        return _FORMATS[path.suffix.lower()]
    except KeyError:
        raise StyleBlendError(f"{path}: pictures are written as .png or .jpg; choose such an ending") from None


def save_picture(
    image: Image.Image,
    path: Path,
    *,
    model: str,
    kind: Kind,
    credentials: Credentials | None = None,
    lasting: bool = True,
) -> None:
    """Write a marked picture atomically. `path` ends in .png, .jpg or .jpeg.

    Args:
        lasting: as of whole_file.
    Raises:
        StyleBlendError: another suffix, or the picture cannot be signed.
    """
    content = marked_picture(image, picture_format(path), model=model, kind=kind, credentials=credentials)
    with whole_file(path, lasting) as partial:
        partial.write_bytes(content)


def marked_picture(
    image: Image.Image, file_format: FileFormat, *, model: str, kind: Kind, credentials: Credentials | None = None
) -> bytes:
    """Encode a picture as a marked file; only the pixels and the colour profile of `image` are kept.

    Every picture gets XMP. `grid` and `swap` are signed too, and a `swap` with a shorter side of 256 px or more gets
    the watermark first. `rendered` faces show no real person and come in thousands: XMP alone keeps that stage fast.

    Args:
        image: any mode that the format supports; JPEG drops transparency.
        model: generator, for example `styleblend version 3`; XMP and manifest hold the name, the watermark the
            version's number.
        kind: content: a `swap` in a photograph, a `grid` of results, or `rendered` faces.
        credentials: sign the picture; None is the test certificate of this machine (`credentials.of_this_machine`).
    Raises:
        StyleBlendError: the picture cannot be signed.
    """
    if kind == "swap":
        from styleblend.provenance import watermark

        image = watermark.embed(image, watermark.version_in(model))
    content = _encoded(image, file_format, xmp.packet(model, kind))
    if kind == "rendered":
        return content
    from styleblend.provenance import manifest

    return manifest.signed(content, file_format, model=model, kind=kind, credentials=credentials)


def _encoded(image: Image.Image, file_format: FileFormat, packet: bytes) -> bytes:
    stream, profile = io.BytesIO(), image.info.get("icc_profile")
    if file_format == "PNG":
        text = PngImagePlugin.PngInfo()
        text.add_text(_TEXT_KEY, _TEXT)
        text.add_itxt("XML:com.adobe.xmp", packet.decode())
        image.save(stream, file_format, pnginfo=text, icc_profile=profile)
    else:
        flat = image if image.mode in ("L", "RGB", "CMYK") else image.convert("RGB")
        flat.save(stream, file_format, quality=95, subsampling=0, xmp=packet, icc_profile=profile)
    return stream.getvalue()
