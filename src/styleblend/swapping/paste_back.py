"""Putting a swapped face back into its photograph: in the photograph's colours, through a soft ellipse."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from styleblend.faces.alignment import side_px, to_aligned

# The part of an aligned face that is pasted: an ellipse from forehead to chin, in [0, 1] of the crop.
# It ends inside the crop, so that nothing of the crop's edge can show.
CENTRE = (0.5, 0.56)
RADII = (0.42, 0.43)
SOLID = 0.75
"""Share of the ellipse's radius within which the swapped face covers the photograph fully."""
COLOUR_REACH = 0.15
"""How far, as a share of the crop's side, a difference in colour at the ellipse's edge spreads into the face."""
STRIP_PIXELS = 1 << 18
"""Pixels that are mixed at a time, so that a face which fills a large photograph needs no large memory."""


def match_colour(face: Image.Image, there: Image.Image) -> Image.Image:
    """Shift the face's colours so that along the soft edge they are, smoothed, those of the picture it goes into.

    A light that falls from one side stays: the shift varies over the face, slowly.

    Args:
        face: swapped and aligned, of any side.
        there: what the photograph shows at the same place, aligned.
    """
    side = there.width
    reduced = face.resize(there.size, Image.Resampling.BOX if face.width > side else Image.Resampling.BICUBIC)
    difference = np.asarray(there, dtype=np.float32) - np.asarray(reduced, dtype=np.float32)
    places = (np.arange(side) + 0.5) / side
    weight = _ellipse(np.stack(np.meshgrid(places, places), axis=-1))
    edge = (weight * (1 - weight)).astype(np.float32)[..., None]
    sigma = COLOUR_REACH * side
    total, amount = (
        cv2.GaussianBlur(each, (0, 0), sigma, borderType=cv2.BORDER_CONSTANT)
        for each in (difference * edge, edge[..., 0])
    )
    shift = total / np.maximum(amount, 1e-6)[..., None]
    enlarged = cv2.resize(shift, face.size, interpolation=cv2.INTER_LINEAR)
    return Image.fromarray(_levels(np.asarray(face, dtype=np.float32) + enlarged))


def paste(face: Image.Image, photograph: Image.Image, quad: NDArray[np.float64]) -> Image.Image:
    """Put an aligned face back where `quad` [4,2] (pixels) cut it out, through a soft ellipse.

    Pixels outside the ellipse are the photograph's, bit for bit. Beside the copy that is returned it takes little
    memory, however large photograph and face are.
    """
    result = photograph.copy()
    low = np.maximum(np.floor(quad.min(0)).astype(int), 0)
    high = np.minimum(np.ceil(quad.max(0)).astype(int) + 1, photograph.size)
    if (low >= high).any():
        return result
    # A face that is larger than its place is reduced first: the warp alone would skip pixels.
    size = min(face.width, max(1, round(side_px(quad))))
    face = face.resize((size, size), Image.Resampling.LANCZOS)
    (left, first), (right, last) = low.tolist(), high.tolist()
    rows = max(1, STRIP_PIXELS // (right - left))
    for top in range(first, last, rows):
        strip = photograph.crop((left, top, right, min(top + rows, last)))
        result.paste(_mixed(face, strip, quad - (left, top)), (left, top))
    return result


def _mixed(face: Image.Image, strip: Image.Image, quad: NDArray[np.float64]) -> Image.Image:
    """A strip of the photograph with the part of the face that lies in it; `quad` in pixels of the strip."""
    columns, rows = np.meshgrid(np.arange(strip.width), np.arange(strip.height))
    weight = _ellipse(to_aligned(np.stack([columns, rows], axis=-1), quad))[..., None]
    # Pillow samples at pixel centres, which lie half a pixel from its corners; quads count from the centres.
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
    """Weight of the swapped face at aligned points [...,2]: 1 inside, 0 outside, smooth between."""
    radius = np.hypot(*np.moveaxis((points - CENTRE) / RADII, -1, 0))
    way = np.clip((1 - radius) / (1 - SOLID), 0, 1)
    return way * way * (3 - 2 * way)
