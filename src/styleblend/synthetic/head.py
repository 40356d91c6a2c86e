"""The analytic head: an undeformed superellipsoid, what identity and expression do to it, and what it wears.

A point of the head has canonical coordinates (x, y, z) on the undeformed surface. Everything on the face (eyes,
lips, marks, landmarks) has its place in canonical coordinates, so geometry, shading and annotations cannot disagree.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import pi

import torch
from torch import Tensor

Values = dict[str, Tensor]

RADII = (0.74, 1.0, 0.86)
POWER = 2.4  # a superellipsoid is a little boxier than an ellipsoid, as skulls are

HEAD, EAR, NECK, CLOTHES, HAIR, GLASSES = range(6)
# Parts that turn with the head; neck and clothes follow it a little only.
TURNS_FULLY = (HEAD, EAR, HAIR, GLASSES)


def bump(distance: Tensor, width: float | Tensor) -> Tensor:
    """exp(-(distance / width)^2)."""
    return torch.exp(-((distance / width) ** 2))


def ramp(value: Tensor, start: float, end: float) -> Tensor:
    """Smooth step from 0 at `start` to 1 at `end`."""
    t = ((value - start) / (end - start)).clamp(0, 1)
    return t * t * (3 - 2 * t)


def surface(direction: Tensor) -> Tensor:
    """Canonical point [..., 3] where a ray from the centre meets the undeformed head."""
    scaled = direction / torch.tensor(RADII, device=direction.device)
    return direction / scaled.abs().pow(POWER).sum(-1, keepdim=True).clamp(min=1e-9).pow(1 / POWER)


def front(x: Tensor, y: Tensor) -> Tensor:
    """Canonical point [..., 3] of the face at (x, y)."""
    rest = 1 - (x / RADII[0]).abs().pow(POWER) - (y / RADII[1]).abs().pow(POWER)
    return torch.stack([x, y, RADII[2] * rest.clamp(min=1e-6).pow(1 / POWER)], dim=-1)


def deform(canonical: Tensor, f: Values) -> Tensor:
    """Move canonical points [N, V, 3] to where this person, with this expression, has them."""
    x, y, z = canonical.unbind(-1)
    facing = torch.sigmoid((z - 0.15) / 0.08)
    # Width of the head at each height.
    width = f["face_width"] * (
        1
        + f["temple_width"] * bump(y - 0.55, 0.35)
        + f["cheekbone_width"] * bump(y + 0.10, 0.22)
        + (f["jaw_width"] - 0.10) * bump(y + 0.66, 0.30)
        + (f["chin_width"] - 0.18) * bump(y + 0.98, 0.20)
    )
    # Depth: forehead, brow ridge, sockets, cheeks, nose, mouth, chin.
    depth = -f["forehead_slope"] * ramp(y, 0.25, 0.9) + f["brow_ridge"] * bump(y - 0.20, 0.09) * bump(x, 0.45)
    brow_side = x.abs() - f["eye_spacing"]
    depth = depth - (0.03 + f["eye_depth"]) * bump(brow_side, 0.17) * bump(y - 0.04 - f["eye_height"], 0.12)
    depth = depth + (f["cheek_fullness"] + 0.05 * f["smile"].clamp(min=0)) * bump(x.abs() - 0.38, 0.20) * bump(
        y + 0.30, 0.22
    )
    tip = nose_tip_y(f)
    along = ramp(y, -0.42, -0.25) * (1 - ramp(y, 0.02, 0.22))
    rise = ((0.16 - y) / (0.16 - tip)).clamp(0, 1)
    depth = depth + f["nose_bridge"] * along * bump(x, 0.075 + 0.03 * rise)
    depth = depth + f["nose_tip"] * bump(x, f["nose_tip_width"]) * bump(y - tip, 0.11) * rise.clamp(min=0.2)
    depth = depth + (0.05 + f["nostril_flare"]) * bump(x.abs() - 0.75 * f["nose_width"], 0.055) * bump(
        y - tip + 0.03, 0.06
    )
    mouth = f["mouth_height"]
    depth = depth + 0.07 * bump(x, 0.24) * bump(y - mouth, 0.13)
    depth = depth + (0.16 + f["chin_depth"]) * bump(x, 0.30) * bump(y + 0.90, 0.20)
    # Height: chin and forehead grow away from the eyes; the open jaw takes chin and lower lip down.
    height = f["chin_length"] * ramp(-y, 0.45, 0.95) * -1 + f["forehead_height"] * ramp(y, 0.25, 0.95)
    jaw = f["jaw_open"] * ramp(mouth - y, 0.0, 0.30) * facing
    height = height - 0.13 * jaw
    return torch.stack([x * width, y + height, z + facing * depth - 0.05 * jaw], dim=-1)


def nose_tip_y(f: Values) -> Tensor:
    """Canonical height of the tip of the nose [N, 1]."""
    return -0.24 - f["nose_length"]


def eye_centre(f: Values, side: float) -> tuple[Tensor, Tensor]:
    """Canonical centre of an eye; side -1 is left in the picture."""
    return side * f["eye_spacing"], 0.04 + f["eye_height"]


def eye_local(x: Tensor, y: Tensor, f: Values, side: float) -> tuple[Tensor, Tensor]:
    """(u, v) in the eye's frame: u is -1..1 from the inner to the outer corner, v upwards in head units."""
    cx, cy = eye_centre(f, side)
    tilt = f["eye_tilt"]
    dx, dy = side * (x - cx), y - cy
    return (dx * tilt.cos() + dy * tilt.sin()) / f["eye_width"], dy * tilt.cos() - dx * tilt.sin()


