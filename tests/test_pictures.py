"""faces.pictures: any picture file becomes upright 8-bit RGB, with its transparency and its colours."""

from __future__ import annotations

import io
import itertools
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from hostile_files import chunk, encoded, png_that_claims, with_chunk
from styleblend.faces.pictures import Picture, UnusablePicture, as_picture, open_picture

D50 = struct.pack(">4s4x3i", b"XYZ ", 0xF6D6, 0x10000, 0xD32D)


def pattern() -> Image.Image:
    """A colour ramp whose four corners differ."""
    y, x = np.mgrid[:40, :60]
    return Image.fromarray(np.stack([x * 4, y * 6, 0 * x + 90], axis=2).astype(np.uint8))


def profile(space: bytes, kind: bytes, connection: bytes, tag: bytes, content: bytes) -> bytes:
    """A minimal ICC profile (version 2.4): one tag that describes colours, and the white point."""
    content += bytes(-len(content) % 4)
    start = 128 + 4 + 2 * 12
    size = start + len(content) + len(D50)
    header = struct.pack(">I4x4s4s4s4s12x4s24x4x3i48x", size, b"\x02\x40\0\0", kind, space, connection, b"acsp",
                         0xF6D6, 0x10000, 0xD32D)  # fmt: skip
    table = struct.pack(">I4sII4sII", 2, tag, start, len(content), b"wtpt", start + len(content), len(D50))
    return header + table + content + D50


def cmyk_profile() -> bytes:
    """A press on which magenta prints as ochre: Lab at the corners of the CMYK cube, linear between."""

    def lab(c: int, m: int, y: int, k: int) -> tuple[int, int, int]:
        if (c, m, y, k) == (0, 0, 0, 0):
            return 255, 128, 128
        return (128, 128, 188) if (c, m, y, k) == (0, 1, 0, 0) else (20, 128, 128)

    corners = bytes(itertools.chain.from_iterable(lab(*inks) for inks in itertools.product((0, 1), repeat=4)))
    identity = struct.pack(">9i", *(0x10000 * (row == column) for row in range(3) for column in range(3)))
    content = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + identity + bytes(range(256)) * 4 + corners
    return profile(b"CMYK", b"prtr", b"Lab ", b"A2B0", content + bytes(range(256)) * 3)


def linear_grey_profile() -> bytes:
    """Grey whose levels are proportional to light."""
    return profile(b"GRAY", b"mntr", b"XYZ ", b"kTRC", b"curv\0\0\0\0\0\0\0\0")


@pytest.mark.parametrize("mode", ["L", "1", "RGBA", "LA", "P", "CMYK", "I;16", "YCbCr"])
def test_every_kind_of_picture_becomes_rgb(tmp_path: Path, mode: str) -> None:
    """The picture read back is 8-bit RGB and looks like the original, within what its kind can hold."""
    original = pattern()
    grey = np.asarray(original.convert("L"))
    path = tmp_path / {"CMYK": "a.tif", "YCbCr": "a.tif"}.get(mode, "a.png")
    if mode == "I;16":
        Image.fromarray(grey.astype(np.uint16) * 257).save(path)
    else:
        original.convert(mode).save(path)
    found = open_picture(path, 10_000)
    assert found.rgb.mode == "RGB" and found.rgb.size == (60, 40)
    assert found.alpha is None, "an alpha channel in which all is opaque says nothing"
    assert found.grey == (mode in ("L", "1", "LA", "I;16")) and not found.notes
    levels = np.asarray(found.rgb.convert("L")).astype(int)
    if mode == "1":  # dithered: only the mean is kept
        assert levels.mean() == pytest.approx(grey.mean(), abs=3)
    else:
        assert np.abs(levels - grey).mean() < (20 if mode == "P" else 3)


