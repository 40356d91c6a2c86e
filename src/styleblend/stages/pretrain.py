"""Stage `pretrain` (frozen): makes this project's own small networks again, from rendered faces alone."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from styleblend import config
from styleblend.files import fingerprint
from styleblend.stages.entry import run
from styleblend.training.pretraining import pretrain


def main() -> None:
    """Arguments: where to write, and where to keep what an interrupted run can continue from."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--state", type=Path, default=Path(".state"))
    args = parser.parse_args()
    settings = config.load(args.params)
    # Two threads a process gain nothing on small pictures; run the stage on a larger machine to gain time.
    torch.set_num_threads(1)
    name = fingerprint(settings.pretrain.model_dump_json(), settings.model.model_dump_json())
    pretrain(settings.pretrain, settings.model, args.state / f"pretrain-{name}", args.out)


if __name__ == "__main__":
    run("pretrain", main)
