"""`styleblend verify`: which marks of a synthetic picture a file has."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, Namespace, _SubParsersAction
from pathlib import Path

from styleblend.errors import StyleBlendError


def add_parser(commands: _SubParsersAction[ArgumentParser], common: ArgumentParser) -> None:
    """Add the subcommand with its options; it reads no params.yaml."""
    add = commands.add_parser(
        "verify",
        help="which marks of a synthetic picture a file has; exit code 0: one at least, 1: none, 2: unreadable",
    )
    add.add_argument("picture", type=Path)
    add.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    add.add_argument("--trust", type=Path, metavar="FILE", help="PEM certificates whose signatures are trusted")
    add.set_defaults(run=run)


def run(given: Namespace) -> None:
    """Print the marks. Exit code 0: at least one; 1: none; 2: unreadable."""
    # OpenCV and c2pa take a moment to import, and most subcommands do not need them.
    from styleblend.provenance import verification

    try:
        found = verification.verify(given.picture, given.trust)
    except StyleBlendError as error:
        print(f"styleblend verify: {error}", file=sys.stderr)
        sys.exit(2)
    if given.json:
        print(json.dumps({"file": str(given.picture), **found.as_dict()}))
    else:
        first, *marks = found.lines()
        print(f"{given.picture}: {first}", *marks, sep="\n")
    sys.exit(0 if found.synthetic else 1)
