"""Registration of a candidate: gate, model card, version, and the version's page in MLflow beside the champion."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from styleblend.config.provenance import Provenance
from styleblend.config.registry import Gate, Register
from styleblend.config.tracking import Tracking
from styleblend.errors import StyleBlendError
from styleblend.provenance import credentials
from styleblend.registry import lineage, mlflow_store, runs, versions
from styleblend.reporting import comparison
from styleblend.reporting.model_card import Inputs, model_card, read_candidate
from styleblend.system.files import fingerprint, whole_file

CHAMPION = "champion"


def register(inputs: Inputs, card: Path, cfg: Register, track: Tracking, provenance: Provenance) -> dict[str, Any]:
    """Register the swapper, write its `card`, set the alias if the gate passes, compare it with the champion.

    A version that fails the gate is registered too, without the alias: its figures are worth keeping, and DVC has
    nothing to run again.

    Args:
        provenance: who signs the comparison, and pictures of the version where MLflow itself serves it.
    Returns:
        name, version, run_id, parent_run_id, alias or None, gate ("passed" or "failed"), and the reasons.
    Raises:
        StyleBlendError: the gate names a metric that was not measured, or an input is missing or damaged.
    """
    signing = credentials.of(provenance)
    new = read_candidate(inputs)
    reasons = failures(cfg.gate, new.metrics)
    gate, alias = ("failed", None) if reasons else ("passed", cfg.alias)
    sentence = f"The gate failed: {'; '.join(reasons)}." if reasons else "The gate passed."
    key = fingerprint(inputs.swapper, inputs.metrics)
    parent = json.loads((inputs.swapper / "run.json").read_text())["parent_run_id"]
    with tempfile.TemporaryDirectory() as scratch:
        made_with = lineage.collect(inputs.params, Path(scratch))
        tags = {"gate": gate, **made_with.facts, **new.tags()}
        with whole_file(card) as partial:
            partial.write_text(model_card(new, tags, sentence))
        files = {"card": card, "evaluation": inputs.evaluation, "metrics": inputs.metrics, **made_with.files}
        files["networks"] = inputs.networks / "networks.json"
        with runs.child_run(track, parent, "register", key, {"gate": cfg.gate.model_dump()}) as run:
            version = versions.register_version(
                track, inputs.swapper, new.numbers, tags, files, alias, provenance, run=run, key=key
            )
            run.log_artifact(card)
            # What a version was made with never changes; how it stands does, with the gate and with the champion.
            facts = comparison.facts(version) | {"gate": gate}
            title = f"version {version.version}"
            contender = comparison.Contender(title, facts, inputs.swapper, inputs.evaluation, new.metrics)
            text, short = _beside_champion(track, version, contender, run, signing)
            versions.set_tags(track, version, {"gate": gate, "comparison": short})
            versions.describe(track, version, f"{sentence} {text}")
    runs.finish_pipeline(track, run.parent_run_id)
    return {
        "name": version.name, "version": version.version, "run_id": version.run_id,
        "parent_run_id": run.parent_run_id, "alias": alias, "gate": gate, "reasons": reasons,
    }  # fmt: skip


def failures(gate: Gate, metrics: Mapping[str, Any]) -> list[str]:
    """The limits that are missed, a clause each; empty when the gate passes. A metric that is NaN misses its limit.

    Raises:
        StyleBlendError: a limit names a metric that metrics.json lacks.
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


def _beside_champion(
    track: Tracking,
    version: versions.Version,
    new: comparison.Contender,
    run: runs.Run,
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
    name = f"version_{version.version}_and_{champion.version}.png"
    try:
        with comparison.contender(track, champion.version) as old, tempfile.TemporaryDirectory() as scratch:
            table, verdict = comparison.table(new, old), comparison.verdict(new, old)
            comparison.picture(new, old, Path(scratch) / name, signing)
            run.log_artifact(Path(scratch) / name, "comparison")
    except StyleBlendError as error:
        print(f"register: not compared with the champion: {error}")
        return f"Not compared with the champion, version {champion.version}: {error}.", "not compared"
    shown = runs.picture_markdown(run, f"comparison/{name}", "both versions on the same faces")
    return (
        f"To use this version, give it the alias `champion`. Beside the champion, version {champion.version}, when "
        f"this version was registered:\n\n{table}\n\n{shown}",
        verdict,
    )
