"""The model card of a version, in Markdown."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pandas as pd

from styleblend.data import licences
from styleblend.reporting.caveat import caveat
from styleblend.reporting.figures import figure_table


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


_GROUP_FIGURES = ("id_retrieval_top1", "target_retrieval_top1", "pose_error_deg", "expression_error", "outside_l1")
