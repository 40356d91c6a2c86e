"""How it looks: pose and expression of an aligned face."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, overload

from torch import Tensor, nn

from styleblend.errors import StyleBlendError
from styleblend.perception import blendshapes, mesh
from styleblend.perception.blendshapes import BlendshapeAttributes
from styleblend.perception.layers import linear_head, resized, trunk_of
from styleblend.perception.mesh_attributes import MeshAttributes
from styleblend.weights import frozen

if TYPE_CHECKING:
    from styleblend.perception.pose_3d68 import Attributes3d68

POSE_SCALE_DEG = 20.0  # a network learns best on numbers of about 1


class AttributeNetwork(nn.Module):
    """Aligned faces to (yaw, pitch, roll) and expression coefficients.

    Args:
        trunk: "residual" or "plain", as in IdentityNetwork; widths: channels a stage; blocks: residual blocks a stage
        coefficients: expression coefficients; side_px: side to which pictures are brought
    """

    def __init__(
        self, name: str, trunk: str, widths: list[int], blocks: list[int], coefficients: int, side_px: int
    ) -> None:
        super().__init__()
        self.name = name
        self.side_px = side_px
        self.trunk = trunk_of(trunk, widths, blocks)
        self.head = linear_head(widths, side_px, 3 + coefficients)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """[N, 3, H, W] in [-1, 1] -> degrees [N, 3] (yaw to the picture's right, pitch up, roll clockwise) and
        expression [N, coefficients]."""
        out: Tensor = self.head(self.trunk(resized(images, self.side_px)).flatten(1))
        return out[:, :3] * POSE_SCALE_DEG, out[:, 3:]


@overload
def load(folder: Path, role: Literal["attributes"], threads: int = 0) -> AttributeNetwork | MeshAttributes: ...
@overload
def load(
    folder: Path, role: Literal["attributes_judge"], threads: int = 0
) -> AttributeNetwork | Attributes3d68 | BlendshapeAttributes: ...
def load(
    folder: Path, role: Literal["attributes", "attributes_judge"], threads: int = 0
) -> AttributeNetwork | MeshAttributes | Attributes3d68 | BlendshapeAttributes:
    """The network of role `attributes` (training) or `attributes_judge` (manifest and evaluation), frozen.

    Args:
        threads: of ONNX Runtime on the CPU, where it computes the network; 0 lets it take all cores.
    Raises:
        StyleBlendError: its file is missing or damaged, or it would have to train and has no gradients.
    """
    file = frozen.foreign(folder, role)
    if file is None:
        return frozen.load(folder, role, AttributeNetwork)
    name = frozen.foreign_name(folder, role)
    if file.suffix == ".tflite":
        return MeshAttributes(mesh.load(file, name))
    if file.suffix == ".task":
        return blendshapes.load(file, name)
    if role == "attributes":
        raise StyleBlendError(
            f"network 'attributes' is {file}, which has no gradients to train with: set pretrained.attributes to "
            "small or to a mesh; insightface's 1k3d68 can be pretrained.attributes_judge"
        )
    # ONNX Runtime and SciPy's rotations come with it, which no training needs.
    from styleblend.perception.pose_3d68 import Attributes3d68

    return Attributes3d68(name.removesuffix(".onnx"), file, threads)
