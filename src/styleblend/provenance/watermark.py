"""An invisible watermark in the brightness of a picture, by the library blind-watermark (DWT, DCT and SVD).

The library marks blocks of a fixed place and size, so a resized picture would lose the mark. Therefore it always
works on a copy of 256x256 px; the difference it makes there is enlarged and added to the picture. Reading makes
the same copy of whatever size the picture has by then. Only brightness carries the mark: JPEG keeps it best.

What is hidden is one of 4096 words of 256 pseudo-random bits, one for each version of the model. A picture is
taken as marked when its correlation with one of the words reaches `THRESHOLD`. For any picture that carries none
of the words, the probability of that is below 4096 exp(-256 THRESHOLD^2 / 2) = 7e-10 (Hoeffding's inequality,
over the choice of words). docs/provenance.md has what was measured.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from styleblend.errors import StyleBlendError

if TYPE_CHECKING:
    from blind_watermark import WaterMarkCore

MIN_SIDE_PX = 256
"""Pictures whose shorter side is less are not marked: too few pixels carry each bit."""
THRESHOLD = 0.48
WORDS = 4096

_SIDE_PX = 256
_BITS = 256
_BLOCK = 4
# Quantisation step of a block's largest singular value. White is 2040 there, and both bits of 28 lie under it.
_STEP = 28
# Modes that can be marked, and what they are without transparency.
_COLOURS_OF = {"1": "L", "L": "L", "LA": "L"} | dict.fromkeys(("RGB", "RGBA", "P", "PA", "CMYK"), "RGB")
_BRIGHTNESS_OF_BGR = np.array([0.114, 0.587, 0.299], dtype=np.float32)


@dataclass(frozen=True)
class Reading:
    """What a picture's brightness says."""

    state: Literal["found", "not found", "too small"]
    """`too small`: not found, and the picture has fewer pixels than a marked one has at first."""
    version: int | None
    """Of the registered model; None where no mark was found, or the model was none of the registry."""
    score: float
    """Correlation with the nearest word, -1 to 1."""


def version_in(model: str) -> int | None:
    """The number that ends a model's name, as in `styleblend version 3`."""
    number = re.search(r"\bversion (\d+)$", model)
    return int(number[1]) if number else None


def embed(image: Image.Image, version: int | None) -> Image.Image:
    """The picture with the mark; one whose shorter side is under `MIN_SIDE_PX` comes back as it is.

    Args:
        image: 8 bits a channel; palettes become colours, and transparency is kept.
        version: of the model; None, and a version beyond 4095, is marked as made by some model.
    Raises:
        StyleBlendError: the picture has more than 8 bits a channel.
    """
    if min(image.size) < MIN_SIDE_PX:
        return image
    if image.mode not in _COLOURS_OF:
        raise StyleBlendError(f"a picture of mode {image.mode} cannot be marked: convert it to 8 bits a channel first")
    # Pillow knows the transparency of a palette only when it is converted to RGBA.
    unpacked = image.convert("RGBA") if image.mode in ("P", "PA") else image
    colours = unpacked.convert(_COLOURS_OF[image.mode])
    change = _change(_brightness(colours), _words()[version if version is not None and version < WORDS else 0])
    marked = _brightened(colours, change)
    if "A" in unpacked.getbands():
        marked.putalpha(unpacked.getchannel("A"))
    # The profile of an ink does not describe colours of light.
    if "icc_profile" in image.info and image.mode != "CMYK":
        marked.info["icc_profile"] = image.info["icc_profile"]
    return marked


def read(image: Image.Image) -> Reading:
    """Look for the mark in a picture of any size and mode."""
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
    """The small copy that carries the mark, [256, 256] in [0, 255]."""
    grey = image.convert("L").resize((_SIDE_PX, _SIDE_PX), Image.Resampling.LANCZOS)
    return np.asarray(grey, dtype=np.float32)


def _change(brightness: NDArray[np.float32], word: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What the library adds to the small copy to hide a word in it, [256, 256] levels."""
    # The library wants three channels, blue first. What it does to their differences is left out.
    channels = np.repeat(brightness[..., None], 3, axis=-1)
    core = _core()
    core.read_img_arr(channels)
    core.read_wm(word)
    change: NDArray[np.float32] = ((core.embed() - channels) @ _BRIGHTNESS_OF_BGR).astype(np.float32)
    return change


def _brightened(image: Image.Image, change: NDArray[np.float32]) -> Image.Image:
    """A grey or RGB picture with the change of its small copy added to all channels alike."""
    full = np.asarray(Image.fromarray(change).resize(image.size, Image.Resampling.BICUBIC))
    levels = np.asarray(image, dtype=np.float32)
    full = full if levels.ndim == 2 else full[..., None]
    return Image.fromarray(np.clip(np.rint(levels + full), 0, 255).astype(np.uint8))


def _bits(brightness: NDArray[np.float32]) -> NDArray[np.bool_]:
    """The bit of each block, row by row: what the library's `extract_raw` gives for the first channel.

    The library takes block after block through Python, a hundred times as long. All at once is this short, for
    the largest singular value of a block is that of its DCT, and Haar's approximation is a sum of 2x2 px.
    """
    half, blocks = _SIDE_PX // 2, _SIDE_PX // 2 // _BLOCK
    approximation = brightness.reshape(half, 2, half, 2).sum((1, 3)) / 2
    tiles = approximation.reshape(blocks, _BLOCK, blocks, _BLOCK).swapaxes(1, 2)
    largest = np.linalg.svd(tiles, compute_uv=False)[..., 0]
    return (largest % _STEP > _STEP / 2).reshape(-1)


@cache
def _words() -> NDArray[np.uint8]:
    """Bits of all words, [4096, 256]. They are a format: another choice makes old marks unreadable."""
    words = [
        hashlib.shake_256(f"StyleBlend watermark 1, version {n}".encode()).digest(_BITS // 8) for n in range(WORDS)
    ]
    return np.unpackbits(np.frombuffer(b"".join(words), dtype=np.uint8)).reshape(WORDS, _BITS)


def _core() -> WaterMarkCore:
    core = _library().WaterMarkCore()
    # The fast mode hides bits in the largest singular value alone, which is what survives resizing.
    core.fast_mode, core.d1, core.d2 = True, _STEP, 0
    return core


@cache
def _library() -> Any:
    """blind_watermark, imported without what it does to the process.

    It sets the start method of multiprocessing, and fails where one was set before it.
    """
    chosen = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method(None, force=True)
    try:
        import blind_watermark
    finally:
        multiprocessing.set_start_method(chosen, force=True)
    return blind_watermark
