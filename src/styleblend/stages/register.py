"""Stage register: a model version in MLflow with all that is needed to repeat and to judge it, behind a gate."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from styleblend.config.provenance import Provenance
from styleblend.config.registry import Gate, Register
from styleblend.config.tracking import Tracking
from styleblend.data import licences
from styleblend.errors import StyleBlendError
from styleblend.provenance import credentials
from styleblend.registry import lineage, mlflow_store, runs, versions
from styleblend.reporting import comparison
from styleblend.reporting.model_card import model_card
from styleblend.stages.entry import run
from styleblend.system.atomic import whole_file
from styleblend.system.hashes import fingerprint, sha256
from styleblend.weights import frozen

if TYPE_CHECKING:
    from styleblend.config.params import Config

CHAMPION = "champion"


def register(
    swapper: Path,
    evaluation: Path,
    metrics_file: Path,
    faces: Path,
    networks: Path,
    out: Path,
    card: Path,
    params: Path,
    cfg: Register,
    track: Tracking,
    provenance: Provenance,
) -> dict[str, Any]:
    """Register the swapper, write its card, give it the alias if the gate lets it pass, compare it with the champion.

    A version that fails the gate is registered too, without the alias: its figures are worth keeping, and DVC
    has nothing to run again.

    Args:
        params: params.yaml of the project; it is kept with the version, and so is the dvc.lock beside it.
        provenance: who signs the comparison, and pictures of the version where MLflow itself serves it.
    Returns:
        what `out` holds: name, version, run ids, alias or None, gate ("passed" or "failed") and the reasons.
    Raises:
        StyleBlendError: the gate names a figure that was not measured.
    """
    signing = credentials.of(provenance)
    metrics = json.loads(metrics_file.read_text())
    reasons = failures(cfg.gate, metrics)
    verdict = "failed" if reasons else "passed"
    model = json.loads((swapper / "model.json").read_text())
    catalogue = frozen.listed(networks)
    manifest = pd.read_parquet(faces / "manifest.parquet")
    sentence = "The gate passed." if not reasons else f"The gate failed: {'; '.join(reasons)}."
    with tempfile.TemporaryDirectory() as scratch:
        made_with = lineage.collect(params, Path(scratch))
        tags = {"gate": verdict, **made_with.facts, **_facts(faces, manifest, catalogue, model)}
        with whole_file(card) as partial:
            partial.write_text(
                model_card(
                    metrics=metrics,
                    protocol=json.loads((evaluation / "protocol.json").read_text()),
                    manifest=manifest,
                    networks=catalogue,
                    model=model,
                    tags=tags,
                    gate=sentence,
                )
            )
        alias = None if reasons else cfg.alias
        key = fingerprint(swapper, metrics_file)
        parent = json.loads((swapper / "run.json").read_text())["parent_run_id"]
        with runs.child_run(track, parent, "register", key, {"gate": cfg.gate.model_dump()}) as child:
            version = versions.register_version(
                track,
                swapper,
                {name: value for name, value in metrics.items() if not isinstance(value, str)},
                tags,
                {
                    "card": card,
                    "evaluation": evaluation,
                    "metrics": metrics_file,
                    "networks": networks / "networks.json",
                    **made_with.files,
                },
                alias,
                provenance,
                run=child,
                key=key,
            )
            child.log_artifact(card)
            # What a version was made with never changes; how it stands does, with the gate and with the champion.
            facts = comparison.facts(version) | {"gate": verdict}
            new = comparison.Contender(f"version {version.version}", facts, swapper, evaluation, metrics)
            text, beside = _beside_champion(track, version, new, child, Path(scratch), signing)
            versions.set_tags(track, version, {"gate": verdict, "comparison": beside})
            versions.describe(track, version, f"{sentence} {text}")
    runs.finish_pipeline(track, child.parent_run_id)
    registered = {
        "name": version.name,
        "version": version.version,
        "run_id": version.run_id,
        "parent_run_id": child.parent_run_id,
        "alias": alias,
        "gate": verdict,
        "reasons": reasons,
    }
    with whole_file(out) as partial:
        partial.write_text(json.dumps(registered, indent=1) + "\n")
    named = f"alias {alias}" if alias else f"no alias, gate failed: {'; '.join(reasons)}"
    print(f"register: {version.name} version {version.version}, {named}")
    return registered


def failures(gate: Gate, metrics: Mapping[str, Any]) -> list[str]:
    """Why the gate stays shut, a clause a limit; empty when it opens. A figure that is not a number fails.

    Raises:
        StyleBlendError: a limit stands on a name that metrics.json lacks.
    """
    numbers = {name: value for name, value in metrics.items() if not isinstance(value, str)}
    for name in (*gate.min, *gate.max):
        if name not in numbers:
            near = get_close_matches(name, numbers, n=3)
            hint = f", did you mean {' or '.join(near)}" if near else ""
            raise StyleBlendError(f"register.gate names '{name}', which was not measured{hint}: correct params.yaml")
    low = [f"{name} is {numbers[name]:.4g}, below {limit:g}" for name, limit in gate.min.items()
           if not numbers[name] >= limit]  # fmt: skip
    high = [f"{name} is {numbers[name]:.4g}, above {limit:g}" for name, limit in gate.max.items()
            if not numbers[name] <= limit]  # fmt: skip
    return low + high


def _facts(
    faces: Path, manifest: pd.DataFrame, networks: Mapping[str, Mapping[str, Any]], model: Mapping[str, Any]
) -> dict[str, str]:
    """What the version learned from and through, short enough for MLflow's page."""

    def stated(column: str) -> str:
        return ", ".join(sorted(manifest[column].dropna().unique()))

    return {
        "data_sha256": sha256(faces / "manifest.parquet"),
        "data_licences": stated("licence"),
        "data_terms": stated("terms"),
        "networks": ", ".join(
            f"{entry['file']} {str(entry['sha256'])[:12]} ({entry['licence']})" for entry in networks.values()
        ),
        "network_licences": ", ".join(sorted({str(entry["licence"]) for entry in networks.values()})),
        **licences.of(networks, manifest).tags(),
        "alignment": f"{model['alignment']['template']} {model['alignment']['size_px']} px",
        "training_fingerprint": str(model.get("fingerprint", "unknown")),
    }


