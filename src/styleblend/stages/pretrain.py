"""Stage `pretrain` (frozen): makes this project's own small networks again, from rendered faces alone."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from styleblend.pretraining.recipe import pretrain
from styleblend.stages.entry import Config, run
from styleblend.system.files import fingerprint


def main(given: argparse.Namespace, cfg: Config) -> None:
    """Stage `pretrain` (frozen): makes this project's own small networks again, from rendered faces alone.

    Git holds its output, so DVC runs it only after `dvc unfreeze pretrain`. `out` gets each network with a card, which
    states its accuracy on people whom no network has learned from.

    Progress is kept in .state/pretrain-<fingerprint of the settings>: the same command goes on where a killed one
    stopped.
    """
    # Two threads a process gain nothing on small pictures; run the stage on a larger machine to gain time.
    torch.set_num_threads(1)
    name = fingerprint(cfg.pretrain.model_dump_json(), cfg.model.model_dump_json())
    pretrain(cfg.pretrain, cfg.model, Path(".state") / f"pretrain-{name}", given.out)


if __name__ == "__main__":
    run("pretrain", main, "out")
