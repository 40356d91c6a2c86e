"""Masks of an aligned face from its landmarks, for training and evaluation."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

_MARGIN = 0.08
"""The hull is enlarged by this fraction, since landmarks lie on the face's edge, not around it."""


def face_region(landmarks: torch.Tensor, size_px: int, soften_px: float = 0.0) -> torch.Tensor:
    """Mask of the face: the convex hull of its landmarks, extended over the forehead.

    The 68 points end at the brows, but a swap may change the forehead too. So the brows' points are added again,
    moved up by the length of the nose.

    Args:
        landmarks: [N, 68, 2], x and y in [0, 1] of the picture.
        size_px: side of the mask.
        soften_px: standard deviation of a blur of the mask's edge; 0 leaves it hard.
    Returns:
        [N, 1, size_px, size_px] float32 in [0, 1] on the device of `landmarks`; 1 is face. No gradient.
    """
    points = landmarks.detach().float().cpu().numpy()
    # The nose gives the direction "up" and a length, so the mask turns with the head.
    up = points[:, 27] - points[:, 33]
    forehead = points[:, 17:27] + up[:, None]
    hulls = np.concatenate([points, forehead], axis=1)
    centre = hulls.mean(axis=1, keepdims=True)
    hulls = (centre + (hulls - centre) * (1 + _MARGIN)) * size_px - 0.5
    return torch.from_numpy(_filled(hulls, size_px, soften_px))[:, None].to(landmarks.device)


def mesh_region(mesh: torch.Tensor, size_px: int, soften_px: float = 0.0) -> torch.Tensor:
    """Mask of the face: the convex hull of a mesh, which reaches up to the hair by itself.

    Args:
        mesh: [N, K, 2 or 3], x and y in [0, 1] of the picture. size_px, soften_px: as of face_region.
    Returns:
        As face_region.
    """
    hulls = mesh[..., :2].detach().float().cpu().numpy() * size_px - 0.5
    return torch.from_numpy(_filled(hulls, size_px, soften_px))[:, None].to(mesh.device)


def _filled(points_px: NDArray[np.floating], size_px: int, soften_px: float) -> NDArray[np.float32]:
    masks = np.zeros((len(points_px), size_px, size_px), np.float32)
    fraction = 4  # bits: OpenCV draws polygons with sub-pixel corners as fixed-point numbers
    for mask, hull in zip(masks, points_px, strict=True):
        corners = cv2.convexHull(np.round(hull * 2**fraction).astype(np.int32))
        cv2.fillConvexPoly(mask, corners, 1.0, lineType=cv2.LINE_8, shift=fraction)
        if soften_px > 0:
            mask[:] = cv2.GaussianBlur(mask, (0, 0), soften_px, borderType=cv2.BORDER_REPLICATE)
    return masks
