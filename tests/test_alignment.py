"""faces.alignment: the FFHQ crop."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image

from aligned_points import from_aligned
from styleblend.faces import alignment
from styleblend.faces.alignment import AlignmentError, crop, quad_from_landmarks, to_aligned


def face(seed: int = 0) -> np.ndarray:
    """68 points that stand like a face of about 100 px: eyes above the mouth, with noise."""
    random = np.random.default_rng(seed)
    points = random.normal(0, 20, (68, 2)) + (100, 100)
    points[36:42] = random.normal(0, 2, (6, 2)) + (80, 85)
    points[42:48] = random.normal(0, 2, (6, 2)) + (120, 85)
    points[48], points[54] = random.normal(0, 2, (2, 2)) + ((85, 130), (115, 130))
    return points


def slow_quad(points: np.ndarray) -> list[tuple[float, float]]:
    """The rule of the data set, written with complex numbers: a turn by 90 degrees is a product with i."""
    z = [complex(x, y) for x, y in points]
    eye_left, eye_right = sum(z[36:42]) / 6, sum(z[42:48]) / 6
    eye_avg = (eye_left + eye_right) * 0.5
    eye_to_eye = eye_right - eye_left
    eye_to_mouth = (z[48] + z[54]) * 0.5 - eye_avg
    x = eye_to_eye - 1j * eye_to_mouth
    x = x / abs(x) * max(abs(eye_to_eye) * 2.0, abs(eye_to_mouth) * 1.8)
    y = 1j * x
    c = eye_avg + eye_to_mouth * 0.1
    return [(p.real, p.imag) for p in (c - x - y, c - x + y, c + x + y, c + x - y)]


def similarity(points: np.ndarray, degrees: float, scale: float, shift: tuple[float, float]) -> np.ndarray:
    turn = math.radians(degrees)
    matrix = scale * np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    return points @ matrix.T + shift


@pytest.mark.parametrize("seed", range(5))
def test_quad_is_the_published_rule(seed: int) -> None:
    """The quad equals a slow reference of the rule for any 68 points."""
    points = face(seed)
    assert quad_from_landmarks(points) == pytest.approx(np.array(slow_quad(points)), abs=1e-9)


def test_five_points_follow_the_same_rule() -> None:
    """Five points with the same eyes and mouth give the same quad as 68."""
    points = face()
    five = np.stack([points[36:42].mean(0), points[42:48].mean(0), (100, 100), points[48], points[54]])
    assert quad_from_landmarks(five) == pytest.approx(quad_from_landmarks(points))


@pytest.mark.parametrize(("degrees", "scale"), [(0, 3.0), (30, 1.0), (180, 0.5), (-77, 10.0)])
def test_quad_moves_with_the_face(degrees: float, scale: float) -> None:
    """Turning, scaling and moving the points turns, scales and moves the quad alike."""
    moved = similarity(face(), degrees, scale, (40, -7))
    expected = similarity(quad_from_landmarks(face()), degrees, scale, (40, -7))
    assert quad_from_landmarks(moved) == pytest.approx(expected)


def test_quad_is_an_upright_square() -> None:
    """Sides are equal and at right angles; of an upright face the first corner is top-left, the second below it."""
    quad = quad_from_landmarks(face())
    sides = np.roll(quad, -1, axis=0) - quad
    assert np.hypot(*sides.T) == pytest.approx(alignment.side_px(quad))
    assert (sides * np.roll(sides, -1, axis=0)).sum(1) == pytest.approx(0, abs=1e-6)
    assert quad[0, 1] < quad[1, 1] and quad[0, 0] < quad[3, 0]


@pytest.mark.parametrize("points", [np.zeros((68, 2)), np.full((68, 2), np.nan), np.zeros((7, 2))])
def test_useless_points_are_refused(points: np.ndarray) -> None:
    """Points that coincide, are not finite or are of another number give an error, not a crop."""
    with pytest.raises(AlignmentError):
        quad_from_landmarks(points)


def test_aligned_coordinates_go_both_ways() -> None:
    """The quad's corners are the corners of the unit square, and the two mappings are inverse."""
    quad = quad_from_landmarks(face())
    assert to_aligned(quad, quad) == pytest.approx(np.array([(0, 0), (0, 1), (1, 1), (1, 0)]), abs=1e-9)
    assert from_aligned(to_aligned(face(), quad), quad) == pytest.approx(face())


