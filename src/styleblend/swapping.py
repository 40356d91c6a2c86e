"""Using a trained model on photographs: detect, align as the training data was aligned, swap, paste back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from styleblend import config, tracking
from styleblend.data.manifest import UnusablePicture, open_picture
from styleblend.errors import StyleBlendError
from styleblend.model import Swapper, load
from styleblend.perception.alignment import crop, quad_from_landmarks, side_px, to_aligned
from styleblend.perception.detection import Detection, Yunet
from styleblend.pixels import from_8bit, to_8bit
from styleblend.weights import YUNET, obtain

# The part of an aligned face that is pasted: an ellipse from forehead to chin, in [0, 1] of the crop.
# It ends inside the crop, so that nothing of the crop's edge can show.
CENTRE = (0.5, 0.56)
RADII = (0.42, 0.43)
SOLID = 0.75
"""Share of the ellipse's radius within which the swapped face covers the photograph fully."""


class SwapError(StyleBlendError):
    """A picture cannot be swapped: unreadable, without a face, or with several and no word which one."""


class Detector(Protocol):
    """Whatever finds faces in an RGB picture, as `perception.detection.Yunet` does."""

    def detect(self, image: Image.Image) -> list[Detection]: ...


def swap(
    source: Image.Image,
    target: Image.Image,
    model: Swapper,
    detector: Detector,
    *,
    source_face: int | None = None,
    target_face: int | None = None,
) -> Image.Image:
    """The target photograph with the source's identity in its face.

    Args:
        source, target: upright RGB pictures of any size, as `read_picture` gives them.
        model: in eval mode.
        source_face, target_face: which face, counted from the left, from 0; needed where there are several.
    Returns:
        a picture of the target's size; outside the swapped face every pixel is the target's.
    Raises:
        SwapError: no face, or several and none named.
    """
    side = model.encoder.input_px
    source_quad = quad_from_landmarks(_choose(detector.detect(source), "source", source_face).points_px)
    target_quad = quad_from_landmarks(_choose(detector.detect(target), "target", target_face).points_px)
    swapped = swap_aligned(crop(source, source_quad, side), crop(target, target_quad, side), model)
    return paste(swapped, target, target_quad)


@torch.inference_mode()
def swap_aligned(source: Image.Image, target: Image.Image, model: Swapper) -> Image.Image:
    """The whole picture that the model draws, at its own resolution, from two aligned faces of any size."""
    side = model.encoder.input_px
    faces = [_as_tensor(face.resize((side, side), Image.Resampling.LANCZOS)) for face in (source, target)]
    levels = to_8bit(model(*faces)[0])
    return Image.fromarray(levels.permute(1, 2, 0).contiguous().numpy())


def paste(face: Image.Image, photograph: Image.Image, quad: NDArray[np.float64]) -> Image.Image:
    """Put an aligned face back where `quad` [4,2] (pixels) cut it out, through a soft ellipse.

    The face's mean colour in the soft edge is first brought to the photograph's there, so that no seam shows.
    Pixels outside the ellipse are the photograph's, bit for bit.
    """
    low = np.maximum(np.floor(quad.min(0)).astype(int), 0)
    high = np.minimum(np.ceil(quad.max(0)).astype(int) + 1, photograph.size)
    columns, rows = np.meshgrid(np.arange(low[0], high[0]), np.arange(low[1], high[1]))
    weight = _ellipse(to_aligned(np.stack([columns, rows], axis=-1), quad))[..., None]

    # A face that is larger than its place is reduced first: the warp alone would skip pixels.
    size = min(face.width, max(1, round(side_px(quad))))
    face = face.resize((size, size), Image.Resampling.LANCZOS)
    # Pillow samples at pixel centres, which lie half a pixel from its corners; quads count from the centres.
    corners = quad + 0.5 - low
    to_face = size * np.linalg.inv(np.stack([corners[3] - corners[0], corners[1] - corners[0]], axis=1))
    shift = -to_face @ corners[0]
    coefficients = (*to_face[0], shift[0], *to_face[1], shift[1])
    placed = np.asarray(
        face.transform(
            (columns.shape[1], columns.shape[0]),
            Image.Transform.AFFINE,
            coefficients,
            Image.Resampling.BICUBIC,
        ),
        dtype=np.float64,
    )

    pixels = np.array(photograph)
    window = pixels[low[1] : high[1], low[0] : high[0]]
    edge = weight * (1 - weight)
    if edge.any():
        placed += (edge * (window - placed)).sum((0, 1)) / edge.sum()
    inside = weight[..., 0] > 0
    mixed = weight * placed + (1 - weight) * window
    window[inside] = np.clip(np.rint(mixed[inside]), 0, 255).astype(np.uint8)
    return Image.fromarray(pixels)


