"""Stage evaluate: every metric of the model, of the baselines and of the true swap on the written test pairs."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from styleblend.config.evaluation import Evaluate
from styleblend.config.provenance import Provenance
from styleblend.config.tracking import Tracking
from styleblend.evaluation import benchmark
from styleblend.provenance import credentials
from styleblend.registry import lineage, outbox, runs
from styleblend.reporting import alarms, comparison, evaluation_report
from styleblend.reporting.report_page import NAME, Beside
from styleblend.stages.entry import Config, run
from styleblend.system.files import fingerprint, whole_file
from styleblend.system.parallel import cores
from styleblend.training import record

MOST_THREADS = 8
"""Small pictures keep no more busy."""


def evaluate(
    inputs: benchmark.Inputs, out: Path, metrics_file: Path, cfg: Evaluate, track: Tracking, provenance: Provenance
) -> dict[str, Any]:
    """Measure, write the report folder `out` and the flat `metrics_file`, and log both to MLflow.

    Returns:
        the content of metrics_file: numbers, the names of the networks that measured them, and of alarms.
    """
    signing = credentials.of(provenance)
    result = benchmark.run(inputs, cfg)
    training = record.read(inputs.swapper)
    on = alarms.found(result.flat, training)
    flat = result.flat | alarms.figures(on)
    with comparison.earlier(track) as earlier:
        beside = Beside(on, training, earlier, _made_with(inputs))
        warnings = evaluation_report.write(result, out, signing, beside)
    with whole_file(metrics_file) as partial:
        partial.write_text(json.dumps(flat, indent=1) + "\n")
    parent = json.loads((inputs.swapper / "run.json").read_text())["parent_run_id"]
    key = fingerprint(inputs.swapper, inputs.splits, cfg.model_dump_json())
    with runs.child_run(track, parent, "evaluate", key, cfg.model_dump()) as child:
        child.log_metrics({name: value for name, value in flat.items() if not isinstance(value, str)})
        child.set_tags({name: value for name, value in flat.items() if isinstance(value, str)})
        child.log_artifact(out, "evaluate")
    methods = len(result.measured)
    print(f"evaluate: {len(result.pairs)} pairs, {methods} methods; {out}/{NAME} shows them")
    for line in (*(f"ALARM, {text}" for text in on.values()), *warnings):
        print(f"evaluate: {line}")
    return flat


def _made_with(inputs: benchmark.Inputs) -> dict[str, str]:
    changed = lineage.changed_code(Path())
    return {
        "commit": lineage.git_revision(Path()),
        "changed since the commit": lineage.UNKNOWN if changed is None else ", ".join(changed) or lineage.NONE,
        "training": str(json.loads((inputs.swapper / "model.json").read_text()).get("fingerprint", lineage.UNKNOWN)),
    }


def main(given: argparse.Namespace, cfg: Config) -> None:
    """Stage evaluate: every metric of the model, of the baselines and of the true swap on the written test pairs."""
    inputs = benchmark.Inputs(
        given.splits, given.faces, given.perceived, given.networks, given.swapper, cfg.download.sources,
        # Not among the stage's params in dvc.yaml: another start makes another swapper, which is among its deps.
        cfg.train_encoder.encoder_start,
    )  # fmt: skip
    outbox.deliver(cfg.tracking, print)
    # OMP_NUM_THREADS is for stages of several processes; this is one.
    torch.set_num_threads(min(cores(), MOST_THREADS))
    evaluate(inputs, given.out, given.metrics, cfg.evaluate, cfg.tracking, cfg.provenance)


if __name__ == "__main__":
    run("evaluate", main, "splits", "faces", "perceived", "networks", "swapper", "out", "metrics")
