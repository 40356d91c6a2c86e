"""Retraining under Prefect. flows/flow.py is the flow, and dvc.yaml the pipeline that it runs.

python flows/retrain.py            run it once
python flows/retrain.py --serve    run it on the schedule of params.yaml, when photographs change, and on demand
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

from styleblend.config.params import load_params
from styleblend.errors import StyleBlendError
from styleblend.system import environment

PROJECT = Path(__file__).resolve().parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--serve", action="store_true", help="stay, and run when it is time; needs PREFECT_API_URL")
    parser.add_argument("--project", type=Path, default=PROJECT, help="folder with dvc.yaml and params.yaml")
    given = parser.parse_args()
    project = given.project.resolve()
    environment.settle(project)
    _set_up_prefect()
    # Imported once Prefect is set up; it takes seconds, too.
    import schedule
    from flow import retrain

    try:
        if given.serve:
            schedule.serve(retrain, project)
            return
        load_params(project / "params.yaml")
    except StyleBlendError as error:
        sys.exit(f"retrain: {error}")
    # Prefect's own server for this run ends when Python exits, but not when a signal ends Python.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    state = retrain(project, return_state=True)
    if not state.is_completed():
        sys.exit(f"retrain: {state.message}")


def _set_up_prefect() -> None:
    """Prefect reads the environment when it is imported. Its records stay in the project, and nothing is reported."""
    home = Path(os.environ.setdefault("PREFECT_HOME", str(PROJECT / ".state" / "prefect")))
    # Prefect makes the folder itself, but not the one above it.
    home.mkdir(parents=True, exist_ok=True)
    # On a busy machine its server takes longer to start than the 20 s that it is given.
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "180")
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("DO_NOT_TRACK", "1")


if __name__ == "__main__":
    main()
