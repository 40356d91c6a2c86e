"""The analytic head: an undeformed superellipsoid, and what identity and expression do to it.

A point of the head has canonical coordinates (x, y, z) on the undeformed surface. Everything on the face (eyes,
lips, marks, landmarks) has its place in canonical coordinates, so geometry, shading and annotations cannot disagree.
"""

from __future__ import annotations

from math import pi

import torch
from torch import Tensor

Values = dict[str, Tensor]

RADII = (0.74, 1.0, 0.86)
POWER = 2.4  # a superellipsoid is a little boxier than an ellipsoid, as skulls are


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
    full = f["cheek_fullness"] + 0.05 * f["smile"].clamp(min=0)
    depth = depth + full * bump(x.abs() - 0.38, 0.20) * bump(y + 0.30, 0.22)
    tip = nose_tip_y(f)
    along = ramp(y, -0.42, -0.25) * (1 - ramp(y, 0.02, 0.22))
    rise = ((0.16 - y) / (0.16 - tip)).clamp(0, 1)
    depth = depth + f["nose_bridge"] * along * bump(x, 0.075 + 0.03 * rise)
    depth = depth + f["nose_tip"] * bump(x, f["nose_tip_width"]) * bump(y - tip, 0.11) * rise.clamp(min=0.2)
    flare = 0.05 + f["nostril_flare"]
    depth = depth + flare * bump(x.abs() - 0.75 * f["nose_width"], 0.055) * bump(y - tip + 0.03, 0.06)
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
