"""The invisible watermark: found after what pictures go through every day, and nowhere else."""

from __future__ import annotations

import io
import subprocess
import sys
from math import exp

import numpy as np
import pytest
from PIL import Image

from styleblend.errors import StyleBlendError
from styleblend.faces.pixels import to_8bit
from styleblend.provenance import watermark
from styleblend.synthetic import factors, renderer


@pytest.fixture(scope="module")
def face() -> Image.Image:
    """A rendered face of 320x320 px."""
    levels = to_8bit(renderer.render(factors.sample(0, [3], [0]), 320, 1).images[0])
    return Image.fromarray(levels.permute(1, 2, 0).contiguous().numpy())


@pytest.fixture(scope="module")
def marked(face: Image.Image) -> Image.Image:
    return watermark.embed(face, 41)


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return Image.open(stream).convert("RGB")


def test_the_version_is_read_back(marked: Image.Image) -> None:
    """From the pixels alone, with next to no doubt."""
    found = watermark.read(marked)
    assert (found.state, found.version) == ("found", 41)
    assert found.score > 0.9


def test_reading_is_the_library_s(marked: Image.Image) -> None:
    """The blocks say what the library reads in them, but for those on the very edge between two bits."""
    brightness = watermark._brightness(marked)
    read = watermark._core().extract_raw(np.repeat(brightness[..., None], 3, axis=-1))[0]
    assert (watermark._bits(brightness) == read).mean() > 0.998


def test_it_survives_jpeg_and_resizing(marked: Image.Image) -> None:
    """JPEG of quality 75, half the size, and both in turn: what happens to a picture that is sent on."""
    half = marked.resize((160, 160), Image.Resampling.BICUBIC)
    for changed in (jpeg(marked, 75), half, half.resize(marked.size), jpeg(half, 75)):
        assert watermark.read(changed).version == 41


def test_it_is_hardly_to_be_seen(face: Image.Image, marked: Image.Image) -> None:
    """Over 40 dB, and no pixel changes by more than 8 of 255 levels."""
    difference = np.asarray(face, dtype=float) - np.asarray(marked)
    assert 10 * np.log10(255**2 / (difference**2).mean()) > 40
    assert np.abs(difference).max() <= 8


def test_unmarked_pictures_have_none(face: Image.Image) -> None:
    """A face, a flat picture, noise, stripes and a tiny picture."""
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    stripes = np.zeros((300, 300), dtype=np.uint8)
    stripes[:, ::8] = 255
    for picture in (face, Image.new("RGB", (300, 300), "white"), Image.fromarray(noise), Image.fromarray(stripes)):
        assert watermark.read(picture).state == "not found"
    assert watermark.read(Image.new("RGB", (9, 9))).state == "too small"


def test_false_findings_are_negligible() -> None:
    """The bound that the module states, and no two words that are near enough to be taken for each other."""
    words = watermark._words()
    assert len(words) * exp(-words.shape[1] * watermark.THRESHOLD**2 / 2) < 1e-9
    signs = words[:1024] * 2.0 - 1
    likeness = signs @ signs.T / words.shape[1]
    assert (likeness - np.eye(len(signs))).max() < watermark.THRESHOLD


def test_the_words_are_a_format() -> None:
    """Marks of today are to be read by any later version: the first bits of two words are written down here."""
    bits = ["".join(map(str, watermark._words()[number][:16])) for number in (0, 7)]
    assert bits == WORDS


WORDS = ["1000000000100000", "0001100000011100"]


def test_models_without_a_number_are_marked_as_some_model(face: Image.Image) -> None:
    """A folder's model, and a version beyond the format, are marked without a version."""
    for version in (None, watermark.WORDS):
        found = watermark.read(watermark.embed(face, version))
        assert (found.state, found.version) == ("found", None)


@pytest.mark.parametrize(
    ("name", "version"),
    [("styleblend version 3", 3), ("model folder version-3", None), ("registered version", None), ("version 12", 12)],
)
def test_the_version_is_taken_from_the_name(name: str, version: int | None) -> None:
    """Only a name that ends in the number of a version has one."""
    assert watermark.version_in(name) == version


@pytest.mark.parametrize(
    ("mode", "becomes"), [("L", "L"), ("LA", "LA"), ("RGBA", "RGBA"), ("P", "RGBA"), ("CMYK", "RGB")]
)
def test_modes_and_transparency_are_kept(face: Image.Image, mode: str, becomes: str) -> None:
    """Grey stays grey, transparency is not touched, and the mark is found in each."""
    picture = face.convert(mode)
    if mode == "LA":
        picture.putalpha(Image.linear_gradient("L").resize(face.size))
    picture.info["icc_profile"] = b"profile"
    found = watermark.embed(picture, 5)
    assert (found.mode, found.size) == (becomes, face.size)
    assert watermark.read(found).version == 5
    assert found.info.get("icc_profile") == (None if mode == "CMYK" else b"profile")
    if mode == "LA":
        assert found.getchannel("A").tobytes() == picture.getchannel("A").tobytes()


def test_more_than_8_bits_are_refused() -> None:
    """Instead of being cut off."""
    with pytest.raises(StyleBlendError, match="mode I;16 cannot be marked"):
        watermark.embed(Image.new("I;16", (300, 300)), 1)


def test_a_small_picture_comes_back_as_it_is() -> None:
    """Under 256 px nothing is changed, and nothing is promised."""
    picture = Image.effect_noise((255, 400), 50)
    assert watermark.embed(picture, 1) is picture


def test_other_processes_are_started_as_before() -> None:
    """The library would choose how processes start, for the whole program; that choice stays the program's."""
    program = (
        "import multiprocessing, sys\n"
        "from styleblend.provenance import watermark\n"
        "for chosen in (None, 'spawn'):\n"
        "    multiprocessing.set_start_method(chosen, force=True)\n"
        "    for name in [each for each in sys.modules if each.startswith('blind_watermark')]: del sys.modules[name]\n"
        "    watermark._library.cache_clear()\n"
        "    watermark._library()\n"
        "    assert multiprocessing.get_start_method(allow_none=True) == chosen\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
