"""Which kinds of picture files are decoded here, by their endings and first bytes, and names for those that are not."""

from __future__ import annotations

from functools import cache

from PIL import Image, features

FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "BMP", "GIF", "AVIF", "JPEG2000", "PPM")
"""Formats that are decoded. Pillow knows more, but some start other programs or hold no photographs."""

_OPTIONAL = {"AVIF": "avif", "JPEG": "jpg", "JPEG2000": "jpg_2000", "WEBP": "webp"}
"""Formats that a build of Pillow may lack, by the name of the feature."""
_READ_AS = {"MPO": "JPEG"}
"""A camera's JPEG with further views behind it, which Pillow opens as a JPEG."""
_NOT_READ = {
    "HEIC": (".heic", ".heif", ".hif", ".heics"),
    "JPEG XL": (".jxl",),
    "JPEG XR": (".jxr", ".wdp", ".hdp"),
    "a camera's raw data": (
        ".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dng", ".erf", ".kdc", ".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf",
        ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f",
    ),
    "a drawing": (".ai", ".svg", ".svgz"),
    "a layered picture": (".kra", ".xcf"),
    "a high dynamic range picture": (".exr", ".hdr"),
}  # fmt: skip
"""Pictures of kinds that Pillow does not know, with their endings."""
_HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"hevm", b"hevs", b"mif1", b"msf1")
_FIRST_BYTES = (
    (b"\xff\x0a", "JPEG XL"),
    (b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (b"\x89PNG\r\n\x1a\n", "a damaged PNG"),
    (b"\xff\xd8\xff", "a damaged JPEG"),
    (b"GIF8", "a damaged GIF"),
    (b"BM", "a damaged BMP"),
    (b"II*\x00", "a damaged TIFF, or a camera's raw data"),
    (b"MM\x00*", "a damaged TIFF, or a camera's raw data"),
    (b"%PDF", "a PDF document"),
    (b"%!PS", "PostScript"),
    (b"8BPS", "a layered picture (PSD)"),
    (b"PK\x03\x04", "a zip file"),
    (b"\x1f\x8b", "a gzip file"),
)


@cache
def endings() -> frozenset[str]:
    """Endings, as `.jpg`, of the files that are decoded: those which Pillow has registered for these formats."""
    Image.init()
    lacking = {name for name, feature in _OPTIONAL.items() if not features.check(feature)}
    read = {name for name in FORMATS if name in Image.OPEN} - lacking
    return frozenset(
        ending for ending, name in Image.registered_extensions().items() if _READ_AS.get(name, name) in read
    )


@cache
def _unread_endings() -> dict[str, str]:
    """Ending to the kind of picture, for pictures that are not decoded."""
    Image.init()
    known = {ending: name for ending, name in Image.registered_extensions().items() if ending not in endings()}
    return known | {ending: kind for kind, all_of_it in _NOT_READ.items() for ending in all_of_it}


def unread_kind(ending: str) -> str | None:
    """The kind of picture, as HEIC, that files with this ending are; None: no picture, or one that is decoded."""
    return _unread_endings().get(ending.lower())


def guessed(first: bytes) -> str | None:
    """What a file that no decoder takes seems to be, by its first 32 bytes or more; None: nobody can say."""
    if not first:
        return "an empty file"
    if not any(first):
        return "nothing but zero bytes"
    if first[4:8] == b"ftyp":
        if first[8:12] in _HEIC_BRANDS:
            return "HEIC"
        return "a damaged AVIF" if first[8:12] in (b"avif", b"avis") else "a video"
    if first[:4] == b"RIFF":
        return "a damaged WEBP" if first[8:12] == b"WEBP" else "sound or a video"
    if first.lstrip()[:1] == b"<":
        return "a web page or another text"
    return next((kind for start, kind in _FIRST_BYTES if first.startswith(start)), None)
