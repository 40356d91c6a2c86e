"""From factors to pictures with exact annotations. Plain torch, batched, deterministic, on any device."""

from __future__ import annotations

from dataclasses import dataclass
from math import pi

import torch
from torch import Tensor

from styleblend.synthetic import head, shading
from styleblend.synthetic.factors import ATTRIBUTES, EXPRESSION, IDENTITY, LOOKS, Factors
from styleblend.synthetic.head import Values
from styleblend.synthetic.mesh import CLOTHES, EAR, GLASSES, HAIR, HEAD, TURNS_FULLY, build
from styleblend.synthetic.raster import rasterize

CAMERA_DISTANCE = 7.0  # head units
VIEW = 3.5  # head units that a photograph shows across at the distance of the head
PIVOT = (0.0, -0.35, -0.25)  # the head turns about the top of the neck


@dataclass(frozen=True)
class Render:
    """N pictures and their truth.

    images: [N, 3, S, S] RGB in [-1, 1]; face_mask: [N, 1, S, S] in [0, 1], skin of the face with eyes and mouth;
    landmarks_px: [N, 68, 2] as x, y, where the centre of the first pixel is (0, 0)
    """

    images: Tensor
    face_mask: Tensor
    landmarks_px: Tensor


def photograph_landmarks(factors: Factors) -> Tensor:
    """The 68 landmarks [N, 68, 2] of the photograph that `render` would make, as shares of its side."""
    f = factors.physical()
    return _project(_pose(head.landmarks(f), f, turns=1.0), f, 1)[0]


def pose_deg(factors: Factors, quads: Tensor | None = None) -> Tensor:
    """Yaw, pitch, roll [N, 3] of the head in the photograph, or in crops of it.

    In a crop, roll is what alignment has left over, as a pose estimator sees it: a turned crop turns the head back.

    quads: [N, 4, 2], as `render` takes them
    """
    pose = factors.yaw_pitch_roll_deg()
    if quads is None:
        return pose
    right = quads[:, 3] - quads[:, 0]
    return pose - torch.nn.functional.pad(torch.atan2(right[:, 1], right[:, 0]).rad2deg()[:, None], (2, 0))


def landmarks_3d(factors: Factors, quads: Tensor) -> Tensor:
    """The 68 landmarks of crops [N, 68, 3], hidden ones too: x, y in [0, 1] of the crop, z behind their mean alike."""
    f = factors.physical()
    points = _pose(head.landmarks(f), f, turns=1.0)
    placed = _into_quads(_project(points, f, 1)[0], quads)
    side = (quads[:, 3] - quads[:, 0]).norm(dim=1)[:, None]
    depth = (points[..., 2].mean(1, keepdim=True) - points[..., 2]) * f["zoom"] / VIEW / side
    return torch.cat([placed, depth[..., None]], dim=2)


def average_shape() -> Tensor:
    """The 68 landmarks [68, 3] of the average head at rest, looking ahead: x right, y down, z away, in head units."""
    nobody = Factors(*(torch.zeros(1, len(table)) for table in (IDENTITY, LOOKS, ATTRIBUTES)))
    points = head.landmarks(nobody.physical() | {name: torch.zeros(1, 1) for name in EXPRESSION})[0]
    return points * torch.tensor([1.0, -1.0, -1.0])


@torch.no_grad()
def render(factors: Factors, size_px: int, supersample: int = 2, quads: Tensor | None = None) -> Render:
    """Render each row of `factors` as a photograph, or straight into a crop of it.

    Args:
        supersample: samples per pixel and axis
        quads: [N, 4, 2] corners (top-left, bottom-left, bottom-right, top-right) of a crop, in units of the
            photograph's side; None renders the whole photograph
    """
    if size_px < 8 or supersample < 1:
        raise ValueError(f"size_px {size_px} must be at least 8 and supersample {supersample} at least 1")
    f = factors.physical()
    side = size_px * supersample
    mesh = build(f)
    turning = torch.isin(mesh.part, torch.tensor(TURNS_FULLY, device=mesh.part.device))
    posed = torch.where(turning[:, None], _pose(mesh.position, f, 1.0), _pose(mesh.position, f, 0.25))
    normal = torch.where(turning[:, None], _turn(mesh.normal, f, 1.0), _turn(mesh.normal, f, 0.25))
    points, depth = _project(posed, f, side)
    marks = photograph_landmarks(factors)
    if quads is not None:
        points = _into_quads(points / side, quads) * side
        marks = _into_quads(marks, quads)
    # Landmark detectors count from the centre of the first pixel, so half a pixel is taken off.
    marks = marks * size_px - 0.5
    two_sided = mesh.part[mesh.triangles[:, 0]] == HAIR
    seen = rasterize(points, depth, mesh.triangles, two_sided, side)

    corners = mesh.triangles[seen.triangle]
    vertex = (seen.picture[:, None] * len(mesh.part) + corners).flatten()
    place = _interpolated(mesh.canonical, vertex, seen.barycentric)
    direction = torch.nn.functional.normalize(_interpolated(normal, vertex, seen.barycentric), dim=1)
    part = mesh.part[corners[:, 0]]
    softness = VIEW / side * (1.0 if quads is None else 0.7)
    albedo = _albedo(place, part, seen.picture, f, softness)
    own = _owned(f, seen.picture, "light_yaw_deg", "light_pitch_deg", "light", "ambient", "light_warmth")
    gloss = torch.tensor([0.10, 0.05, 0.05, 0.02, 0.12, 0.30], device=part.device)[part]
    colour = shading.lit(albedo, direction, own, gloss).clamp(0, 1)

    n = len(factors)
    canvas = _background(f, side, quads).permute(0, 2, 3, 1).reshape(-1, 3).contiguous()
    canvas[seen.pixel] = colour
    is_face = (part == HEAD) & (place[:, 2] > 0.05) & (place[:, 1] < 0.62)
    mask = torch.zeros(n * side * side, device=canvas.device)
    mask[seen.pixel] = is_face.float()
    images = canvas.reshape(n, side, side, 3).permute(0, 3, 1, 2)
    mask = mask.reshape(n, 1, side, side)
    if supersample > 1:
        images = torch.nn.functional.avg_pool2d(images, supersample)
        mask = torch.nn.functional.avg_pool2d(mask, supersample)
    return Render(images * 2 - 1, mask, marks)


