"""Registration of a candidate: gate, model card, version, and the version's page in MLflow beside the champion."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from styleblend.config.provenance import Provenance
from styleblend.config.registry import Register
from styleblend.config.tracking import Tracking
from styleblend.errors import StyleBlendError
from styleblend.provenance import credentials
from styleblend.registry import learned, lineage, mlflow_store, runs, versions
from styleblend.reporting import comparison, gate
from styleblend.reporting.model_card import Inputs, model_card, read_candidate
from styleblend.system.files import fingerprint, whole_file

CHAMPION = "champion"


def register(inputs: Inputs, card: Path, cfg: Register, track: Tracking, provenance: Provenance) -> dict[str, Any]:
    """Register the swapper, write its `card`, set the alias if the gate passes, compare it with the champion.

    A version that fails the gate, or that an alarm is on for, is registered too, without the alias: its figures are
    worth keeping, and DVC has nothing to run again.

    Args:
        provenance: who signs the comparison, and pictures of the version where MLflow itself serves it.
    Returns:
        name, version, run_id, parent_run_id, alias or None, gate ("passed" or "failed"), the reasons, what held, and
        the alarms.
    Raises:
        StyleBlendError: the gate names a metric that was not measured, or an input is missing or damaged.
    """
    signing = credentials.of(provenance)
    new = read_candidate(inputs)
    unnamed = comparison.Contender("this version", {}, inputs.swapper, inputs.evaluation, new.metrics)
    key = fingerprint(inputs.swapper, inputs.metrics)
    parent = json.loads((inputs.swapper / "run.json").read_text())["parent_run_id"]
    with tempfile.TemporaryDirectory() as scratch, champion_of(track) as champion:
        decision = gate.decide(cfg.gate, unnamed, champion, new.alarms)
        state, alias = ("passed", cfg.alias) if decision.passed else ("failed", None)
        made_with = lineage.collect(inputs.params, Path(scratch))
        tags = {"gate": state, "alarms": ", ".join(new.alarms) or "none", **made_with.facts, **new.tags()}
        with whole_file(card) as partial:
            partial.write_text(model_card(new, tags, decision.sentence))
        files = {"card": card, "evaluation": inputs.evaluation, "metrics": inputs.metrics, **made_with.files}
        if inputs.splits is not None:
            files["pictures"] = learned.write(inputs.faces, inputs.splits, Path(scratch) / learned.FILE)
        files["networks"] = inputs.networks / "networks.json"
        with runs.child_run(track, parent, "register", key, {"gate": cfg.gate.model_dump()}) as run:
            version = versions.register_version(
                track, inputs.swapper, new.numbers, tags, files, alias, provenance, run=run, key=key
            )
            run.log_artifact(card)
            # What a version was made with never changes; how it stands does, with the gate and with the champion.
            facts = comparison.facts(version) | {"gate": state}
            title = f"version {version.version}"
            contender = comparison.Contender(title, facts, inputs.swapper, inputs.evaluation, new.metrics)
            text, short = _beside_champion(contender, champion, run, signing)
            versions.set_tags(track, version, {"gate": state, "comparison": short})
            versions.describe(track, version, f"{decision.sentence} {text}")
    runs.finish_pipeline(track, run.parent_run_id)
    return {
        "name": version.name, "version": version.version, "run_id": version.run_id,
        "parent_run_id": run.parent_run_id, "alias": alias, "gate": state, "reasons": decision.reasons,
        "held": decision.held, "alarms": list(new.alarms),
    }  # fmt: skip


@contextmanager
def champion_of(track: Tracking) -> Iterator[gate.Champion]:
    """The champion with its files, which are there inside the block only, or why it cannot be measured against.

    A champion that cannot be compared is no reason to keep a version out of the registry.
    """
    with ExitStack() as open_files:
        try:
            version = versions.find_version(track, CHAMPION)
        except mlflow_store.NoVersion:
            yield gate.Champion(None, "no version has the alias champion yet")
            return
        try:
            old = open_files.enter_context(comparison.contender(track, version.version))
        except StyleBlendError as error:
            found = gate.Champion(None, f"the champion, version {version.version}, cannot be read ({error})", True)
        else:
            found = gate.Champion(old)
        yield found


def _beside_champion(
    new: comparison.Contender, champion: gate.Champion, run: runs.Run, signing: credentials.Credentials
) -> tuple[str, str]:
    """The text for the version's page and its short form; the picture goes to the run's artifacts."""
    old = champion.contender
    if old is None and not champion.refused:
        return "No version has the alias champion yet, so there is nothing to compare with.", "no champion yet"
    if old is None:
        print(f"register: not compared: {champion.missing}")
        return f"Not compared with the champion: {champion.missing}.", "not compared"
    if old.title == new.title:
        return "This version is the champion.", "is the champion"
    name = f"{new.title} and {old.title.removeprefix('version ')}.png".replace(" ", "_")
    try:
        with tempfile.TemporaryDirectory() as scratch:
            table, verdict = comparison.table(new, old), comparison.verdict(new, old)
            comparison.picture(new, old, Path(scratch) / name, signing)
            run.log_artifact(Path(scratch) / name, "comparison")
    except StyleBlendError as error:
        print(f"register: not compared with the champion: {error}")
        return f"Not compared with the champion, {old.title}: {error}.", "not compared"
    shown = runs.picture_markdown(run, f"comparison/{name}", "both versions on the same faces")
    return (
        f"To use this version, give it the alias `champion`. Beside the champion, {old.title}, when "
        f"this version was registered:\n\n{table}\n\n{shown}",
        verdict,
    )
