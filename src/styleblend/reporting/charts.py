"""Pictures of a report: the grid of swaps, the chart of figures, the map of blending weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from styleblend import provenance
from styleblend.evaluation.protocol import MODEL
from styleblend.provenance.credentials import Credentials
from styleblend.reporting.figures import KEY_FIGURES, labelled
from styleblend.system.files import whole_file

_CELL_PX = 128
_CAPTION_PX = 22


def swap_grid(columns: Mapping[str, Tensor], path: Path, model: str, credentials: Credentials | None = None) -> None:
    """Write a marked picture: a column for each name, a row for each pair.

    Args:
        columns: caption to pictures, uint8 [rows, 3, S, S], equally many in each.
        credentials: who signs; None is the test certificate of this machine.
    """
    provenance.save_picture(swap_sheet(columns), path, model=model, kind="grid", credentials=credentials)


def swap_sheet(columns: Mapping[str, Tensor]) -> Image.Image:
    """The picture that swap_grid writes, without marks."""
    cells = [[np.asarray(picture.permute(1, 2, 0)) for picture in pictures] for pictures in columns.values()]
    rows = len(cells[0])
    cell_px = max(_CELL_PX, cells[0][0].shape[0])
    sheet = Image.new("RGB", (cell_px * len(cells), cell_px * rows + _CAPTION_PX), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(13)
    for x, (caption, column) in enumerate(zip(columns, cells, strict=True)):
        draw.text((x * cell_px + cell_px / 2, _CAPTION_PX / 2), caption, fill="black", font=font, anchor="mm")
        for y, pixels in enumerate(column):
            picture = Image.fromarray(pixels).resize((cell_px, cell_px), Image.Resampling.BICUBIC)
            sheet.paste(picture, (x * cell_px, _CAPTION_PX + y * cell_px))
    return sheet


def figure_chart(figures: pd.DataFrame, path: Path) -> None:
    """Write a chart of the key figures, every method side by side with its 95 % interval.

    Args:
        figures: columns method, figure, value, low, high.
    """
    shown = [entry for entry in KEY_FIGURES if entry[0] in set(figures["figure"])]
    methods = list(dict.fromkeys(figures["method"]))
    columns = 5
    rows = -(-len(shown) // columns)
    with _chart(path, 3.2 * columns, 2.6 * rows) as chart:
        for place, (name, words, better) in enumerate(shown, start=1):
            axes = chart.add_subplot(rows, columns, place)
            own = figures[figures["figure"] == name].set_index("method").reindex(methods).dropna(subset=["value"])
            errors = np.abs(own[["low", "high"]].to_numpy().T - own["value"].to_numpy())
            colours = ["#c44e52" if method == MODEL else "#8c9bb0" for method in own.index]
            axes.barh(list(own.index), own["value"], xerr=errors, color=colours, error_kw={"lw": 0.8})
            axes.invert_yaxis()
            axes.tick_params(labelsize=7)
            axes.set_title(labelled(words, better), fontsize=7)


def blending_chart(from_source: Tensor, path: Path) -> None:
    """Write a heat map of the source's share in each style element (rows) and channel (columns), mean over pairs.

    Channels stand in the order of their mean share, the same in all rows, so that groups of channels show.

    Args:
        from_source: [n, n_styles, style_dim or 1] in [0, 1].
    """
    share = from_source.double().mean(0).cpu().numpy()
    share = share[:, np.argsort(share.mean(0), kind="stable")]
    with _chart(path, 7, 0.28 * len(share) + 1.4) as chart:
        axes = chart.add_subplot()
        image = axes.imshow(share, vmin=0, vmax=1, cmap="coolwarm", aspect="auto", interpolation="nearest")
        names = [f"{row} ({mean:.2f})" for row, mean in enumerate(share.mean(1))]
        axes.set_yticks(range(len(share)), names, fontsize=7)
        axes.set_ylabel("style element, coarse first\n(mean share)", fontsize=8)
        axes.set_xlabel("channels, in the order of their share", fontsize=8)
        chart.colorbar(image, label="share of the source")


@contextmanager
def _chart(path: Path, width: float, height: float) -> Iterator[Figure]:
    """A figure to draw in, `width` by `height` inches, written when the block ends."""
    chart = Figure(figsize=(width, height), layout="constrained")
    yield chart
    with whole_file(path) as partial:
        chart.savefig(partial, dpi=110)
