"""Pose and expression from the 68 landmarks in three dimensions of insightface's 1k3d68.onnx.

An affine map, fitted to the points that an expression moves little, takes the landmarks of a face to insightface's
average face (meanshape_68). The map has the pose and the size; what is left at the other points is the expression,
and what of a person no stretch describes, as thick lips. The pretrained network is for non-commercial research only.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation
from torch import Tensor, nn

from styleblend.errors import StyleBlendError
from styleblend.faces.mean_box import MEAN_BOX
from styleblend.faces.pixels import to_8bit
from styleblend.perception.layers import at_most, expect_square
from styleblend.perception.shape import EXPRESSIVE, RIGID
from styleblend.weights.formats import insightface_models

COEFFICIENTS = 3 * len(EXPRESSIVE)

# Largest side that the library samples at 192 px.
_SAMPLED_PX = 256


class Attributes3d68(nn.Module):
    """Aligned faces to (yaw, pitch, roll) and expression, as AttributeNetwork does, without gradients.

    ONNX Runtime computes, on a GPU if it can use one; `.to(device)` moves nothing, for results follow the pictures.

    Args:
        name: names the network in reports. path: the ONNX file.
        threads: of ONNX Runtime on the CPU; 0 lets it take all cores.
    Raises:
        StyleBlendError: the file is missing, damaged or of another network.
    """

    def __init__(self, name: str, path: Path, threads: int = 0) -> None:
        super().__init__()
        self.name = name
        self._network = insightface_models.load(path, threads)
        if getattr(self._network, "taskname", None) != "landmark_3d_68":
            raise StyleBlendError(
                f"{path} does not give 68 landmarks in three dimensions from pictures of 192 px: get 1k3d68.onnx"
            )
        try:
            self.landmarks(torch.zeros(1, 3, 8, 8))
        # ONNX Runtime's errors have no common class of their own.
        except Exception as error:
            raise insightface_models.unusable(path, error) from None

    def landmarks(self, images: Tensor) -> NDArray[np.float64]:
        """[N, 3, S, S] in [-1, 1] -> points [N, 68, 3] in pixels: x right, y down, z towards the viewer.

        Pixels are those of the picture, or of its copy of 256 px where it is larger. The library's `Landmark.get` looks
        at one picture a call; here a call of the network looks at all, where its file allows that.

        Raises:
            StyleBlendError: the pictures are not square.
        """
        from insightface.utils import face_align

        expect_square(images)
        images = at_most(images, _SAMPLED_PX)
        pictures = to_8bit(images).permute(0, 2, 3, 1).flip(3).cpu().numpy()  # BGR
        if not len(pictures):
            return np.empty((0, 68, 3))
        # Of a detected box the library takes the middle and the longer side, and half as much again.
        span = 1.5 * max(MEAN_BOX.width, MEAN_BOX.height) * images.shape[-1]
        middle = (MEAN_BOX.x * images.shape[-1], MEAN_BOX.y * images.shape[-1])
        side = self._network.input_size[0]
        crops = []
        for picture in pictures:
            crop, into = face_align.transform(np.ascontiguousarray(picture), middle, side, side / span, 0)
            crops.append(crop)
        # An axis of any length has a name in place of a number.
        together = 1 if isinstance(self._network.input_shape[0], int) else len(crops)
        found = [self._seen_in(crops[start : start + together]) for start in range(0, len(crops), together)]
        points = np.concatenate(found).reshape(len(crops), -1, 3)[:, -68:].astype(np.float64)
        # From [-1, 1] to pixels of the crop, then of the picture.
        points += (1, 1, 0)
        points *= side // 2
        back = cv2.invertAffineTransform(into)
        points[..., :2] = points[..., :2] @ back[:, :2].T + back[:, 2]
        points[..., 2] *= np.hypot(*back[0, :2])
        return points

    def _seen_in(self, crops: list[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """What one call of the network gives for BGR pictures of its side: [N, 3 * points]."""
        network = self._network
        mean, size = (network.input_mean,) * 3, tuple(network.input_size)
        blob = cv2.dnn.blobFromImages(crops, 1 / network.input_std, size, mean, swapRB=True)
        seen: NDArray[np.float32] = network.session.run(network.output_names, {network.input_name: blob})[0]
        return seen

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """[N, 3, S, S] in [-1, 1] -> degrees [N, 3] (yaw to the picture's right, pitch up, roll clockwise) and
        expression [N, COEFFICIENTS], see `expression_of`.

        Raises:
            StyleBlendError: gradients are asked for, or the pictures are not square.
        """
        if images.requires_grad and torch.is_grad_enabled():
            raise StyleBlendError(
                f"network '{self.name}' has no gradients, for ONNX Runtime computes it: use it as attributes_judge, "
                "and another for training"
            )
        points = self.landmarks(images.detach())
        angles = np.reshape([pose_of(each) for each in points], (len(points), 3))
        expression = np.reshape([expression_of(each) for each in points], (len(points), COEFFICIENTS))
        posed, expressed = (torch.from_numpy(values).float().to(images.device) for values in (angles, expression))
        return posed, expressed


def pose_of(points: ArrayLike) -> NDArray[np.float64]:
    """Yaw, pitch and roll [3] in degrees of landmarks [68, 3], by insightface's own rule from RIGID points alone.

    With all 68, as the library has it in `face.pose`, an open mouth would look like a nod. The library turns a head by
    roll after yaw after pitch; the angles here are those of roll after pitch after yaw, as everywhere in this project.
    """
    from insightface.utils import transform

    rigid = list(RIGID)
    points = np.asarray(points, dtype=np.float64)
    fitted = transform.estimate_affine_matrix_3d23d(_average()[rigid], points[rigid])
    _, turn, _ = transform.P2sRt(fitted)
    pitch, yaw, roll = transform.matrix2angle(turn)
    roll, pitch, yaw = Rotation.from_euler("ZYX", [roll, yaw, pitch], degrees=True).as_euler("ZXY", degrees=True)
    return np.array([yaw, pitch, roll])


def expression_of(points: ArrayLike) -> NDArray[np.float64]:
    """Expression [COEFFICIENTS] of landmarks [68, 3] in any unit and pose, of the points EXPRESSIVE in their order.

    How far each point lies from the average face's, x, y and z in turn, after the affine map that brings the RIGID
    points to the average's (least squares); in hundredths of the distance between the outer corners of its eyes.
    """
    from insightface.utils import transform

    average, rigid = _average(), list(RIGID)
    points = np.asarray(points, dtype=np.float64)
    fitted = transform.estimate_affine_matrix_3d23d(points[rigid], average[rigid])
    residuals = points @ fitted[:, :3].T + fitted[:, 3] - average
    unit = float(np.linalg.norm(average[45] - average[36])) / 100
    out: NDArray[np.float64] = residuals[list(EXPRESSIVE)].flatten() / unit
    return out


def _average() -> NDArray[np.float64]:
    """insightface's average face [68, 3]: x right, y down, z towards the viewer. The library ships it."""
    from insightface.data import get_object

    return np.asarray(get_object("meanshape_68.pkl"), dtype=np.float64)