@pytest.mark.parametrize("kind", ["grey.png", "grey.tif", "rgb.png", "rgb.tif", "rgba.png", "rgba.tif", "grey.pgm"])
def test_16_bit_keep_their_upper_half(tmp_path: Path, kind: str) -> None:
    """Each level of 16 bit becomes its upper 8, in colour as in grey, whoever wrote the file."""
    levels = np.random.default_rng(0).integers(0, 65536, (30, 20, 4), dtype=np.uint16)
    shown = {"grey": levels[..., 0], "rgb": levels[..., :3], "rgba": levels}[kind.split(".")[0]]
    assert cv2.imwrite(str(tmp_path / kind), shown[..., [2, 1, 0, 3][: shown.shape[2]]] if shown.ndim == 3 else shown)
    found = open_picture(tmp_path / kind, 10_000)
    wanted = np.broadcast_to((levels[..., :1] if shown.ndim == 2 else levels[..., :3]) >> 8, (30, 20, 3))
    assert np.array_equal(np.asarray(found.rgb), wanted)
    assert (found.alpha is not None) == kind.startswith("rgba")
    if found.alpha is not None:
        assert np.array_equal(np.asarray(found.alpha), levels[..., 3] >> 8)


def test_32_bit_is_refused(tmp_path: Path) -> None:
    """Nobody knows which of its numbers are black and white."""
    Image.fromarray(np.ones((4, 4), dtype=np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(UnusablePicture, match="32 bit .* save it with 8 or 16 bit"):
        open_picture(tmp_path / "a.tif", 100)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_kept_beside_the_colours(tmp_path: Path, mode: str) -> None:
    """Colours stand as the file has them, also where nothing shows; networks see them before a plain ground."""
    picture = pattern().convert("RGBA")
    alpha = np.zeros((40, 60), dtype=np.uint8)
    alpha[:, 30:] = 255
    picture.putalpha(Image.fromarray(alpha))
    picture.convert(mode).save(tmp_path / "a.png")
    found = open_picture(tmp_path / "a.png", 10_000)
    assert np.array_equal(np.asarray(found.alpha), alpha)
    if mode == "RGBA":
        assert np.array_equal(np.asarray(found.rgb), np.asarray(pattern()))
    assert np.array_equal(np.asarray(found.with_colours(found.rgb.copy()).getchannel("A")), alpha)
    white, blue = (np.asarray(found.opaque(colour)) for colour in ("white", "#0000ff"))
    assert (white[:, :30] == 255).all() and (blue[:, :30] == (0, 0, 255)).all()
    assert np.array_equal(white[:, 30:], np.asarray(found.rgb)[:, 30:])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["RGB", "I;16"])
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int, mode: str) -> None:
    """A picture stored in any of the eight orientations reads upright, of 8 bit and of 16."""
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    upright = pattern()
    if mode == "I;16":
        upright = Image.fromarray(np.asarray(upright.convert("L")).astype(np.uint16) << 8)
    stored = upright if orientation == 1 else upright.transpose(undo[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "a.png", exif=exif)
    wanted = pattern() if mode == "RGB" else pattern().convert("L").convert("RGB")
    found = open_picture(tmp_path / "a.png", 10_000)
    assert np.array_equal(np.asarray(found.rgb), np.asarray(wanted))
    with Image.open(tmp_path / "a.png") as opened:
        assert np.array_equal(np.asarray(as_picture(opened, 10_000).rgb), np.asarray(wanted))


@pytest.mark.parametrize("ending", ["tif", "jpg"])
def test_cmyk_is_read_by_its_profile(tmp_path: Path, ending: str) -> None:
    """The profile's own magenta, ochre, comes out; without the profile it is the textbook's."""
    magenta = Image.new("CMYK", (16, 16), (0, 255, 0, 0))
    magenta.save(tmp_path / f"a.{ending}", icc_profile=cmyk_profile())
    magenta.save(tmp_path / f"plain.{ending}")
    found = open_picture(tmp_path / f"a.{ending}", 1000)
    red, green, blue = found.rgb.getpixel((8, 8))
    # Lab (50, 0, 60) in sRGB.
    assert (red, green, blue) == pytest.approx((142, 117, 4), abs=8)
    assert "icc_profile" not in found.rgb.info, "the values are sRGB's now"
    red, green, blue = open_picture(tmp_path / f"plain.{ending}", 1000).rgb.getpixel((8, 8))
    assert min(red, blue) > 250 and green < 5


def test_grey_is_read_by_its_profile(tmp_path: Path) -> None:
    """A level that is proportional to light becomes sRGB's, which is not."""
    Image.new("L", (4, 4), 55).save(tmp_path / "a.png", icc_profile=linear_grey_profile())
    found = open_picture(tmp_path / "a.png", 100)
    assert found.grey and found.rgb.getpixel((0, 0)) == pytest.approx((128, 128, 128), abs=2)


def test_rgb_keeps_its_values_and_its_profile(tmp_path: Path) -> None:
    """A wide-gamut photograph is not brought to sRGB: what leaves has the same numbers and says what they mean."""
    from PIL import ImageCms

    kept = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    pattern().save(tmp_path / "a.png", icc_profile=kept)
    found = open_picture(tmp_path / "a.png", 10_000)
    assert np.array_equal(np.asarray(found.rgb), np.asarray(pattern()))
    assert found.with_colours(found.rgb.copy()).info == {"icc_profile": kept}
    assert found.opaque().info == {"icc_profile": kept}


@pytest.mark.parametrize("content", [b"broken", linear_grey_profile()])
def test_a_damaged_profile_is_said_and_the_picture_is_read(tmp_path: Path, content: bytes) -> None:
    """So is one for another kind of colour."""
    Image.new("CMYK", (4, 4), (0, 255, 0, 0)).save(tmp_path / "a.tif", icc_profile=content)
    found = open_picture(tmp_path / "a.tif", 100)
    assert found.rgb.getpixel((0, 0)) == (255, 0, 255)
    assert len(found.notes) == 1 and "colour profile is damaged or not its own" in found.notes[0]


@pytest.mark.parametrize("kind", ["a.gif", "a.tif", "a.png", "a.webp"])
def test_of_several_frames_the_first_is_used_and_that_is_said(tmp_path: Path, kind: str) -> None:
    """Animations and files of several pages."""
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / kind, save_all=True, append_images=frames[1:], lossless=True)
    found = open_picture(tmp_path / kind, 100)
    assert found.rgb.getpixel((4, 4)) == pytest.approx((255, 0, 0), abs=2)
    assert found.notes == ("it has several frames or pages, of which the first is used",)


