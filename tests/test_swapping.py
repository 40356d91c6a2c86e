"""From two photographs to one: finding, choosing, pasting back."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from styleblend import config, model, swapping, tracking
from styleblend.errors import StyleBlendError
from styleblend.perception.alignment import crop, from_aligned, quad_from_landmarks, to_aligned
from styleblend.perception.detection import Detection, Yunet, annotated
from styleblend.synthetic import factors, renderer

SIZES = config.Model(
    resolution=32,
    input_px=32,
    style_dim=8,
    encoder_blocks=(1, 1, 1, 1),
    encoder_widths=(8, 8, 8, 8),
    pyramid_width=8,
    head_width=4,
    blending_layers=1,
    blending_heads=2,
    decoder_widths={4: 8, 8: 8, 16: 8, 32: 8},
    pathway_resolutions=(8,),
)
QUAD = np.array([[30.0, 20.0], [40.0, 90.0], [110.0, 80.0], [100.0, 10.0]])
"""A square turned by about 8 degrees, 70.7 px a side."""


class Annotations:
    """Finds the faces whose landmarks are known; what a detector is to a photograph, these are to a render."""

    def __init__(self, *faces: Detection) -> None:
        self.faces = list(faces)

    def detect(self, image: Image.Image) -> list[Detection]:
        return self.faces


@pytest.fixture(scope="module")
def swapper() -> model.Swapper:
    torch.manual_seed(0)
    return model.build(SIZES).eval()


@pytest.fixture(scope="module")
def renders() -> list[tuple[Image.Image, Detection]]:
    """Two rendered photographs of different people, with their annotated faces."""
    made = renderer.render(factors.sample(3, [0, 1], [0, 0]), 192)
    pixels = made.images.add(1).mul(127.5).round().byte().permute(0, 2, 3, 1).numpy()
    return [(Image.fromarray(rgb), annotated(points)) for rgb, points in zip(pixels, made.landmarks_px, strict=True)]


def waves(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """A smooth picture [..., 3] over aligned coordinates, steep enough that a shift of half a pixel shows."""
    x, y = points[..., 0], points[..., 1]
    return 127 + 90 * np.stack([np.sin(14 * x), np.cos(11 * y), np.sin(9 * x + 8 * y)], axis=-1)


def photograph(width: int = 140, height: int = 120) -> Image.Image:
    pixels = np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def ellipse(width: int, height: int) -> NDArray[np.float64]:
    """Distance of each pixel from the ellipse's centre, as a share of its radius; one pixel at a time."""
    radius = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            across, down = (to_aligned([x, y], QUAD) - swapping.CENTRE) / swapping.RADII
            radius[y, x] = (across**2 + down**2) ** 0.5
    return radius


def test_a_face_lands_where_it_was_cut_out() -> None:
    """Inside the ellipse the photograph shows the face's picture at the aligned place of each pixel."""
    side = 128
    places = (np.arange(side) + 0.5) / side
    face = Image.fromarray(np.rint(waves(np.stack(np.meshgrid(places, places), -1))).astype(np.uint8))
    grid = np.stack(np.meshgrid(np.arange(140.0), np.arange(120.0)), -1)
    truth = waves(to_aligned(grid, QUAD))
    there = Image.fromarray(np.rint(np.clip(truth, 0, 255)).astype(np.uint8))
    pasted = np.asarray(swapping.paste(face, there, QUAD), dtype=float)
    inside = ellipse(140, 120) < swapping.SOLID
    assert inside.sum() > 500
    assert np.abs(pasted - truth)[inside].mean() < 1
    # The check is sharp: a tenth of a pixel would show.
    wrong = np.asarray(swapping.paste(face, there, QUAD + 0.1), dtype=float)
    assert np.abs(wrong - truth)[inside].mean() > 1.1


def test_outside_the_ellipse_every_pixel_stays() -> None:
    """Bit for bit the photograph's, and inside it changes."""
    before = photograph()
    after = swapping.paste(Image.new("RGB", (32, 32), (200, 30, 30)), before, QUAD)
    changed = (np.asarray(before) != np.asarray(after)).any(-1)
    radius = ellipse(140, 120)
    assert not changed[radius >= 1].any()
    assert changed[radius < swapping.SOLID].mean() > 0.95


