"""What a face's pixels say of its picture: exposure, how much of the face is covered, and a hash that survives copying.

No frozen network of a run was made to tell how much of a face is covered, so colour has to: see `covered`.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

EXPOSURE = ("brightness", "dark", "light")
"""Mean grey level in [0, 255], and the shares of pixels that are nearly black and nearly white."""

COVERED = "covered"
"""Share of the face that something of another colour seems to hide, in [0, 1]."""
_UNLIKE = 2.0
_SPREAD = (45.0, 9.0, 9.0)
"""How far skin may differ from the median of its face, in CIE L*, a* and b* of 8 bit; shadows change L* most."""

HASH = "picture_hash"
HASH_SIDE = 8
HASH_BITS = HASH_SIDE**2
_HASHED_PX = 32
_DARK, _LIGHT = 8, 247
# The middle of an aligned face, without its corners: they are often black where the photograph ended.
_FIRST, _LAST = 0.2, 0.8


def columns(pixels: NDArray[np.uint8], landmarks: NDArray[np.floating[Any]]) -> dict[str, list[Any]]:
    """EXPOSURE, COVERED and HASH of each aligned face.

    Args:
        pixels: [N, H, W, 3]. landmarks: [N, 68, 2], x and y in [0, 1] of the picture.
    """
    greys = [cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in pixels]
    exposures = np.array([exposure(grey) for grey in greys]).reshape(-1, len(EXPOSURE))
    return {
        **{name: exposures[:, number].tolist() for number, name in enumerate(EXPOSURE)},
        COVERED: [covered(picture, points) for picture, points in zip(pixels, landmarks, strict=True)],
        HASH: [picture_hash(grey) for grey in greys],
    }


def covered(picture: NDArray[np.uint8], landmarks: NDArray[np.floating[Any]]) -> float:
    """Share of a face [H, W, 3] whose colour is unlike that of most of it; 0 where landmarks [68, 2] tell no region.

    Glasses, masks, strands of hair and things are of another colour mostly; a hand is not. Beards and hard shadows
    count, too.
    """
    height, width = picture.shape[:2]
    smooth = cv2.GaussianBlur(picture, (0, 0), max(0.5, width / 128))
    lab = cv2.cvtColor(smooth, cv2.COLOR_RGB2LAB)[skin(landmarks, height, width)].astype(np.float64)
    if not len(lab):
        return 0.0
    apart = (lab - np.median(lab, axis=0)) / _SPREAD
    return float((np.square(apart).sum(axis=1) > _UNLIKE**2).mean())


def skin(landmarks: NDArray[np.floating[Any]], height: int, width: int) -> NDArray[np.bool_]:
    """The face from chin to brows, without brows and lips, [H, W]; nothing where a landmark [68, 2] is no number."""
    inside = np.zeros((height, width), np.uint8)
    if np.isfinite(landmarks).all():
        points = np.round(np.clip(landmarks, -1, 2) * (width, height) - 0.5).astype(np.int32)
        cv2.fillConvexPoly(inside, cv2.convexHull(points[:27]), 1)
        for part in (points[48:60], points[17:22], points[22:27]):
            cv2.fillConvexPoly(inside, cv2.convexHull(part), 0)
    return inside.astype(bool)


def exposure(grey: NDArray[np.uint8]) -> tuple[float, float, float]:
    """Brightness, dark and light of the middle of a grey picture [H, W]."""
    height, width = grey.shape
    rows, across = (slice(int(_FIRST * side), int(_LAST * side)) for side in (height, width))
    middle = grey[rows, across]
    return float(middle.mean()), float((middle < _DARK).mean()), float((middle > _LIGHT).mean())


def picture_hash(grey: NDArray[np.uint8]) -> str:
    """Perceptual hash of a grey picture [H, W]: HASH_BITS bits as hexadecimal digits.

    The signs of the lowest HASH_SIDE x HASH_SIDE coefficients of a discrete cosine transform of the blurred picture at
    32 px, about their median (the constant, which only says how bright it is, counts as zero). Brightness and contrast
    change none of them, JPEG few; a crop that landed a pixel elsewhere, as a detector's do, up to a third.
    """
    small = cv2.resize(grey, (_HASHED_PX, _HASHED_PX), interpolation=cv2.INTER_AREA).astype(np.float32)
    low = cv2.dct(cv2.GaussianBlur(small, (0, 0), 1))[:HASH_SIDE, :HASH_SIDE].copy()
    low[0, 0] = 0
    return np.packbits(low > np.median(low)).tobytes().hex()


def hash_bits(hashes: list[str]) -> NDArray[np.float32]:
    """-1 and 1 for each bit of the hashes, [N, HASH_BITS]: the product of two is HASH_BITS - 2 x the bits that differ.

    The product of any number of them by BLAS is exact: sums of so few ones are whole numbers of float32.
    """
    packed = np.frombuffer(bytes.fromhex("".join(hashes)), np.uint8).reshape(len(hashes), HASH_BITS // 8)
    return np.unpackbits(packed, axis=1).astype(np.float32) * 2 - 1
