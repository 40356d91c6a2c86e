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
        size_px: side of the pictures
    """
    n, vertices, _ = points_px.shape
    corners = points_px[:, triangles]  # [N, T, 3, 2]
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
    offset = torch.arange(len(owner), device=count.device) - (count.cumsum(0) - count)[owner]
    width = box[owner, 0]
    x = box_low[owner, 0] + (offset % width) + 0.5
    y = box_low[owner, 1] + torch.div(offset, width, rounding_mode="floor") + 0.5
    a, b, c = corners[picture, row].unbind(1)
    area_kept = area[picture, row]
    weight_b = _weight(x, y, c[owner], a[owner]) / area_kept[owner]
    weight_c = _weight(x, y, a[owner], b[owner]) / area_kept[owner]
    weight_a = 1 - weight_b - weight_c
    inside = (weight_a >= 0) & (weight_b >= 0) & (weight_c >= 0)
    owner, x, y = owner[inside], x[inside], y[inside]
    screen = torch.stack([weight_a[inside], weight_b[inside], weight_c[inside]], dim=1)
    picture, row = picture[owner], row[owner]
    inverse = screen / depth[picture[:, None], triangles[row]]
    distance = 1 / inverse.sum(1)
    pixel = (picture * size_px + y.long()) * size_px + x.long()
    # Depth in the high bits and the candidate in the low ones: one scatter finds the nearest and who it is.
    key = ((distance * 2**20).long() << 32) | torch.arange(len(pixel), device=pixel.device)
    nearest = torch.full((n * size_px * size_px,), 2**62, dtype=torch.long, device=pixel.device)
    nearest.scatter_reduce_(0, pixel, key, "amin")
    seen = nearest[nearest < 2**62] & 0xFFFFFFFF
    barycentric = inverse[seen] * distance[seen, None]
    return Fragments(pixel[seen], picture[seen], row[seen], barycentric)


def _weight(x: Tensor, y: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Twice the signed area of (start, end, point)."""
    return (end[:, 0] - start[:, 0]) * (y - start[:, 1]) - (end[:, 1] - start[:, 1]) * (x - start[:, 0])
