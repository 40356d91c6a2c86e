"""Stage train_encoder (paper, section 3): E, the SBM and the pathway learn; the decoder's synthesis is frozen."""

from __future__ import annotations

import argparse
from pathlib import Path

from styleblend import config
from styleblend.stages.entry import run
from styleblend.training.stage import train_stage


def train_encoder(cfg: config.Config, splits: Path, faces: Path, perceived: Path, networks: Path, out: Path) -> None:
    """Train from the pretrained encoder and decoder; begins the pipeline's run in MLflow.

    Raises:
        StyleBlendError: an input is missing or does not fit, or training collapsed for good.
    """
    train_stage(
        "train_encoder",
        cfg,
        splits=splits,
        faces=faces,
        perceived=perceived,
        networks=networks,
        out=out,
        encoder=None,
        parent_run_id=None,
    )


def main() -> None:
    """Parse arguments and run the stage."""
    parser = argparse.ArgumentParser(prog="styleblend train_encoder", description=__doc__)
    for name in ("splits", "faces", "perceived", "networks", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    given = parser.parse_args()
    train_encoder(config.load(given.params), given.splits, given.faces, given.perceived, given.networks, given.out)


if __name__ == "__main__":
    run("train_encoder", main)
