"""The surfaces of a head and of what it wears, as one mesh of grids in head units."""

from __future__ import annotations

from dataclasses import dataclass
from math import pi

import torch
from torch import Tensor

from styleblend.synthetic.head import RADII, Values, deform, eye_centre, ramp, surface

HEAD, EAR, NECK, CLOTHES, HAIR, GLASSES = range(6)
# Parts that turn with the head; neck and clothes follow it a little only.
TURNS_FULLY = (HEAD, EAR, HAIR, GLASSES)


@dataclass(frozen=True)
class Mesh:
    """All surfaces of N pictures in head units, before pose.

    position, canonical, normal: [N, V, 3]; part: [V]; triangles: [T, 3], counter-clockwise from outside
    """

    position: Tensor
    canonical: Tensor
    normal: Tensor
    part: Tensor
    triangles: Tensor


def build(f: Values, detail: float = 1.0) -> Mesh:
    """The surfaces of head, ears, neck, clothes, hair and glasses; `detail` scales the density of the grids."""
    grids = [_head(f, detail), *(_ear(f, side) for side in (-1.0, 1.0)), _neck(f), _clothes(f), _hair(f, detail)]
    grids += [_rim(f, side) for side in (-1.0, 1.0)] + [_glasses_bridge(f)]
    position, canonical, normal = (
        torch.cat([grid.flatten(1, 2) for grid in each], dim=1)
        for each in zip(*((points, places, _normals(points)) for _, points, places in grids), strict=True)
    )
    part, triangles, first = [], [], 0
    for number, points, _ in grids:
        _, rows, columns, _ = points.shape
        part.append(torch.full((rows * columns,), number, device=points.device))
        triangles.append(_triangles(rows, columns, points.device) + first)
        first += rows * columns
    return Mesh(position, canonical, normal, torch.cat(part), torch.cat(triangles))


Grid = tuple[int, Tensor, Tensor]


def _triangles(rows: int, columns: int, device: torch.device) -> Tensor:
    index = torch.arange(rows * columns, device=device).reshape(rows, columns)
    a, b, c, d = index[:-1, :-1], index[:-1, 1:], index[1:, :-1], index[1:, 1:]
    return torch.cat([torch.stack([a, b, c], -1).reshape(-1, 3), torch.stack([b, d, c], -1).reshape(-1, 3)])


def _normals(grid: Tensor) -> Tensor:
    """Unit normals of a grid [N, R, C, 3] whose rows go down and whose columns go right, seen from outside."""
    down = torch.gradient(grid, dim=1)[0]
    right = torch.gradient(grid, dim=2)[0]
    return torch.nn.functional.normalize(torch.linalg.cross(down, right), dim=-1)


def _head(f: Values, detail: float) -> Grid:
    n, device = len(f["face_width"]), f["face_width"].device
    rows, columns = int(84 * detail), int(112 * detail)
    # Denser in front, where the features are: the azimuth is a cubic of the column.
    t = torch.linspace(-1, 1, columns, device=device)
    azimuth = pi * (0.45 * t + 0.55 * t**3)
    polar = torch.linspace(0.02, pi - 0.02, rows, device=device)
    canonical = surface(_sphere(polar[:, None], azimuth)).expand(n, -1, -1, -1)
    return HEAD, deform(canonical.reshape(n, -1, 3), f).reshape(canonical.shape), canonical


def _ball(rows: int, columns: int, device: torch.device) -> Tensor:
    polar = torch.linspace(0.01, pi - 0.01, rows, device=device)[:, None]
    azimuth = torch.linspace(-pi, pi, columns, device=device)
    return _sphere(polar, azimuth)


def _sphere(polar: Tensor, azimuth: Tensor) -> Tensor:
    """Unit vectors [..., R, C, 3]: `polar` counts from the top, `azimuth` from the front to the picture's right."""
    x = polar.sin() * azimuth.sin()
    return torch.stack([x, polar.cos().expand_as(x), polar.sin() * azimuth.cos()], dim=-1)


def _columns(f: Values, *names: str) -> list[Tensor]:
    return [f[name][:, :, None] for name in names]


def _ear(f: Values, side: float) -> Grid:
    n, device = len(f["face_width"]), f["face_width"].device
    ball = _ball(14, 16, device)
    size, angle, width = _columns(f, "ear_size", "ear_angle", "face_width")
    x, y, z = (0.05 * ball[..., 0], 0.20 * ball[..., 1] * size, 0.13 * ball[..., 2] * size)
    # The back of the ear stands off from the head by the angle.
    out = side * (RADII[0] * width - 0.01 + (0.07 - z) * angle.sin())
    position = torch.stack([out + x, y + 0.02, z * angle.cos() - 0.08], dim=-1)
    return EAR, position, ball.expand(n, -1, -1, -1)


