"""The inverse of `styleblend.faces.alignment.to_aligned`, by which tests choose places in a photograph."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def from_aligned(points: ArrayLike, quad: ArrayLike) -> NDArray[np.float64]:
    """Pixels in the picture of points [...,2] in [0, 1] of the crop."""
    quad = np.asarray(quad, dtype=np.float64).reshape(4, 2)
    axes = np.stack([quad[3] - quad[0], quad[1] - quad[0]], axis=1)
    return np.asarray(points, dtype=np.float64) @ axes.T + quad[0]
