"""swapping.paste_back: the face lands where it was cut out, in the photograph's colours, and nothing else changes."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from styleblend.faces.alignment import crop, to_aligned
from styleblend.swapping import match_colour, paste, paste_back

QUAD = np.array([[30.0, 20.0], [40.0, 90.0], [110.0, 80.0], [100.0, 10.0]])
"""A square turned by about 8 degrees, 70.7 px a side."""


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
            across, down = (to_aligned([x, y], QUAD) - paste_back.CENTRE) / paste_back.RADII
            radius[y, x] = (across**2 + down**2) ** 0.5
    return radius


def aligned_grid(side: int) -> NDArray[np.float64]:
    places = (np.arange(side) + 0.5) / side
    return np.stack(np.meshgrid(places, places), -1)


def test_a_face_lands_where_it_was_cut_out() -> None:
    """Inside the ellipse the photograph shows the face's picture at the aligned place of each pixel."""
    face = Image.fromarray(np.rint(waves(aligned_grid(128))).astype(np.uint8))
    grid = np.stack(np.meshgrid(np.arange(140.0), np.arange(120.0)), -1)
    truth = waves(to_aligned(grid, QUAD))
    there = Image.fromarray(np.rint(np.clip(truth, 0, 255)).astype(np.uint8))
    pasted = np.asarray(paste(face, there, QUAD), dtype=float)
    inside = ellipse(140, 120) < paste_back.SOLID
    assert inside.sum() > 500
    assert np.abs(pasted - truth)[inside].mean() < 1
    # The check is sharp: a tenth of a pixel would show.
    wrong = np.asarray(paste(face, there, QUAD + 0.1), dtype=float)
    assert np.abs(wrong - truth)[inside].mean() > 1.1


def test_outside_the_ellipse_every_pixel_stays() -> None:
    """Bit for bit the photograph's, and inside it changes."""
    before = photograph()
    after = paste(Image.new("RGB", (32, 32), (200, 30, 30)), before, QUAD)
    changed = (np.asarray(before) != np.asarray(after)).any(-1)
    radius = ellipse(140, 120)
    assert not changed[radius >= 1].any()
    assert changed[radius < paste_back.SOLID].mean() > 0.95
    assert np.array_equal(np.asarray(before), np.asarray(photograph())), "the given picture is left alone"


def test_strips_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mixed one row at a time or all at once, the picture is the same, up to the rounding of a value or two."""
    face = Image.fromarray(np.rint(waves(aligned_grid(64))).astype(np.uint8))
    whole = np.asarray(paste(face, photograph(), QUAD), dtype=int)
    monkeypatch.setattr(paste_back, "STRIP_PIXELS", 1)
    differs = np.abs(np.asarray(paste(face, photograph(), QUAD)) - whole)
    assert differs.max() <= 1 and (differs > 0).mean() < 1e-3


@pytest.mark.parametrize("shift", [(-60.0, 0.0), (80.0, 70.0), (0.0, -50.0)])
def test_a_face_at_the_picture_s_edge_is_pasted_as_far_as_it_goes(shift: tuple[float, float]) -> None:
    """A crop that leaves the picture neither fails nor moves."""
    before = photograph()
    quad = QUAD + shift
    after = paste(Image.new("RGB", (32, 32), (255, 0, 0)), before, quad)
    assert after.size == before.size
    grid = np.stack(np.meshgrid(np.arange(-100, 240), np.arange(-100, 220)), -1)
    everywhere = np.hypot(*np.moveaxis((to_aligned(grid, quad) - paste_back.CENTRE) / paste_back.RADII, -1, 0)) < 1
    there = everywhere[100:220, 100:240]
    assert 0 < there.sum() < everywhere.sum()
    assert np.array_equal(np.asarray(after)[~there], np.asarray(before)[~there])
    assert (np.asarray(after) != np.asarray(before)).any()


def test_a_face_beside_the_picture_changes_nothing() -> None:
    """There is no place for it."""
    after = paste(Image.new("RGB", (32, 32), (255, 0, 0)), photograph(), QUAD + 1000)
    assert np.array_equal(np.asarray(after), np.asarray(photograph()))


def test_cutting_out_and_pasting_back_changes_little() -> None:
    """Alignment and paste are inverse: a smooth photograph survives the way there and back."""
    grid = np.stack(np.meshgrid(np.arange(140.0), np.arange(120.0)), -1)
    there = Image.fromarray(np.rint(waves(grid / 140)).astype(np.uint8))
    aligned = crop(there, QUAD, 128)
    back = paste(match_colour(aligned, aligned), there, QUAD)
    assert np.abs(np.asarray(back, dtype=int) - np.asarray(there)).max() <= 3


@pytest.mark.parametrize("side", [32, 64, 200])
def test_a_wrong_overall_colour_is_mended(side: int) -> None:
    """A face that is too dark by a constant is brought to the photograph's colour, whatever its size."""
    there = Image.new("RGB", (64, 64), (150, 120, 100))
    matched = np.asarray(match_colour(Image.new("RGB", (side, side), (110, 90, 80)), there), dtype=int)
    assert matched.shape == (side, side, 3)
    assert np.abs(matched - (150, 120, 100)).max() <= 1


def test_light_from_one_side_leaves_no_seam() -> None:
    """A face drawn in even light, in a photograph lit from the left: one shift for all would leave a step."""
    ramp = (80 + 100 * aligned_grid(64)[..., :1]).repeat(3, -1)
    there = Image.fromarray(np.rint(ramp).astype(np.uint8))
    matched = np.asarray(match_colour(Image.new("RGB", (64, 64), (130, 130, 130)), there), dtype=float)
    across = (aligned_grid(64) - paste_back.CENTRE) / paste_back.RADII
    radius = np.hypot(across[..., 0], across[..., 1])
    seam = (radius > paste_back.SOLID) & (radius < 1) & (np.abs(across[..., 0]) > 0.7)
    assert seam.sum() > 50
    # The mean over the ring is right already: an even shift leaves the whole difference of the sides.
    assert np.abs(130 - ramp)[seam].mean() > 25
    assert np.abs(matched - ramp)[seam].mean() < 12


def test_features_of_the_face_survive_the_colours() -> None:
    """What is smaller than a face keeps its contrast: identity is not washed out."""
    spots = np.full((64, 64, 3), 120, dtype=np.uint8)
    spots[30:34, 22:26] = spots[30:34, 38:42] = 20
    matched = np.asarray(match_colour(Image.fromarray(spots), Image.new("RGB", (64, 64), (180, 150, 140))), dtype=int)
    contrast = matched[40, 32] - matched[32, 24]
    assert np.abs(contrast - 100).max() < 10
