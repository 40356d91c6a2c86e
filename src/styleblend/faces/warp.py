"""The source's face, bent in three dimensions onto the target's: what a solid mesh says about a swap.

Both faces have the same mesh of points with depth. Each triangle of the target's mesh that faces the viewer takes its
pixels from the same triangle of the source; nearer ones cover those behind, and what the source's picture does not
show, or shows at a sharper angle than the target does, counts less.
"""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from styleblend.errors import StyleBlendError
from styleblend.faces.mesh_template import POINTS

Points = NDArray[np.float32]
"""[K, 3]: x and y as shares of the picture's side, depth in the same unit, smaller is nearer."""

_FRACTION_BITS = 4
_EDGE = 1 / 32
"""Width of the soft edge of the mesh, as a share of the side."""
_SEEN_FROM, _SEEN_TO = 0.25, 0.7
"""How many of its pixels the source shows for a pixel of the target: below the first nothing counts, above the second
all."""
_GAIN = (0.5, 2.0)


@cache
def triangles(points: int) -> NDArray[np.int64]:
    """Corners [T, 3] of the mesh's triangles, all with the same turn in a face seen from the front.

    They are the Delaunay triangles of the mean mesh of frontal faces, where no two points cover each other.

    Raises:
        StyleBlendError: there is no template for a mesh of so many points.
    """
    # Here, for scipy takes its time to load, and models without the prior do not need it.
    from scipy.spatial import Delaunay

    template = _template(points)
    corners = Delaunay(template[:, :2]).simplices.astype(np.int64)
    turned = _turn(template[corners][..., :2]) < 0
    corners[turned] = corners[turned][:, ::-1]
    return corners


@cache
def _template(points: int) -> NDArray[np.float64]:
    template = np.asarray(POINTS, np.float64)
    if len(template) != points:
        raise StyleBlendError(f"a mesh of {points} points cannot be warped: the template has {len(template)}")
    return template


