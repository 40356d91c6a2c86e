"""What a step looks at beside pictures and depends on no network: made with the batch, by threads that read ahead.

Drawn or filled in the middle of a step they would keep a GPU waiting: the noise of a 1024 px decoder is 2.8 million
numbers a sample, and a mask is drawn on the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from styleblend.config.training import Training
from styleblend.faces.regions import face_region, mesh_region
from styleblend.model.decoder import draw_noise
from styleblend.training.jitter import draw_jitter

SEE_THE_FACE = ("pixels", "outside", "mask")
"""Loss terms that look at the face's mask."""


class Ready(NamedTuple):
    """Of N samples; None is what nobody asks for."""

    noise: Tensor
    """Of model.decoder.draw_noise."""
    face: Tensor | None
    """Soft mask of the target's face, [N, 1, S, S]."""
    jitter: Tensor | None
    """Of jitter.draw_jitter."""
    swaps: tuple[int, ...]
    """Rows of the samples of two persons: to look for them on a device, the host would have to wait for it."""


def ready(
    cfg: Training,
    resolutions: Sequence[int],
    seeds: Sequence[int],
    same_person: Tensor,
    landmarks: Tensor,
    mesh: Tensor | None,
    side_px: int,
) -> Ready:
    """All of it for a batch.

    Args:
        resolutions: of the decoder. side_px: of the data set. The others as in batches.Batch.
    """
    seen = any(getattr(cfg.loss, name) for name in SEE_THE_FACE)
    return Ready(
        noise=draw_noise(resolutions, seeds),
        face=soft_face(landmarks, mesh, side_px) if seen else None,
        jitter=draw_jitter(seeds) if cfg.saturation_jitter or cfg.crop_jitter else None,
        swaps=rows_of_swaps(same_person) if cfg.loss.mesh else (),
    )


def soft_face(landmarks: Tensor, mesh: Tensor | None, side_px: int) -> Tensor:
    """Soft mask [N, 1, S, S] of faces by their meshes or, without these, by their landmarks [N, 68, 2]."""
    if mesh is not None:
        return mesh_region(mesh, side_px, soften_px=side_px / 64)
    return face_region(landmarks, side_px, soften_px=side_px / 64)


def rows_of_swaps(same_person: Tensor) -> tuple[int, ...]:
    """Rows of bool [N] that are false."""
    return tuple(row for row, same in enumerate(same_person.tolist()) if not same)
