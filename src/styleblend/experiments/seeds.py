"""The spread between runs: the same settings trained with several seeds, in isolated runs, on the same test pairs.

A bootstrap interval says how a figure would move with other pairs; it knows nothing of how it would move with another
training run. Seeds of data, splits and evaluation stay: only both training stages are drawn anew.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from styleblend.config.merge import merged
from styleblend.config.params import parse_params
from styleblend.errors import StyleBlendError
from styleblend.experiments import isolated_run
from styleblend.reporting.figures import KEY_FIGURES, labelled
from styleblend.reporting.table import markdown
from styleblend.system.files import fingerprint, whole_file
from styleblend.system.lock import only_one

_STAGES = ("train_encoder", "finetune_decoder")
_FEWEST = 2

Run = Callable[[Path, int, int], None]
"""Makes reports/metrics.json from params.yaml in a folder, for a seed; the last argument is the project's lock."""


def train(folder: Path, seed: int, lock: int) -> None:
    """Train and evaluate the settings of an isolated run; nothing is registered.

    Raises:
        StyleBlendError: DVC failed; its lines are on the screen.
    """
    if isolated_run.run_dvc(folder, "repro", "evaluate", lock=lock):
        raise StyleBlendError(f"seed {seed} failed, the lines above say why; start again to go on from there")


def over_seeds(project: Path, count: int, run: Run = train) -> Path:
    """Train and evaluate with the settings' own seed and those that follow it, then write reports/seeds.md and .json.

    A seed that has a result of the same settings and code is not run again, so a killed command goes on.

    Raises:
        StyleBlendError: fewer than two seeds, settings that are not in order, a run that fails, or another process
            that holds the project.
    """
    if count < _FEWEST:
        raise StyleBlendError(f"--seeds is {count}: a spread needs {_FEWEST} runs or more")
    values = yaml.safe_load((project / isolated_run.PARAMS).read_text())
    cfg = parse_params(values, str(project / isolated_run.PARAMS), project)
    first = cfg.train_encoder.seed
    found: dict[int, dict[str, Any]] = {}
    with only_one(project, "styleblend evaluate --seeds") as lock:
        for seed in range(first, first + count):
            # The settings' own run is the first, even where its stages have different seeds.
            own = values if seed == first else merged(values, {stage: {"seed": seed} for stage in _STAGES})
            found[seed] = _result(project, own, seed, lock, run)
    spread = spreads(found)
    content = {"seeds": list(found), "figures": spread}
    for name, text in (("seeds.json", json.dumps(content, indent=1) + "\n"), ("seeds.md", table(spread, list(found)))):
        with whole_file(project / "reports" / name) as partial:
            partial.write_text(text)
    return project / "reports/seeds.md"


def _result(project: Path, settings: Mapping[str, Any], seed: int, lock: int, run: Run) -> dict[str, Any]:
    """The stored metrics of a seed, or those of a new run."""
    key = fingerprint(project / "src", json.dumps(settings, sort_keys=True, default=str))
    file = project / "reports/seeds" / f"seed_{seed}.json"
    if file.exists():
        stored: dict[str, Any] = json.loads(file.read_text())
        if stored.get("key") == key:
            return dict(stored["metrics"])
    print(f"evaluate: seed {seed}", flush=True)
    with isolated_run.working_copy(project, "seeds", settings) as folder:
        run(folder, seed, lock)
        metrics: dict[str, Any] = json.loads((folder / "reports/metrics.json").read_text())
    with whole_file(file) as partial:
        partial.write_text(json.dumps({"key": key, "metrics": metrics}, indent=1) + "\n")
    return metrics


def spreads(found: Mapping[int, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Of each of the model's figures: its values by seed, their mean, standard deviation (N - 1) and limits.

    `pairs_low` and `pairs_high` are the means of the runs' own bootstrap limits; the Frechet distance has none.
    """
    runs = list(found.values())
    names = [name for name in runs[0] if f"{name}_low" in runs[0] or name == "fid" or name.startswith("frechet_")]
    spread = {}
    for name in names:
        if all(name in each for each in runs):
            values = [float(each[name]) for each in runs]
            spread[name] = {
                "mean": float(np.mean(values)), "std": float(np.std(values, ddof=1)),
                "min": min(values), "max": max(values), "values": values,
            }  # fmt: skip
            if f"{name}_low" in runs[0]:
                limits = {end: float(np.mean([each[f"{name}_{end}"] for each in runs])) for end in ("low", "high")}
                spread[name] |= {f"pairs_{end}": limit for end, limit in limits.items()}
    return spread


def table(spread: Mapping[str, Mapping[str, Any]], seeds: list[int]) -> str:
    """The report in Markdown: the spread between runs beside the interval that other pairs would give."""
    words = {name: labelled(text, better) for name, text, better in KEY_FIGURES}
    rows = []
    for name in (*(name for name in words if name in spread), *(name for name in spread if name not in words)):
        each = spread[name]
        pairs = f"{each['pairs_low']:.3g} to {each['pairs_high']:.3g}" if "pairs_low" in each else ""
        runs = f"{each['min']:.3g} to {each['max']:.3g}"
        rows.append((words.get(name, name), f"{each['mean']:.3g}", f"{each['std']:.2g}", runs, pairs))
    heads = (
        "Figure",
        "Mean over runs",
        "Standard deviation between runs",
        "Runs",
        "95 % interval over pairs, mean of runs",
    )
    lines = [
        "# Spread between runs",
        "",
        f"`styleblend evaluate --seeds {len(seeds)}`: training seeds {', '.join(map(str, seeds))}, the same data,",
        "splits and test pairs. A difference between two models counts only where it exceeds both spreads.",
        "",
        markdown(heads, rows),
    ]
    return "\n".join(lines) + "\n"