def test_huge_pictures_are_refused_undecoded(tmp_path: Path) -> None:
    """More pixels than allowed, and bombs, are refused from their headers, in a file as in its content."""
    for side, reason in ((2000, "more than align.max_pixels 1000000"), (60_000, "decompression bomb")):
        (tmp_path / "a.png").write_bytes(png_that_claims(side, side))
        for given in (tmp_path / "a.png", io.BytesIO(png_that_claims(side, side))):
            with pytest.raises(UnusablePicture, match=reason):
                open_picture(given, 1_000_000)


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    """Cut-off, empty, scrambled and foreign content each give a reason of one line without the file's name."""
    pattern().resize((600, 400)).save(tmp_path / "whole.jpg")
    content = (tmp_path / "whole.jpg").read_bytes()
    pattern().save(tmp_path / "whole.png")
    png = (tmp_path / "whole.png").read_bytes()
    for damaged in (content[: len(content) // 2], b"", b"GIF89a" + content[6:], b"<html>", png[:40] + b"x" + png[41:]):
        (tmp_path / "damaged").write_bytes(damaged)
        with pytest.raises(UnusablePicture, match="cannot be decoded: .+|bomb") as caught:
            open_picture(tmp_path / "damaged", 10**6)
        assert "\n" not in str(caught.value) and str(tmp_path) not in str(caught.value)


def noise() -> Image.Image:
    """Pixels that no neighbour foretells: of a cut-off part nothing can be guessed."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))


def damaged_outside() -> dict[str, tuple[bytes, bytes]]:
    """Whole pictures, each beside the same with damage outside its pixels."""
    png, exif = encoded(noise(), ".png"), Image.Exif()
    exif[0x010E] = "x" * 2000
    info = PngImagePlugin.PngInfo()
    info.add_itxt("Comment", "x" * 3_000_000, zip=True)
    found = {
        "a text's checksum": (png, with_chunk(png, b"tEXt", b"a\0b", checksum=1)),
        "a profile's checksum": (png, with_chunk(png, b"iCCP", b"a\0\0xyz", checksum=1)),
        "a foreign chunk's length": (png, png[:-12] + struct.pack(">I", 10**6) + b"teSt"),
        "megabytes of text": (png, encoded(noise(), ".png", pnginfo=info)),
        "text behind the pixels": (png, png[:-12] + chunk(b"zTXt", b"a\0\0" + b"no zlib") + png[-12:]),
        "no IEND": (png, png[:-12]),
        "half an IEND": (png, png[:-7]),
    }
    for name, options in {"": {}, "progressive ": {"progressive": True}, "grey ": {}}.items():
        jpeg = encoded(noise().convert("L") if name == "grey " else noise(), ".jpg", **options)
        found |= {f"{name}no EOI": (jpeg, jpeg[:-2]), f"{name}half an EOI": (jpeg, jpeg[:-1])}
    webp = encoded(noise(), ".webp", exif=exif)
    found["a cut-off EXIF"] = (webp, webp[:-1000])
    gif = encoded(noise(), ".gif", save_all=True, append_images=[noise().rotate(90)])
    found["a cut-off second frame"] = (gif, gif[:-2000])
    return found


@pytest.mark.parametrize("damage", damaged_outside())
def test_damage_outside_the_pixels_costs_a_note(damage: str) -> None:
    """All pixels are those of the whole file, and where the decoder stumbled the note says over what."""
    whole, damaged = (io.BytesIO(content) for content in damaged_outside()[damage])
    found = open_picture(damaged, 10_000)
    assert np.array_equal(np.asarray(found.rgb), np.asarray(open_picture(whole, 10_000).rgb))
    read_anyway = ("no IEND", "half an IEND", "text behind the pixels", "a cut-off second frame")
    if damage not in read_anyway:
        assert any(note.startswith("damage outside its pixels was passed over (") for note in found.notes)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0, "quality": 100}, {"quality": 5}])
def test_a_cut_off_jpeg_is_refused_or_whole(options: dict[str, object]) -> None:
    """Wherever a JPEG ends too early: the picture is refused, or, if the cut took no pixel, the same."""
    content = encoded(noise(), ".jpg", **options)
    whole = np.asarray(open_picture(io.BytesIO(content), 10_000).rgb)
    refused = 0
    for length in (*range(len(content) - 24, len(content)), *range(20, len(content) - 24, len(content) // 40)):
        try:
            found = open_picture(io.BytesIO(content[:length]), 10_000)
        except UnusablePicture:
            refused += 1
        else:
            assert length > len(content) - 6 and np.array_equal(np.asarray(found.rgb), whole), length
    assert refused > 50


@pytest.mark.parametrize("ending", [".png", ".webp", ".gif", ".tif", ".bmp"])
def test_cut_off_pixels_are_refused(ending: str) -> None:
    """Half of a picture is none, in every format."""
    content = encoded(noise(), ending)
    for share in (0.3, 0.6, 0.9):
        with pytest.raises(UnusablePicture):
            open_picture(io.BytesIO(content[: int(share * len(content))]), 10_000)


def test_programs_in_the_form_of_pictures_are_not_run(tmp_path: Path) -> None:
    """PostScript, which Pillow would hand to an interpreter, is no picture here."""
    pattern().save(tmp_path / "a.eps")
    with pytest.raises(UnusablePicture, match="no picture of a kind that is read here"):
        open_picture(tmp_path / "a.eps", 10_000)


def test_reading_leaves_a_picture_in_memory_alone() -> None:
    """The caller's picture keeps its pixels and its facts."""
    given = pattern()
    given.info["dpi"] = (72, 72)
    found = as_picture(given, 10_000)
    assert isinstance(found, Picture) and found.rgb is not given
    assert given.info == {"dpi": (72, 72)} and found.rgb.info == {}
