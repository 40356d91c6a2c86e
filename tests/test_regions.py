"""The face's region follows its landmarks."""

from __future__ import annotations

import torch

from styleblend.faces.regions import face_region
from styleblend.synthetic import factors, renderer


def test_region_covers_the_rendered_face_and_leaves_the_background() -> None:
    """It holds nearly all pixels that the renderer calls face, at any pose, and no corner of the picture."""
    render = renderer.render(factors.sample(3, list(range(12)), [0] * 12), 64, supersample=1)
    region = face_region((render.landmarks_px + 0.5) / 64, 64)
    assert region.shape == (12, 1, 64, 64)
    face = render.face_mask > 0.5
    assert (region[face] > 0.5).float().mean() > 0.85
    assert (region[:, 0, [0, 0, -1, -1], [0, -1, 0, -1]] == 0).all()


def test_region_scales_moves_and_softens() -> None:
    """Twice the side is twice the shape, a shift of points is a shift of the region, softening keeps the area."""
    points = factors.sample(3, [1], [0])
    marks = (renderer.render(points, 64, supersample=1).landmarks_px + 0.5) / 64
    small, large = face_region(marks, 64), face_region(marks, 128)
    assert abs(float(small.mean() - large.mean())) < 0.01
    moved = face_region(marks + torch.tensor([4 / 64, 0]), 64)
    assert moved[..., 4:].sub(small[..., :-4]).abs().mean() < 0.01
    soft = face_region(marks, 64, soften_px=2)
    assert ((soft > 0.05) & (soft < 0.95)).any() and abs(float(soft.mean() - small.mean())) < 0.02
