"""FFHQ alignment, which CelebA-HQ and StyleGAN tools use too: one implementation for training and inference.

Points are in pixels with the centre of the top-left pixel at (0, 0), as landmark detectors return them. A quad
holds the corners of the crop in the order top-left, bottom-left, bottom-right, top-right. Aligned coordinates
run from 0 at the left or top edge of the crop to 1 at its right or bottom edge.
Rule: T. Karras et al., A Style-Based Generator Architecture for GANs, 2019, and the preparation of FFHQ.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from styleblend.errors import StyleBlendError
from styleblend.faces.template import TEMPLATE

Points = NDArray[np.float64]

# A crop larger than its picture by more than this factor is a wrong detection, and would need very much memory.
LARGEST_CROP = 3.0


class AlignmentError(StyleBlendError):
    """No crop can be made from the points or the quad. The message has the reason and the values."""


@dataclass(frozen=True)
class AlignedFace:
    """A face cut out of a photograph: the square picture, and its quad [4,2] in pixels of the photograph."""

    picture: Image.Image
    quad: Points


def align_face(photograph: Image.Image, points: ArrayLike, size_px: int) -> AlignedFace:
    """Cut a face out of an upright RGB picture by its landmarks, in training and inference alike.

    Args:
        points: 68 landmarks [68,2] or five points [5,2], in pixels.
    Raises:
        AlignmentError: the points give no quad, or the quad gives no crop.
    """
    # float32, as the manifest stores it, so that the same crop can be made again from a row.
    quad = quad_from_landmarks(points).astype(np.float32).astype(np.float64)
    return AlignedFace(crop(photograph, quad, size_px), quad)


def quad_from_landmarks(points: ArrayLike) -> Points:
    """Corners [4,2] of the FFHQ crop from 68 landmarks [68,2] or from five points [5,2].

    Five points are the eye on the picture's left, the other eye, the nose, the left and the right mouth corner.

    Raises:
        AlignmentError: another number of points, a value that is not finite, or coinciding points.
    """
    points = np.asarray(points, dtype=np.float64)
    if points.shape == (68, 2):
        eye_left, eye_right = points[36:42].mean(0), points[42:48].mean(0)
        mouth = points[[48, 54]].mean(0)
    elif points.shape == (5, 2):
        eye_left, eye_right = points[0], points[1]
        mouth = points[3:5].mean(0)
    else:
        raise AlignmentError(f"landmarks have the shape {points.shape}: give 68 or 5 points")
    if not np.isfinite(points).all():
        raise AlignmentError("landmarks are not all finite numbers")
    eyes = (eye_left + eye_right) / 2
    eye_to_eye = eye_right - eye_left
    eye_to_mouth = mouth - eyes
    across = eye_to_eye - _turned(eye_to_mouth)
    length = np.hypot(*across)
    if length < 1e-6:
        raise AlignmentError("eyes and mouth fall together in one point")
    half = max(TEMPLATE.eye_factor * np.hypot(*eye_to_eye), TEMPLATE.mouth_factor * np.hypot(*eye_to_mouth))
    x = across / length * half
    y = _turned(x)
    centre = eyes + TEMPLATE.centre_shift * eye_to_mouth
    return np.stack([centre - x - y, centre - x + y, centre + x + y, centre + x - y])


def _turned(vector: Points) -> Points:
    return np.array([-vector[1], vector[0]])


def side_px(quad: ArrayLike) -> float:
    """Length of the quad's left side in pixels."""
    quad = np.asarray(quad, dtype=np.float64).reshape(4, 2)
    return float(np.hypot(*(quad[1] - quad[0])))


def to_aligned(points: ArrayLike, quad: ArrayLike) -> Points:
    """Aligned coordinates of the picture's points [...,2]; outside [0, 1] where they lie outside the crop."""
    quad = np.asarray(quad, dtype=np.float64).reshape(4, 2)
    axes = np.stack([quad[3] - quad[0], quad[1] - quad[0]], axis=1)
    return (np.asarray(points, dtype=np.float64) - quad[0]) @ np.linalg.inv(axes).T


def crop(image: Image.Image, quad: ArrayLike, size_px: int) -> Image.Image:
    """Warp the quad of an RGB picture to a square of `size_px`.

    Shrinks the picture first where the crop is far larger than the output, crops with a border, pads by reflection
    with a blur that grows outwards where the quad leaves the picture, warps to four times the output size and
    downsamples with Lanczos.

    Raises:
        AlignmentError: the quad lies outside the picture, or is far too large for it.
    """
    # From here on (0, 0) is the top-left corner of the top-left pixel, so scaling needs no half-pixel shifts.
    corners = np.asarray(quad, dtype=np.float64).reshape(4, 2) + 0.5
    side = side_px(corners)
    centre = corners.mean(0)
    if not np.isfinite(corners).all() or not 0 < side <= LARGEST_CROP * max(image.size):
        raise AlignmentError(f"a crop of {side:.0f} px does not fit a picture of {_size(image)} px")
    if not ((centre >= 0) & (centre <= image.size)).all():
        raise AlignmentError(f"the crop's centre {centre.round().tolist()} lies outside {_size(image)} px")

    shrink = int(side / size_px * 0.5)
    if shrink > 1:
        small = tuple(max(1, round(length / shrink)) for length in image.size)
        corners *= np.array(small) / image.size
        side = side_px(corners)
        image = image.resize((small[0], small[1]), Image.Resampling.LANCZOS)

    border = max(round(side * 0.1), 3)
    low, high = np.floor(corners.min(0)).astype(int), np.ceil(corners.max(0)).astype(int)
    start = np.maximum(low - border, 0)
    end = np.minimum(high + border, image.size)
    image = image.crop((*start.tolist(), *end.tolist()))
    corners -= start

    missing = np.concatenate([border + start - low, border + high - start - np.array(image.size)])
    missing = np.maximum(missing, 0)
    if missing.max() > border - 4:
        left, top, right, bottom = np.maximum(missing, round(side * 0.3)).tolist()
        image = _padded(image, (left, top, right, bottom), blur_px=side * 0.02)
        corners += (left, top)

    large = image.transform(
        (4 * size_px, 4 * size_px), Image.Transform.QUAD, tuple(corners.flatten().tolist()), Image.Resampling.BILINEAR
    )
    return large.resize((size_px, size_px), Image.Resampling.LANCZOS)


def _size(image: Image.Image) -> str:
    return f"{image.width}x{image.height}"


def _padded(image: Image.Image, pad: tuple[int, int, int, int], blur_px: float) -> Image.Image:
    """Reflect by `pad` (left, top, right, bottom), with more blur outwards and a fade to the median colour."""
    left, top, right, bottom = pad
    pixels = np.asarray(image, dtype=np.float32)
    pixels = np.pad(pixels, ((top, bottom), (left, right), (0, 0)), mode="reflect")
    height, width = pixels.shape[:2]
    # 1 at the outer edge, 0 where the picture begins, negative inside it.
    x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)
    outside_x = 1 - np.minimum(x / left, x[::-1] / right)
    outside_y = 1 - np.minimum(y / top, y[::-1] / bottom)
    outside = np.maximum(outside_x[None, :], outside_y[:, None])[..., None]
    blurred = cv2.GaussianBlur(pixels, (0, 0), max(blur_px, 0.1), borderType=cv2.BORDER_REFLECT)
    pixels += (blurred - pixels) * np.clip(3 * outside + 1, 0, 1)
    pixels += (np.median(pixels, axis=(0, 1)) - pixels) * np.clip(outside, 0, 1)
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))
