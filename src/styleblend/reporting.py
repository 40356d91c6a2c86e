"""What a person looks at after a run: the grid of swaps, the figure chart, the model card, the closing lines."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from styleblend import licences, provenance
from styleblend.errors import StyleBlendError
from styleblend.evaluation.protocol import MODEL, TRUE_SWAP
from styleblend.files import whole_file
from styleblend.provenance.credentials import Credentials

# Key figures with the words for them, in the order of reports; the last column says which way is better.
KEY_FIGURES: tuple[tuple[str, str, str], ...] = (
    ("id_retrieval_top1", "source found at rank 1", "up"),
    ("id_retrieval_top5", "source found within rank 5", "up"),
    ("target_retrieval_top1", "target found at rank 1", "down"),
    ("id_similarity_source", "similarity to the source", "up"),
    ("pose_error_deg", "pose error, degrees", "down"),
    ("pose_nearer_target", "pose nearer the target's", "up"),
    ("expression_error", "expression error", "down"),
    ("outside_l1", "L1 outside the face, [0, 1]", "down"),
    ("psnr_true_swap_db", "PSNR to the true swap, dB", "up"),
    ("ssim_true_swap", "SSIM to the true swap", "up"),
)
_CELL_PX = 128
_CAPTION_PX = 22


def with_interval(value: float, low: float, high: float) -> str:
    """A figure with its 95 % interval, as tables show it."""
    return f"{value:.3g} ({low:.3g} to {high:.3g})"


def swap_grid(columns: Mapping[str, Tensor], path: Path, model: str, credentials: Credentials | None = None) -> None:
    """Write a marked picture: a column for each name, a row for each pair.

    Args:
        columns: caption to pictures, uint8 [rows, 3, S, S], equally many in each.
        credentials: who signs; None is the test certificate of this machine.
    """
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
    provenance.save_picture(sheet, path, model=model, kind="grid", credentials=credentials)


def figure_chart(figures: pd.DataFrame, path: Path) -> None:
    """Write a chart of the key figures, every method side by side with its 95 % interval.

    Args:
        figures: columns method, figure, value, low, high.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = [entry for entry in KEY_FIGURES if entry[0] in set(figures["figure"])]
    methods = list(dict.fromkeys(figures["method"]))
    columns = 5
    chart = Figure(figsize=(3.2 * columns, 2.6 * -(-len(shown) // columns)), layout="constrained")
    FigureCanvasAgg(chart)
    for place, (name, words, better) in enumerate(shown, start=1):
        axes = chart.add_subplot(-(-len(shown) // columns), columns, place)
        own = figures[figures["figure"] == name].set_index("method").reindex(methods).dropna(subset=["value"])
        errors = np.abs(own[["low", "high"]].to_numpy().T - own["value"].to_numpy())
        colours = ["#c44e52" if method == MODEL else "#8c9bb0" for method in own.index]
        axes.barh(list(own.index), own["value"], xerr=errors, color=colours, error_kw={"lw": 0.8})
        axes.invert_yaxis()
        axes.tick_params(labelsize=7)
        axes.set_title(f"{words} ({'higher' if better == 'up' else 'lower'} is better)", fontsize=7)
    with whole_file(path) as partial:
        chart.savefig(partial, dpi=110)


def blending_chart(from_source: Tensor, path: Path) -> None:
    """Write a heat map of the source's share in each style element (rows) and channel (columns), mean over pairs.

    Channels stand in the order of their mean share, the same in all rows, so that groups of channels show.

    Args:
        from_source: [n, n_styles, style_dim or 1] in [0, 1].
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    share = from_source.double().mean(0).cpu().numpy()
    share = share[:, np.argsort(share.mean(0), kind="stable")]
    chart = Figure(figsize=(7, 0.28 * len(share) + 1.4), layout="constrained")
    FigureCanvasAgg(chart)
    axes = chart.add_subplot()
    image = axes.imshow(share, vmin=0, vmax=1, cmap="coolwarm", aspect="auto", interpolation="nearest")
    axes.set_yticks(range(len(share)), [f"{row} ({mean:.2f})" for row, mean in enumerate(share.mean(1))], fontsize=7)
    axes.set_ylabel("style element, coarse first\n(mean share)", fontsize=8)
    axes.set_xlabel("channels, in the order of their share", fontsize=8)
    chart.colorbar(image, label="share of the source")
    with whole_file(path) as partial:
        chart.savefig(partial, dpi=110)


def figure_table(metrics: Mapping[str, Any], methods: Sequence[str]) -> str:
    """Key figures as a Markdown table: the model with its interval, then each other method."""
    lines = ["| Figure | " + " | ".join(methods) + " |", "|---" * (len(methods) + 1) + "|"]
    for name, words, better in KEY_FIGURES:
        if name not in metrics:
            continue
        cells = []
        for method in methods:
            value = metrics.get(name if method == MODEL else f"{method}/{name}")
            cell = "" if value is None else f"{value:.3g}"
            if method == MODEL:
                cell = f"**{cell}** ({metrics[f'{name}_low']:.3g} to {metrics[f'{name}_high']:.3g})"
            cells.append(cell)
        lines.append(f"| {words} ({'higher' if better == 'up' else 'lower'} is better) | {' | '.join(cells)} |")
    return "\n".join(lines)


def model_card(
    *,
    metrics: Mapping[str, Any],
    protocol: Mapping[str, Any],
    manifest: pd.DataFrame,
    networks: Mapping[str, Mapping[str, Any]],
    model: Mapping[str, Any],
    tags: Mapping[str, str],
    gate: str,
) -> str:
    """The model card in Markdown.

    Args:
        metrics: of metrics.json; protocol: of protocol.json; networks: of networks.json; model: of
            model.json.
        manifest: of data/faces; tags: of the version; gate: one sentence on how the gate ended.
    """
    sources = manifest.groupby(["source", "licence", "terms"], dropna=False).agg(
        faces=("face_id", "size"), persons=("person", "nunique")
    )
    data = "\n".join(
        f"| {row['source']} | {row['faces']} | {row['persons'] or 'not labelled'} | {row['licence']} | {row['terms']} |"
        for row in sources.reset_index().to_dict("records")
    )
    used = "\n".join(
        f"| {role} | {entry.get('name', '')} | {entry['file']} | {entry['licence']} | {entry.get('consequence', '')} | "
        f"{entry['origin']} | {entry['sha256'][:12]} |"
        for role, entry in networks.items()
    )
    groups = [name.removeprefix("n_pairs_") for name, n in metrics.items() if name.startswith("n_pairs_yaw_") and n]
    by_group = "\n".join(
        f"| {group} | {metrics[f'n_pairs_{group}']:.0f} | "
        + " | ".join(f"{metrics[f'{figure}_{group}']:.3g}" for figure in _GROUP_FIGURES)
        + " |"
        for group in groups
    )
    sizes = model["model"]
    return f"""# Model card: StyleBlend face swapping

Takes a source and a target face and gives a face with the identity of the source and the pose, expression, light and
background of the target. {sizes["resolution"]} px, {model["alignment"]["template"]} alignment. {gate}
{caveat(manifest, networks)}
## Use
Meant for research on face swapping, for privacy (replacing a face by one that belongs to nobody) and for productions
in which everybody shown has agreed. Not to be used to deceive, to harass, to make sexual pictures of anybody, to pass
an identity check, or to show any person without that person's consent. Every picture that the product writes is
marked as synthetic in its metadata; the mark does not survive somebody who removes it.

## Licence
{licences.of(networks, manifest).text()}

## Figures
{int(metrics["n_pairs"])} pairs of the test split, persons unseen in training; in brackets the bootstrap 95 % interval.
The floor are the methods that copy or warp; the ceiling, where faces were rendered, is the true swap.

{figure_table(metrics, protocol["methods"])}

By |yaw| of the target, in degrees:

| Group | Pairs | {" | ".join(_GROUP_FIGURES)} |
|---|---|{"---|" * len(_GROUP_FIGURES)}
{by_group}

### Protocol
{protocol["text"]}
## Data
| Source | Faces | Persons | Licence | Terms |
|---|---|---|---|---|
{data}

## Networks
| Role | Name | File | Licence | That means | Origin | SHA-256 |
|---|---|---|---|---|---|---|
{used}

## Limits
- The figures hold for faces like those of the test split and for nobody else; groups that the data lacks are unknown.
- Pose, expression and identity are what the named networks see; figures of other networks do not compare.
- The swap covers one aligned face. Hair, glasses and skin tone stay the target's.
- Large angles are harder: see the figures by |yaw|.
- Identity is not guaranteed: see the retrieval figures beside their ceiling.

## How it was made
{"".join(f"- {name}: `{value}`{chr(10)}" for name, value in sorted(tags.items()))}- sizes: `{json.dumps(sizes)}`
"""


# Others count in terms of the training that the paper has not, if at all.
_WEIGHTY = ("identity", "identity_judge", "landmarks", "attributes_judge", "encoder", "decoder")


def caveat(manifest: pd.DataFrame, networks: Mapping[str, Mapping[str, Any]]) -> str:
    """A warning where this project's small networks, learned from rendered faces, judged photographs or were what the
    model learned from; else empty.
    """
    photographs = int(manifest["render_seed"].isna().sum())
    small = [role for role in _WEIGHTY if "this project" in str(networks.get(role, {}).get("origin", ""))]
    if not photographs or not small:
        return ""
    return f"""
> **These figures say little.** {photographs} of the {len(manifest)} faces are photographs, but the networks
> {", ".join(small)} learned from rendered faces only. On real faces they tell people apart badly and misjudge pose and
> expression, so the model that learned under them and the figures they gave show only that the pipeline runs.
"""


def closing_lines(reports: Path) -> str:
    """What a finished run made, how good it is and where to look, in a few lines.

    Raises:
        StyleBlendError: the run has not come to its end.
    """
    try:
        metrics = json.loads((reports / "metrics.json").read_text())
        protocol = json.loads((reports / "evaluate" / "protocol.json").read_text())
        registered = json.loads((reports / "registered.json").read_text())
    except FileNotFoundError as error:
        raise StyleBlendError(f"{error.filename} is missing: run `dvc repro` to its end first") from None
    alias = f", alias {registered['alias']}" if registered["alias"] else ""
    lines = [
        f"Made: {registered['name']} version {registered['version']}{alias} (gate {registered['gate']})",
        f"How good, on {int(metrics['n_pairs'])} pairs of unseen people:",
    ]
    ceiling = TRUE_SWAP in protocol["methods"]
    for name, words, _ in KEY_FIGURES:
        if name not in metrics:
            continue
        beside = [("copy of the target", f"copy_target/{name}")] + [("true swap", f"{TRUE_SWAP}/{name}")] * ceiling
        known = ", ".join(f"{label} {metrics[key]:.3g}" for label, key in beside if key in metrics)
        lines.append(f"  {words:<28} {metrics[name]:>8.3g}   ({known})")
    lines += protocol["warnings"]
    lines.append(
        f"Look at: {reports / 'evaluate' / 'swap_grid.png'}, {reports / 'model_card.md'}, "
        f"{reports / 'evaluate' / 'figures.png'}; `make ui` opens MLflow"
    )
    return "\n".join(lines)


_GROUP_FIGURES = ("id_retrieval_top1", "target_retrieval_top1", "pose_error_deg", "expression_error", "outside_l1")
