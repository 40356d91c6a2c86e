"""The true swap of rendered faces: what no photograph has, and so the ceiling of every figure.

Identity of the source, everything else of the target, rendered again and taken through the data path of the
target: the same photograph size, 8-bit file, crop quad and alignment.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from styleblend.config.sources import RenderedSource
from styleblend.evaluation.protocol import Batch, Pairs
from styleblend.faces import alignment
from styleblend.faces.pixels import from_8bit, to_8bit
from styleblend.synthetic import factors, renderer


def has_true_swap(pairs: Pairs) -> bool:
    """Whether every face of the pairs was rendered, so that its factors are known."""
    rows = torch.cat([pairs.source, pairs.target]).numpy()
    return bool(pairs.table["render_seed"].iloc[rows].notna().all())


def true_swaps(batch: Batch, sources: Mapping[str, RenderedSource]) -> Tensor:
    """The true swap of each pair, [n, 3, S, S] in [-1, 1], framed like the target's face.

    Args:
        batch: pairs of rendered faces.
        sources: settings of each rendered source by its name, as its photographs were made.
    """
    source = batch.pairs.table.iloc[batch.source_rows.numpy()]
    target = batch.pairs.table.iloc[batch.target_rows.numpy()]
    swapped = factors.swap(_factors(source, sources), _factors(target, sources))
    size_px = int(batch.target.shape[-1])
    faces = np.empty((len(target), size_px, size_px, 3), np.uint8)
    # Photographs of one source are of one size; each size is rendered as one batch.
    names, sides = target["source"].to_numpy(), target["raw_width"].to_numpy()
    for name, side in sorted(set(zip(names, sides, strict=True))):
        rows = np.flatnonzero((names == name) & (sides == side))
        photographs = renderer.render(swapped[rows.tolist()], int(side), supersample=sources[name].supersample).images
        for row, pixels in zip(rows, to_8bit(photographs).permute(0, 2, 3, 1).numpy(), strict=True):
            quad = np.asarray(target["quad"].iloc[row]).reshape(4, 2)
            faces[row] = np.asarray(alignment.crop(Image.fromarray(pixels), quad, size_px))
    return from_8bit(torch.from_numpy(faces).permute(0, 3, 1, 2))


def _factors(rows: pd.DataFrame, sources: Mapping[str, RenderedSource]) -> factors.Factors:
    one_by_one = [
        factors.sample(int(seed), [int(person)], [int(picture)], sources[name].even_yaw_deg)
        for name, seed, person, picture in zip(
            rows["source"], rows["render_seed"], rows["render_person"], rows["render_picture"], strict=True
        )
    ]
    return factors.Factors(
        torch.cat([one.identity for one in one_by_one]),
        torch.cat([one.looks for one in one_by_one]),
        torch.cat([one.attributes for one in one_by_one]),
    )
