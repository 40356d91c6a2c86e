"""`styleblend serve`: swap over HTTP until stopped."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace, _SubParsersAction
from pathlib import Path

from styleblend.config.params import load_params
from styleblend.errors import StyleBlendError


def add_parser(commands: _SubParsersAction[ArgumentParser], common: ArgumentParser) -> None:
    """Add the subcommand with its options."""
    add = commands.add_parser(
        "serve", parents=[common], help="swap over HTTP, with a page to try it; follows the alias champion"
    )
    add.add_argument("--model", help="folder, alias or number to stay with (default: follow the alias of `follow`)")
    add.add_argument("--detector-weights", type=Path, metavar="FILE", help="file of the face detector")
    add.add_argument("--host", help="address to listen at (default: serve.host of the settings)")
    add.add_argument("--port", type=int, help="0 takes a free one (default: serve.port of the settings)")
    add.set_defaults(run=run)


def run(given: Namespace) -> None:
    """Answer requests until a signal ends it."""
    # torch and MLflow take seconds to import, and most subcommands do not need them.
    from styleblend.serving import server
    from styleblend.swapping.errors import DetectorMissing

    cfg = load_params(given.params)
    host, port = given.host or cfg.serve.host, cfg.serve.port if given.port is None else given.port
    try:
        server.run(cfg, given.model, given.detector_weights, host, port)
    except DetectorMissing as error:
        raise StyleBlendError(f"{error.problem}, or name it with --detector-weights") from None
