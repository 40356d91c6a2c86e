"""Stage download: make or fetch every picture of `download.sources`, with an index of their origins."""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from styleblend.config.sources import Download
from styleblend.data import forgotten, sources
from styleblend.stages.entry import Config, run

REASONS = 5


def download(
    out: Path, cfg: Download, state: Path = Path(".state"), without: forgotten.Forgotten | None = None
) -> pd.DataFrame:
    """Fill `out`, but for what is to be forgotten; a run that was killed goes on from what it left in `state`.

    Raises:
        StyleBlendError: a folder source is missing or holds no picture.
    """
    index = sources.gather(cfg, out, state, without or forgotten.Forgotten())
    for name, rows in index.groupby("source"):
        taken = rows[rows["refused"].isna()]
        print(f"download: {name}: {len(taken)} pictures of {taken['person'].nunique()} named persons")
        if missed := len(rows) - len(taken):
            reasons = rows["refused"].value_counts()
            named = "; ".join(f"{count} times: {reason}" for reason, count in reasons.head(REASONS).items())
            print(f"download: {name}: {missed} files not taken ({named}): align names each in the quarantine")
    return index


def main(given: argparse.Namespace, cfg: Config) -> None:
    """Stage download: make or fetch every picture of `download.sources`, with an index of their origins."""
    without = None if given.forgotten is None else forgotten.read(given.forgotten)
    download(given.out, cfg.download, without=without)


if __name__ == "__main__":
    run("download", main, "out", optional=("forgotten",))
