"""Colour of each visible surface point: skin with eyes, brows, lips and marks; hair, glasses, clothes; light."""

from __future__ import annotations

from math import pi

import torch
from torch import Tensor

from styleblend.synthetic import head
from styleblend.synthetic.head import Values, bump, ramp

# Key colours, RGB in [0, 1].
SKIN = ((0.97, 0.83, 0.74), (0.86, 0.64, 0.48), (0.60, 0.39, 0.26), (0.37, 0.23, 0.16))
HAIR = ((0.85, 0.70, 0.42), (0.45, 0.28, 0.15), (0.06, 0.05, 0.05))
IRIS = ((0.30, 0.16, 0.07), (0.45, 0.34, 0.12), (0.25, 0.45, 0.22), (0.25, 0.48, 0.75), (0.50, 0.56, 0.60))


def palette(position: Tensor, keys: tuple[tuple[float, ...], ...]) -> Tensor:
    """Colour [..., 3] at `position` in [0, 1] along the key colours; position has a last axis of 1."""
    table = torch.tensor(keys, device=position.device)
    place = position[..., 0].clamp(0, 1) * (len(keys) - 1)
    low = place.floor().clamp(max=len(keys) - 2).long()
    return torch.lerp(table[low], table[low + 1], (place - low)[..., None])


def _cover(colour: Tensor, alpha: Tensor, over: Tensor) -> Tensor:
    """Paint `over` with opacity `alpha` [P] on `colour` [P, 3]."""
    return colour + alpha[:, None] * (over - colour)


def _edge(distance: Tensor, softness: float | Tensor) -> Tensor:
    """1 where distance is well above zero, 0 well below."""
    return (distance / softness + 0.5).clamp(0, 1)


def skin_colour(f: Values) -> Tensor:
    """Base colour of the skin [N, 3]."""
    shift = torch.cat([f["skin_warmth"] + f["skin_redness"], 0 * f["skin_warmth"], -f["skin_warmth"]], dim=1)
    return (palette(f["skin_depth"], SKIN) + shift * 0.6).clamp(0.02, 1)


def hair_colour(f: Values) -> Tensor:
    """Colour of hair, beard and brows [N, 3]."""
    colour = palette(f["hair_depth"], HAIR)
    red = torch.tensor([0.45, 0.18, 0.07], device=colour.device)
    colour = torch.lerp(colour, red, 0.4 * f["hair_redness"] ** 2)
    return torch.lerp(colour, torch.tensor([0.72, 0.72, 0.72], device=colour.device), f["hair_grey"].clamp(0, 1))


