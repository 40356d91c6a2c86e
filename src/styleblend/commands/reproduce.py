"""`styleblend reproduce`: train a version again from what made it, or check its files."""

from __future__ import annotations

import signal
import sys
from argparse import ArgumentParser, Namespace, _SubParsersAction

from styleblend.config.params import load_params


def add_parser(commands: _SubParsersAction[ArgumentParser], common: ArgumentParser) -> None:
    """Add the subcommand with its options."""
    add = commands.add_parser(
        "reproduce", parents=[common], help="train a version again from what made it; exit code 1 if it is not the same"
    )
    add.add_argument("version", help="alias or number")
    add.add_argument("--quick", action="store_true", help="train nothing: check the version's model by its dvc.lock")
    add.set_defaults(run=run)


def run(given: Namespace) -> None:
    """Print whether the version is the same again; exit code 1 if not."""
    from styleblend.experiments import reproduce

    # As an exception, the signal ends the child processes and removes the worktree.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    track = load_params(given.params).tracking
    if given.quick:
        outcome = reproduce.verify(track, given.version)
    else:
        outcome = reproduce.reproduce(given.params.parent, track, given.version)
    print(outcome.text)
    if not outcome.same:
        sys.exit(1)