def test_a_wrong_overall_colour_is_mended() -> None:
    """A face that is too dark by a constant is brought to the photograph's colour, so that no seam shows."""
    there = Image.fromarray(np.full((120, 140, 3), (150, 120, 100), dtype=np.uint8))
    pasted = swapping.paste(Image.new("RGB", (64, 64), (110, 90, 80)), there, QUAD)
    assert np.abs(np.asarray(pasted, dtype=int) - np.asarray(there)).max() <= 1


@pytest.mark.parametrize("shift", [(-60.0, 0.0), (80.0, 70.0), (0.0, -50.0)])
def test_a_face_at_the_picture_s_edge_is_pasted_as_far_as_it_goes(shift: tuple[float, float]) -> None:
    """A crop that leaves the picture neither fails nor moves."""
    before = photograph()
    quad = QUAD + shift
    after = swapping.paste(Image.new("RGB", (32, 32), (255, 0, 0)), before, quad)
    assert after.size == before.size
    grid = np.stack(np.meshgrid(np.arange(-100, 240), np.arange(-100, 220)), -1)
    everywhere = swapping._ellipse(to_aligned(grid, quad)) > 0
    there = everywhere[100:220, 100:240]
    assert 0 < there.sum() < everywhere.sum()
    assert np.array_equal(np.asarray(after)[~there], np.asarray(before)[~there])
    assert (np.asarray(after) != np.asarray(before)).any()


def test_cutting_out_and_pasting_back_changes_little() -> None:
    """Alignment and paste are inverse: a smooth photograph survives the way there and back."""
    grid = np.stack(np.meshgrid(np.arange(140.0), np.arange(120.0)), -1)
    there = Image.fromarray(np.rint(waves(grid / 140)).astype(np.uint8))
    back = swapping.paste(crop(there, QUAD, 128), there, QUAD)
    assert np.abs(np.asarray(back, dtype=int) - np.asarray(there)).max() <= 3


def test_swap_keeps_size_and_surroundings_and_repeats(
    swapper: model.Swapper, renders: list[tuple[Image.Image, Detection]]
) -> None:
    """The result has the target's size, differs only in the face, and is the same each time."""
    (source, source_face), (target, target_face) = renders
    big = target.resize((400, 400), Image.Resampling.BICUBIC)
    scaled = annotated((target_face.points_px + 0.5) * 400 / 192 - 0.5)

    class Finder:
        def detect(self, image: Image.Image) -> list[Detection]:
            return [source_face if image is source else scaled]

    once = swapping.swap(source, big, swapper, Finder())
    again = swapping.swap(source, big, swapper, Finder())
    assert once.size == (400, 400)
    assert np.array_equal(np.asarray(once), np.asarray(again))
    changed = (np.asarray(once) != np.asarray(big)).any(-1)
    quad = quad_from_landmarks(scaled.points_px)
    corners = np.rint(from_aligned([[0.5, 0.56], [0.01, 0.01], [0.99, 0.99]], quad)).astype(int).clip(0, 399)
    assert changed[corners[0, 1], corners[0, 0]]
    assert not changed[corners[1:, 1], corners[1:, 0]].any()


def test_several_faces_need_a_word(swapper: model.Swapper, renders: list[tuple[Image.Image, Detection]]) -> None:
    """Two faces are a question that names both places; the number chooses from the left."""
    image, face = renders[0]
    left = annotated(face.points_px - [60, 0])
    with pytest.raises(swapping.SwapError, match=r"which of the 2 faces in the source picture .*--source-face"):
        swapping.swap(image, image, swapper, Annotations(face, left))
    assert swapping._choose([face, left], "target", 0) is left
    assert swapping._choose([face, left], "target", 1) is face
    with pytest.raises(swapping.SwapError, match=r"--target-face 2: the target picture has 2 faces"):
        swapping._choose([face, left], "target", 2)
    with pytest.raises(swapping.SwapError, match=r"no face found in the target picture"):
        swapping._choose([], "target", None)


def test_read_picture_turns_and_converts(tmp_path: Path) -> None:
    """A photograph that its camera marked as lying on its side stands upright, and grey becomes RGB."""
    picture = Image.new("L", (20, 10), 90)
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(tmp_path / "a.jpg", exif=exif)
    read = swapping.read_picture(tmp_path / "a.jpg", 10_000)
    assert (read.mode, read.size) == ("RGB", (10, 20))


