"""Marks of synthetic pictures, and the only functions by which generated pictures are written.

Three marks, embedded in this order, since each covers the ones before it:

1. an invisible watermark in the pixels (`watermark`),
2. XMP with IPTC's DigitalSourceType (`xmp`),
3. a signed C2PA manifest (`manifest`, with the certificate of `credentials`).

They inform honest readers and do not withstand deliberate removal. `verification` reads them. Importing this package
loads neither c2pa nor OpenCV, since processes that render faces need only the second mark.
"""

from __future__ import annotations

from styleblend.provenance.marking import FileFormat, marked_picture, picture_format, save_picture
from styleblend.provenance.xmp import Kind, read_marks

__all__ = ["FileFormat", "Kind", "marked_picture", "picture_format", "read_marks", "save_picture"]
