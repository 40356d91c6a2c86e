"""Stage perceive: what the frozen networks see in each face, once, for training and evaluation to read."""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
import torch

from styleblend.config.data import Perceive
from styleblend.data.perceived import perceive_folder
from styleblend.stages.entry import Config, run


def perceive(faces: Path, networks: Path, out: Path, cfg: Perceive, state: Path = Path(".state")) -> pd.DataFrame:
    """Write the table `out`, one row a face; on a GPU if there is one. Rows are kept in `state` for the next run.

    Raises:
        StyleBlendError: a network, the manifest or a face's picture is missing or damaged.
    """
    has_gpu = torch.cuda.is_available() if cfg.ray_address is None else cfg.gpus_per_worker > 0
    device = "cuda" if has_gpu else "cpu"
    table = perceive_folder(faces, networks, out, cfg, device, state)
    print(f"perceive: {len(table)} faces")
    return table


def main(given: argparse.Namespace, cfg: Config) -> None:
    """Stage perceive: what the frozen networks see in each face, once, for training and evaluation to read."""
    perceive(given.faces, given.networks, given.out, cfg.perceive)


if __name__ == "__main__":
    run("perceive", main, "faces", "networks", "out")