def _interpolated(values: Tensor, vertex: Tensor, barycentric: Tensor) -> Tensor:
    """Values [N, V, 3] of the flattened vertices [3 P] of each fragment, weighted: [P, 3]."""
    corners = values.reshape(-1, 3).index_select(0, vertex).reshape(-1, 3, 3)
    return (corners * barycentric[..., None]).sum(1)


def _albedo(place: Tensor, part: Tensor, picture: Tensor, f: Values, softness: float) -> Tensor:
    albedo = torch.zeros_like(place)
    for number in range(6):
        rows = (part == number).nonzero()[:, 0]
        owner = picture[rows]
        if number == HEAD:
            # One gather of all factors, name by name in memory, is much faster than one gather a name.
            rows_of_names = torch.cat(list(f.values()), dim=1).T.contiguous().index_select(1, owner)
            own = {name: row[:, None] for name, row in zip(f, rows_of_names, strict=True)}
            albedo[rows] = shading.face(place[rows], own, softness)
        elif number == HAIR:
            albedo[rows] = shading.hair(place[rows], _owned(f, owner, "hair_depth", "hair_redness", "hair_grey"))
        elif number == GLASSES:
            albedo[rows] = f["glasses_depth"][owner] * torch.tensor([0.8, 0.65, 0.45], device=place.device) + 0.03
        elif number == CLOTHES:
            albedo[rows] = torch.cat([f[f"clothes_{c}"][owner] for c in "rgb"], dim=1)
        else:
            own = _owned(f, owner, "skin_depth", "skin_warmth", "skin_redness")
            albedo[rows] = shading.skin_colour(own) * (0.92 if number == EAR else 0.80)
    return albedo


def _owned(f: Values, owner: Tensor, *names: str) -> Values:
    return {name: f[name][owner] for name in names}


def _rotation(f: Values, share: float) -> Tensor:
    """[N, 3, 3]: roll after pitch after yaw, each times `share`."""
    yaw, pitch, roll = (f[name][:, 0] * share * pi / 180 for name in ("yaw_deg", "pitch_deg", "roll_deg"))
    zero, one = torch.zeros_like(yaw), torch.ones_like(yaw)

    def matrix(*rows: Tensor) -> Tensor:
        return torch.stack(rows, dim=1).reshape(-1, 3, 3)

    about_y = matrix(yaw.cos(), zero, yaw.sin(), zero, one, zero, -yaw.sin(), zero, yaw.cos())
    about_x = matrix(one, zero, zero, zero, pitch.cos(), pitch.sin(), zero, -pitch.sin(), pitch.cos())
    about_z = matrix(roll.cos(), roll.sin(), zero, -roll.sin(), roll.cos(), zero, zero, zero, one)
    return about_z @ about_x @ about_y


def _turn(vectors: Tensor, f: Values, turns: float) -> Tensor:
    return vectors @ _rotation(f, turns).transpose(1, 2)


def _pose(points: Tensor, f: Values, turns: float) -> Tensor:
    pivot = torch.tensor(PIVOT, device=points.device)
    return _turn(points - pivot, f, turns) + pivot


def _project(points: Tensor, f: Values, size_px: int) -> tuple[Tensor, Tensor]:
    """Perspective projection: pixels [N, V, 2] with y downwards, and depth [N, V]."""
    depth = CAMERA_DISTANCE - points[..., 2]
    scale = f["zoom"] * CAMERA_DISTANCE / depth / VIEW
    x = 0.5 + points[..., 0] * scale + f["shift_x"]
    y = 0.5 - (points[..., 1] + 0.12) * scale + f["shift_y"]
    return torch.stack([x, y], dim=-1) * size_px, depth


def _into_quads(points: Tensor, quads: Tensor) -> Tensor:
    """Points [N, V, 2] of the photograph in the frame of square crops: (0, 0) top-left, (1, 1) bottom-right."""
    origin, down, right = quads[:, :1], quads[:, 1:2] - quads[:, :1], quads[:, 3:4] - quads[:, :1]
    offset = points - origin
    x = (offset * right).sum(-1) / (right * right).sum(-1)
    y = (offset * down).sum(-1) / (down * down).sum(-1)
    return torch.stack([x, y], dim=-1)


def _background(f: Values, side: int, quads: Tensor | None) -> Tensor:
    """[N, 3, side, side] in [0, 1]."""
    line = (torch.arange(side, device=f["light"].device) + 0.5) / side
    y, x = torch.meshgrid(line, line, indexing="ij")
    columns = {name: value[:, :, None] for name, value in f.items() if name.startswith("background")}
    if quads is None:
        return shading.background_at(2 * x[None] - 1, 2 * y[None] - 1, columns)
    corner = quads[..., None, None]
    spot = corner[:, 0] + (corner[:, 3] - corner[:, 0]) * x + (corner[:, 1] - corner[:, 0]) * y
    return shading.background_at(2 * spot[:, 0] - 1, 2 * spot[:, 1] - 1, columns)
