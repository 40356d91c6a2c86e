"""The model card of a candidate for the registry, a trained and measured swapper, and its tags."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from styleblend.data import licences
from styleblend.registry.versions import LEARNED_FROM, PHOTOGRAPHS, RENDERED
from styleblend.reporting.figures import caveat, figure_table
from styleblend.reporting.table import markdown
from styleblend.system.files import sha256
from styleblend.training import record
from styleblend.weights import frozen


@dataclass(frozen=True)
class Inputs:
    """Outputs of the earlier stages; `params` is params.yaml of the project, beside which dvc.lock is.

    splits: None where it is not to be recorded which pictures the version learned from.
    """

    swapper: Path
    evaluation: Path
    metrics: Path
    faces: Path
    networks: Path
    params: Path
    splits: Path | None = None


@dataclass(frozen=True)
class Candidate:
    """Content of the inputs.

    metrics: metrics.json; protocol: protocol.json of the evaluation; manifest: the faces;
    networks: networks.json by role; model: model.json.
    """

    inputs: Inputs
    metrics: Mapping[str, Any]
    protocol: Mapping[str, Any]
    manifest: pd.DataFrame
    networks: Mapping[str, Mapping[str, Any]]
    model: Mapping[str, Any]

    @property
    def alarms(self) -> Mapping[str, str]:
        """Alarms of its training and its evaluation, by name a sentence."""
        on: Mapping[str, str] = self.protocol.get("alarms", {})
        return on

    @property
    def numbers(self) -> dict[str, float]:
        """The metrics without the names of the networks that measured them."""
        return {name: value for name, value in self.metrics.items() if not isinstance(value, str)}

    def not_verified(self) -> list[str]:
        """What nobody checked of the networks, as the catalogue says, once for each network."""
        stated = {
            str(one.get("name")): str(one["not_verified"]) for one in self.networks.values() if one.get("not_verified")
        }
        return [f"{name}: {text}" for name, text in stated.items()]

    def learned_from(self) -> str:
        """Which kinds of pictures: rendered ones have the seed that makes them again; a starter saw photographs."""
        rendered = self.manifest["render_seed"].notna()
        kinds = {RENDERED: rendered.any(), PHOTOGRAPHS: not rendered.all() or "starter" in self.networks}
        return ", ".join(kind for kind, there in kinds.items() if there)

    def tags(self) -> dict[str, str]:
        """The data, networks and licences that it was made with, short enough for MLflow's page."""

        def stated(column: str) -> str:
            return ", ".join(sorted(self.manifest[column].dropna().unique()))

        networks, alignment = self.networks.values(), self.model["alignment"]
        origins = record.read(self.inputs.swapper).continued_from
        return {
            "data_sha256": sha256(self.inputs.faces / "manifest.parquet"),
            "data_licences": stated("licence"),
            "data_terms": stated("terms"),
            LEARNED_FROM: self.learned_from(),
            "networks": ", ".join(f"{one['file']} {str(one['sha256'])[:12]} ({one['licence']})" for one in networks),
            "network_licences": ", ".join(sorted({str(one["licence"]) for one in networks})),
            **licences.of(self.networks, self.manifest).tags(),
            **({"not_verified": "; ".join(doubts)} if (doubts := self.not_verified()) else {}),
            "alignment": f"{alignment['template']} {alignment['size_px']} px",
            "training_fingerprint": str(self.model.get("fingerprint", "unknown")),
            **({"continued_from": "; ".join(f"{k}: {v}" for k, v in origins.items())} if origins else {}),
        }


def read_candidate(inputs: Inputs) -> Candidate:
    """Read what the earlier stages wrote.

    Raises:
        StyleBlendError: networks.json is missing or damaged.
    """
    return Candidate(
        inputs,
        metrics=json.loads(inputs.metrics.read_text()),
        protocol=json.loads((inputs.evaluation / "protocol.json").read_text()),
        manifest=pd.read_parquet(inputs.faces / "manifest.parquet"),
        networks=frozen.listed(inputs.networks),
        model=json.loads((inputs.swapper / "model.json").read_text()),
    )


def data_rows(manifest: pd.DataFrame) -> list[tuple[object, ...]]:
    """A row a source of faces: its name, faces, persons, licence and terms."""
    sources = manifest.groupby(["source", "licence", "terms"], dropna=False).agg(
        faces=("face_id", "size"), persons=("person", "nunique")
    )
    return [
        (row["source"], row["faces"], row["persons"] or "not labelled", row["licence"], row["terms"])
        for row in sources.reset_index().to_dict("records")
    ]


def network_rows(networks: Mapping[str, Mapping[str, Any]]) -> list[tuple[object, ...]]:
    """A row a network of networks.json: role, name, file, licence, its consequence, origin, begin of its hash."""
    return [
        (role, each.get("name", ""), each["file"], each["licence"], each.get("consequence", ""), each["origin"],
         each["sha256"][:12])
        for role, each in networks.items()
    ]  # fmt: skip


def model_card(candidate: Candidate, tags: Mapping[str, str], gate: str) -> str:
    """The model card; `tags` are those of the version, `gate` is one sentence on the gate's decision."""
    metrics, manifest, networks = candidate.metrics, candidate.manifest, candidate.networks
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
## Alarms
{chr(10).join(f"- **{text}**" for text in candidate.alarms.values()) or "None, of its training or of its evaluation."}

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
{"".join(f"{chr(10)}- {line}." for line in candidate.protocol.get("remarks", []))}

By |yaw| of the target, in degrees:

{markdown(("Group", "Pairs", *_GROUP_FIGURES), by_group)}

### Protocol
{candidate.protocol["text"]}
## Data
{markdown(("Source", "Faces", "Persons", "Licence", "Terms"), data_rows(manifest))}

## Networks
{markdown(("Role", "Name", "File", "Licence", "That means", "Origin", "SHA-256"), network_rows(networks))}
{_doubts(candidate)}
## Limits
- The figures hold for faces like those of the test split and for nobody else; groups that the data lacks are unknown.
- Pose, expression and identity are what the named networks see; figures of other networks do not compare.
- The swap covers one aligned face. Hair, glasses and skin tone stay the target's.
- Large angles are harder: see the figures by |yaw|.
- Identity is not guaranteed: see the retrieval figures beside their ceiling.

## How it was made
{"".join(f"- {name}: `{value}`{chr(10)}" for name, value in sorted(tags.items()))}- sizes: `{json.dumps(sizes)}`
"""


def _doubts(candidate: Candidate) -> str:
    """A paragraph on what is not verified of the networks, or nothing."""
    doubts = candidate.not_verified()
    return f"\n**Not verified**\n\n{chr(10).join(f'- {each}' for each in doubts)}\n" if doubts else ""


_GROUP_FIGURES = ("id_retrieval_top1", "target_retrieval_top1", "pose_error_deg", "expression_error", "outside_l1")
