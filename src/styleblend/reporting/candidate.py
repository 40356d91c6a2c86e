"""A candidate for the registry: a trained and measured swapper, and the content of its card and its tags."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from styleblend.data import licences
from styleblend.system.files import sha256
from styleblend.weights import frozen


@dataclass(frozen=True)
class Inputs:
    """Outputs of the earlier stages; `params` is params.yaml of the project, beside which dvc.lock is."""

    swapper: Path
    evaluation: Path
    metrics: Path
    faces: Path
    networks: Path
    params: Path


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
    def numbers(self) -> dict[str, float]:
        """The metrics without the names of the networks that measured them."""
        return {name: value for name, value in self.metrics.items() if not isinstance(value, str)}

    def tags(self) -> dict[str, str]:
        """The data, networks and licences that it was made with, short enough for MLflow's page."""

        def stated(column: str) -> str:
            return ", ".join(sorted(self.manifest[column].dropna().unique()))

        networks, alignment = self.networks.values(), self.model["alignment"]
        return {
            "data_sha256": sha256(self.inputs.faces / "manifest.parquet"),
            "data_licences": stated("licence"),
            "data_terms": stated("terms"),
            "networks": ", ".join(
                f"{entry['file']} {str(entry['sha256'])[:12]} ({entry['licence']})" for entry in networks
            ),
            "network_licences": ", ".join(sorted({str(entry["licence"]) for entry in networks})),
            **licences.of(self.networks, self.manifest).tags(),
            "alignment": f"{alignment['template']} {alignment['size_px']} px",
            "training_fingerprint": str(self.model.get("fingerprint", "unknown")),
        }


def read(inputs: Inputs) -> Candidate:
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
