"""Ablations as DVC experiments: one change of params.yaml at a time, trained and evaluated, and a table of all."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from styleblend.config.merge import merged
from styleblend.config.params import parse_params
from styleblend.errors import StyleBlendError
from styleblend.experiments import overriding
from styleblend.experiments.guard import guarded
from styleblend.reporting.figures import KEY_FIGURES, with_interval
from styleblend.reporting.table import markdown
from styleblend.system.atomic import whole_file
from styleblend.system.hashes import fingerprint
from styleblend.system.lock import only_one

VARIANTS = Path("presets/ablations/variants.yaml")
FULL = "full"
KEPT = Path(".state/ablate/dvc.lock")
"""dvc.lock of before, while variants run."""
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
    own: dict[str, Any] = merged(dict(values), plan.shared)
    # What a variant is compared with is its base: it differs from that in one thing.
    for changes in (plan.variants[variant.against].set, variant.set):
        own = merged(own, changes)
    parse_params(own, f"variant {name}")
    return own


def dvc_experiment(project: Path, name: str, lock: int) -> None:
    """Train and evaluate params.yaml as it stands, as a DVC experiment; nothing is registered.

    Whatever ends this process ends the training with it.

    Args:
        lock: open file that DVC inherits: a lock on it holds for as long as DVC lives.
    Raises:
        StyleBlendError: DVC failed; its lines are on the screen.
    """
    dvc = [sys.executable, "-m", "dvc", "exp"]
    # DVC keeps the names of experiments apart; what an older one of this name gave is in its cache all the same.
    subprocess.run([*dvc, "remove", name], cwd=project, capture_output=True, check=False)
    with guarded(project, [*dvc, "run", "--name", name, "evaluate"], lock) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
        code = process.wait()
    if code:
        raise StyleBlendError(f"experiment {name} failed, the lines above say why; start again to go on from there")


def ablate(
    project: Path,
    names: Sequence[str],
    run: Callable[[Path, str, int], None] = dvc_experiment,
) -> Path:
    """Train and evaluate the variants that have no result yet, then write reports/ablations.md.

    A result belongs to its settings and to the code: one of others is made anew. At the end params.yaml, dvc.lock and
    the pipeline's outputs are as they were; what a killed run left is put back at the next start.

    Args:
        names: variants to run; all if empty. The table shows every variant that has a result.
        run: makes reports/metrics.json from params.yaml, as an experiment of the given name; its last argument is the
            open file of the project's lock.
    Raises:
        StyleBlendError: an unknown variant, one that fails, or a project in which somebody else is at work.
    """
    plan = read_plan(project / VARIANTS)
    unknown = [name for name in names if name not in plan.variants]
    if unknown:
        raise StyleBlendError(f"there is no variant '{unknown[0]}': choose from {', '.join(plan.variants)}")
    with only_one(project, "styleblend ablate") as lock:
        if line := overriding.restore(project):
            print(f"ablate: {line}")
        found = _train_missing(project, plan, names, lambda name: run(project, name, lock))
    report = project / "reports/ablations.md"
    with whole_file(report) as partial:
        partial.write_text(table(plan, found))
    return report


def _train_missing(
    project: Path, plan: Plan, names: Sequence[str], run: Callable[[str], None]
) -> dict[str, dict[str, Any]]:
    """The results of all variants that have one, after those of `names` (all if empty) that had none were run."""
    values = yaml.safe_load((project / "params.yaml").read_text())
    wanted = {name: settings(values, plan, name) for name in plan.variants}
    # With changed code it is DVC that knows whether anything has to run again.
    keys = {
        name: fingerprint(project / "src", json.dumps(own, sort_keys=True, default=str)) for name, own in wanted.items()
    }
    files = {name: project / "reports/ablations" / f"{name}.json" for name in wanted}
    stored = {name: json.loads(file.read_text()) for name, file in files.items() if file.exists()}
    found = {name: result for name, result in stored.items() if result.get("key") == keys[name]}
    missing = [name for name in wanted if name not in found and (not names or name in names)]
    if missing or (project / KEPT).is_file():
        with _outputs_kept(project):
            for name in missing:
                print(f"ablate: {name}: {plan.variants[name].change}", flush=True)
                with overriding.replaced(project, wanted[name]):
                    run(f"ablation-{name.replace('_', '-')}")
                found[name] = {"key": keys[name], **_results(project / "reports")}
                with whole_file(files[name]) as partial:
                    partial.write_text(json.dumps(found[name], indent=1) + "\n")
    return {name: found[name] for name in wanted if name in found}


@contextmanager
def _outputs_kept(project: Path) -> Iterator[None]:
    """The block may run other settings; then dvc.lock and the pipeline's outputs are again those of before."""
    lock, kept = project / "dvc.lock", project / KEPT
    text = lock.read_text() if lock.is_file() else ""
    # One that a killed run left is still right if the pipeline has registered nothing else since.
    if not kept.is_file() or _registered(kept.read_text()) != _registered(text):
        with whole_file(kept) as partial:
            partial.write_text(text)
    before = kept.read_text()
    try:
        yield
    finally:
        if before:
            with whole_file(lock) as partial:
                partial.write_text(before)
        if not before or not _checked_out(project):
            print("ablate: data/ and reports/ hold results of a variant: run `dvc repro` for the pipeline's own")
        # Last: who is killed before finds it again.
        kept.unlink()


def _registered(lock: str) -> Any:
    """What the text of a dvc.lock says about the stage `register`, which no ablation runs."""
    return ((yaml.safe_load(lock) or {}).get("stages") or {}).get("register")


def _checked_out(project: Path) -> bool:
    """Bring the outputs of dvc.yaml, and nothing else, from DVC's cache. False where it has not all of them."""
    command = [sys.executable, "-m", "dvc", "checkout", "--quiet", "--force", "dvc.yaml"]
    return subprocess.run(command, cwd=project, check=False).returncode == 0


def _results(reports: Path) -> dict[str, Any]:
    """What an evaluation has left: `metrics` by name, and `groups`, one row a figure and pose group."""
    groups = pd.read_csv(reports / "evaluate/groups.csv")
    return {
        "metrics": json.loads((reports / "metrics.json").read_text()),
        "groups": groups.to_dict("records"),
    }


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
    rows = {
        name: [
            with_interval(each[key], each[f"{key}_low"], each[f"{key}_high"]) if key in each else ""
            for key, _ in figures
        ]
        for name, each in shown.items()
    }
    return _markdown(["variant", *(words for _, words in figures)], rows)


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
        heads = [
            f"{low} and more" if high == "up" else f"{low} to {high}"
            for low, high in (limits[group] for group in groups)
        ]
        rows = {
            name: [
                with_interval(each[g]["value"], each[g]["low"], each[g]["high"]) if g in each else "" for g in groups
            ]
            for name, each in cells.items()
        }
        lines += ["", f"{words}:", *_markdown(["variant", *heads], rows)]
    return lines


def _markdown(heads: Sequence[str], rows: Mapping[str, Sequence[str]]) -> list[str]:
    return ["", markdown(heads, [[name, *cells] for name, cells in rows.items()])]
