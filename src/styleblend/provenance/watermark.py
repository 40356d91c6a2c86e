"""An invisible watermark in the brightness of a picture, by the library blind-watermark (DWT, DCT and SVD).

The library marks blocks of a fixed position and size, so a resized picture would lose the mark. So it is always
embedded in a copy of 256x256 px, whose change is enlarged and added to the picture; reading resizes the picture to
256x256 px again. Only brightness carries the mark, since JPEG preserves it best.

The payload is one of 4096 words of 256 pseudo-random bits, one per version of the model. A picture counts as marked
when its correlation with a word reaches `THRESHOLD`. For an unmarked picture the probability of that is below
4096 exp(-256 THRESHOLD^2 / 2) = 7e-10 (Hoeffding's inequality, over the choice of words). docs/provenance.md has the
measurements.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import re
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from styleblend.errors import StyleBlendError

MIN_SIDE_PX = 256
"""Pictures with a shorter side below this are not marked: too few pixels would carry each bit."""
THRESHOLD = 0.48
WORDS = 4096

_SIDE_PX = 256
_BITS = 256
_BLOCK = 4
# Quantisation step of a block's largest singular value, which is 2040 for white.
_STEP = 28
# Modes that can be marked, and their opaque counterparts.
_COLOURS_OF = {"1": "L", "L": "L", "LA": "L"} | dict.fromkeys(("RGB", "RGBA", "P", "PA", "CMYK"), "RGB")
_BRIGHTNESS_OF_BGR = np.array([0.114, 0.587, 0.299], dtype=np.float32)


@dataclass(frozen=True)
class Reading:
    """Result of looking for the watermark."""

    state: Literal["found", "not found", "too small"]
    """`too small`: not found, and the picture is below `MIN_SIDE_PX`."""
    version: int | None
    """Of the registered model; None where no mark was found, or the model was not registered."""
    score: float
    """Highest correlation with a word, -1 to 1."""


def version_in(model: str) -> int | None:
    """The version number at the end of a model's name, as in `styleblend version 3`."""
    number = re.search(r"\bversion (\d+)$", model)
    return int(number[1]) if number else None


def embed(image: Image.Image, version: int | None) -> Image.Image:
    """Embed the watermark; a picture with a shorter side below `MIN_SIDE_PX` is returned unchanged.

    Args:
        image: 8 bits a channel; palettes become colours, and transparency is kept.
        version: of the model; None and numbers above 4095 are marked without a version.
    Raises:
        StyleBlendError: the picture has more than 8 bits a channel.
    """
    if min(image.size) < MIN_SIDE_PX:
        return image
    if image.mode not in _COLOURS_OF:
        raise StyleBlendError(f"a picture of mode {image.mode} cannot be marked: convert it to 8 bits a channel first")
    # Only a conversion to RGBA gives a palette's transparency.
    unpacked = image.convert("RGBA") if image.mode in ("P", "PA") else image
    colours = unpacked.convert(_COLOURS_OF[image.mode])
    change = _change(_brightness(colours), _words()[version if version is not None and version < WORDS else 0])
    marked = _brightened(colours, change)
    if "A" in unpacked.getbands():
        marked.putalpha(unpacked.getchannel("A"))
    # A CMYK profile does not describe RGB.
    if "icc_profile" in image.info and image.mode != "CMYK":
        marked.info["icc_profile"] = image.info["icc_profile"]
    return marked


def read(image: Image.Image) -> Reading:
    """Look for the watermark in a picture of any size and mode."""
    means = _bits(_brightness(image)).reshape(-1, _BITS).mean(0)
    means -= means.mean()
    length = float(np.linalg.norm(means))
    scores = (2.0 * _words() - 1) @ means / (length * _BITS**0.5) if length > 0 else np.zeros(WORDS)
    nearest = int(scores.argmax())
    score = float(scores[nearest])
    if score >= THRESHOLD:
        return Reading("found", nearest or None, score)
    return Reading("too small" if min(image.size) < MIN_SIDE_PX else "not found", None, score)


def _brightness(image: Image.Image) -> NDArray[np.float32]:
    """The brightness of the copy that carries the mark, [256, 256] in [0, 255]."""
    grey = image.convert("L").resize((_SIDE_PX, _SIDE_PX), Image.Resampling.LANCZOS)
    return np.asarray(grey, dtype=np.float32)


def _change(brightness: NDArray[np.float32], word: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The change by which the library embeds a word in the copy, [256, 256] in levels."""
    # The library wants three channels, BGR; only the change of brightness is used.
    channels = np.repeat(brightness[..., None], 3, axis=-1)
    core = _core()
    core.read_img_arr(channels)
    core.read_wm(word)
    change: NDArray[np.float32] = ((core.embed() - channels) @ _BRIGHTNESS_OF_BGR).astype(np.float32)
    return change


def _brightened(image: Image.Image, change: NDArray[np.float32]) -> Image.Image:
    """Add the enlarged change to all channels of a grey or RGB picture."""
    full = np.asarray(Image.fromarray(change).resize(image.size, Image.Resampling.BICUBIC))
    levels = np.asarray(image, dtype=np.float32)
    full = full if levels.ndim == 2 else full[..., None]
    return Image.fromarray(np.clip(np.rint(levels + full), 0, 255).astype(np.uint8))


def _bits(brightness: NDArray[np.float32]) -> NDArray[np.bool_]:
    """The bit of each block, row by row: the library's `extract_raw` for the first channel.

    The library loops over blocks in Python, which takes a hundred times as long. A block and its DCT have the same
    singular values, and Haar's approximation is a sum over 2x2 px, so one SVD of all blocks is enough.
    """
    half, blocks = _SIDE_PX // 2, _SIDE_PX // 2 // _BLOCK
    approximation = brightness.reshape(half, 2, half, 2).sum((1, 3)) / 2
    tiles = approximation.reshape(blocks, _BLOCK, blocks, _BLOCK).swapaxes(1, 2)
    largest = np.linalg.svd(tiles, compute_uv=False)[..., 0]
    return (largest % _STEP > _STEP / 2).reshape(-1)


@cache
def _words() -> NDArray[np.uint8]:
    """Bits of all words, [4096, 256]. They are a file format: other words would make old marks unreadable."""
    seeds = (f"StyleBlend watermark 1, version {n}".encode() for n in range(WORDS))
    words = b"".join(hashlib.shake_256(seed).digest(_BITS // 8) for seed in seeds)
    return np.unpackbits(np.frombuffer(words, dtype=np.uint8)).reshape(WORDS, _BITS)


def _core() -> Any:
    core = _library().WaterMarkCore()
    # The fast mode embeds bits in the largest singular value alone, which survives resizing.
    core.fast_mode, core.d1, core.d2 = True, _STEP, 0
    return core


@cache
def _library() -> Any:
    """Import blind_watermark and undo its side effect.

    It sets the start method of multiprocessing, and fails where one is set already.
    """
    chosen = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method(None, force=True)
    try:
        import blind_watermark
    finally:
        multiprocessing.set_start_method(chosen, force=True)
    return blind_watermark
