"""`styleblend check`: whether params.yaml is valid and the folders that it names are there."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace, _SubParsersAction

from styleblend.config.params import load_params
from styleblend.errors import StyleBlendError


def add_parser(commands: _SubParsersAction[ArgumentParser], common: ArgumentParser) -> None:
    """Add the subcommand."""
    add = commands.add_parser("check", parents=[common], help="check params.yaml and the folders that it names")
    add.set_defaults(run=run)


def run(given: Namespace) -> None:
    """Check the settings, and count the pictures in their folders."""
    from styleblend.data.folders import present
    from styleblend.weights.weight_files import store_of

    cfg, project = load_params(given.params), given.params.parent
    for line in present(cfg.download, project):
        print(f"check: {line}")
    if not (project / cfg.download.origin).exists():
        raise StyleBlendError(f"download.origin {cfg.download.origin} does not exist: name what the pictures come from")
    store_of(cfg.pretrained, project=project)
    if cfg.retrain.webhook and "${" not in cfg.retrain.webhook:
        print(
            f"check: retrain.webhook stands in {given.params}, which git and every version keep: if its address is a "
            "secret, put that part into the environment and name it as ${NAME}"
        )
    print(f"check: {given.params} is in order")