def warp(source: NDArray[np.uint8], source_mesh: Points, target_mesh: Points, side: int) -> NDArray[np.float32]:
    """The source's pixels where the target's face is, and how well they are seen.

    Args:
        source: RGB [H, H, 3]. source_mesh, target_mesh: points of the two faces. side: of the result.
    Returns:
        [side, side, 4]: RGB in [0, 255], then what counts of it in [0, 1], 0 beside the mesh.
    """
    corners = triangles(len(target_mesh))
    there = target_mesh.astype(np.float64) * [side, side, side] - [0.5, 0.5, 0]
    own = source_mesh.astype(np.float64) * len(source) - [0.5, 0.5, 0]
    order = corners[_turn(there[corners][..., :2]) > 1e-9]
    # From far to near, so that what is nearer is drawn last.
    order = order[np.argsort(-there[order][..., 2].mean(1), kind="stable")]
    drawn = np.zeros((side, side), np.float32)
    for number, corner in enumerate(np.round(there[order][..., :2] * 2**_FRACTION_BITS).astype(np.int32), start=1):
        cv2.fillConvexPoly(drawn, corner, number, lineType=cv2.LINE_8, shift=_FRACTION_BITS)
    rows, columns = np.nonzero(drawn)
    if not len(rows):
        return np.zeros((side, side, 4), np.float32)
    of_pixel = order[drawn[rows, columns].astype(np.int64) - 1]
    weights = _barycentric(np.stack([columns, rows], axis=1).astype(np.float64), there[of_pixel][..., :2])
    maps = np.full((side, side, 2), -1, np.float32)
    maps[rows, columns] = np.einsum("nk,nkd->nd", weights, own[of_pixel][..., :2])
    pixels = cv2.remap(source, maps[..., 0], maps[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    seen = np.zeros((side, side), np.float32)
    seen[rows, columns] = np.einsum("nk,nk->n", weights, _seen(own, there, corners)[of_pixel])
    return np.concatenate([pixels.astype(np.float32), (seen * soft_mesh(drawn > 0))[..., None]], axis=2)


def prior(source: NDArray[np.uint8], source_mesh: Points, target: NDArray[np.uint8], target_mesh: Points) -> Tensor:
    """The warped source in the target's colours, as a model with the prior `warp` reads it.

    Args:
        source, target: RGB [S, S, 3], with the points of their faces.
    Returns:
        [4, S, S]: RGB in [-1, 1], then what counts of it in [0, 1].
    """
    bent = match_colours(warp(source, source_mesh, target_mesh, len(target)), target)
    bent[..., :3] = bent[..., :3] / 127.5 - 1
    return torch.from_numpy(bent).permute(2, 0, 1).contiguous()


def mirrored(mesh: Points) -> Points:
    """The points of the mirrored picture, each in the place of its partner on the other side of the face."""
    other = mesh[_partners(len(mesh))].copy()
    other[:, 0] = 1 - other[:, 0]
    return other


@cache
def _partners(points: int) -> NDArray[np.int64]:
    from scipy.optimize import linear_sum_assignment

    template = _template(points)
    reflected = template * [-1, 1, 1] + [1, 0, 0]
    distances = ((reflected[:, None] - template[None]) ** 2).sum(2)
    # The template is symmetric to its rounding: each point has one partner.
    return np.asarray(linear_sum_assignment(distances + distances.T)[1], np.int64)


def soft_mesh(inside: NDArray[np.bool_]) -> NDArray[np.float32]:
    """1 well inside a mask, 0 at its edge and beside it."""
    width = max(2.0, _EDGE * len(inside))
    distance = cv2.distanceTransform(inside.astype(np.uint8), cv2.DIST_L2, 3)
    return np.clip(distance / (2 * width), 0, 1).astype(np.float32)


def match_colours(warped: NDArray[np.float32], target: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The same with the target's mean and deviation of each colour where the face counts (Reinhard et al. 2001).

    Args:
        warped: as `warp` gives it. target: RGB [side, side, 3].
    """
    weight = warped[..., 3:]
    total = weight.sum()
    if total < 1:
        return warped
    there = target.astype(np.float32)
    means = [(weight * each).sum((0, 1)) / total for each in (warped[..., :3], there)]
    spreads = [
        np.sqrt((weight * (each - mean) ** 2).sum((0, 1)) / total) + 1
        for each, mean in zip((warped[..., :3], there), means, strict=True)
    ]
    gain = np.clip(spreads[1] / spreads[0], *_GAIN)
    colours = np.clip((warped[..., :3] - means[0]) * gain + means[1], 0, 255)
    return np.concatenate([colours, weight], axis=2)


def _turn(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """Twice the signed area [T] of triangles [T, 3, 2]."""
    a, b = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    return np.asarray(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0])


def _barycentric(pixels: NDArray[np.float64], corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights [N, 3] of triangles [N, 3, 2] at pixels [N, 2]; a pixel at a triangle's edge is taken as inside."""
    total = _turn(corners)
    parts = [
        _turn(np.stack([corners[:, (k + 1) % 3], corners[:, (k + 2) % 3], pixels], axis=1)) / total for k in range(3)
    ]
    weights = np.clip(np.stack(parts, axis=1), 0, 1)
    return np.asarray(weights / weights.sum(1, keepdims=True))


def _seen(own: NDArray[np.float64], there: NDArray[np.float64], corners: NDArray[np.int64]) -> NDArray[np.float64]:
    """For each point [K], from 0 to 1: how squarely the source shows the skin there, beside how the target does."""
    shown = [_facing(points, corners) for points in (own, there)]
    share = shown[0] / np.maximum(shown[1], 0.1)
    way = np.clip((share - _SEEN_FROM) / (_SEEN_TO - _SEEN_FROM), 0, 1)
    return np.asarray(way * way * (3 - 2 * way))


def _facing(points: NDArray[np.float64], corners: NDArray[np.int64]) -> NDArray[np.float64]:
    """Cosine [K] between the surface's normal at each point and the way to the viewer."""
    a, b = (points[corners[:, k]] - points[corners[:, 0]] for k in (1, 2))
    normals = np.zeros_like(points)
    for corner in corners.T:
        np.add.at(normals, corner, np.cross(a, b))
    return np.asarray(normals[:, 2] / np.maximum(np.linalg.norm(normals, axis=1), 1e-12))