def eye_place(u: Tensor, v: Tensor, f: Values, side: float) -> tuple[Tensor, Tensor]:
    """Inverse of eye_local."""
    cx, cy = eye_centre(f, side)
    tilt = f["eye_tilt"]
    along = u * f["eye_width"]
    return cx + side * (along * tilt.cos() - v * tilt.sin()), cy + along * tilt.sin() + v * tilt.cos()


def eyelids(u: Tensor, f: Values, side: float) -> tuple[Tensor, Tensor]:
    """Height of the upper and the lower lid at u, in the eye's frame."""
    blink = f["blink_left"] if side < 0 else f["blink_right"]
    opening = f["eye_opening"] * (1 + 0.15 * f["brow_raise"]) * (1 - u.clamp(-1, 1) ** 2)
    lower = -0.62 * opening * (1 - 0.25 * f["smile"].clamp(min=0))
    return lower + (opening - lower) * (1 - 0.97 * blink), lower


def brow_curve(x: Tensor, f: Values, side: float) -> tuple[Tensor, Tensor]:
    """(u, height): u is -1..1 along the brow from inner to outer end, height the canonical y of its middle line."""
    cx, cy = eye_centre(f, side)
    u = side * (x - cx - side * f["brow_gap"]) / f["brow_length"]
    middle = cy + f["brow_height"] + 0.06 * f["brow_raise"]
    return u, middle + f["brow_arch"] * (1 - u**2) + f["brow_tilt"] * u


