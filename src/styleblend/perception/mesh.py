"""MediaPipe's face meshes on our aligned faces: 468 or 478 points in three dimensions, with gradients.

Y. Kartynnik et al., Real-time Facial Surface Geometry from Monocular Video on Mobile GPUs, 2019. MediaPipe cuts out a
square around its last points and turns it upright; an aligned face is upright already and has a fixed place, so one
cut serves for all.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from styleblend.faces.pixels import beside
from styleblend.perception.layers import expect_square, resized
from styleblend.weights.formats import tflite_graph
from styleblend.weights.formats.tflite_graph import Graph, TfliteError
from styleblend.weights.formats.tflite_network import TfliteNetwork

POINTS = 468
"""Points of the skin, which both meshes have; the larger one has five more for each iris."""

POINTS_WITH_IRISES = POINTS + 10

FACE_PRESENT = 0.5
"""Smallest presence of a face; MediaPipe's own default."""

# MediaPipe's square is 1.5 times the longer side of the box of its points. On 68 studio photographs, aligned, its
# centre lies at (0.500, 0.597) of the side for the mesh of 468 points and at (0.499, 0.602) for that of 478, with
# standard deviations of 0.010, and its side is 0.99 of ours (0.03). So the cut is the whole picture, this much lower.
_LOWER = 0.1

TO_68: tuple[int, ...] = (
    127, 234, 93, 132, 172, 136, 149, 176, 152, 400, 378, 365, 397, 361, 323, 454, 356,
    70, 63, 105, 66, 107, 336, 296, 334, 293, 300,
    168, 197, 5, 4, 75, 97, 2, 326, 305,
    33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380,
    61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181,
    78, 82, 13, 312, 308, 317, 14, 87,
)  # fmt: skip
"""Points of the mesh that lie where iBUG's 68 are, in iBUG's order: jaw, brows, nose, eyes, mouth.

Of the outline from eye to chin, those nearest to equal steps on average; iBUG's own annotators placed them so.
"""


class FaceMesh(nn.Module):
    """Aligned faces to points in three dimensions. Frozen, always in eval mode.

    Args:
        name: names the network in reports.
        graph: of face_landmark.tflite (468 points, 192 px) or face_landmarks_detector.tflite (478 points, 256 px).
    Raises:
        TfliteError: the graph is another one.
    """

    def __init__(self, name: str, graph: Graph) -> None:
        super().__init__()
        self.name = name
        self.network = TfliteNetwork(graph)
        self.side_px = self.network.reads[1] if len(self.network.reads) == 4 else 0
        values = {count: 3 * count for count in (POINTS, POINTS_WITH_IRISES)}
        found = [shape[-1] for shape in self.network.writes]
        self.points = next((count for count, wanted in values.items() if found[:2] == [wanted, 1]), 0)
        if not self.points or self.network.reads[1:] != (self.side_px, self.side_px, 3):
            raise TfliteError(
                f"{graph.file} reads {list(self.network.reads)} and gives {found} numbers: it is no face mesh, which "
                f"reads a picture and gives 3 for each of {' or '.join(map(str, values))} points, and the presence"
            )
        self._lower_px = round(_LOWER * self.side_px)
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> FaceMesh:
        """Stays in eval mode, whatever the module around it does."""
        return super().train(False)

    def look(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Points, and whether there is a face at all, in one pass.

        Args:
            images: [N, 3, S, S] in [-1, 1], FFHQ-aligned, of any side.
        Returns:
            points [N, points, 3]: x right and y down in [0, 1] of the picture, z away from the viewer in the same
            unit, from a zero at the middle of the head; and the presence of a face [N], in [0, 1]. Both differentiable.
        Raises:
            StyleBlendError: the pictures are not square.
        """
        expect_square(images)
        view = resized(images, self.side_px)[:, :, self._lower_px :]
        # Below the picture its last row goes on, as MediaPipe fills what lies beyond one.
        view = F.pad(view, (0, 0, 0, self._lower_px), mode="replicate")
        found, presence, *_ = self.network(((view + 1) / 2).permute(0, 2, 3, 1))
        points = found.reshape(len(images), self.points, 3) + beside((0.0, float(self._lower_px), 0.0), found)
        return points / self.side_px, torch.sigmoid(presence.reshape(len(images)))

    def forward(self, images: Tensor) -> Tensor:
        """[N, 3, S, S] in [-1, 1] -> points [N, points, 3], see `look`."""
        return self.look(images)[0]


EXPRESSION_POINTS: tuple[int, ...] = (
    0, 1, 4, 5, 6, 7, 8, 10, 13, 14, 17, 21, 33, 37, 39, 40, 46, 52, 53, 54, 55, 58, 61, 63, 65, 66, 67, 70, 78, 80,
    81, 82, 84, 87, 88, 91, 93, 95, 103, 105, 107, 109, 127, 132, 133, 136, 144, 145, 146, 148, 149, 150, 152, 153,
    154, 155, 157, 158, 159, 160, 161, 162, 163, 168, 172, 173, 176, 178, 181, 185, 191, 195, 197, 234, 246, 249,
    251, 263, 267, 269, 270, 276, 282, 283, 284, 285, 288, 291, 293, 295, 296, 297, 300, 308, 310, 311, 312, 314,
    317, 318, 321, 323, 324, 332, 334, 336, 338, 356, 361, 362, 365, 373, 374, 375, 377, 378, 379, 380, 381, 382,
    384, 385, 386, 387, 388, 389, 390, 397, 398, 400, 402, 405, 409, 415, 454, 466,
)  # fmt: skip
"""Points of the skin from which MediaPipe's network of blendshapes reads the expression; it reads the irises, too."""


def to_68(points: Tensor) -> Tensor:
    """[N, 468 or 478, D] -> [N, 68, D], iBUG's points."""
    if points.ndim != 3 or points.shape[1] not in (POINTS, POINTS_WITH_IRISES):
        raise ValueError(f"expected points [N, 468 or 478, D], got {tuple(points.shape)}")
    return points[:, beside(TO_68, points)]


class MeshLandmarks(nn.Module):
    """Aligned faces to 68 points, what LandmarkNetwork does, with a mesh inside, whose points are all to be had."""

    def __init__(self, mesh: FaceMesh) -> None:
        super().__init__()
        self.name = mesh.name
        self.mesh = mesh

    def forward(self, images: Tensor) -> Tensor:
        """[N, 3, S, S] in [-1, 1] -> points [N, 68, 2], x and y in [0, 1] of the picture; differentiable."""
        return to_68(self.mesh(images))[..., :2]


def load(path: Path, name: str | None = None) -> FaceMesh:
    """The mesh of a .tflite file, frozen; without a name it is named after the file.

    Raises:
        TfliteError: the file is missing, damaged or holds another network.
    """
    return FaceMesh(name or path.stem, tflite_graph.read_file(path))
