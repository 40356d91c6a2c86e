"""Read all marks of a picture: this project's, and those of other software that follow the standards."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from styleblend.provenance import manifest, watermark, xmp


@dataclass(frozen=True)
class Report:
    """The marks that `verify` found."""

    xmp: dict[str, str]
    """`source_type`, `software_agent` and this project's `kind`, where present."""
    c2pa: manifest.Reading
    watermark: watermark.Reading

    @property
    def synthetic(self) -> bool:
        """Whether at least one mark declares the picture, or a part of it, synthetic.

        An altered manifest counts: the picture that was signed was synthetic, so an edit of it is suspect.
        """
        said = (self.xmp.get("source_type"), self.c2pa.source_type)
        return self.watermark.state == "found" or bool(xmp.SYNTHETIC.intersection(said))

    def as_dict(self) -> dict[str, Any]:
        """The report as plain values for JSON."""
        return {"synthetic": self.synthetic, **asdict(self)}

    def lines(self) -> list[str]:
        """The report as text: the conclusion, then each mark."""
        return [
            "at least one mark says synthetic" if self.synthetic else "no mark says synthetic",
            f"  IPTC/XMP:  {self._xmp_words()}",
            f"  C2PA:      {self._c2pa_words()}",
            f"  watermark: {self._watermark_words()}",
        ]

    def _xmp_words(self) -> str:
        if "source_type" not in self.xmp:
            return "no digital source type"
        word = self.xmp["source_type"].removeprefix(xmp.SOURCE_TYPE)
        return f"{word}, by {self.xmp.get('software_agent', 'software that it does not name')}"

    def _c2pa_words(self) -> str:
        found = self.c2pa
        if found.state == "none":
            return "no manifest"
        word: str = "ALTERED: the file was changed after signing" if found.state == "altered" else found.state
        if found.problems:
            word += f" ({', '.join(found.problems)})"
        if found.source_type:
            word += f"; {found.source_type.removeprefix(xmp.SOURCE_TYPE)}"
        if found.model:
            word += f", by {found.model}"
        if found.signer is None:
            return word
        trust = "trusted" if found.trusted else "not trusted"
        if found.test_certificate and not found.trusted:
            trust += ": anybody can make such a test certificate"
        return f"{word}\n             signed by {found.signer} ({trust})"

    def _watermark_words(self) -> str:
        found = self.watermark
        if found.state == "found":
            model = "a model without a version" if found.version is None else f"version {found.version}"
            return f"found, {model} (score {found.score:.2f})"
        if found.state == "too small":
            return f"not found, and too small to carry one (under {watermark.MIN_SIDE_PX} px)"
        return "not found"


def verify(path: Path, anchors: Path | None = None) -> Report:
    """Read the marks of a picture file. No network is used.

    Args:
        anchors: trusted PEM certificates of signers of manifests.
    Raises:
        StyleBlendError: the file is missing, no picture, damaged or too large, or `anchors` cannot be read.
    """
    with xmp.opened(path) as image:
        image.load()
        properties = xmp.read_properties(image)
        mime = Image.MIME.get(image.format or "", "")
        pixels = watermark.read(image)
    return Report(properties, manifest.read(path.read_bytes(), mime, anchors), pixels)
