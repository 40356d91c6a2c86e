"""Stage validate: what the data must satisfy before anything learns from it, and which faces are used."""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from styleblend.config.data import Validate
from styleblend.config.tracking import Tracking
from styleblend.data import drift, expectations, selection
from styleblend.data.manifest import read_manifest, read_quarantine
from styleblend.errors import StyleBlendError
from styleblend.reporting import data_report
from styleblend.stages.entry import Config, run
from styleblend.system.files import whole_file

SHOWN = 10


@dataclass(frozen=True)
class Outputs:
    """Files of the stage: `selection` is the table of the faces, which the stage split reads; `docs` is a folder."""

    selection: Path
    docs: Path
    out: Path
    report: Path
    profile: Path


def validate(
    faces: Path, perceived: Path, outputs: Outputs, cfg: Validate, track: Tracking | None
) -> expectations.Report:
    """Choose the faces, check the tables, and write all `outputs`; they are written when a suite fails, too.

    Args:
        track: where the champion is looked up, whose data these are compared with; None compares with nothing.
    Raises:
        StyleBlendError: a table is missing, or an expectation does not hold; all are printed before.
    """
    if not perceived.is_file():
        raise StyleBlendError(f"{perceived} is missing: run the stage perceive first")
    shutil.rmtree(outputs.docs, ignore_errors=True)
    manifest, quarantine, seen = read_manifest(faces), read_quarantine(faces), pd.read_parquet(perceived)
    chosen = selection.select(faces, manifest, seen, cfg.keep)
    with whole_file(outputs.selection) as partial:
        chosen.to_parquet(partial, index=False)
    here = drift.profile(manifest, seen, chosen)
    with whole_file(outputs.profile) as partial:
        partial.write_text(json.dumps(here, indent=1) + "\n")
    there, against = (None, "no registry was asked") if track is None else drift.of_champion(track)
    moved = None if there is None else drift.compare(here, there)
    data = expectations.tables(faces, manifest, quarantine, seen, chosen, moved)
    report = expectations.check(data, cfg, outputs.docs)
    failed, warned = ([str(each) for each in found] for found in (report.failures, report.warnings))
    found = data_report.Checked(quarantine, chosen, moved, against, report.checked, failed, warned, cfg.max_drift)
    with whole_file(outputs.report) as partial:
        data_report.write(found, partial)
    with whole_file(outputs.out) as partial:
        compared = {"against": against, "columns": [] if moved is None else moved.to_dict("records")}
        counted = {"faces": len(chosen), "used": int(chosen["kept"].sum()), "fallen": data_report.fallen(chosen)}
        partial.write_text(json.dumps(report.as_json() | counted | {"drift": compared}, indent=2) + "\n")
    _tell(found)
    if failed:
        raise StyleBlendError(
            f"{len(failed)} of {report.checked} expectations on the data do not hold, first "
            f"{failed[0]}: see {outputs.docs / 'index.html'}; mend the data, or change the limits "
            "in section validate of params.yaml"
        )
    held = f"all {report.checked} expectations hold" if not warned else f"{len(warned)} expectations only warn"
    print(f"validate: {held} for {len(chosen)} faces, {counted['used']} are used; {outputs.report} says more")
    return report


def _tell(found: data_report.Checked) -> None:
    """What a person should see at once."""
    for text in found.failed:
        print(f"validate: failed: {text}")
    for name, count in data_report.fallen(found.chosen).items():
        print(f"validate: not used: {count} faces, {name}")
    several = data_report.conflicts(found.chosen)
    for row in several.head(SHOWN).itertuples():
        print(
            f"validate: one picture under {row.labels} labels ({row.named}): {row.raw_path}, kept once as {row.kept_as}"
        )
    if found.drift is None:
        print(f"validate: not compared with the champion's data: {found.against}")
    for text in found.warned:
        print(f"validate: moved since {found.against}: {text}")


def main(given: argparse.Namespace, cfg: Config) -> None:
    """Stage validate: what the data must satisfy before anything learns from it, and which faces are used."""
    outputs = Outputs(given.selection, given.docs, given.out, given.report, given.profile)
    validate(given.faces, given.perceived, outputs, cfg.validate_, cfg.tracking)


if __name__ == "__main__":
    run("validate", main, "faces", "perceived", "selection", "docs", "out", "report", "profile")
