"""What a face's pixels say of its picture, with no network: exposure, and a hash that survives copying.

There is no measure of occlusion: no frozen network of a run was made to tell how much of a face is covered, and the
presence that a mesh gives says only whether there is a face.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

EXPOSURE = ("brightness", "dark", "light")
"""Mean grey level in [0, 255], and the shares of pixels that are nearly black and nearly white."""

HASH = "picture_hash"
HASH_SIDE = 8
HASH_BITS = HASH_SIDE**2
_HASHED_PX = 32
_DARK, _LIGHT = 8, 247
# The middle of an aligned face, without its corners: they are often black where the photograph ended.
_FIRST, _LAST = 0.2, 0.8


def columns(pixels: NDArray[np.uint8]) -> dict[str, list[Any]]:
    """EXPOSURE and HASH of each aligned face; pixels [N, H, W, 3]."""
    greys = [cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in pixels]
    exposures = np.array([exposure(grey) for grey in greys]).reshape(-1, len(EXPOSURE))
    return {
        **{name: exposures[:, number].tolist() for number, name in enumerate(EXPOSURE)},
        HASH: [picture_hash(grey) for grey in greys],
    }


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
