"""Marks that say that a picture was made, not taken: XMP with IPTC's DigitalSourceType, in PNG and JPEG.

The marks are plain metadata. They inform honest readers and survive copying; they do not survive somebody
who wants them gone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal
from xml.etree import ElementTree
from xml.sax.saxutils import quoteattr

from PIL import Image, PngImagePlugin, UnidentifiedImageError

from styleblend.errors import StyleBlendError
from styleblend.files import whole_file

Kind = Literal["swap", "grid", "rendered"]

SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/"
# IPTC's words: a composite that holds at least one element made by a model, and a picture wholly made.
_SOURCE_TYPE_OF: dict[Kind, str] = {
    "swap": "compositeSynthetic",
    "grid": "trainedAlgorithmicMedia",
    "rendered": "trainedAlgorithmicMedia",
}
_NAMESPACES = {
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "Iptc4xmpExt": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
    "xmp": "http://ns.adobe.com/xap/1.0/",
    "styleblend": "https://styleblend.invalid/ns/1.0/",
}
_TEXT_KEY, _TEXT = "StyleBlend", "synthetic"
_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}


def picture_format(path: Path) -> str:
    """`PNG` or `JPEG`, by the ending of a file to be written.

    Raises:
        StyleBlendError: for any other ending, since the marks are defined for these two only.
    """
    try:
        return _FORMATS[path.suffix.lower()]
    except KeyError:
        raise StyleBlendError(f"{path}: pictures are written as .png or .jpg; choose such an ending") from None


def save_picture(image: Image.Image, path: Path, *, model: str, kind: Kind) -> None:
    """Write a marked picture, whole or not at all; only pixels and the colour profile of `image` are kept.

    Args:
        image: any mode that the format knows; JPEG drops transparency.
        path: ends in .png, .jpg or .jpeg.
        model: what made it, for example `styleblend version 3`; readable as the mark's software agent.
        kind: what it shows: a `swap` in a photograph, a `grid` of results, or `rendered` faces.

    Raises:
        StyleBlendError: the ending is another.
    """
    file_format = picture_format(path)
    packet = _packet(model, kind)
    profile = image.info.get("icc_profile")
    with whole_file(path) as partial:
        if file_format == "PNG":
            text = PngImagePlugin.PngInfo()
            text.add_text(_TEXT_KEY, _TEXT)
            text.add_itxt("XML:com.adobe.xmp", packet.decode())
            image.save(partial, file_format, pnginfo=text, icc_profile=profile)
        else:
            flat = image if image.mode in ("L", "RGB", "CMYK") else image.convert("RGB")
            flat.save(partial, file_format, quality=95, subsampling=0, xmp=packet, icc_profile=profile)


def read_marks(path: Path) -> dict[str, str]:
    """Marks of a picture: `source_type`, `software_agent`, `kind`; empty when it has none of this project's.

    Raises:
        StyleBlendError: the file is no picture.
    """
    try:
        with Image.open(path) as image:
            packet = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise StyleBlendError(f"{path}: cannot be read as a picture ({error}); give a PNG or JPEG") from None
    if packet is None:
        return {}
    try:
        root = ElementTree.fromstring(packet.strip(b"\0 \n") if isinstance(packet, bytes) else packet)
    except ElementTree.ParseError:
        return {}
    description = root.find(".//rdf:Description", _NAMESPACES)
    values = {} if description is None else description.attrib
    names = {
        "source_type": f"{{{_NAMESPACES['Iptc4xmpExt']}}}DigitalSourceType",
        "software_agent": f"{{{_NAMESPACES['xmp']}}}CreatorTool",
        "kind": f"{{{_NAMESPACES['styleblend']}}}kind",
    }
    if names["kind"] not in values:
        return {}
    return {name: values[key] for name, key in names.items() if key in values}


def _packet(model: str, kind: Kind) -> bytes:
    """An XMP packet (ISO 16684-1) that says what the picture is and what made it."""
    spaces = " ".join(f'xmlns:{name}="{uri}"' for name, uri in _NAMESPACES.items() if name != "rdf")
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
        f'<rdf:RDF xmlns:rdf="{_NAMESPACES["rdf"]}">'
        f'<rdf:Description rdf:about="" {spaces} '
        f'Iptc4xmpExt:DigitalSourceType="{SOURCE_TYPE}{_SOURCE_TYPE_OF[kind]}" '
        f"xmp:CreatorTool={quoteattr('StyleBlend, ' + model)} "
        f'styleblend:kind="{kind}"/>'
        "</rdf:RDF></x:xmpmeta>"
        '<?xpacket end="w"?>'
    ).encode()
