"""Stage register: a model version in MLflow with all that is needed to repeat and to judge it, behind a gate."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from styleblend.config.provenance import Provenance
from styleblend.config.registry import Register
from styleblend.config.tracking import Tracking
from styleblend.registry import outbox
from styleblend.reporting import registration
from styleblend.reporting.model_card import Inputs
from styleblend.stages.entry import Config, run
from styleblend.system.files import whole_file


def register(
    inputs: Inputs, out: Path, card: Path, cfg: Register, track: Tracking, provenance: Provenance
) -> dict[str, Any]:
    """Register the swapper, and write its model card `card` and the facts of its version, `out`.

    Returns:
        the content of `out`, see `registration.register`.
    Raises:
        StyleBlendError: the gate names a metric that was not measured.
    """
    registered = registration.register(inputs, card, cfg, track, provenance)
    with whole_file(out) as partial:
        partial.write_text(json.dumps(registered, indent=1) + "\n")
    alias, reasons = registered["alias"], registered["reasons"]
    named = f"alias {alias}" if alias else f"no alias, gate failed: {'; '.join(reasons)}"
    print(f"register: {registered['name']} version {registered['version']}, {named}")
    return registered


def main(given: argparse.Namespace, cfg: Config) -> None:
    """Stage register: a model version in MLflow with all that is needed to repeat and to judge it, behind a gate."""
    inputs = Inputs(
        given.swapper, given.evaluation, given.metrics, given.faces, given.networks, given.params, given.splits
    )
    outbox.deliver(cfg.tracking, print)
    register(inputs, given.out, given.card, cfg.register_, cfg.tracking, cfg.provenance)


if __name__ == "__main__":
    run("register", main, "swapper", "evaluation", "metrics", "faces", "networks", "out", "card", optional=("splits",))
