"""`styleblend ablate`: train and evaluate variants of the model with one change each."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace, _SubParsersAction
from pathlib import Path


def add_parser(commands: _SubParsersAction[ArgumentParser], common: ArgumentParser) -> None:
    """Add the subcommand, which reads the params.yaml of the current folder."""
    add = commands.add_parser(
        "ablate", help="train variants with one change each, and compare them; can be interrupted"
    )
    add.add_argument("names", nargs="*", metavar="VARIANT", help="of presets/ablations/variants.yaml; none: all")
    add.set_defaults(run=run)


def run(given: Namespace) -> None:
    """Run the variants that have no result yet, and write the table."""
    from styleblend.experiments import ablations

    print(f"ablate: {ablations.ablate(Path(), given.names)}")
