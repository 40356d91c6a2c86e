"""faces.warp: pixels follow the mesh, what the source does not show does not count."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from mesh_faces import picture, template, turned
from styleblend.errors import StyleBlendError
from styleblend.faces import warp

SIDE = 96


def test_a_face_on_its_own_mesh_stays_as_it_is() -> None:
    """Every pixel of the mesh takes itself, and the source shows all of it."""
    pixels = picture(SIDE)
    bent = warp.warp(pixels, template(), template(), SIDE)
    counts = bent[..., 3] > 0
    assert counts.mean() > 0.15
    # A pixel that a triangle's edge only touches takes what is at the edge.
    assert np.abs(bent[counts][:, :3] - pixels[counts]).max() <= 6
    inside = cv2.erode(counts.astype(np.uint8), np.ones((15, 15)))
    assert np.abs(bent[inside > 0][:, :3] - pixels[inside > 0]).max() <= 3
    assert bent[..., 3][inside > 0].min() > 0.99


def test_a_moved_and_scaled_mesh_is_an_affine_warp() -> None:
    """Against OpenCV's own warp of the whole picture, at another side too."""
    pixels = picture(SIDE)
    move = np.array([0.05, -0.03], np.float32)
    there = template().copy()
    there[:, :2] = (there[:, :2] - 0.5) * 0.8 + 0.5 + move
    for side in (SIDE, 64):
        bent = warp.warp(pixels, template(), there, side)
        scale = 0.8 * side / SIDE
        # Pixels count from their centres.
        shift = (0.5 - 0.5 * 0.8 + move) * side + 0.5 * scale - 0.5
        matrix = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]])
        wanted = cv2.warpAffine(pixels, matrix, (side, side), flags=cv2.INTER_LINEAR)
        counts = bent[..., 3] > 0
        assert counts.any() and np.abs(bent[..., :3] - wanted)[counts].max() <= 6


def test_what_a_turned_source_hides_does_not_count() -> None:
    """Of a head turned by 60 degrees the far cheek is not seen, the near one is; the nearer half is the other way round
    for the other turn."""
    pixels = picture(SIDE)
    left, right = (warp.warp(pixels, turned(yaw), template(), SIDE)[..., 3] for yaw in (60, -60))
    rows = slice(SIDE // 2, 3 * SIDE // 4)
    near, far = slice(SIDE // 2 + 6, SIDE // 2 + 16), slice(SIDE // 2 - 16, SIDE // 2 - 6)
    halves = [[seen[rows, side].mean() for side in (near, far)] for seen in (left, right)]
    assert min(halves[0]) < 0.3 < 0.8 < max(halves[0])
    assert np.argmax(halves[0]) != np.argmax(halves[1])


def test_the_same_turn_shows_all() -> None:
    """A grazing angle is no loss where the target has it, too."""
    seen = warp.warp(picture(SIDE), turned(45), turned(45), SIDE)[..., 3]
    inside = cv2.erode((seen > 0).astype(np.uint8), np.ones((15, 15)))
    assert seen[inside > 0].min() > 0.99


def test_nearer_parts_cover_those_behind() -> None:
    """In a profile the nose's tip lies before the far cheek: the pixel there is the nose's."""
    pixels = picture(SIDE)
    there = turned(50)
    tip = there[4, :2] * SIDE - 0.5
    column, row = np.round(tip).astype(int)
    bent = warp.warp(pixels, template(), there, SIDE)
    own = np.round(template()[4, :2] * SIDE - 0.5).astype(int)
    nearby = pixels[own[1] - 3 : own[1] + 4, own[0] - 3 : own[0] + 4].reshape(-1, 3).astype(float)
    assert np.abs(nearby - bent[row, column, :3]).sum(1).min() < 20


def test_mirrored_points_fit_the_mirrored_picture() -> None:
    """Twice mirrored is as before; a mirrored source on its mirrored mesh is the mirrored warp."""
    mesh = turned(20)
    assert np.allclose(warp.mirrored(warp.mirrored(mesh)), mesh, atol=1e-6)
    pixels = picture(SIDE)
    plain = warp.warp(pixels, mesh, mesh, SIDE)
    other = warp.warp(np.ascontiguousarray(pixels[:, ::-1]), warp.mirrored(mesh), warp.mirrored(mesh), SIDE)
    counts = (plain[..., 3] > 0) & (other[:, ::-1, 3] > 0)
    assert counts.sum() > 0.9 * (plain[..., 3] > 0).sum()
    assert np.quantile(np.abs(plain - other[:, ::-1])[counts][:, :3], 0.99) <= 3


def test_colours_are_the_targets() -> None:
    """Mean and deviation of each colour, where the face counts, become the target's; the weights stay."""
    source, target = picture(SIDE), (0.6 * picture(SIDE, 1).astype(float) + 20).astype(np.uint8)
    bent = warp.warp(source, template(), template(), SIDE)
    matched = warp.match_colours(bent, target)
    weight = bent[..., 3:]
    for each in range(3):
        found, wanted = matched[..., each : each + 1], target[..., each : each + 1].astype(float)
        means = [(weight * values).sum() / weight.sum() for values in (found, wanted)]
        spreads = [
            np.sqrt((weight * (values - mean) ** 2).sum() / weight.sum())
            for values, mean in zip((found, wanted), means, strict=True)
        ]
        assert means[0] == pytest.approx(means[1], abs=1) and spreads[0] == pytest.approx(spreads[1], rel=0.1)
    assert np.array_equal(matched[..., 3], bent[..., 3])


def test_a_mesh_beside_the_picture_gives_nothing() -> None:
    """No face in sight is no error: nothing counts, and colours are left alone."""
    away = template() + np.float32([3, 0, 0])
    bent = warp.warp(picture(SIDE), template(), away, SIDE)
    assert not bent.any()
    assert not warp.match_colours(bent, picture(SIDE)).any()


def test_another_mesh_is_refused() -> None:
    """The template knows one mesh; the message names both numbers."""
    with pytest.raises(StyleBlendError, match="478 points .* has 468"):
        warp.triangles(478)


def test_the_prior_is_what_a_network_reads() -> None:
    """Colours in [-1, 1], then the weight, channels first."""
    source, target = picture(SIDE), picture(SIDE, 1)
    read = warp.prior(source, turned(10), target, template())
    bent = warp.match_colours(warp.warp(source, turned(10), template(), SIDE), target)
    assert read.shape == (4, SIDE, SIDE) and read[:3].abs().max() <= 1
    assert np.allclose(read[3].numpy(), bent[..., 3])
    assert np.allclose((read[:3].permute(1, 2, 0).numpy() + 1) * 127.5, bent[..., :3], atol=1e-3)