def _beside_champion(
    track: Tracking,
    version: versions.Version,
    new: comparison.Contender,
    run: runs.Run,
    scratch: Path,
    signing: credentials.Credentials,
) -> tuple[str, str]:
    """The text for the version's page and its short form; the picture goes to the run's artifacts.

    A champion that cannot be compared is no reason to keep a version out of the registry: the text says why.
    """
    try:
        champion = versions.find_version(track, CHAMPION)
    except mlflow_store.TrackingError:
        return "No version has the alias champion yet, so there is nothing to compare with.", "no champion yet"
    if champion.version == version.version:
        return "This version is the champion.", "is the champion"
    try:
        with comparison.contender(track, champion.version) as old:
            table, verdict = comparison.table(new, old), comparison.verdict(new, old)
            file = scratch / f"version_{version.version}_and_{champion.version}.png"
            comparison.picture(new, old, file, signing)
    except StyleBlendError as error:
        print(f"register: not compared with the champion: {error}")
        return f"Not compared with the champion, version {champion.version}: {error}.", "not compared"
    run.log_artifact(file, "comparison")
    shown = runs.picture_markdown(run, f"comparison/{file.name}", "both versions on the same faces")
    return (
        f"To use this version, give it the alias `champion`. Beside the champion, version {champion.version}, when "
        f"this version was registered:\n\n{table}\n\n{shown}",
        verdict,
    )


def main(given: argparse.Namespace, cfg: Config) -> None:
    """Stage register: a model version in MLflow with all that is needed to repeat and to judge it, behind a gate."""
    register(
        given.swapper,
        given.evaluation,
        given.metrics,
        given.faces,
        given.networks,
        given.out,
        given.card,
        given.params,
        cfg.register_,
        cfg.tracking,
        cfg.provenance,
    )


if __name__ == "__main__":
    run("register", main, "swapper", "evaluation", "metrics", "faces", "networks", "out", "card")