def mouth_curves(x: Tensor, f: Values) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(u, top of the upper lip, its lower edge, top of the lower lip, its lower edge): canonical y at x."""
    u = x / mouth_half_width(f)
    shape = (1 - u.clamp(-1, 1) ** 2).clamp(min=0)
    line = f["mouth_height"] + (f["mouth_corner"] + 0.085 * f["smile"]) * u.clamp(-1.2, 1.2) ** 2
    gap = 0.13 * f["jaw_open"] * shape
    cupid = 1 - 0.22 * bump(u, 0.18)
    upper = line + f["upper_lip"] * (1 - 0.3 * f["smile"].clamp(min=0)) * shape.sqrt() * cupid
    lower = line - gap - f["lower_lip"] * (1 - 0.2 * f["smile"].clamp(min=0)) * shape.sqrt()
    return u, upper, line, line - gap, lower


def mouth_half_width(f: Values) -> Tensor:
    """Half the width of the mouth [N, 1]; a smile widens it, an open jaw narrows it."""
    return f["mouth_width"] * (1 + 0.28 * f["smile"]) * (1 - 0.15 * f["jaw_open"])


def landmarks(f: Values) -> Tensor:
    """The 68 points of the iBUG scheme on the deformed head, [N, 68, 3], in head units."""
    n = len(f["face_width"])
    device = f["face_width"].device

    def row(*values: float) -> Tensor:
        return torch.tensor(values, device=device).expand(n, -1)

    points: list[Tensor] = []
    # 0-16: the jaw, from the ear at the left of the picture over the chin to the other ear.
    angle = torch.linspace(-pi / 2, pi / 2, 17, device=device)
    height = -0.96 * torch.cos(angle).clamp(min=0) ** 0.8
    direction = torch.stack([torch.sin(angle), height, 0.42 * torch.cos(angle) + 0.16], dim=-1)
    points.append(surface(direction).expand(n, -1, -1))
    # 17-26: brows, left to right.
    for side, ends in ((-1.0, (0.95, 0.5, 0.0, -0.5, -0.95)), (1.0, (-0.95, -0.5, 0.0, 0.5, 0.95))):
        x = eye_centre(f, side)[0] + side * f["brow_gap"] + side * row(*ends) * f["brow_length"]
        points.append(front(x, brow_curve(x, f, side)[1]))
    # 27-30: the ridge of the nose; 31-35: its base.
    bridge_top = 0.04 + f["eye_height"]
    tip = nose_tip_y(f)
    points.append(front(row(0, 0, 0, 0), bridge_top + (tip - bridge_top) * row(0, 1 / 3, 2 / 3, 1)))
    points.append(front(f["nose_width"] * row(-1, -0.5, 0, 0.5, 1), tip - 0.07 - row(-0.02, 0.01, 0.02, 0.01, -0.02)))
    # 36-41 and 42-47: eyes, from the corner at the left, over the upper lid.
    for side, corners in ((-1.0, (1.0, 0.35, -0.35, -1.0, -0.35, 0.35)), (1.0, (-1.0, -0.35, 0.35, 1.0, 0.35, -0.35))):
        u = row(*corners)
        upper, lower = eyelids(u, f, side)
        v = torch.where(row(0, 1, 1, 0, -1, -1) > 0, upper, lower)
        points.append(front(*eye_place(u, v, f, side)))
    # 48-59: outer lips; 60-67: inner lips.
    for us, inner in (((-1, -0.6, -0.25, 0, 0.25, 0.6, 1, 0.6, 0.25, 0, -0.25, -0.6), False),
                      ((-0.85, -0.3, 0, 0.3, 0.85, 0.3, 0, -0.3), True)):  # fmt: skip
        x = row(*us) * mouth_half_width(f)
        _, upper, gap_top, gap_bottom, lower = mouth_curves(x, f)
        over = torch.arange(len(us), device=device) <= len(us) // 2
        points.append(front(x, torch.where(over, gap_top if inner else upper, gap_bottom if inner else lower)))
    return deform(torch.cat(points, dim=1), f)


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
    position, canonical, normal, part, triangles = [], [], [], [], []
    first = 0
    for number, points, places in grids:
        n, rows, columns, _ = points.shape
        position.append(points.reshape(n, -1, 3))
        canonical.append(places.reshape(n, -1, 3))
        normal.append(_normals(points).reshape(n, -1, 3))
        part.append(torch.full((rows * columns,), number, device=points.device))
        triangles.append(_triangles(rows, columns, points.device) + first)
        first += rows * columns
    return Mesh(
        torch.cat(position, dim=1),
        torch.cat(canonical, dim=1),
        torch.cat(normal, dim=1),
        torch.cat(part),
        torch.cat(triangles),
    )


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
    direction = torch.stack(
        [
            polar.sin()[:, None] * azimuth.sin(),
            polar.cos()[:, None].expand(-1, columns),
            polar.sin()[:, None] * azimuth.cos(),
        ],
        dim=-1,
    )
    canonical = surface(direction).expand(n, -1, -1, -1)
    return HEAD, deform(canonical.reshape(n, -1, 3), f).reshape(canonical.shape), canonical


def _ball(rows: int, columns: int, device: torch.device) -> Tensor:
    polar = torch.linspace(0.01, pi - 0.01, rows, device=device)[:, None]
    azimuth = torch.linspace(-pi, pi, columns, device=device)
    return torch.stack(
        [polar.sin() * azimuth.sin(), polar.cos().expand(-1, columns), polar.sin() * azimuth.cos()], dim=-1
    )


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
    grid = torch.stack(
        [radius * azimuth.sin(), height.expand(-1, 28), radius * azimuth.cos() * 0.95 - 0.18], dim=-1
    ).expand(n, -1, -1, -1)
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
    direction = torch.stack([polar.sin() * turn.sin(), polar.cos(), polar.sin() * turn.cos()], dim=-1)
    canonical = surface(direction)
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
