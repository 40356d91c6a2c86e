"""A vectorised z-buffer: which triangle each pixel of a batch of pictures sees, and where in it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Fragments:
    """Visible surface points, one a covered pixel.

    pixel: [P] index into the flattened batch (picture * size * size + row * size + column)
    picture: [P]; triangle: [P] row of `triangles`; barycentric: [P, 3], perspective-correct
    """

    pixel: Tensor
    picture: Tensor
    triangle: Tensor
    barycentric: Tensor


def rasterize(points_px: Tensor, depth: Tensor, triangles: Tensor, two_sided: Tensor, size_px: int) -> Fragments:
    """Find the nearest triangle at each pixel centre.

    Args:
        points_px: [N, V, 2] projected vertices; pixel (row r, column c) has its centre at (c + 0.5, r + 0.5)
        depth: [N, V] positive distance to the camera plane
        triangles: [T, 3] vertex indices, clockwise on the screen (y downwards) where seen from outside
        two_sided: [T] whether a triangle shows from its back too
    """
    n, vertices, _ = points_px.shape
    # index_select is several times faster than indexing with a tensor.
    corners = points_px.index_select(1, triangles.flatten()).reshape(n, -1, 3, 2)
    edge1, edge2 = corners[:, :, 1] - corners[:, :, 0], corners[:, :, 2] - corners[:, :, 0]
    area = edge1[..., 0] * edge2[..., 1] - edge1[..., 1] * edge2[..., 0]
    low = corners.amin(2).sub(0.5).ceil().clamp(0, size_px)
    high = corners.amax(2).sub(0.5).floor().clamp(-1, size_px - 1)
    extent = (high - low + 1).clamp(min=0)
    # Triangles that face away, or whose box covers no pixel centre, are left out before the costly part.
    shown = (area > 1e-8) | (two_sided & (area < -1e-8))
    picture, row = (shown & (extent.prod(-1) > 0)).nonzero(as_tuple=True)
    box_low, box = low[picture, row], extent[picture, row].long()
    count = box.prod(-1)
    # Every (triangle, pixel of its box) becomes one candidate; boxes may be of any size.
    owner = torch.repeat_interleave(torch.arange(len(count), device=count.device), count)
    offset = torch.arange(len(owner), device=count.device) - (count.cumsum(0) - count).index_select(0, owner)
    width = box[:, 0].index_select(0, owner)
    x = box_low[:, 0].index_select(0, owner) + (offset % width) + 0.5
    y = box_low[:, 1].index_select(0, owner) + torch.div(offset, width, rounding_mode="floor") + 0.5
    ax, ay, bx, by, cx, cy = corners[picture, row].reshape(-1, 6).T.contiguous().index_select(1, owner)
    total = area[picture, row].index_select(0, owner)
    weight_b = _weight(x, y, cx, cy, ax, ay) / total
    weight_c = _weight(x, y, ax, ay, bx, by) / total
    weight_a = 1 - weight_b - weight_c
    inside = (weight_a >= 0) & (weight_b >= 0) & (weight_c >= 0)
    owner, x, y = owner[inside], x[inside], y[inside]
    screen = torch.stack([weight_a[inside], weight_b[inside], weight_c[inside]], dim=1)
    picture, row = picture[owner], row[owner]
    vertex = (picture[:, None] * vertices + triangles[row]).flatten()
    inverse = screen / depth.flatten().index_select(0, vertex).reshape(-1, 3)
    distance = 1 / inverse.sum(1)
    pixel = (picture * size_px + y.long()) * size_px + x.long()
    # Depth in the high bits and the candidate in the low ones: one scatter finds the nearest and who it is.
    key = ((distance * 2**20).long() << 32) | torch.arange(len(pixel), device=pixel.device)
    nearest = torch.full((n * size_px * size_px,), 2**62, dtype=torch.long, device=pixel.device)
    nearest.scatter_reduce_(0, pixel, key, "amin")
    seen = nearest[nearest < 2**62] & 0xFFFFFFFF
    barycentric = inverse[seen] * distance[seen, None]
    return Fragments(pixel[seen], picture[seen], row[seen], barycentric)


def _weight(x: Tensor, y: Tensor, ax: Tensor, ay: Tensor, bx: Tensor, by: Tensor) -> Tensor:
    """Twice the signed area of (a, b, point)."""
    return (bx - ax) * (y - ay) - (by - ay) * (x - ax)
