"""Stage download: make or fetch every picture of `download.sources`, with an index of their origins."""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from styleblend import config
from styleblend.data import sources
from styleblend.stages.entry import run


def download(out: Path, cfg: config.Download, state: Path = Path(".state")) -> pd.DataFrame:
    """Fill `out`; a run that was killed goes on from what it left in `state`.

    Raises:
        StyleBlendError: a folder source is missing, empty or unreadable.
    """
    index = sources.gather(cfg, out, state)
    for name, rows in index.groupby("source"):
        print(f"download: {name}: {len(rows)} pictures of {rows['person'].nunique()} named persons")
    return index


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    download(given.out, config.load(given.params).download)


if __name__ == "__main__":
    run("download", main)
