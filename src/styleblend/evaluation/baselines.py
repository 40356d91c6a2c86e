"""Methods beside the model: baselines, the floor under each of its figures, and the true swap, the ceiling."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from scipy.spatial import Delaunay, QhullError
from torch import Tensor

from styleblend import model
from styleblend.config.model import Model
from styleblend.config.sources import RenderedSource
from styleblend.evaluation import true_swap
from styleblend.evaluation.protocol import Batch, Method, Once, Pairs
from styleblend.faces.dense_warp import Pixels, Points, dense_warp
from styleblend.faces.pixels import from_8bit, to_8bit
from styleblend.model.prior import prior_picture
from styleblend.perception import bending
from styleblend.perception.landmarks import load_mesh
from styleblend.weights import frozen
from styleblend.weights.start import start

if TYPE_CHECKING:
    from styleblend.config.training import EncoderStart


HALF_MASK = "half_mask"
PRIOR_ALONE = "prior_alone"
SHUFFLED_CODES = "shuffled_codes"


Bent = Callable[[Batch], Tensor | None]
"""What a model's `bend` makes of a batch, once for all methods; None for a model that bends nothing."""


def bent_by(swapper: model.Swapper) -> Bent:
    """`bend` of a model; read when a batch comes."""
    return Once(lambda batch: None if swapper.bend is None else swapper.bend(batch.source, batch.target))


def methods(
    untrained: model.Swapper, identity_apart: bool = False, name: str = "untrained_mixing", bent: Bent | None = None
) -> dict[str, Method]:
    """Every baseline by its name in reports.

    Args:
        untrained: what `untrained_mixing` makes.
        bent: what its `bend` makes of a batch, where another method has that, too.
        name: of that method; "starter" where training began with a whole model.
        identity_apart: its codes keep identity in channels of their own, as `keeps_identity_apart` says.
    """
    warped = bent_by(untrained) if bent is None else bent
    found: dict[str, Method] = {
        **simple(),
        name: lambda batch: untrained(batch.source, batch.target, None, warped(batch)),
    }
    if identity_apart:
        found[HALF_MASK] = lambda batch: half_mask(untrained, batch)
    return found


def simple() -> dict[str, Method]:
    """The baselines that need no network."""
    return {
        "copy_target": copy_target,
        "copy_source": copy_source,
        "warp_blend": warp_blend,
        "dense_warp": dense_warped,
    }


def of_prior(trained: model.Swapper, bent: Bent | None = None) -> dict[str, Method]:
    """What a model with the prior `warp` would give without its codes: what is left is not the codes' work.

    prior_alone: the warped source where it is seen, elsewhere the target, no network after the mesh. shuffled_codes:
    the model with the codes of the batch's next source and the warp of the right one.

    Args:
        bent: what its `bend` makes of a batch, where another method has that, too.
    """
    if trained.prior is None or trained.bend is None:
        return {}
    side = trained.decoder.resolutions[-1]
    once = bent_by(trained) if bent is None else bent

    def warped(batch: Batch) -> Tensor:
        found = once(batch)
        assert found is not None
        return found

    return {
        PRIOR_ALONE: lambda batch: prior_picture(batch.target, warped(batch), side),
        SHUFFLED_CODES: lambda batch: trained(batch.source.roll(1, 0), batch.target, None, warped(batch)),
    }


def copy_target(batch: Batch) -> Tensor:
    """The target itself: perfect attributes, no identity."""
    return batch.target


def copy_source(batch: Batch) -> Tensor:
    """The source itself: perfect identity, no attributes."""
    return batch.source


def keeps_identity_apart(networks: Path, encoder_start: EncoderStart) -> bool:
    """Whether codes are those of this project's small decoder: identity in the first half of the channels of every
    style element, all else in the second (pretraining.prior)."""
    return frozen.foreign(networks, "decoder") is None and encoder_start == "pretrained"


def half_mask(untrained: model.Swapper, batch: Batch) -> Tensor:
    """The prior's own swap, without any blending: its identity channels from the source, its others from the target."""
    of_source, of_target = untrained.encoder(batch.source).codes, untrained.encoder(batch.target)
    half = of_source.shape[2] // 2
    codes = torch.cat([of_source[..., :half], of_target.codes[..., half:]], dim=2)
    swapped: Tensor = untrained.decoder(codes, of_target.features)
    return swapped


def warp_blend(batch: Batch) -> Tensor:
    """The source's face, warped onto the target's landmarks and blended in (Perez et al. 2003)."""
    return _pair_by_pair(batch, batch.pairs.landmarks, warp_blend_one)


def dense_warped(batch: Batch) -> Tensor:
    """The source's face, bent onto the target's by a thin-plate spline, colours matched, with a soft mask."""
    return _pair_by_pair(batch, batch.pairs.dense_points, dense_warp)


