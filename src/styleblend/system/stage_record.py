"""What a stage says of itself while it runs, for the retraining flow: the console is for people.

Where STYLEBLEND_RUN names a run, each stage keeps a record of its state for that run in .state/stages/<stage>.json. A
record of another run is never mistaken for one of this.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from styleblend.system.files import whole_file

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


def keep(record: Record) -> None:
    """Write the record; nothing where no run is named."""
    if record.run:
        with whole_file(_RECORDS / f"{record.stage}.json") as partial:
            partial.write_text(json.dumps(asdict(record)))