def dots(points: np.ndarray, side: int, radius: float) -> Image.Image:
    """A black picture with a soft white dot at each point."""
    y, x = np.mgrid[:side, :side]
    levels = [np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * radius**2)) for px, py in points]
    return Image.fromarray((255 * np.max(levels, axis=0)).astype(np.uint8)).convert("RGB")


@pytest.mark.parametrize(("degrees", "scale", "size_px"), [(0, 1.0, 128), (35, 1.2, 64), (-100, 4.0, 96)])
def test_points_land_where_the_template_says(degrees: float, scale: float, size_px: int) -> None:
    """A dot at a landmark stands in the crop where `to_aligned` says, turned, enlarged or shrunk, to 0.25 px."""
    points = similarity(face(), degrees, scale, (0, 0))
    points += 150 * scale - points[36:48].mean(0)
    quad = quad_from_landmarks(points)
    for point in (points[36:42].mean(0), points[54]):
        picture = dots(point[None], round(300 * scale), 3 * scale)
        pixels = np.asarray(crop(picture, quad, size_px).convert("L")).astype(np.float64)
        y, x = np.mgrid[:size_px, :size_px]
        found = np.array([(pixels * x).sum(), (pixels * y).sum()]) / pixels.sum()
        assert found == pytest.approx(to_aligned(point, quad) * size_px - 0.5, abs=0.25)


def test_crop_does_not_depend_on_the_photographs_size() -> None:
    """The same scene photographed with four times the pixels gives nearly the same face."""
    random = np.random.default_rng(3)
    scene = Image.fromarray(random.integers(0, 255, (12, 12, 3), dtype=np.uint8))
    small, large = (scene.resize((side, side), Image.Resampling.BICUBIC) for side in (200, 800))
    quad = quad_from_landmarks(face())
    one = np.asarray(crop(small, quad, 48)).astype(float)
    other = np.asarray(crop(large, (quad + 0.5) * 4 - 0.5, 48)).astype(float)
    assert np.abs(one - other).mean() < 2


def test_outside_is_filled_by_reflection_and_the_inside_stays() -> None:
    """Where the quad leaves the picture the crop is no black border, and far inside nothing is blurred."""
    random = np.random.default_rng(0)
    scene = Image.fromarray(random.integers(100, 255, (20, 20, 3), dtype=np.uint8))
    picture = scene.resize((200, 200), Image.Resampling.BICUBIC)
    quad = quad_from_landmarks(face())
    moved = quad - quad.mean(0) + (30, 100)  # the left part lies outside
    face_px = np.asarray(crop(picture, moved, 64))
    assert face_px.min() > 60
    # The same crop of a picture that was extended by hand has no outside; the parts inside must agree.
    extended = Image.fromarray(np.pad(np.asarray(picture), ((200, 200), (200, 200), (0, 0)), mode="reflect"))
    whole = np.asarray(crop(extended, moved + 200, 64)).astype(int)
    inside = to_aligned((30, 100), moved)[0]
    columns = slice(int(64 * inside), 60)
    assert np.abs(face_px[8:56, columns].astype(int) - whole[8:56, columns]).mean() < 1


@pytest.mark.parametrize("change", [lambda q: q + 5000, lambda q: q * 100, lambda q: q * np.nan])
def test_a_quad_out_of_all_proportion_is_refused(change) -> None:
    """A crop far outside, far too large or not finite is an error before any memory is taken."""
    with pytest.raises(AlignmentError):
        crop(Image.new("RGB", (200, 200)), change(quad_from_landmarks(face())), 64)


@pytest.mark.parametrize("size", [(1, 1), (2, 300), (30, 20)])
def test_tiny_pictures_still_give_a_crop(size: tuple[int, int]) -> None:
    """Reflection works on pictures smaller than the padding."""
    width, height = size
    quad = np.array([(-5, -5), (-5, 5), (5, 5), (5, -5)]) + (width / 2, height / 2)
    if max(size) * alignment.LARGEST_CROP < 10:
        with pytest.raises(AlignmentError):
            crop(Image.new("RGB", size, "red"), quad, 16)
    else:
        assert np.asarray(crop(Image.new("RGB", size, "red"), quad, 16))[8, 8].tolist() == [255, 0, 0]
