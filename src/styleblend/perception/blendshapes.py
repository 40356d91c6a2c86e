"""MediaPipe's 52 blendshapes and the pose from its mesh of 478 points: how a face looks, for the judge.

Both networks lie in face_landmarker.task. The blendshapes' network is an MLP-Mixer that sees 146 of the points, without
depth, and takes away their place and size itself; its names follow Apple's ARKit.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from styleblend.perception.mesh import EXPRESSION_POINTS, POINTS, POINTS_WITH_IRISES, FaceMesh, to_68
from styleblend.perception.mesh_attributes import MeshShape, angles_deg
from styleblend.weights.formats import tflite_graph
from styleblend.weights.formats.tflite_graph import Graph, TfliteError
from styleblend.weights.formats.tflite_network import TfliteNetwork

BLENDSHAPES: tuple[str, ...] = (
    "neutral", "browDownLeft", "browDownRight", "browInnerUp", "browOuterUpLeft", "browOuterUpRight", "cheekPuff",
    "cheekSquintLeft", "cheekSquintRight", "eyeBlinkLeft", "eyeBlinkRight", "eyeLookDownLeft", "eyeLookDownRight",
    "eyeLookInLeft", "eyeLookInRight", "eyeLookOutLeft", "eyeLookOutRight", "eyeLookUpLeft", "eyeLookUpRight",
    "eyeSquintLeft", "eyeSquintRight", "eyeWideLeft", "eyeWideRight", "jawForward", "jawLeft", "jawOpen", "jawRight",
    "mouthClose", "mouthDimpleLeft", "mouthDimpleRight", "mouthFrownLeft", "mouthFrownRight", "mouthFunnel",
    "mouthLeft", "mouthLowerDownLeft", "mouthLowerDownRight", "mouthPressLeft", "mouthPressRight", "mouthPucker",
    "mouthRight", "mouthRollLower", "mouthRollUpper", "mouthShrugLower", "mouthShrugUpper", "mouthSmileLeft",
    "mouthSmileRight", "mouthStretchLeft", "mouthStretchRight", "mouthUpperUpLeft", "mouthUpperUpRight",
    "noseSneerLeft", "noseSneerRight",
)  # fmt: skip
"""What the coefficients are called, in their order; left is the person's."""

SEEN: tuple[int, ...] = (*EXPRESSION_POINTS, *range(POINTS, POINTS_WITH_IRISES))
"""Points of the mesh that the blendshapes' network sees, in its order."""


class BlendshapeAttributes(nn.Module):
    """Aligned faces to (yaw, pitch, roll) and 52 blendshapes, as AttributeNetwork does. Frozen.

    Args:
        name: names the network in reports. mesh: of 478 points.
        graph: of the network that makes 52 blendshapes of 146 points.
    Raises:
        TfliteError: the mesh has no irises, or the graph is another one.
    """

    def __init__(self, name: str, mesh: FaceMesh, graph: Graph) -> None:
        super().__init__()
        self.name = name
        self.shape = MeshShape(mesh)
        self.expression = TfliteNetwork(graph)
        wanted = ((1, len(SEEN), 2), ((1, len(BLENDSHAPES)),))
        if (self.expression.reads, self.expression.writes) != wanted:
            found = f"{list(self.expression.reads)} and gives {[list(each) for each in self.expression.writes]}"
            raise TfliteError(f"{graph.file} reads {found}, blendshapes read [1, 146, 2] and give [1, 52]")
        if mesh.points != POINTS_WITH_IRISES:
            raise TfliteError(f"{mesh.name} has {mesh.points} points, blendshapes need {POINTS_WITH_IRISES}")

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """[N, 3, S, S] in [-1, 1] -> degrees [N, 3] (yaw to the picture's right, pitch up, roll clockwise) and
        blendshapes [N, 52] in [0, 1], in the order of BLENDSHAPES."""
        points = self.shape.mesh(images)
        pose = angles_deg(self.shape.turn(to_68(points)))
        (expression,) = self.expression(points[:, list(SEEN), :2])
        return pose, expression


def load(path: Path, name: str | None = None) -> BlendshapeAttributes:
    """Both networks of face_landmarker.task; without a name they are named after the file.

    Raises:
        TfliteError: the file is missing, damaged or holds other networks.
    """
    name = name or path.stem
    mesh, expression = tflite_graph.read_bundle(path)
    return BlendshapeAttributes(name, FaceMesh(name, mesh), expression)
