"""Marks of synthetic pictures."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from styleblend import provenance
from styleblend.errors import StyleBlendError
from styleblend.provenance import verification

MODEL = 'styleblend version "3" <&> é'


@pytest.fixture(autouse=True)
def _own_certificate(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test certificate is kept below the current folder, which is an empty one."""
    monkeypatch.chdir(tmp_path_factory.mktemp("project"))


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


@pytest.mark.parametrize(
    ("kind", "side", "signed", "watermark"),
    [
        ("rendered", 300, "none", "not found"),
        ("grid", 300, "valid", "not found"),
        ("swap", 255, "valid", "too small"),
        ("swap", 256, "valid", "found"),
    ],
)
def test_each_kind_of_picture_has_its_marks(
    tmp_path: Path, kind: provenance.Kind, side: int, signed: str, watermark: str
) -> None:
    """All have XMP; grids and swaps a manifest; swaps of 256 px and more the watermark, which the signature covers."""
    ramp = np.add.outer(np.arange(side), np.arange(side + 40)) * 0.3 + 40
    image = Image.fromarray(np.repeat(ramp.astype(np.uint8)[..., None], 3, axis=-1))
    provenance.save_picture(image, tmp_path / "a.png", model="styleblend version 12", kind=kind)
    found = verification.verify(tmp_path / "a.png")
    assert found.synthetic
    assert found.xmp["kind"] == kind
    assert (found.c2pa.state, found.watermark.state) == (signed, watermark)
    assert found.watermark.version == (12 if watermark == "found" else None)


def test_bytes_for_a_server_are_marked_like_files(picture: Image.Image, tmp_path: Path) -> None:
    """What a response would hold is a file with all marks."""
    content = provenance.marked_picture(picture, "JPEG", model=MODEL, kind="swap")
    (tmp_path / "a.jpg").write_bytes(content)
    found = verification.verify(tmp_path / "a.jpg")
    assert (found.xmp["kind"], found.c2pa.state, found.c2pa.model) == ("swap", "valid", MODEL)


def test_rendering_a_data_set_loads_no_marking_library(tmp_path: Path) -> None:
    """Thousands of rendered faces need XMP only: neither c2pa nor OpenCV is imported for them."""
    program = (
        "import sys\nfrom pathlib import Path\nfrom PIL import Image\nfrom styleblend import provenance\n"
        "provenance.save_picture(Image.new('RGB', (64, 64)), Path('a.png'), model='m', kind='rendered')\n"
        "assert not {'c2pa', 'cv2', 'cryptography', 'blind_watermark'} & set(sys.modules), 'slow'"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"a.png"}


# `data.align` cuts faces from the user's own photographs, which nobody made; the others save networks.
SAVING = {
    "data/align.py",
    "data/paired_faces.py",
    "face_detector/face_alignment.py",
    "pretraining/loop.py",
    "pretraining/recipe.py",
    "pretraining/sharpening.py",
    "provenance/marking.py",
    "training/alike.py",
    "training/checkpoint.py",
}


def test_pictures_leave_through_one_door(root: Path) -> None:
    """No other module writes a picture: nothing else calls a method `save`, nor one of OpenCV's writers."""
    package = root / "src/styleblend"
    for file in package.rglob("*.py"):
        calls = (node.func for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call))
        called = {call.attr for call in calls if isinstance(call, ast.Attribute)}
        if called & {"save", "imwrite", "imencode"}:
            assert file.relative_to(package).as_posix() in SAVING, f"{file} saves something: use save_picture"
