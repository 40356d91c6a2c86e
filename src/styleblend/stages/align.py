"""Stage align: find, crop and align the faces; what gives none goes into quarantine with the reason."""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from styleblend.config.data import Align
from styleblend.data.align import align_faces
from styleblend.stages.entry import Config, run

SHOWN = 10


def align(
    raw: Path, networks: Path, out: Path, cfg: Align, state: Path = Path(".state")
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Write faces, manifest and quarantine to `out`; what came of a picture is kept in `state` for the next run.

    Raises:
        StyleBlendError: no index, no detector, or no face in any picture.
    """
    faces, quarantine = align_faces(raw, networks, out, cfg, state)
    pictures = faces["raw_path"].nunique()
    others = int((~quarantine["is_picture"].astype(bool)).sum())
    beside = f" and {others} files that are no pictures" if others else ""
    aside = f"{len(quarantine) - others} pictures{beside} in quarantine"
    print(f"align: {len(faces)} faces from {pictures} pictures, {aside}")
    if noted := int(faces["notes"].notna().sum()):
        print(f"align: {noted} faces are of pictures that were read with a note: column notes of the manifest")
    for row in quarantine.head(SHOWN).itertuples():
        print(f"align: quarantine: {row.raw_path}: {row.reason}")
    if len(quarantine) > SHOWN:
        print(f"align: and {len(quarantine) - SHOWN} more in {out / 'quarantine.parquet'}")
    return faces, quarantine


def main(given: argparse.Namespace, cfg: Config) -> None:
    """Stage align: find, crop and align the faces; what gives none goes into quarantine with the reason."""
    align(given.raw, given.networks, given.out, cfg.align)


if __name__ == "__main__":
    run("align", main, "raw", "networks", "out")