def face(point: Tensor, f: Values, softness: float) -> Tensor:
    """Albedo [P, 3] of points of the head at canonical coordinates `point` [P, 3].

    f: factors of each point's picture, columns [P, 1]; softness: width of painted edges in head units, about a pixel
    """
    g = {name: value[:, 0] for name, value in f.items()}
    x, y, z = point.unbind(1)
    facing = ramp(z, 0.05, 0.25)
    skin, hair = skin_colour(f), hair_colour(f)
    colour = skin.clone()
    # Marks of identity.
    blotch = torch.sin(23 * x + g["freckles_phase_x"]) * torch.sin(27 * y + g["freckles_phase_y"])
    blotch = blotch * torch.sin(17 * (x + y) + 2 * g["freckles_phase_x"])
    where = bump(y + 0.15, 0.28) * facing
    colour = _cover(colour, 0.75 * g["freckles"].clamp(min=0) * _edge(blotch - 0.22, 0.2) * where, skin * 0.58)
    lines = torch.sin(y * 55) * bump(y - 0.48, 0.13) * bump(x, 0.42)
    colour = colour * (1 - 0.30 * g["forehead_lines"].clamp(min=0) * lines.clamp(min=0) * facing)[:, None]
    fold = x.abs() - (0.17 + 0.55 * (-0.26 - y).clamp(min=0) + 0.03 * g["smile"])
    fold_depth = (g["nasolabial_lines"] + 0.4 * g["smile"]).clamp(0, 1.2)
    fold_dark = 0.32 * fold_depth * bump(fold, 0.025) * ramp(-y, 0.24, 0.32) * (1 - ramp(-y, 0.5, 0.62))
    colour = colour * (1 - fold_dark)[:, None]
    for side in (-1.0, 1.0):
        u, v = (part[:, 0] for part in head.eye_local(x[:, None], y[:, None], f, side))
        bag = bump(v + 0.10 + 0.03 * u**2, 0.03) * ramp(-u.abs(), -1.1, -0.4)
        colour = colour * (1 - 0.30 * g["eye_bags"].clamp(min=0) * bag * facing)[:, None]
    along = (x - g["scar_x"]) * g["scar_angle"].cos() + (y - g["scar_y"]) * g["scar_angle"].sin()
    across = (y - g["scar_y"]) * g["scar_angle"].cos() - (x - g["scar_x"]) * g["scar_angle"].sin()
    scar = (g["scar"] > 0).float() * _edge(0.14 - along.abs(), softness) * _edge(0.016 - across.abs(), softness)
    pale = skin * 0.55 + torch.tensor([0.42, 0.30, 0.30], device=skin.device)
    colour = _cover(colour, 0.8 * scar * facing, pale)
    for k in range(4):
        distance = torch.hypot(x - g[f"mole{k}_x"], y - g[f"mole{k}_y"])
        mole = _edge(g[f"mole{k}_radius"] - distance, softness) * (g[f"mole{k}_radius"] > 0.012)
        colour = _cover(colour, 0.85 * mole * facing, skin * 0.28)
    # Cheeks are a little redder; the sides of the nose a little darker.
    blush = bump(x.abs() - 0.36, 0.17) * bump(y + 0.22, 0.14) * facing
    colour = colour * (1 - 0.10 * blush[:, None] * torch.tensor([0.0, 1.0, 0.9], device=skin.device))
    nostril = bump(x.abs() - 0.45 * f["nose_width"][:, 0], 0.035) * bump(y - head.nose_tip_y(f)[:, 0] + 0.075, 0.022)
    colour = colour * (1 - 0.65 * nostril * facing)[:, None]
    colour = _beard(colour, x, y, g, hair, facing, f)
    colour = _mouth(colour, x, y, g, f, skin, softness, facing)
    for side in (-1.0, 1.0):
        colour = _eye(colour, x, y, g, f, skin, side, softness, facing)
        u, middle = (part[:, 0] for part in head.brow_curve(x[:, None], f, side))
        thick = g["brow_thickness"] * (1 - 0.45 * ramp(u, 0.0, 1.0)) * (u.abs() < 1.15)
        brow = _edge(thick - (y - middle).abs(), 2 * softness) * _edge(1.05 - u.abs(), 0.25)
        colour = _cover(colour, 0.88 * brow * facing, hair * 0.62)
    return colour


def _beard(colour: Tensor, x: Tensor, y: Tensor, g: Values, hair: Tensor, facing: Tensor, f: Values) -> Tensor:
    _, upper, _, _, lower = (part[:, 0] for part in head.mouth_curves(x[:, None], f))
    around_mouth = bump(x, 0.36) * bump(y - g["mouth_height"], 0.20)
    jaw = ramp(-y, 0.42, 0.62) * ramp(x.abs() + 0.6 * (-y - 0.6).clamp(min=0), 0.18, 0.42) * g["beard_extent"]
    chin = bump(x, 0.28) * ramp(-y, 0.66, 0.78)
    free = _edge(y - upper, 0.06) + _edge(lower - y, 0.06) + _edge(x.abs() - g["mouth_width"], 0.05)
    amount = (around_mouth * ramp(-y, 0.34, 0.42) + jaw + chin).clamp(0, 1) * free.clamp(0, 1)
    grain = 0.85 + 0.15 * torch.sin(70 * x + 20 * y) * torch.sin(60 * y)
    return _cover(colour, 0.9 * g["beard"].clamp(min=0).sqrt() * amount * grain * facing, hair * 0.8)


def _mouth(
    colour: Tensor, x: Tensor, y: Tensor, g: Values, f: Values, skin: Tensor, softness: float, facing: Tensor
) -> Tensor:
    u, upper, gap_top, gap_bottom, lower = (part[:, 0] for part in head.mouth_curves(x[:, None], f))
    within = _edge(1 - u.abs(), 0.08) * facing
    lip = torch.lerp(skin, torch.tensor([0.62, 0.18, 0.20], device=skin.device), g["lip_redness"][:, None]) * 0.88
    lips = _edge(upper - y, softness) * _edge(y - lower, softness) * within
    colour = _cover(colour, lips, lip * (0.9 + 0.25 * _edge(gap_bottom - y, 0.02)[:, None]))
    opening = (gap_top - gap_bottom).clamp(min=0)
    gap = _edge(gap_top - y, softness) * _edge(y - gap_bottom, softness) * within
    colour = _cover(colour, gap * ramp(opening, 0.0, 0.02), torch.tensor([0.16, 0.05, 0.06], device=skin.device))
    teeth = gap * _edge(y - gap_top + 0.045, softness) * ramp(opening, 0.01, 0.05) * _edge(0.8 - u.abs(), 0.1)
    colour = _cover(colour, teeth, torch.tensor([0.92, 0.90, 0.85], device=skin.device))
    line = bump(y - gap_top, 0.012 + 0.5 * softness) * within * (1 - ramp(opening, 0.0, 0.05))
    return colour * (1 - 0.55 * line)[:, None]


