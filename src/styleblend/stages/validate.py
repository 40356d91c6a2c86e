"""Stage validate: what the data must satisfy before anything learns from it; a failed suite ends the run."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import pandas as pd

from styleblend.config.data import Validate
from styleblend.data import expectations
from styleblend.data.manifest import read_manifest, read_quarantine
from styleblend.errors import StyleBlendError
from styleblend.stages.entry import Config, run
from styleblend.system.files import whole_file


def validate(faces: Path, perceived: Path, docs: Path, out: Path, cfg: Validate) -> expectations.Report:
    """Check the tables, write data docs and validation.json; both are written when a suite fails, too.

    Raises:
        StyleBlendError: a table is missing, or an expectation does not hold; all are printed before.
    """
    if not perceived.is_file():
        raise StyleBlendError(f"{perceived} is missing: run the stage perceive first")
    shutil.rmtree(docs, ignore_errors=True)
    manifest, quarantine = read_manifest(faces), read_quarantine(faces)
    data = expectations.tables(faces, manifest, quarantine, pd.read_parquet(perceived))
    report = expectations.check(data, cfg, docs)
    with whole_file(out) as partial:
        partial.write_text(json.dumps(report.as_json(), indent=2) + "\n")
    for failure in report.failures:
        print(f"validate: failed: {failure}")
    if report.failures:
        raise StyleBlendError(
            f"{len(report.failures)} of {report.checked} expectations on the data do not hold, first "
            f"{report.failures[0]}: see {docs / 'index.html'}; mend the data, or change the limits "
            "in section validate of params.yaml"
        )
    print(f"validate: all {report.checked} expectations hold for {len(data['manifest'])} faces")
    return report


def main(given: argparse.Namespace, cfg: Config) -> None:
    """Stage validate: what the data must satisfy before anything learns from it; a failed suite ends the run."""
    validate(given.faces, given.perceived, given.docs, given.out, cfg.validate_)


if __name__ == "__main__":
    run("validate", main, "faces", "perceived", "docs", "out")