def _neck(f: Values) -> Grid:
    n, device = len(f["face_width"]), f["face_width"].device
    azimuth = torch.linspace(-pi, pi, 28, device=device)
    height = torch.linspace(-0.35, -1.75, 8, device=device)[:, None]
    radius = 0.44 + 0.10 * ((-height - 1.2).clamp(min=0) * 2) ** 2
    grid = torch.stack([radius * azimuth.sin(), height.expand(-1, 28), radius * azimuth.cos() * 0.95 - 0.18], dim=-1)
    grid = grid.expand(n, -1, -1, -1)
    return NECK, grid, grid


def _clothes(f: Values) -> Grid:
    n, device = len(f["face_width"]), f["face_width"].device
    ball = _ball(24, 32, device)
    place = torch.tensor([0.0, -2.25, -0.25], device=device)
    grid = (ball * torch.tensor([1.45, 0.80, 0.70], device=device) + place).expand(n, -1, -1, -1)
    return CLOTHES, grid, grid


def _hair(f: Values, detail: float) -> Grid:
    """A shell from the crown down to the hairline in front, and to the ears, neck or shoulders elsewhere."""
    n, device = len(f["face_width"]), f["face_width"].device
    rows, columns = int(36 * detail), int(72 * detail)
    azimuth = torch.linspace(-pi, pi, columns, device=device)
    length, line, fringe, parting, volume, waves = _columns(
        f, "hair_length", "hairline", "fringe", "parting", "hair_volume", "hair_waves"
    )
    # Path length from the crown at which the shell ends, in radians of polar angle; past `straight` it hangs down.
    straight = 1.70
    in_front = line + 0.40 * fringe.clamp(min=0) * (1 + 0.5 * torch.cos(azimuth * 3 + 4 * parting))
    in_front = in_front + 0.05 * torch.cos(2 * azimuth + 3 * parting)
    behind = torch.where(length > 0, straight + 0.35 + length, 1.75 + 0.25 * length + 0 * azimuth)
    sideburn = torch.where(length > 0, behind, 1.30 + 0.15 * length)
    side = ramp(azimuth.abs(), 0.85, 1.30)
    back = ramp(azimuth.abs(), 1.6, 2.2)
    end = in_front + (sideburn - in_front) * side
    end = end + (behind - end) * back
    path = torch.linspace(0.01, 1, rows, device=device)[:, None] * end  # [N, R, C]
    polar = path.clamp(max=straight)
    turn = azimuth.expand_as(polar)
    canonical = surface(_sphere(polar, turn))
    skull = deform(canonical.reshape(n, -1, 3), f).reshape(canonical.shape)
    lift = volume * (1 - 0.75 * (path / end) ** 6 * (1 - side)) + 0.03
    lift = lift + waves * torch.sin(14 * turn + 9 * path)
    hanging = (path - straight).clamp(min=0)
    position = skull * (1 + lift[..., None]) - torch.stack([0 * hanging, 0.75 * hanging, 0 * hanging], dim=-1)
    places = torch.stack([turn, path, end.expand_as(path) - path], dim=-1)
    return HAIR, position, places


def _glasses_worn(f: Values) -> Tensor:
    return (f["glasses"] > 0).float()[:, :, None]


def _rim(f: Values, side: float) -> Grid:
    """A frame around one eye; pictures without glasses get a frame of no size inside the head."""
    device = f["face_width"].device
    around = torch.linspace(-pi, pi, 30, device=device)[:, None]
    tube = torch.linspace(pi, -pi, 6, device=device)
    size, roundness = _columns(f, "glasses_size", "glasses_roundness")
    cx, cy = (value[:, :, None] for value in eye_centre(f, side))
    exponent = 0.55 + 0.45 * roundness
    rx, ry = 0.215 * size, (0.16 + 0.03 * roundness) * size
    thick = 0.024
    cosine, sine = around.cos(), around.sin()
    unit_x, unit_y = cosine.sign() * cosine.abs() ** exponent, sine.sign() * sine.abs() ** exponent
    x = cx * 0.98 + (rx + thick * tube.cos()) * unit_x
    y = cy - 0.01 + (ry + thick * tube.cos()) * unit_y
    z = 1.02 - 0.30 * (cx + 0 * x).abs() - 0.22 * (x.abs() - cx.abs()) + thick * tube.sin()
    position = torch.stack([x, y, z.expand_as(x)], dim=-1) * _glasses_worn(f)[..., None]
    return GLASSES, position, position


def _glasses_bridge(f: Values) -> Grid:
    device = f["face_width"].device
    t = torch.linspace(-1, 1, 8, device=device)
    tube = torch.linspace(0, 2 * pi, 6, device=device)[:, None]
    cx, cy = (value[:, :, None] for value in eye_centre(f, 1.0))
    (size,) = _columns(f, "glasses_size")
    half = (cx * 0.98 - 0.215 * size).clamp(min=0.03)
    x = half * t + 0 * tube
    y = cy + 0.04 + 0.03 * (1 - t**2) + 0.02 * tube.cos()
    z = 0.98 + 0.02 * tube.sin() + 0 * x
    position = torch.stack([x, y.expand_as(x), z], dim=-1) * _glasses_worn(f)[..., None]
    return GLASSES, position, position
