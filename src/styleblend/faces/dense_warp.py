"""The dense warp: one photograph's face bent onto another's by points, without any learning.

What a careful classical program does with two photographs and their landmarks: a thin-plate spline through the points
(Duchon 1977; Bookstein 1989), colours matched in CIE Lab by mean and standard deviation (Reinhard et al. 2001), a soft
mask. It draws what the source's picture shows and nothing else: what is hidden there, in a turned head, is smeared.
Landmarks count in pixels with the centre of the top-left pixel at (0, 0).
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import RBFInterpolator

Pixels = NDArray[np.uint8]
Points = NDArray[np.floating]

_GRID_PX = 4
"""The spline is evaluated at every fourth pixel and interpolated between: it bends far more slowly than that."""
_STIFFNESS = 1e-3
"""Smoothing of the spline, in squared shares of the points' spread: points that fall together do no harm."""
_FEATHER = 0.12
"""Width of the mask's soft edge, inwards, as a share of the square root of the mask's area."""
_CONTRAST = (0.5, 2.0)
"""Least and greatest factor of a channel's standard deviation: a face half in shadow is no reason for more."""


def dense_warp(source: Pixels, target: Pixels, source_px: Points, target_px: Points) -> Pixels:
    """The source's face in the target's place: one pair of RGB pictures, of any two sizes.

    Args:
        source, target: [H, W, 3]; the result has the target's size.
        source_px, target_px: the same points [K, 2] in both, at least three: 68 landmarks, or the points of a mesh.
    Returns:
        [H, W, 3]; the target as it is where its points span no area, or give no spline.
    """
    height, width = target.shape[:2]
    mask = soft_hull(target_px, height, width)
    places = spline(target_px, source_px, height, width) if mask.any() else None
    if places is None:
        return target
    maps = places[..., 0], places[..., 1]
    warped = np.asarray(cv2.remap(source, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE), np.uint8)
    # Beyond the source's edge there is no face to take.
    limits = np.array([source.shape[1], source.shape[0]]) - 0.5
    mask = mask * ((places > -0.5) & (places < limits)).all(2)
    face = mask > 0.5
    if not face.any():
        return target
    share = mask[..., None]
    return np.asarray(np.rint(_matched(warped, target, face) * share + target * (1 - share)), np.uint8)


def spline(place: Points, value: Points, height: int, width: int) -> NDArray[np.float32] | None:
    """Where each pixel of a picture lies after the thin-plate spline that takes points `place` to `value`, [K, 2].

    Returns:
        [height, width, 2], x and y; None where the points give no spline, as on a line.
    """
    place, value = np.asarray(place, np.float64), np.asarray(value, np.float64)
    if not (np.isfinite(place).all() and np.isfinite(value).all()):
        return None
    centre, spread = place.mean(0), place.std()
    if len(place) < 3 or np.linalg.svd(place - centre, compute_uv=False)[1] < 1e-3 * max(len(place) ** 0.5, spread):
        return None
    try:
        bent = RBFInterpolator((place - centre) / spread, value, smoothing=_STIFFNESS, kernel="thin_plate_spline")
    except np.linalg.LinAlgError:
        return None
    # One row and column more than pixels, so that nothing is extrapolated at the far edges.
    x, y = (np.arange(0, side + _GRID_PX, _GRID_PX, dtype=np.float64) for side in (width, height))
    grid = np.stack(np.meshgrid(x, y), axis=-1)
    coarse = bent((grid.reshape(-1, 2) - centre) / spread).reshape(grid.shape).astype(np.float32)
    down, right = (np.arange(side, dtype=np.float32) / _GRID_PX for side in (height, width))
    columns, rows = np.meshgrid(right, down)
    fine = [cv2.remap(np.ascontiguousarray(coarse[..., axis]), columns, rows, cv2.INTER_LINEAR) for axis in (0, 1)]
    return np.stack(fine, axis=-1)


def soft_hull(points: Points, height: int, width: int) -> NDArray[np.float32]:
    """Convex hull of points [K, 2] as a mask [height, width] in [0, 1] that rises inwards from 0 at its edge.

    Points that are not finite, or span no area within the picture, give an empty mask.
    """
    empty = np.zeros((height, width), np.float32)
    reach = 4 * max(height, width)
    if len(points) < 3 or not np.isfinite(points).all() or np.abs(points).max() > reach:
        return empty
    fraction = 4  # bits: OpenCV draws polygons with sub-pixel corners as fixed-point numbers
    corners = cv2.convexHull(np.round(np.asarray(points, np.float64) * 2**fraction).astype(np.int32))
    area = cv2.contourArea(corners) / 4**fraction
    if area < 9:
        return empty
    hard = np.zeros((height, width), np.uint8)
    cv2.fillConvexPoly(hard, corners, 1, lineType=cv2.LINE_8, shift=fraction)
    # The picture's own edge is no edge of the face, so the distance is not counted from there.
    inwards = cv2.distanceTransform(hard, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    ramp = np.clip(inwards / max(1.0, _FEATHER * area**0.5), 0, 1)
    return np.asarray(ramp * ramp * (3 - 2 * ramp), np.float32)


def _matched(picture: Pixels, target: Pixels, face: NDArray[np.bool_]) -> NDArray[np.float32]:
    """`picture` with the target's mean and standard deviation within `face`, in Lab; float RGB [H, W, 3], 0 to 255."""
    own, wanted = (cv2.cvtColor(each.astype(np.float32) / 255, cv2.COLOR_RGB2LAB) for each in (picture, target))
    means = [each[face].mean(0) for each in (own, wanted)]
    spreads = [each[face].std(0) for each in (own, wanted)]
    contrast = np.clip(spreads[1] / np.maximum(spreads[0], 1e-3), *_CONTRAST)
    moved = ((own - means[0]) * contrast + means[1]).astype(np.float32)
    return np.asarray(np.clip(cv2.cvtColor(moved, cv2.COLOR_LAB2RGB), 0, 1) * 255, np.float32)
