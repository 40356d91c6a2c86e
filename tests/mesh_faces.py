"""Meshes in known poses and pictures to warp: the template's points, turned, moved and scaled."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from styleblend.faces.mesh_template import POINTS


def template() -> NDArray[np.float32]:
    """The mean mesh of frontal faces, [468, 3]."""
    return np.asarray(POINTS, np.float32)


def turned(yaw_deg: float, mesh: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    """The mesh seen after the head turned to the picture's right by so much, about its middle."""
    points = (template() if mesh is None else mesh).astype(np.float64)
    centre = np.array([0.5, 0.55, 0.1])
    angle = np.radians(yaw_deg)
    turn = np.array([[np.cos(angle), 0, -np.sin(angle)], [0, 1, 0], [np.sin(angle), 0, np.cos(angle)]])
    return ((points - centre) @ turn.T + centre).astype(np.float32)


def picture(side: int, seed: int = 0) -> NDArray[np.uint8]:
    """Smooth colours [side, side, 3] that differ everywhere."""
    phases = np.random.default_rng(seed).uniform(0, 6, (3, 3))
    y, x = np.mgrid[:side, :side] / side
    waves = [np.sin(4 * x + a) + np.sin(3 * y + b) + np.sin(5 * (x + y) + c) for a, b, c in phases]
    return (128 + 40 * np.stack(waves, axis=2)).clip(0, 255).astype(np.uint8)
