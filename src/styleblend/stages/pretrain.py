"""Stage `pretrain` (frozen): makes this project's own small networks again, from rendered faces alone."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from styleblend.pretraining.recipe import pretrain
from styleblend.stages.entry import run
from styleblend.system.files import fingerprint

if TYPE_CHECKING:
    from styleblend.config.params import Config


def main(given: argparse.Namespace, cfg: Config) -> None:
    """Stage `pretrain` (frozen): makes this project's own small networks again, from rendered faces alone."""
    # Two threads a process gain nothing on small pictures; run the stage on a larger machine to gain time.
    torch.set_num_threads(1)
    name = fingerprint(cfg.pretrain.model_dump_json(), cfg.model.model_dump_json())
    pretrain(cfg.pretrain, cfg.model, Path(".state") / f"pretrain-{name}", given.out)


if __name__ == "__main__":
    run("pretrain", main, "out")