def test_unreadable_pictures_are_one_line(tmp_path: Path) -> None:
    """Missing, a folder, no picture, cut off, too large: each names the file."""
    whole = io.BytesIO()
    photograph().save(whole, "PNG")
    (tmp_path / "cut.png").write_bytes(whole.getvalue()[:2000])
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "large.png").write_bytes(whole.getvalue())
    cases = {
        "absent.png": "does not exist",
        "": "is a folder",
        "cut.png": "cannot",
        "text.png": "cannot",
        "large.png": "140x120",
    }
    for name, reason in cases.items():
        with pytest.raises(StyleBlendError, match=reason) as caught:
            swapping.read_picture(tmp_path / name, 1000 if name == "large.png" else 10**6)
        assert "\n" not in str(caught.value)
        assert str(tmp_path / name) in str(caught.value)


def test_a_real_detector_finds_the_rendered_face(
    yunet_file: Path, swapper: model.Swapper, renders: list[tuple[Image.Image, Detection]]
) -> None:
    """With YuNet in place of annotations the whole way works, and the crop is nearly the annotated one."""
    (source, _), (target, face) = renders
    detector = Yunet(yunet_file)
    swapped = swapping.swap(source, target, swapper, detector)
    assert swapped.size == target.size
    quad = quad_from_landmarks(detector.detect(target)[0].points_px)
    assert np.abs(quad - quad_from_landmarks(face.points_px)).max() < 0.12 * 192


def test_without_a_detector_the_remedy_is_named(root: Path, tmp_path: Path) -> None:
    """No file, no mirror and no network: one line with all three ways out; a wrong file is named."""
    cfg = config.load(root / "params.yaml")
    with pytest.raises(StyleBlendError, match=r"--detector-weights.*--aligned") as caught:
        swapping.find_detector(cfg, None, tmp_path / "networks", tmp_path / "state")
    assert "\n" not in str(caught.value)
    with pytest.raises(StyleBlendError, match=r"absent\.onnx does not exist"):
        swapping.find_detector(cfg, tmp_path / "absent.onnx", tmp_path, tmp_path)


def test_a_mirror_serves_the_detector(root: Path, yunet_file: Path, tmp_path: Path) -> None:
    """A machine without internet takes it from pretrained.mirror, and keeps it."""
    cfg = config.load(root / "params.yaml")
    pretrained = cfg.pretrained.model_copy(update={"mirror": yunet_file.parent})
    mirrored = cfg.model_copy(update={"pretrained": pretrained})
    swapping.find_detector(mirrored, None, tmp_path / "networks", tmp_path / "state")
    assert list((tmp_path / "state" / "detector").iterdir())


@pytest.mark.slow
def test_the_champion_is_used_and_else_the_candidate(
    swapper: model.Swapper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a champion the candidate serves and a line says so; once promoted, the champion does."""
    monkeypatch.chdir(tmp_path)
    cfg = config.Tracking()
    with pytest.raises(StyleBlendError, match="run `dvc repro` first"):
        swapping.find_model(cfg, None)
    parent = tracking.start_pipeline(cfg, "p", {})
    for key in ("first", "second"):
        folder = tmp_path / key
        folder.mkdir()
        with torch.no_grad():
            swapper.decoder.rgb_bias.fill_(0.5 if key == "first" else -0.5)
        model.save(swapper, SIZES, folder)
        with tracking.child_run(cfg, parent, "register", key, {}) as run:
            tracking.register_version(cfg, folder, {}, {}, {}, "candidate", run=run, key=key)
    found, name = swapping.find_model(cfg, None)
    assert "using the candidate, version 2" in capsys.readouterr().out
    assert (name, float(found.decoder.rgb_bias.detach()[0])) == ("styleblend version 2", -0.5)
    tracking.point_alias(cfg, "champion", "1")
    found, name = swapping.find_model(cfg, None)
    assert (name, float(found.decoder.rgb_bias.detach()[0])) == ("styleblend version 1", 0.5)
    found, name = swapping.find_model(cfg, str(tmp_path / "second"))
    assert (name, float(found.decoder.rgb_bias.detach()[0])) == ("model folder second", -0.5)
    with pytest.raises(StyleBlendError, match="no version or alias 'nosuch'"):
        swapping.find_model(cfg, "nosuch")
