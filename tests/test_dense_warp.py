"""The dense warp on pictures and points for which the answer is known."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from styleblend.faces.dense_warp import dense_warp, soft_hull, spline

SIDE = 96


@pytest.fixture
def points() -> np.ndarray:
    """68 points on two rings and the middle, in pixels."""
    angle = np.linspace(0, 2 * np.pi, 68, endpoint=False)
    radius = np.where(np.arange(68) % 2, 30.0, 15.0)
    return 48 + radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)


@pytest.fixture
def picture() -> np.ndarray:
    """A smooth picture with different colours everywhere."""
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    waves = [128 + 60 * np.sin(x / 9), 128 + 60 * np.cos(y / 11), 128 + 50 * np.sin((x + y) / 13)]
    return np.stack(waves, axis=-1).round().astype(np.uint8)


def test_a_face_onto_itself_changes_nothing(picture: np.ndarray, points: np.ndarray) -> None:
    """Source and target alike: the spline is the identity, and the colours match already."""
    assert np.abs(dense_warp(picture, picture, points, points).astype(int) - picture).max() <= 2


def test_the_spline_goes_through_the_points_and_keeps_affine_maps(points: np.ndarray) -> None:
    """An affine change of the points is that change everywhere; a bent one holds at the points."""
    turn = np.array([[0.9, -0.3], [0.2, 1.1]])
    everywhere = np.stack(np.meshgrid(np.arange(SIDE), np.arange(SIDE)), axis=-1)
    found = spline(points, points @ turn.T + (3, -2), SIDE, SIDE)
    assert found is not None and np.abs(found - (everywhere @ turn.T + (3, -2))).max() < 0.02
    whole = np.round(points)
    bent = whole + 2 * np.sin(whole[:, ::-1] / 10)
    found = spline(whole, bent, SIDE, SIDE)
    assert found is not None
    x, y = whole.astype(int).T
    assert np.abs(found[y, x] - bent).mean() < 0.2


def test_any_number_of_points_and_any_two_sizes(picture: np.ndarray, points: np.ndarray) -> None:
    """A mesh of several hundred points, and a source of twice the size, give the same face in the same place."""
    large = cv2.resize(picture, (2 * SIDE, 2 * SIDE), interpolation=cv2.INTER_CUBIC)
    mesh = np.concatenate([48 + (points - 48) * scale for scale in np.linspace(0.1, 1, 7)])
    swapped = dense_warp(large, picture, 2 * mesh + 0.5, mesh)
    assert swapped.shape == picture.shape and np.abs(swapped.astype(int) - picture).mean() < 1.5


def test_colours_follow_the_target_and_detail_the_source(picture: np.ndarray, points: np.ndarray) -> None:
    """A darker source with a mole: the mole stands in the target, the mean colour of the face is the target's."""
    source = (picture * 0.5).astype(np.uint8)
    cv2.circle(source, (48, 48), 3, (10, 10, 10), -1)
    swapped = dense_warp(source, picture, points, points).astype(int)
    face = np.hypot(*(np.mgrid[0:SIDE, 0:SIDE] - 48)) < 20
    assert np.abs(swapped[face].mean(0) - picture[face].mean(0)).max() < 12
    assert swapped[48, 48].mean() < picture[48, 48].mean() - 25


def test_outside_the_hull_every_pixel_is_the_targets(picture: np.ndarray, points: np.ndarray) -> None:
    """The mask rises inwards, so it has no seam to smooth and nothing leaks."""
    swapped = dense_warp(picture[::-1, ::-1].copy(), picture, points, points)
    outside = np.hypot(*(np.mgrid[0:SIDE, 0:SIDE] - 48)) > 31.5
    assert np.array_equal(swapped[outside], picture[outside]) and not np.array_equal(swapped, picture)
    mask = soft_hull(points, SIDE, SIDE)
    assert mask.max() == 1 and np.abs(np.diff(mask, axis=0)).max() < 0.35


@pytest.mark.parametrize("case", ["one point", "line", "far away", "not a number", "two points"])
def test_impossible_points_leave_the_target(picture: np.ndarray, points: np.ndarray, case: str) -> None:
    """Points that span no area, or are none, give the target as it is, without a warning."""
    bad = {
        "one point": np.full((68, 2), 48.0),
        "line": np.stack([np.arange(68.0), np.arange(68.0)], axis=1),
        "far away": points + 5000,
        "not a number": np.where(np.arange(68)[:, None] == 7, np.nan, points),
        "two points": points[:2],
    }[case]
    own = points[: len(bad)]
    assert np.array_equal(dense_warp(picture[::-1].copy(), picture, own, bad), picture)


@pytest.mark.parametrize("case", ["one point", "not a number"])
def test_impossible_points_of_the_source_are_no_error(picture: np.ndarray, points: np.ndarray, case: str) -> None:
    """The result is a picture of the target's size."""
    bad = np.full((68, 2), 48.0 if case == "one point" else np.nan)
    assert dense_warp(picture[::-1].copy(), picture, bad, points).shape == picture.shape


def test_points_that_fall_together_do_no_harm(picture: np.ndarray, points: np.ndarray) -> None:
    """A mesh may have the same point twice, even moved to two places: between them the spline takes the middle."""
    twice = np.concatenate([points, points])
    apart = np.concatenate([points + 1, points - 1])
    found, wanted = spline(twice, apart, SIDE, SIDE), spline(points, points, SIDE, SIDE)
    assert found is not None and wanted is not None and np.abs(found - wanted).max() < 0.2
