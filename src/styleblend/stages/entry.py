"""The entry of every stage: arguments, params.yaml checked as a whole, a user's mistake as one line, and a record.

Where STYLEBLEND_RUN names a run, as the retraining flow does, the stage keeps a record of its state for that run in
.state/stages/<stage>.json. A record of another run is never mistaken for one of this.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from styleblend.config.params import Config, load_params
from styleblend.errors import StyleBlendError, TransientError
from styleblend.system.atomic import whole_file

RUN = "STYLEBLEND_RUN"
"""Variable of the environment with the id of the run that the stage belongs to."""
_RECORDS = Path(".state/stages")


@dataclass(frozen=True)
class Record:
    """State of a stage in a run: `message` is its line for the user; `may_pass`: the same may succeed later."""

    stage: str
    run: str
    began_ns: int
    status: Literal["running", "finished", "failed"] = "running"
    message: str = ""
    may_pass: bool = True


def records(project: Path, run: str) -> list[Record]:
    """Records of the stages that have begun in a run, in the order in which they began."""
    found = (Record(**json.loads(file.read_text())) for file in (project / _RECORDS).glob("[!.]*.json"))
    return sorted((record for record in found if record.run == run), key=lambda record: record.began_ns)


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
    record = Record(name, os.environ.get(RUN, ""), time.time_ns())
    _keep(record)
    try:
        main(given, load_params(given.params))
    except StyleBlendError as error:
        line, may_pass = f"styleblend {name}: {error}", isinstance(error, TransientError)
        _keep(replace(record, status="failed", message=line, may_pass=may_pass))
        print(line, file=sys.stderr)
        sys.exit(os.EX_TEMPFAIL if may_pass else 1)
    except BaseException:
        _keep(replace(record, status="failed"))
        raise
    _keep(replace(record, status="finished"))


def _keep(record: Record) -> None:
    if record.run:
        with whole_file(_RECORDS / f"{record.stage}.json") as partial:
            partial.write_text(json.dumps(asdict(record)))
