"""Pose and expression from the points of a face mesh: with gradients for training, and by blendshapes for the judge.

A rotation, fitted to the points that an expression moves little, takes the average face to the points (Kabsch 1976):
that is the pose. The points, turned back and brought to the average's size and place, show the expression.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from styleblend.faces.pixels import beside
from styleblend.perception.mesh import FaceMesh, to_68
from styleblend.perception.shape import EXPRESSIVE, RIGID, rotation

AVERAGE: tuple[tuple[float, float, float], ...] = (
    (-0.766, -0.202, 0.483), (-0.758, -0.039, 0.529), (-0.747, 0.126, 0.529), (-0.721, 0.303, 0.495),
    (-0.604, 0.628, 0.308), (-0.525, 0.732, 0.180), (-0.336, 0.884, -0.004), (-0.244, 0.936, -0.087),
    (0.000, 0.986, -0.163), (0.244, 0.936, -0.087), (0.336, 0.884, -0.004), (0.525, 0.732, 0.180),
    (0.604, 0.628, 0.308), (0.721, 0.303, 0.495), (0.747, 0.126, 0.529), (0.758, -0.039, 0.529),
    (0.766, -0.202, 0.483), (-0.630, -0.424, -0.059), (-0.560, -0.490, -0.153), (-0.450, -0.525, -0.228),
    (-0.311, -0.518, -0.294), (-0.157, -0.503, -0.329), (0.157, -0.503, -0.329), (0.311, -0.518, -0.294),
    (0.450, -0.525, -0.228), (0.560, -0.490, -0.153), (0.630, -0.424, -0.059), (0.000, -0.320, -0.318),
    (0.000, -0.165, -0.423), (0.000, -0.015, -0.549), (0.000, 0.081, -0.576), (-0.133, 0.190, -0.341),
    (-0.076, 0.232, -0.366), (0.000, 0.232, -0.384), (0.076, 0.232, -0.366), (0.133, 0.190, -0.341),
    (-0.500, -0.265, -0.072), (-0.422, -0.311, -0.148), (-0.308, -0.318, -0.169), (-0.195, -0.251, -0.132),
    (-0.300, -0.223, -0.155), (-0.414, -0.225, -0.135), (0.195, -0.251, -0.132), (0.308, -0.318, -0.169),
    (0.422, -0.311, -0.148), (0.500, -0.265, -0.072), (0.414, -0.225, -0.135), (0.300, -0.223, -0.155),
    (-0.270, 0.479, -0.185), (-0.160, 0.404, -0.342), (-0.079, 0.380, -0.381), (0.000, 0.391, -0.391),
    (0.079, 0.380, -0.381), (0.160, 0.404, -0.342), (0.270, 0.479, -0.185), (0.147, 0.561, -0.310),
    (0.077, 0.582, -0.338), (0.000, 0.587, -0.343), (-0.077, 0.582, -0.338), (-0.147, 0.561, -0.310),
    (-0.234, 0.472, -0.206), (-0.060, 0.460, -0.323), (0.000, 0.462, -0.331), (0.060, 0.460, -0.323),
    (0.234, 0.472, -0.206), (0.064, 0.480, -0.321), (0.000, 0.481, -0.330), (-0.064, 0.480, -0.321),
)  # fmt: skip
"""The average face at rest, looking ahead: iBUG's 68 points, x right, y down, z away; outer eye corners 1 apart.

The mesh of 468 points on the 102 neutral pictures of the Face Research Lab London Set (DeBruine and Jones 2017, CC BY
4.0) and their mirror images, each turned onto the others. Its pitch is that of MediaPipe's canonical face, whose points
differ by 0.04, 0.04 and 0.02 in x, y and z (root mean square).
"""

EXPRESSION = 3 * len(EXPRESSIVE)
"""Coefficients of the expression by points."""

_UNITS_PER_EYE_DISTANCE = 10.0  # so that an expression's numbers are about 1


class MeshShape(nn.Module):
    """Aligned faces to 68 points in three dimensions: what ShapeNetwork does, with a mesh inside."""

    average: Tensor

    def __init__(self, mesh: FaceMesh) -> None:
        super().__init__()
        self.name = mesh.name
        self.mesh = mesh
        self.register_buffer("average", torch.tensor(AVERAGE), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """[N, 3, S, S] in [-1, 1] -> points [N, 68, 3]: x right, y down, in [0, 1] of the picture; z away alike."""
        return to_68(self.mesh(images))

    def turn(self, points: Tensor) -> Tensor:
        """Rotations [N, 3, 3] that take the average face to the pose of `points` [N, 68, 3]."""
        return rotation(_rigid(self.average[None]), _rigid(points))


class MeshAttributes(nn.Module):
    """Aligned faces to (yaw, pitch, roll) and expression, as AttributeNetwork does, with gradients."""

    def __init__(self, mesh: FaceMesh) -> None:
        super().__init__()
        self.name = mesh.name
        self.shape = MeshShape(mesh)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """[N, 3, S, S] in [-1, 1] -> degrees [N, 3] (yaw to the picture's right, pitch up, roll clockwise) and
        expression [N, EXPRESSION], see `expression_of`."""
        points = self.shape(images)
        turn = self.shape.turn(points)
        return angles_deg(turn), expression_of(points, turn, self.shape.average)


def angles_deg(turn: Tensor) -> Tensor:
    """Yaw, pitch and roll [N, 3] in degrees of rotations [N, 3, 3] of a head: first yaw, then pitch, then roll.

    x right, y down, z away: yaw turns to the picture's right, pitch up, roll clockwise.
    """
    across = torch.hypot(turn[:, 2, 0], turn[:, 2, 2])  # no arcsine, whose slope has no limit at a right angle
    yaw = torch.atan2(turn[:, 2, 0], turn[:, 2, 2])
    pitch = torch.atan2(-turn[:, 2, 1], across)
    roll = torch.atan2(-turn[:, 0, 1], turn[:, 1, 1])
    return torch.stack([yaw, pitch, roll], dim=1).rad2deg()


def expression_of(points: Tensor, turn: Tensor, average: Tensor) -> Tensor:
    """How far the points that an expression moves lie from the average face's, when the pose is taken away.

    Args:
        points: [N, 68, 3] in any unit; turn: [N, 3, 3] of these points; average: [68, 3].
    Returns:
        [N, EXPRESSION]: x, y and z of the points EXPRESSIVE, in tenths of the distance between the outer eye corners
        of the average face. Place, size and stretches along the face's own axes do not count, for they are the
        person's: the rigid points decide them.
    """
    solid, expressive = beside(RIGID, points), beside(EXPRESSIVE, points)
    rest = _rigid(average[None])
    rigid = _rigid(points)
    middle = points[:, solid].mean(1, keepdim=True)
    turned = rigid @ turn
    # One factor an axis, least squares; noses differ in depth as faces do in width.
    stretch = (turned * rest).sum(1, keepdim=True) / turned.square().sum(1, keepdim=True).clamp_min(1e-12)
    moving = ((points[:, expressive] - middle) @ turn) * stretch
    wanted = average[expressive] - average[solid].mean(0)
    eyes = (average[45] - average[36]).norm()
    return ((moving - wanted) * _UNITS_PER_EYE_DISTANCE / eyes).flatten(1)


def _rigid(points: Tensor) -> Tensor:
    rigid = points[:, beside(RIGID, points)]
    return rigid - rigid.mean(1, keepdim=True)
