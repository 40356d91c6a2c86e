"""Stage finetune_decoder (paper, section 3): the decoder learns with a small rate; E and the SBM are frozen."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from styleblend.errors import StyleBlendError
from styleblend.stages.entry import Config, run
from styleblend.training.stage import train_stage


def finetune_decoder(
    cfg: Config, splits: Path, faces: Path, perceived: Path, networks: Path, encoder: Path, out: Path
) -> None:
    """Go on from the model folder `encoder` of stage train_encoder, in the same pipeline run.

    Raises:
        StyleBlendError: an input is missing or does not fit, or training collapsed for good.
    """
    try:
        parent_run_id: str = json.loads((encoder / "run.json").read_text())["parent_run_id"]
    except (OSError, ValueError, KeyError) as error:
        raise StyleBlendError(f"{encoder}/run.json cannot be read ({error}): run train_encoder first") from None
    train_stage("finetune_decoder", cfg, splits, faces, perceived, networks, out, encoder, parent_run_id)


def main(given: argparse.Namespace, cfg: Config) -> None:
    """Stage finetune_decoder (paper, section 3): the decoder learns with a small rate; E and the SBM are frozen."""
    finetune_decoder(cfg, given.splits, given.faces, given.perceived, given.networks, given.encoder, given.out)


if __name__ == "__main__":
    run("finetune_decoder", main, "splits", "faces", "perceived", "networks", "encoder", "out")
