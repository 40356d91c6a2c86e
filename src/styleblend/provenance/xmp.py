"""The readable mark: XMP (ISO 16684-1) with IPTC's DigitalSourceType, in PNG and JPEG."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree
from xml.sax.saxutils import quoteattr

from PIL import Image

from styleblend.errors import StyleBlendError

Kind = Literal["swap", "grid", "rendered"]

SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/"
# IPTC's terms: a photograph with a composited model output, and a wholly generated picture.
_SOURCE_TYPE_OF: dict[Kind, str] = {
    "swap": "compositeWithTrainedAlgorithmicMedia",
    "grid": "trainedAlgorithmicMedia",
    "rendered": "trainedAlgorithmicMedia",
}
_WORDS = (*_SOURCE_TYPE_OF.values(), "algorithmicMedia", "compositeSynthetic", "virtualRecording")
SYNTHETIC = frozenset(SOURCE_TYPE + word for word in _WORDS)
"""Source types, of any software, of pictures that are at least partly synthetic."""

_NAMESPACES = {
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "Iptc4xmpExt": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
    "xmp": "http://ns.adobe.com/xap/1.0/",
    "styleblend": "https://styleblend.invalid/ns/1.0/",
}
_PROPERTIES = {
    "source_type": f"{{{_NAMESPACES['Iptc4xmpExt']}}}DigitalSourceType",
    "software_agent": f"{{{_NAMESPACES['xmp']}}}CreatorTool",
    "kind": f"{{{_NAMESPACES['styleblend']}}}kind",
}


def source_type(kind: Kind) -> str:
    """IPTC's digital source type of a kind of picture, as a URL."""
    return SOURCE_TYPE + _SOURCE_TYPE_OF[kind]


def packet(model: str, kind: Kind) -> bytes:
    """An XMP packet with source type, kind and generator."""
    spaces = " ".join(f'xmlns:{name}="{uri}"' for name, uri in _NAMESPACES.items() if name != "rdf")
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
        f'<rdf:RDF xmlns:rdf="{_NAMESPACES["rdf"]}">'
        f'<rdf:Description rdf:about="" {spaces} '
        f'Iptc4xmpExt:DigitalSourceType="{source_type(kind)}" '
        f"xmp:CreatorTool={quoteattr('StyleBlend, ' + model)} "
        f'styleblend:kind="{kind}"/>'
        "</rdf:RDF></x:xmpmeta>"
        '<?xpacket end="w"?>'
    ).encode()


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """Open a picture file of any format.

    Raises:
        StyleBlendError: it is missing, no picture, damaged, or so large that it may be a decompression bomb.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                yield image
    except FileNotFoundError:
        raise StyleBlendError(f"{path} does not exist: name a picture file") from None
    except (OSError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise StyleBlendError(f"{path}: cannot be read as a picture ({error}); give a PNG or JPEG") from None


def read_properties(image: Image.Image) -> dict[str, str]:
    """Read XMP of any software: `source_type`, `software_agent` and this project's `kind`, where present."""
    found = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")
    if found is None:
        return {}
    try:
        root = ElementTree.fromstring(found.strip(b"\0 \n") if isinstance(found, bytes) else found)
    except ElementTree.ParseError:
        return {}
    values: dict[str, str] = {}
    # A property is an attribute of a description or an element in it.
    for description in root.iterfind(".//rdf:Description", _NAMESPACES):
        values |= description.attrib
        values |= {child.tag: child.text.strip() for child in description if child.text}
    return {name: values[key] for name, key in _PROPERTIES.items() if key in values}


def read_marks(path: Path) -> dict[str, str]:
    """Read this project's marks: `source_type`, `software_agent`, `kind`; empty without them.

    Raises:
        StyleBlendError: the file is no picture.
    """
    with opened(path) as image:
        properties = read_properties(image)
    return properties if "kind" in properties else {}
