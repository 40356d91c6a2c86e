"""The true swap of rendered faces, as the data path of a photograph would have brought it: what no photograph has."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from styleblend.config.sources import RenderedSource
from styleblend.faces import alignment
from styleblend.faces.pixels import to_8bit
from styleblend.synthetic import factors, renderer


def true_swaps(
    source: pd.DataFrame, target: pd.DataFrame, sources: Mapping[str, RenderedSource], size_px: int
) -> NDArray[np.uint8]:
    """Aligned true swaps, RGB [N, size_px, size_px, 3]: identity of each source, everything else of its target.

    Rendered anew and taken through the data path of the target: the same size of photograph, 8-bit pixels, crop quad
    and alignment.

    Args:
        source, target: N rows each of the faces' manifest, all of rendered sources.
        sources: settings of each rendered source by its name, as its photographs were made.
    """
    swapped = factors.swap(_factors(source, sources), _factors(target, sources))
    faces = np.empty((len(target), size_px, size_px, 3), np.uint8)
    # Photographs of one source are of one size; each size is rendered as one batch.
    names, sides = target["source"].to_numpy(), target["raw_width"].to_numpy()
    for name, side in sorted(set(zip(names, sides, strict=True))):
        rows = np.flatnonzero((names == name) & (sides == side))
        photographs = renderer.render(swapped[rows.tolist()], int(side), supersample=sources[name].supersample).images
        for row, pixels in zip(rows, to_8bit(photographs).permute(0, 2, 3, 1).numpy(), strict=True):
            quad = np.asarray(target["quad"].iloc[row]).reshape(4, 2)
            faces[row] = np.asarray(alignment.crop(Image.fromarray(pixels), quad, size_px))
    return faces


def _factors(rows: pd.DataFrame, sources: Mapping[str, RenderedSource]) -> factors.Factors:
    each = zip(rows["source"], rows["render_seed"], rows["render_person"], rows["render_picture"], strict=True)
    return factors.joined(
        *(
            factors.sample(int(seed), [int(person)], [int(picture)], sources[name].even_yaw_deg)
            for name, seed, person, picture in each
        )
    )
