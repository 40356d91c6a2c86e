"""The pictures of a step's samples: read, mirrored, dressed with another's face, bent onto each other."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from styleblend.errors import StyleBlendError
from styleblend.faces import warp
from styleblend.training.batches import Draw, Faces, Pixels, as_images


class Pictures(NamedTuple):
    """[N, 3, S, S] in [-1, 1] each; `warped` [N, 4, S, S], or None without a prior. See batches.Batch."""

    source: Tensor
    target: Tensor
    truth: Tensor
    warped: Tensor | None


def pictures(faces: Faces, drawn: Draw, prior: bool) -> Pictures:
    """Make the pictures of a draw.

    Args:
        prior: whether the source is bent onto the target, too.
    Raises:
        StyleBlendError: a picture is missing, damaged or of another size; or a mesh is needed and there is none.
    """
    source, target = faces.pixels(drawn.source), faces.pixels(drawn.target)
    truth = target.copy()
    for row in np.flatnonzero(drawn.worn >= 0):
        target[row] = worn(faces, int(drawn.worn[row]), int(drawn.target[row]), truth[row])
    for row in np.flatnonzero(drawn.answered & ~drawn.same_person & ~drawn.bent):
        truth[row] = faces.true_swap(int(drawn.target[row]))
    for row in np.flatnonzero(drawn.bent):
        truth[row] = _wearing(faces, int(drawn.source[row]), int(drawn.target[row]), target[row])
    source = np.where(drawn.mirrored[:, None, None, None], source[:, :, ::-1], source)
    if drawn.colours.any():
        source = recoloured(source, drawn.colours)
    bent = _bent(faces, drawn, source, target) if prior else None
    return Pictures(as_images(source), as_images(target), as_images(truth), bent)


def worn(faces: Faces, other: int, target: int, pixels: Pixels) -> Pixels:
    """A target that wears another's face: rendered so, or bent onto its own and matched in colour.

    What such a picture hides is known, so a swap of the target's own person into it has a true answer: the photograph.
    The latter is how a classical program swaps.
    """
    if faces.true_swaps is not None and faces.true_swaps.identity[target] == other:
        return faces.true_swap(target)
    return _wearing(faces, other, target, pixels)


def _wearing(faces: Faces, other: int, target: int, pixels: Pixels) -> Pixels:
    there = mesh(faces)
    warped = warp.match_colours(warp.warp(faces.pixels([other])[0], there[other], there[target], len(pixels)), pixels)
    share = warped[..., 3:]
    return np.rint(share * warped[..., :3] + (1 - share) * pixels).clip(0, 255).astype(np.uint8)


def recoloured(pixels: Pixels, changes: NDArray[np.float32]) -> Pixels:
    """Pictures [N, S, S, 3] with the colours' gains 1 + changes[:, :3] and shifts of 127.5 changes[:, 3:]."""
    gain, shift = 1 + changes[:, None, None, :3], 127.5 * changes[:, None, None, 3:]
    return np.rint(pixels * gain + shift).clip(0, 255).astype(np.uint8)


def mesh(faces: Faces) -> NDArray[np.float32]:
    """The meshes of all faces.

    Raises:
        StyleBlendError: the landmark network saw none.
    """
    if faces.mesh is None:
        raise StyleBlendError(
            "the perceived faces have no mesh, which model.prior 'warp', worn_faces and warped_swaps need: choose a"
            " mesh as pretrained.landmarks"
        )
    return faces.mesh


def _bent(faces: Faces, drawn: Draw, source: Pixels, target: Pixels) -> Tensor:
    there = mesh(faces)
    rows = []
    for row, (of_source, of_target) in enumerate(zip(drawn.source, drawn.target, strict=True)):
        own = warp.mirrored(there[of_source]) if drawn.mirrored[row] else there[of_source]
        rows.append(warp.prior(source[row], own, target[row], there[of_target]))
    return torch.stack(rows)
