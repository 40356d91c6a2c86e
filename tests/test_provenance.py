"""Marks of synthetic pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from styleblend import provenance
from styleblend.errors import StyleBlendError

MODEL = 'styleblend version "3" <&> é'


@pytest.fixture
def picture() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.JPEG"])
@pytest.mark.parametrize("kind", ["swap", "grid", "rendered"])
def test_marks_are_read_back(picture: Image.Image, tmp_path: Path, name: str, kind: provenance.Kind) -> None:
    """What was written comes back, with characters that XML must escape."""
    provenance.save_picture(picture, tmp_path / name, model=MODEL, kind=kind)
    marks = provenance.read_marks(tmp_path / name)
    assert marks["kind"] == kind
    assert MODEL in marks["software_agent"]
    word = "compositeWithTrainedAlgorithmicMedia" if kind == "swap" else "trainedAlgorithmicMedia"
    assert marks["source_type"] == f"http://cv.iptc.org/newscodes/digitalsourcetype/{word}"


def test_pillow_itself_reads_the_packet(picture: Image.Image, tmp_path: Path) -> None:
    """The packet stands where other programs look for it, and parses as XMP."""
    for name in ("a.png", "a.jpg"):
        provenance.save_picture(picture, tmp_path / name, model=MODEL, kind="swap")
        with Image.open(tmp_path / name) as image:
            assert b"Iptc4xmpExt:DigitalSourceType" in image.info["xmp"]
    with Image.open(tmp_path / "a.png") as image:
        assert image.info["StyleBlend"] == "synthetic"


def test_png_keeps_every_pixel_and_no_other_metadata(picture: Image.Image, tmp_path: Path) -> None:
    """A PNG is lossless, and a photograph's own metadata (a place, a name) does not travel along."""
    picture.info["Author"] = "somebody"
    picture.getexif()[0x010E] = "a place"
    provenance.save_picture(picture, tmp_path / "a.png", model=MODEL, kind="swap")
    with Image.open(tmp_path / "a.png") as image:
        assert np.array_equal(np.asarray(image), np.asarray(picture))
        assert not image.getexif()
        assert "Author" not in image.info


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "CMYK", "1"])
def test_any_mode_becomes_a_jpeg(tmp_path: Path, mode: str) -> None:
    """Modes that JPEG does not know are converted instead of refused."""
    provenance.save_picture(Image.new(mode, (8, 8)), tmp_path / "a.jpg", model=MODEL, kind="swap")
    assert provenance.read_marks(tmp_path / "a.jpg")["kind"] == "swap"


def test_another_ending_is_refused_before_anything_is_written(picture: Image.Image, tmp_path: Path) -> None:
    """A format without defined marks is refused by name, and no file is left."""
    with pytest.raises(StyleBlendError, match=r"a\.webp.*\.png or \.jpg"):
        provenance.save_picture(picture, tmp_path / "a.webp", model=MODEL, kind="swap")
    assert not list(tmp_path.iterdir())


def test_an_unmarked_picture_has_no_marks(picture: Image.Image, tmp_path: Path) -> None:
    """Neither a bare picture nor one with another program's XMP is taken for one of ours."""
    picture.save(tmp_path / "bare.png")
    picture.save(tmp_path / "other.jpg", xmp=b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>")
    picture.save(tmp_path / "broken.jpg", xmp=b"<not xml")
    for name in ("bare.png", "other.jpg", "broken.jpg"):
        assert provenance.read_marks(tmp_path / name) == {}


def test_a_file_that_is_no_picture_is_one_line(tmp_path: Path) -> None:
    """The error names the file."""
    (tmp_path / "a.png").write_text("no picture")
    with pytest.raises(StyleBlendError, match=r"a\.png"):
        provenance.read_marks(tmp_path / "a.png")
