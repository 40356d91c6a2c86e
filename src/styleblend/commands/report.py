"""`styleblend report`: what the last run made, in a few lines."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace, _SubParsersAction
from pathlib import Path


def add_parser(commands: _SubParsersAction[ArgumentParser], common: ArgumentParser) -> None:
    """Add the subcommand."""
    add = commands.add_parser("report", parents=[common], help="what the last run made, in a few lines")
    add.set_defaults(run=run)


def run(given: Namespace) -> None:
    """Print what the last run made, its main figures and where its files are."""
    from styleblend.reporting.summary import closing_lines

    print(closing_lines(Path("reports")))