def _eye(
    colour: Tensor, x: Tensor, y: Tensor, g: Values, f: Values, skin: Tensor, side: float, softness: float,
    facing: Tensor,
) -> Tensor:  # fmt: skip
    u, v = (part[:, 0] for part in head.eye_local(x[:, None], y[:, None], f, side))
    upper, lower = (part[:, 0] for part in head.eyelids(u[:, None], f, side))
    near = _edge(1 - u.abs(), 0.1) * facing
    crease = bump(v - upper - 0.035, 0.016) * ramp(-u.abs(), -1.1, -0.7)
    colour = colour * (1 - 0.28 * crease * facing)[:, None]
    inside = _edge(upper - v, softness) * _edge(v - lower, softness) * near * ramp(upper - lower, 0.004, 0.02)
    colour = _cover(colour, inside, torch.tensor([0.93, 0.92, 0.90], device=skin.device))
    du = u * g["eye_width"] - side * 0.045 * g["gaze_x"]
    dv = v - 0.012 - 0.025 * g["gaze_y"]
    distance = torch.hypot(du, dv)
    iris = palette(f["iris_hue"], IRIS) * f["iris_lightness"]
    colour = _cover(colour, inside * _edge(g["iris_radius"] - distance, softness), iris.clamp(0, 1))
    colour = _cover(colour, inside * _edge(0.45 * g["iris_radius"] - distance, softness), iris * 0.08)
    shine = _edge(0.018 - torch.hypot(side * du - 0.02, dv - 0.025), softness)
    colour = _cover(colour, 0.8 * inside * shine, torch.ones_like(colour))
    lash = bump(v - upper, 0.012 + 0.5 * softness) * _edge(1.08 - u.abs(), 0.1) * facing
    return colour * (1 - 0.72 * lash)[:, None]


def hair(place: Tensor, f: Values) -> Tensor:
    """Albedo [P, 3] of hair; place is (azimuth, path from the crown, path left to the end)."""
    azimuth, path, _ = place.unbind(1)
    strands = torch.sin(38 * azimuth + 3 * torch.sin(5 * path)) * 0.5 + 0.5
    return hair_colour(f) * (0.72 + 0.38 * strands)[:, None]


def lit(albedo: Tensor, normal: Tensor, f: Values, gloss: Tensor) -> Tensor:
    """Lambert and Blinn shading under one distant light and an ambient one; [P, 3] in [0, 1]."""
    yaw, pitch = f["light_yaw_deg"][:, 0] * pi / 180, f["light_pitch_deg"][:, 0] * pi / 180
    light = torch.stack([yaw.sin() * pitch.cos(), pitch.sin(), yaw.cos() * pitch.cos()], dim=1)
    # Wrapped diffuse: light creeps round the terminator, as under skin.
    diffuse = (((normal * light).sum(1) + 0.25) / 1.25).clamp(min=0)
    half = torch.nn.functional.normalize(light + torch.tensor([0.0, 0.0, 1.0], device=normal.device), dim=1)
    shine = gloss * (normal * half).sum(1).clamp(min=0) ** 24
    tint = torch.cat([1 + f["light_warmth"], torch.ones_like(f["light"]), 1 - f["light_warmth"]], dim=1)
    return albedo * (f["ambient"] + f["light"] * diffuse[:, None] * tint) + (f["light"] * shine[:, None])


def background_at(x: Tensor, y: Tensor, f: Values) -> Tensor:
    """A soft two-coloured pattern [N, 3, H, W] in [0, 1] at places of the photograph, x and y in [-1, 1].

    Values are columns [N, 1, 1], broadcast over the places.
    """
    turned = x * f["background_angle"].cos() + y * f["background_angle"].sin()
    across = y * f["background_angle"].cos() - x * f["background_angle"].sin()
    waves = torch.sin(f["background_waves"] * turned + f["background_phase"] + 1.5 * torch.sin(2 * across))
    mix = (0.5 + 0.4 * turned + f["background_contrast"] * waves).clamp(0, 1)
    channels = [torch.lerp(f[f"background0_{c}"], f[f"background1_{c}"], mix) for c in "rgb"]
    return torch.stack(channels, dim=1)
