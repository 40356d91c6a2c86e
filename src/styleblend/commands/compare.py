"""`styleblend compare`: the figures of two versions side by side, and swaps of both on the same faces."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace, _SubParsersAction
from pathlib import Path

from styleblend.config.params import load_params
from styleblend.errors import StyleBlendError


def add_parser(commands: _SubParsersAction[ArgumentParser], common: ArgumentParser) -> None:
    """Add the subcommand with its options."""
    add = commands.add_parser("compare", parents=[common], help="two versions side by side: figures and swaps")
    add.add_argument("first", nargs="?", default="candidate", help="alias or number (default: %(default)s)")
    add.add_argument("second", nargs="?", default="champion", help="alias or number (default: %(default)s)")
    picture = Path("reports/comparison.png")
    add.add_argument("-o", "--output", type=Path, default=picture, help="picture to write (default: %(default)s)")
    add.set_defaults(run=run)


def run(given: Namespace) -> None:
    """Print the table and write the picture."""
    from styleblend import provenance
    from styleblend.provenance import credentials
    from styleblend.reporting import comparison

    provenance.picture_format(given.output)
    cfg = load_params(given.params)
    track, signing = cfg.tracking, credentials.of(cfg.provenance)
    with comparison.contender(track, given.first) as first, comparison.contender(track, given.second) as second:
        if first.title == second.title:
            raise StyleBlendError(f"'{given.first}' and '{given.second}' are both {first.title}: name two versions")
        print(comparison.table(first, second))
        comparison.picture(first, second, given.output, signing)
    print(f"\n{given.output} shows both on the same faces; the alias champion chooses the one to be used")
