"""What a finished run made, in a few lines."""

from __future__ import annotations

import json
from pathlib import Path

from styleblend.errors import StyleBlendError
from styleblend.evaluation.protocol import TRUE_SWAP
from styleblend.reporting.figures import KEY_FIGURES


def closing_lines(reports: Path) -> str:
    """What a finished run made, how good it is and where to look, in a few lines.

    Raises:
        StyleBlendError: the run has not come to its end.
    """
    try:
        names = ("metrics.json", "evaluate/protocol.json", "registered.json")
        metrics, protocol, registered = (json.loads((reports / name).read_text()) for name in names)
    except FileNotFoundError as error:
        raise StyleBlendError(f"{error.filename} is missing: run `dvc repro` to its end first") from None
    alias = f", alias {registered['alias']}" if registered["alias"] else ""
    lines = [
        f"Made: {registered['name']} version {registered['version']}{alias} (gate {registered['gate']})",
        *(f"  missed: {reason}" for reason in registered["reasons"]),
        *(f"  held: {clause}" for clause in registered.get("held", [])),
        f"How good, on {int(metrics['n_pairs'])} pairs of unseen people:",
    ]
    ceiling = TRUE_SWAP in protocol["methods"]
    for name, words, _ in KEY_FIGURES:
        if name not in metrics:
            continue
        beside = [("copy of the target", f"copy_target/{name}")] + [("true swap", f"{TRUE_SWAP}/{name}")] * ceiling
        known = ", ".join(f"{label} {metrics[key]:.3g}" for label, key in beside if key in metrics)
        lines.append(f"  {words:<28} {metrics[name]:>8.3g}   ({known})")
    lines += protocol["warnings"] + protocol.get("remarks", [])
    lines.append(
        f"Look at: {reports / 'evaluate' / 'report.html'}, {reports / 'evaluate' / 'swap_grid.png'}, "
        f"{reports / 'model_card.md'}; `make ui` opens MLflow"
    )
    return "\n".join(lines)
