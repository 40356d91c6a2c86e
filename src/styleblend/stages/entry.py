"""The entry of every stage: arguments, params.yaml checked as a whole, a user's mistake as one line, and a record."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from styleblend.config.params import Config as Config
from styleblend.config.params import load_params
from styleblend.errors import StyleBlendError, TransientError, printable_anywhere
from styleblend.system import environment
from styleblend.system.process import end_with_dvc
from styleblend.system.stage_record import RUN, Record, keep


def run(
    name: str, main: Callable[[argparse.Namespace, Config], object], *paths: str, optional: Sequence[str] = ()
) -> None:
    """Run a stage with the paths of its command line and the settings of params.yaml.

    A StyleBlendError ends the process with its one line and exit code 1, or 75 (EX_TEMPFAIL of sysexits.h) where the
    same may succeed later.

    Args:
        main: takes the parsed arguments and all settings.
        paths: names of required options that take a path, without their dashes. optional: of those that may be left
            out, and are None then.
    """
    printable_anywhere()
    parser = argparse.ArgumentParser(prog=f"styleblend {name}", description=main.__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="settings (default: %(default)s)")
    for path in paths:
        parser.add_argument(f"--{path}", type=Path, required=True)
    for path in optional:
        parser.add_argument(f"--{path}", type=Path)
    given = parser.parse_args()
    end_with_dvc()
    environment.settle(Path())
    record = Record(name, os.environ.get(RUN, ""), time.time_ns())
    keep(record)
    try:
        main(given, load_params(given.params))
    except StyleBlendError as error:
        line, may_pass = f"styleblend {name}: {error}", isinstance(error, TransientError)
        keep(replace(record, status="failed", message=line, may_pass=may_pass))
        print(line, file=sys.stderr)
        sys.exit(os.EX_TEMPFAIL if may_pass else 1)
    except BaseException:
        keep(replace(record, status="failed"))
        raise
    keep(replace(record, status="finished"))
