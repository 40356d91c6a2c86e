"""Stage train_encoder (paper, section 3): E, the SBM and the pathway learn; the decoder's synthesis is frozen."""

from __future__ import annotations

import argparse
from pathlib import Path

from styleblend.stages.entry import Config, run
from styleblend.training.stage import train_stage


def train_encoder(cfg: Config, splits: Path, faces: Path, perceived: Path, networks: Path, out: Path) -> None:
    """Train from the pretrained encoder and decoder; begins the pipeline's run in MLflow.

    `out` gets the model folder that finetune_decoder goes on from: the averaged weights, the discriminator, the history
    of the probes, and the ids of the runs.

    Raises:
        StyleBlendError: an input is missing or does not fit, or training collapsed for good.
    """
    train_stage("train_encoder", cfg, splits, faces, perceived, networks, out)


def main(given: argparse.Namespace, cfg: Config) -> None:
    """Stage train_encoder (paper, section 3): E, the SBM and the pathway learn; the decoder's synthesis is frozen."""
    train_encoder(cfg, given.splits, given.faces, given.perceived, given.networks, given.out)


if __name__ == "__main__":
    run("train_encoder", main, "splits", "faces", "perceived", "networks", "out")
