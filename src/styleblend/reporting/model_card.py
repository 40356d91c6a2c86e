"""The model card of a version, in Markdown."""

from __future__ import annotations

import json
from collections.abc import Mapping

from styleblend.data import licences
from styleblend.reporting.candidate import Candidate
from styleblend.reporting.caveat import caveat
from styleblend.reporting.figures import figure_table
from styleblend.reporting.table import markdown


def model_card(candidate: Candidate, tags: Mapping[str, str], gate: str) -> str:
    """The model card; `tags` are those of the version, `gate` is one sentence on the gate's decision."""
    metrics, manifest, networks = candidate.metrics, candidate.manifest, candidate.networks
    sources = manifest.groupby(["source", "licence", "terms"], dropna=False).agg(
        faces=("face_id", "size"), persons=("person", "nunique")
    )
    data = [
        (row["source"], row["faces"], row["persons"] or "not labelled", row["licence"], row["terms"])
        for row in sources.reset_index().to_dict("records")
    ]
    used = [
        (
            role, entry.get("name", ""), entry["file"], entry["licence"], entry.get("consequence", ""),
            entry["origin"], entry["sha256"][:12],
        )
        for role, entry in networks.items()
    ]  # fmt: skip
    groups = [name.removeprefix("n_pairs_") for name, n in metrics.items() if name.startswith("n_pairs_yaw_") and n]
    by_group = [
        (group, f"{metrics[f'n_pairs_{group}']:.0f}", *(f"{metrics[f'{name}_{group}']:.3g}" for name in _GROUP_FIGURES))
        for group in groups
    ]
    sizes, alignment = candidate.model["model"], candidate.model["alignment"]
    return f"""# Model card: StyleBlend face swapping

Takes a source and a target face and gives a face with the identity of the source and the pose, expression, light and
background of the target. {sizes["resolution"]} px, {alignment["template"]} alignment. {gate}
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

{figure_table(metrics, candidate.protocol["methods"])}

By |yaw| of the target, in degrees:

{markdown(("Group", "Pairs", *_GROUP_FIGURES), by_group)}

### Protocol
{candidate.protocol["text"]}
## Data
{markdown(("Source", "Faces", "Persons", "Licence", "Terms"), data)}

## Networks
{markdown(("Role", "Name", "File", "Licence", "That means", "Origin", "SHA-256"), used)}

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