def _pair_by_pair(batch: Batch, points: Tensor, one: Callable[[Pixels, Pixels, Points, Points], Pixels]) -> Tensor:
    """What a function of two pictures [S, S, 3] and their points [K, 2], in pixels, makes of every pair.

    Args:
        points: [F, K, 2] of the split's faces, in [0, 1] of the picture.
    """
    side = batch.target.shape[-1]
    pixels = (to_8bit(images).cpu().permute(0, 2, 3, 1) for images in (batch.source, batch.target))
    pictures = [images.contiguous().numpy() for images in pixels]
    # Pixels count from their centres.
    places = [points[rows].numpy() * side - 0.5 for rows in (batch.source_rows, batch.target_rows)]
    made = [one(*each) for each in zip(*pictures, *places, strict=True)]
    return from_8bit(torch.from_numpy(np.stack(made)).permute(0, 3, 1, 2))


def warp_blend_one(source: Pixels, target: Pixels, source_px: Points, target_px: Points) -> Pixels:
    """One pair of RGB pictures [H, W, 3] with landmarks [68, 2] in pixels.

    A piecewise affine warp over the Delaunay triangles of the target's landmarks, then Poisson blending
    within their hull. Landmarks that span no area leave the target as it is; where the blending has no room,
    the warped face is pasted with a soft edge.
    """
    height, width = target.shape[:2]
    try:
        mesh = Delaunay(target_px.astype(np.float64))
    except QhullError:
        return target
    pixels = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).reshape(-1, 2).astype(np.float64)
    triangle = mesh.find_simplex(pixels)
    to_barycentric = mesh.transform[triangle]
    first_two = np.einsum("nij,nj->ni", to_barycentric[:, :2], pixels - to_barycentric[:, 2])
    weights = np.concatenate([first_two, 1 - first_two.sum(1, keepdims=True)], axis=1)
    place = np.einsum("ni,nij->nj", weights, source_px[mesh.simplices[triangle]]).astype(np.float32)
    maps = np.where(triangle[:, None] >= 0, place, -1).reshape(height, width, 2)
    warped = cv2.remap(source, maps[..., 0], maps[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    mask = np.where(triangle >= 0, 255, 0).astype(np.uint8).reshape(height, width)
    # The blending reads a pixel beyond the mask, which must lie in the picture.
    mask[[0, -1]] = mask[:, [0, -1]] = 0
    x, y, w, h = cv2.boundingRect(mask)
    if w >= 3 and h >= 3:
        try:
            cloned = cv2.seamlessClone(warped, target, mask, (x + w // 2, y + h // 2), cv2.NORMAL_CLONE)
            return np.asarray(cloned, np.uint8)
        except cv2.error:
            pass
    soft = cv2.GaussianBlur(mask.astype(np.float32) / 255, (0, 0), max(1.0, width / 64))[..., None]
    return np.asarray(np.rint(warped * soft + target * (1 - soft)), np.uint8)


def untrained_mixing(
    sizes: Model, networks: Path, seed: int, encoder_start: EncoderStart = "pretrained"
) -> model.Swapper:
    """A swapper as training begins with it: a pretrained decoder, an encoder as it starts, all else random from `seed`.

    Args:
        encoder_start: as in config.Training: "pretrained" is all of the small encoder, "body" the weights of a face
            network, "new" random ones; the last two with the decoder's mean code. "starter" is a whole model, trained.
    Raises:
        StyleBlendError: a pretrained file is missing or does not fit the sizes.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        swapper = model.build(sizes)
    start(swapper, sizes, networks, encoder_start)
    if swapper.prior is not None:
        swapper.bend = bending.Bender(load_mesh(networks))
    return swapper.eval()


def has_true_swap(pairs: Pairs) -> bool:
    """Whether every face of the pairs was rendered, so that its factors are known."""
    rows = torch.cat([pairs.source, pairs.target]).numpy()
    return bool(pairs.table["render_seed"].iloc[rows].notna().all())


def true_swaps(batch: Batch, sources: Mapping[str, RenderedSource]) -> Tensor:
    """The true swap of each pair of rendered faces, [n, 3, S, S] in [-1, 1]: what no photograph has.

    Args:
        sources: settings of each rendered source by its name, as its photographs were made.
    """
    source = batch.pairs.table.iloc[batch.source_rows.numpy()]
    target = batch.pairs.table.iloc[batch.target_rows.numpy()]
    pixels = true_swap.true_swaps(source, target, sources, int(batch.target.shape[-1]))
    return from_8bit(torch.from_numpy(pixels).permute(0, 3, 1, 2))