def read_picture(path: Path, max_pixels: int) -> Image.Image:
    """An upright RGB picture of any common format and mode.

    Raises:
        SwapError: the file is missing, no picture, or too large.
    """
    if not path.is_file():
        raise SwapError(f"{path} {'is a folder' if path.is_dir() else 'does not exist'}: name a picture file")
    try:
        return open_picture(path, max_pixels)
    except UnusablePicture as reason:
        raise SwapError(f"{path}: {' '.join(str(reason).split())}; give another picture") from None


def find_model(cfg: config.Tracking, reference: str | None, state: Path = Path(".state")) -> tuple[Swapper, str]:
    """The model to use and its name for the marks.

    Args:
        reference: a folder with a model, or an alias or number of the registry; None is the `champion`, or
            where none was chosen yet the `candidate`.
        state: where versions of the registry are kept after the first use.
    Raises:
        StyleBlendError: there is no such model.
    """
    if reference is not None and Path(reference).is_dir():
        return load(Path(reference)), f"model folder {Path(reference).resolve().name}"
    if reference is not None:
        version = tracking.find_version(cfg, reference)
    else:
        try:
            version = tracking.find_version(cfg, "champion")
        except tracking.TrackingError:
            version = tracking.find_version(cfg, "candidate")
            print(f"no version has the alias champion yet: using the candidate, version {version.version}")
    # A registry that was made anew counts from 1 again; the run tells its versions from the old ones.
    kept = state / "versions" / f"{version.name}-{version.version}-{version.run_id[:8]}"
    if not kept.exists():
        tracking.fetch_version(cfg, version.version, kept)
    return load(kept), f"{version.name} version {version.version}"


def find_detector(cfg: config.Config, weights: Path | None, networks: Path, state: Path = Path(".state")) -> Yunet:
    """The face detector: a given file, the run's own, or else fetched once from the mirror or its origin.

    Raises:
        StyleBlendError: none of these is to be had.
    """
    if weights is None:
        weights = networks / YUNET.file
    elif not weights.is_file():
        raise SwapError(f"{weights} does not exist: --detector-weights names YuNet's file, {YUNET.name}")
    if not weights.is_file():
        try:
            weights = obtain(YUNET, state / "detector", cfg.pretrained.mirror)
        except StyleBlendError as error:
            raise SwapError(
                f"{error}, or name it with --detector-weights, or give aligned faces and --aligned"
            ) from None
    return Yunet(weights, cfg.align.min_score)


def _choose(found: Sequence[Detection], role: str, number: int | None) -> Detection:
    faces = sorted(found, key=lambda face: face.box[0])
    if not faces:
        raise SwapError(f"no face found in the {role} picture: give one where the face is larger or clearer")
    if number is None:
        if len(faces) == 1:
            return faces[0]
        places = ", ".join(f"{k} at x {face.box[0]:.0f} y {face.box[1]:.0f}" for k, face in enumerate(faces))
        raise SwapError(f"which of the {len(faces)} faces in the {role} picture ({places})? give --{role}-face NUMBER")
    if not 0 <= number < len(faces):
        raise SwapError(f"--{role}-face {number}: the {role} picture has {len(faces)} faces, counted from 0")
    return faces[number]


def _ellipse(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weight of the swapped face at aligned points [...,2]: 1 inside, 0 outside, smooth between."""
    radius = np.hypot(*np.moveaxis((points - CENTRE) / RADII, -1, 0))
    way = np.clip((1 - radius) / (1 - SOLID), 0, 1)
    return way * way * (3 - 2 * way)


def _as_tensor(image: Image.Image) -> torch.Tensor:
    return from_8bit(torch.from_numpy(np.array(image)).permute(2, 0, 1)[None])
