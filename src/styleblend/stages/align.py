"""Stage align: find, crop and align the faces; what gives none goes into quarantine with the reason."""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from styleblend import config
from styleblend.data import manifest
from styleblend.stages.entry import run

SHOWN = 10


def align(raw: Path, networks: Path, out: Path, cfg: config.Align) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Write faces, manifest and quarantine to `out`.

    Raises:
        StyleBlendError: no index, no detector, or no face in any picture.
    """
    faces, quarantine = manifest.align_faces(raw, networks, out, cfg)
    pictures = faces["raw_path"].nunique()
    print(f"align: {len(faces)} faces from {pictures} pictures, {len(quarantine)} pictures in quarantine")
    for row in quarantine.head(SHOWN).itertuples():
        print(f"align: quarantine: {row.raw_path}: {row.reason}")
    if len(quarantine) > SHOWN:
        print(f"align: and {len(quarantine) - SHOWN} more in {out / 'quarantine.parquet'}")
    return faces, quarantine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--raw", type=Path, required=True)
    parser.add_argument("--networks", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    align(given.raw, given.networks, given.out, config.load(given.params).align)


if __name__ == "__main__":
    run("align", main)
