"""Paste a swapped face back into its photograph: match its colours, then blend through a soft ellipse."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from styleblend.faces.alignment import side_px, to_aligned

# The pasted ellipse, from forehead to chin, in aligned coordinates. It ends inside the crop, so the crop's edge never
# shows.
CENTRE = (0.5, 0.56)
RADII = (0.42, 0.43)
SOLID = 0.75
"""Fraction of the ellipse's radius within which the swapped face is fully opaque."""
COLOUR_REACH = 0.15
"""Standard deviation, as a fraction of the crop's side, by which a colour difference at the edge spreads inwards."""
STRIP_PIXELS = 1 << 18
"""Pixels that are blended at a time, which bounds the memory for a face that fills a large photograph."""


def match_colour(face: Image.Image, there: Image.Image) -> Image.Image:
    """Shift the face's colours smoothly to those of the photograph along the ellipse's soft edge.

    The shift varies slowly over the face, so light from one side is matched too.

    Args:
        face: RGB, swapped and aligned, of any side.
        there: RGB, the photograph's own aligned face.
    Returns:
        RGB of the side of `face`.
    """
    side = there.width
    reduced = face.resize(there.size, Image.Resampling.BOX if face.width > side else Image.Resampling.BICUBIC)
    difference = np.asarray(there, dtype=np.float32) - np.asarray(reduced, dtype=np.float32)
    places = (np.arange(side) + 0.5) / side
    weight = _ellipse(np.stack(np.meshgrid(places, places), axis=-1))
    edge = (weight * (1 - weight)).astype(np.float32)[..., None]
    sigma = COLOUR_REACH * side
    layers = (difference * edge, edge[..., 0])
    total, amount = (cv2.GaussianBlur(each, (0, 0), sigma, borderType=cv2.BORDER_CONSTANT) for each in layers)
    shift = total / np.maximum(amount, 1e-6)[..., None]
    enlarged = cv2.resize(shift, face.size, interpolation=cv2.INTER_LINEAR)
    return Image.fromarray(_levels(np.asarray(face, dtype=np.float32) + enlarged))


def paste(face: Image.Image, photograph: Image.Image, quad: NDArray[np.float64]) -> Image.Image:
    """Blend an aligned RGB face into a copy of the photograph at `quad` [4,2] (pixels), through a soft ellipse.

    Pixels outside the ellipse stay the photograph's, bit for bit. Apart from the returned copy it needs little memory
    at any size.
    """
    result = photograph.copy()
    low = np.maximum(np.floor(quad.min(0)).astype(int), 0)
    high = np.minimum(np.ceil(quad.max(0)).astype(int) + 1, photograph.size)
    if (low >= high).any():
        return result
    # A face larger than its quad is downsampled first, since the warp alone would skip pixels.
    size = min(face.width, max(1, round(side_px(quad))))
    face = face.resize((size, size), Image.Resampling.LANCZOS)
    (left, first), (right, last) = low.tolist(), high.tolist()
    rows = max(1, STRIP_PIXELS // (right - left))
    for top in range(first, last, rows):
        strip = photograph.crop((left, top, right, min(top + rows, last)))
        result.paste(_mixed(face, strip, quad - (left, top)), (left, top))
    return result


def _mixed(face: Image.Image, strip: Image.Image, quad: NDArray[np.float64]) -> Image.Image:
    """A strip of the photograph with the face blended in; `quad` in pixels of the strip."""
    columns, rows = np.meshgrid(np.arange(strip.width), np.arange(strip.height))
    weight = _ellipse(to_aligned(np.stack([columns, rows], axis=-1), quad))[..., None]
    # In Pillow (0, 0) is a pixel's corner, in quads its centre.
    corners = quad + 0.5
    to_face = face.width * np.linalg.inv(np.stack([corners[3] - corners[0], corners[1] - corners[0]], axis=1))
    shift = -to_face @ corners[0]
    coefficients = (*to_face[0], shift[0], *to_face[1], shift[1])
    placed = face.transform(strip.size, Image.Transform.AFFINE, coefficients, Image.Resampling.BICUBIC)
    pixels = np.array(strip)
    inside = weight[..., 0] > 0
    mixed = weight * np.asarray(placed, dtype=np.float64) + (1 - weight) * pixels
    pixels[inside] = _levels(mixed[inside])
    return Image.fromarray(pixels)


def _levels(values: NDArray) -> NDArray[np.uint8]:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _ellipse(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weight of the swapped face at aligned points [...,2]: 1 inside, 0 outside, smooth in between."""
    radius = np.hypot(*np.moveaxis((points - CENTRE) / RADII, -1, 0))
    way = np.clip((1 - radius) / (1 - SOLID), 0, 1)
    return way * way * (3 - 2 * way)
