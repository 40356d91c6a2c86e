"""Ablations: one change of params.yaml at a time, trained and evaluated in isolated runs, and a table of all."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from styleblend.config.merge import merged
from styleblend.config.params import parse_params
from styleblend.errors import StyleBlendError
from styleblend.experiments import isolated_run
from styleblend.reporting.figures import KEY_FIGURES, with_interval
from styleblend.reporting.table import markdown
from styleblend.system.files import fingerprint, whole_file
from styleblend.system.lock import only_one

VARIANTS = Path("presets/ablations/variants.yaml")
FULL = "full"
BY_YAW = ("id_similarity_source", "pose_error_deg", "psnr_true_swap_db")
"""Figures that are shown by yaw."""


class Variant(BaseModel):
    """One row of the table."""

    model_config = ConfigDict(extra="forbid")

    change: str
    set: dict[str, Any] = Field(description="what it sets in params.yaml")
    paper: str | None = Field(None, description="what the paper reports; None where it is silent")
    figure: str | None = Field(None, description="key of metrics.json that should get worse")
    worse: Literal["up", "down"] = "up"
    against: str = Field(FULL, description="the variant that it is compared with")
    by_yaw: bool = Field(False, description="shown in the tables by the target's yaw, too")


class Plan(BaseModel):
    """presets/ablations/variants.yaml."""

    model_config = ConfigDict(extra="forbid")

    shared: dict[str, Any]
    variants: dict[str, Variant]


def read_plan(file: Path) -> Plan:
    """The variants to train.

    Raises:
        StyleBlendError: the file is missing or says something that is not known, or no variant is `full`.
    """
    try:
        plan = Plan.model_validate(yaml.safe_load(file.read_text()))
    except FileNotFoundError:
        raise StyleBlendError(f"{file} is missing: it names the variants") from None
    except (ValidationError, yaml.YAMLError) as error:
        raise StyleBlendError(f"{file} is not in order: {' '.join(str(error).split())[:300]}") from None
    for name, variant in plan.variants.items():
        if variant.against not in plan.variants:
            raise StyleBlendError(f"{file} has no variant '{variant.against}': {name} is compared with it")
    return plan


def settings(values: Mapping[str, Any], plan: Plan, name: str) -> dict[str, Any]:
    """params.yaml of a variant, checked.

    Raises:
        StyleBlendError: the variant sets an unknown key or a value out of range.
    """
    variant = plan.variants[name]
    own = dict(values)
    # What a variant is compared with is its base: it differs from that in one thing.
    for changes in (plan.shared, plan.variants[variant.against].set, variant.set):
        own = merged(own, changes)
    parse_params(own, f"variant {name}")
    return own


def train(folder: Path, name: str, lock: int) -> None:
    """Train and evaluate the settings of an isolated run of a variant; nothing is registered.

    Raises:
        StyleBlendError: DVC failed; its lines are on the screen.
    """
    if isolated_run.run_dvc(folder, "repro", "evaluate", lock=lock):
        raise StyleBlendError(f"variant {name} failed, the lines above say why; start again to go on from there")


def ablate(project: Path, names: Sequence[str], run: Callable[[Path, str, int], None] = train) -> Path:
    """Train and evaluate the variants that have no result yet, then write reports/ablations.md.

    A result belongs to its settings and to the code: one of others is made anew. Variants run in isolated runs: the
    project's params.yaml, dvc.lock and other outputs are left alone.

    Args:
        names: variants to run; all if empty. The table shows every variant that has a result.
        run: makes reports/metrics.json and reports/evaluate from params.yaml in a folder, for a variant; its last
            argument is the open file of the project's lock.
    Raises:
        StyleBlendError: an unknown variant, one that fails, or another process that holds the project.
    """
    plan = read_plan(project / VARIANTS)
    unknown = [name for name in names if name not in plan.variants]
    if unknown:
        raise StyleBlendError(f"there is no variant '{unknown[0]}': choose from {', '.join(plan.variants)}")
    with only_one(project, "styleblend ablate") as lock:
        found = _train_missing(project, plan, names, lock, run)
    report = project / "reports/ablations.md"
    with whole_file(report) as partial:
        partial.write_text(table(plan, found))
    return report


def _train_missing(
    project: Path, plan: Plan, names: Sequence[str], lock: int, run: Callable[[Path, str, int], None]
) -> dict[str, dict[str, Any]]:
    """The results of all variants that have one, after those of `names` (all if empty) that had none were run."""
    values = yaml.safe_load((project / "params.yaml").read_text())
    wanted = {name: settings(values, plan, name) for name in plan.variants}
    # With changed code it is DVC that knows whether anything has to run again.
    texts = {name: json.dumps(own, sort_keys=True, default=str) for name, own in wanted.items()}
    keys = {name: fingerprint(project / "src", text) for name, text in texts.items()}
    files = {name: project / "reports/ablations" / f"{name}.json" for name in wanted}
    stored = {name: json.loads(file.read_text()) for name, file in files.items() if file.exists()}
    found = {name: result for name, result in stored.items() if result.get("key") == keys[name]}
    for name in wanted:
        if name not in found and (not names or name in names):
            print(f"ablate: {name}: {plan.variants[name].change}", flush=True)
            with isolated_run.working_copy(project, "ablate", wanted[name]) as folder:
                run(folder, name, lock)
                found[name] = {"key": keys[name], **_results(folder / "reports")}
            with whole_file(files[name]) as partial:
                partial.write_text(json.dumps(found[name], indent=1) + "\n")
    return {name: found[name] for name in wanted if name in found}


def _results(reports: Path) -> dict[str, Any]:
    """What an evaluation has left: `metrics` by name, and `groups`, one row a figure and pose group."""
    groups = pd.read_csv(reports / "evaluate/groups.csv")
    return {"metrics": json.loads((reports / "metrics.json").read_text()), "groups": groups.to_dict("records")}


def verdict(variant: Variant, own: Mapping[str, Any], full: Mapping[str, Any]) -> str:
    """Whether the variant's figure is worse than the full model's, as far as their 95 % intervals tell."""
    name = variant.figure
    if name is None:
        return ""
    apart = own[f"{name}_low"] > full[f"{name}_high"] or own[f"{name}_high"] < full[f"{name}_low"]
    if not apart:
        return f"{name}: no clear difference"
    worse = (own[name] > full[name]) == (variant.worse == "up")
    return f"{name}: {'worse' if worse else 'better'}"


def table(plan: Plan, found: Mapping[str, Mapping[str, Any]]) -> str:
    """The report in Markdown: every figure with its 95 % interval, what the paper says and what was seen.

    Args:
        found: of each variant with a result: its `metrics` and its `groups`
    """
    lines = [
        "# Ablations",
        "",
        "One change at a time; `styleblend ablate` trains what is missing and writes this file. Each cell is a mean",
        "over the test pairs with its 95 % interval. A figure counts as worse or better where the intervals of the two",
        "lie apart, which is a careful rule: one run a variant, one seed.",
        "",
        f"Settings of all: `{json.dumps(plan.shared)}` on top of params.yaml.",
    ]
    for base in dict.fromkeys(plan.variants[name].against for name in found):
        own = {name: each["metrics"] for name, each in found.items() if plan.variants[name].against == base}
        shown = ({base: found[base]["metrics"]} if base in found else {}) | own
        lines += ["", f"## Against `{base}`", *_figures(shown), *_verdicts(plan, own, found)]
    by_yaw = {name: each["groups"] for name, each in found.items() if plan.variants[name].by_yaw}
    if by_yaw:
        lines += _by_yaw(by_yaw)
    missing = [name for name in plan.variants if name not in found]
    if missing:
        lines += ["", f"Not run yet: {', '.join(missing)}."]
    return "\n".join(lines) + "\n"


def _figures(shown: Mapping[str, Mapping[str, Any]]) -> list[str]:
    figures = [(name, words) for name, words, _ in KEY_FIGURES if any(name in each for each in shown.values())]
    rows = {name: [_cell(each, key, f"{key}_low", f"{key}_high") for key, _ in figures] for name, each in shown.items()}
    return _markdown(["variant", *(words for _, words in figures)], rows)


def _cell(values: Mapping[str, Any], mean: str, low: str, high: str) -> str:
    return with_interval(values[mean], values[low], values[high]) if mean in values else ""


def _verdicts(plan: Plan, own: Mapping[str, Any], found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    rows = {}
    for name in own:
        variant = plan.variants[name]
        base = found.get(variant.against)
        seen = verdict(variant, own[name], base["metrics"]) if base else f"{variant.against} is not there yet"
        rows[name] = [variant.change, variant.paper or "nothing", seen]
    return _markdown(["variant", "change", "the paper says", "seen here"], rows)


def _by_yaw(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    lines = ["", "## By yaw of the target, in degrees to either side"]
    for key in BY_YAW:
        words = next(words for name, words, _ in KEY_FIGURES if name == key)
        cells = {name: {row["group"]: row for row in rows if row["figure"] == key} for name, rows in found.items()}
        # Names as in protocol.groups: yaw_0_20, yaw_40_up.
        limits = {group: group.split("_")[1:] for each in cells.values() for group in each}
        groups = sorted(limits, key=lambda group: float(limits[group][0]))
        ends = [limits[group] for group in groups]
        heads = [f"{low} and more" if high == "up" else f"{low} to {high}" for low, high in ends]
        rows = {
            name: [_cell(each.get(group, {}), "value", "low", "high") for group in groups]
            for name, each in cells.items()
        }
        lines += ["", f"{words}:", *_markdown(["variant", *heads], rows)]
    return lines


def _markdown(heads: Sequence[str], rows: Mapping[str, Sequence[str]]) -> list[str]:
    return ["", markdown(heads, [[name, *cells] for name, cells in rows.items()])]
