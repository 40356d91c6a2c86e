"""The door of every stage: arguments, params.yaml checked as a whole, and a user's mistake as one line."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from styleblend.config.params import Config, load_params
from styleblend.errors import StyleBlendError, TransientError


def run(name: str, main: Callable[[argparse.Namespace, Config], object], *paths: str) -> None:
    """Run a stage with the paths of its command line and the settings of params.yaml.

    A StyleBlendError ends the process with its one line and exit code 1, or 75 (EX_TEMPFAIL of sysexits.h) where the
    same may succeed later.

    Args:
        main: takes the parsed arguments and all settings.
        paths: names of required options that take a path, without their dashes.
    """
    parser = argparse.ArgumentParser(prog=f"styleblend {name}", description=main.__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="settings (default: %(default)s)")
    for path in paths:
        parser.add_argument(f"--{path}", type=Path, required=True)
    given = parser.parse_args()
    try:
        main(given, load_params(given.params))
    except TransientError as error:
        print(f"styleblend {name}: {error}", file=sys.stderr)
        sys.exit(os.EX_TEMPFAIL)
    except StyleBlendError as error:
        sys.exit(f"styleblend {name}: {error}")
