"""A registered version made again, in an isolated run that leaves the project alone, and whether it is the same.

The code comes from git, the settings and DVC's lock from the version, the data from DVC's cache.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import load_file

from styleblend.config.tracking import Tracking
from styleblend.errors import StyleBlendError
from styleblend.experiments import isolated_run
from styleblend.registry import lineage, versions
from styleblend.reporting import comparison
from styleblend.system.files import sha256
from styleblend.system.lock import hold

TRAINING = ("train_encoder", "finetune_decoder")
EVALUATION = "evaluate"
SWAPPER = "data/models/swapper"
WEIGHTS = "swapper.safetensors"
_SHOWN = 8
_DECISIVE = ("numpy", "torch")
"""Packages whose version decides the sums: named first."""


@dataclass(frozen=True)
class Verdict:
    """Whether the same came out, and the lines that say so."""

    same: bool
    text: str


Dvc = Callable[..., int]
"""Runs DVC in the version's own checkout, with these arguments, and returns its exit code."""


def verify(track: Tracking, reference: str) -> Verdict:
    """Whether the version's model is the one that its dvc.lock names; nothing is trained.

    Raises:
        StyleBlendError: there is no such version, or it was registered without a dvc.lock.
    """
    version = versions.find_version(track, reference)
    with tempfile.TemporaryDirectory() as scratch:
        record = versions.fetch_record(track, version.version, Path(scratch) / "record")
        recorded = _hashes(_lock(record, version), "outs", ("finetune_decoder",)).get(SWAPPER)
        found = lineage.dvc_md5(record / versions.SWAPPER)
    text = f"its model is the one that its dvc.lock names, {found}"
    if recorded != found:
        text = f"not the same: its dvc.lock names a model {recorded}, it holds {found}"
    return Verdict(recorded == found, f"version {version.version}: {text}")


def reproduce(project: Path, track: Tracking, reference: str) -> Verdict:
    """Train the version again from its own revision, settings and data, and compare.

    Args:
        project: folder with dvc.yaml, in a git clone; DVC's lines go to the screen.
    Raises:
        StyleBlendError: what made the version is not known or not here, or a stage failed.
    """
    version = versions.find_version(track, reference)
    revision = _revision(project, version)
    with tempfile.TemporaryDirectory() as scratch:
        record = versions.fetch_record(track, version.version, Path(scratch) / "record")
        lock = _lock(record, version)
        params = yaml.safe_load((record / lineage.PARAMS).read_text())
        # Runs are recorded in a store that goes with the checkout.
        params["tracking"] = {**params.get("tracking", {}), "uri": "sqlite:///mlflow.db"}
        _bring_origins(project, track, params, Path(scratch))
        holder = f"styleblend reproduce (process {os.getpid()}) is at work"
        with (
            hold(project / ".state" / "reproduce.lock", holder, project.resolve()) as held,
            isolated_run.at_revision(project, "reproduce", revision, params, record / lineage.LOCK) as folder,
        ):
            dvc = partial(isolated_run.run_dvc, folder, lock=held)
            _bring_data(dvc, lock)
            began = time.monotonic()
            for stage in TRAINING:
                _repeat(dvc, stage)
            seconds = time.monotonic() - began
            lines = [f"version {version.version} of revision {revision[:12]}, trained again in {seconds:.0f} s"]
            weights = [folder / WEIGHTS for folder in (record / versions.SWAPPER, folder / SWAPPER)]
            hashes = [sha256(file) for file in weights]
            if hashes[0] == hashes[1]:
                lines.append(f"the same, bit for bit: {WEIGHTS} has the sha256 {hashes[0]} again")
                return Verdict(True, "\n".join(lines))
            lines += ["not the same:", *difference(*weights), *_causes(record, folder, lock), ""]
            lines.append(_figures(dvc, folder, record, version))
            return Verdict(False, "\n".join(lines))


def difference(recorded: Path, again: Path) -> list[str]:
    """How far the weights of two safetensors files are apart, in a line or two."""
    first, second = load_file(recorded), load_file(again)
    fitting = [name for name in first if name in second and first[name].shape == second[name].shape]
    unmatched = sorted((first.keys() | second.keys()) - set(fitting))
    filled = [name for name in fitting if first[name].numel()]
    gaps = {name: float((first[name].double() - second[name].double()).abs().max()) for name in filled}
    lines = []
    if unmatched:
        lines.append(f"{len(unmatched)} tensors have no counterpart of their size: {_some(unmatched)}")
    if gaps:
        worst = max(gaps, key=lambda name: gaps[name])
        apart = sum(gap != 0 for gap in gaps.values())
        lines.append(f"largest weight difference {gaps[worst]:.3g}, in {worst}; {apart} of {len(gaps)} tensors differ")
    return lines


def _revision(project: Path, version: versions.Version) -> str:
    """The commit that the version was made at; an error if it did not hold all of the code, or is not here."""
    name = f"version {version.version}"
    revision = version.tags.get("git_revision", lineage.UNKNOWN)
    changes = version.tags.get("git_changes", lineage.UNKNOWN)
    # Older versions say it in the revision itself.
    if revision.endswith("-dirty"):
        revision, changes = revision.removesuffix("-dirty"), "which were not recorded"
    if revision == lineage.UNKNOWN:
        raise StyleBlendError(f"{name} was made outside git: its code is with the version, but not what is around it")
    if changes != lineage.NONE:
        raise StyleBlendError(
            f"{name} was made with changes that git does not have ({changes}): commit first, then train, to get a "
            "version that can be made again"
        )
    if not isolated_run.has_commit(project, revision):
        raise StyleBlendError(f"{name} was made at revision {revision}, which is not in this clone: fetch it with git")
    return revision


def _lock(record: Path, version: versions.Version) -> Mapping[str, Any]:
    missing = [name for name in (lineage.PARAMS, lineage.LOCK) if not (record / name).is_file()]
    if missing:
        raise StyleBlendError(
            f"version {version.version} was registered without {' and '.join(missing)}: only `dvc repro` records them"
        )
    lock: Mapping[str, Any] = yaml.safe_load((record / lineage.LOCK).read_text())
    return lock


def _bring_origins(project: Path, track: Tracking, params: dict[str, Any], scratch: Path) -> None:
    """What a stage went on from (continue_from), in a place that the checkout reaches: its registry is empty."""
    for stage in TRAINING:
        named = params.get(stage, {}).get("continue_from")
        if named is None:
            continue
        if str(named).isdecimal():
            place = versions.fetch_version(track, str(named), scratch / f"origin-{stage}")
        else:
            place = (project / str(named)).resolve()
        if not place.exists():
            raise StyleBlendError(f"the version went on from {named}, which is not here: bring it back to {place}")
        params[stage]["continue_from"] = str(place)


def _bring_data(dvc: Dvc, lock: Mapping[str, Any]) -> None:
    """Put what training and evaluation read into the worktree: from the cache, a remote, or made again."""
    stages = (*TRAINING, EVALUATION)
    others = tuple(name for name in lock["stages"] if name not in stages)
    read = _hashes(lock, "deps", stages)
    makers = {name: [path for path in _hashes(lock, "outs", (name,)) if path in read] for name in others}
    wanted = sorted(path for paths in makers.values() for path in paths)
    if not wanted or dvc("checkout", *wanted) == 0 or dvc("pull", *wanted) == 0:
        return
    print("the data is in no cache: making it again", flush=True)
    if dvc("repro", "--no-commit", *(name for name, paths in makers.items() if paths)):
        raise StyleBlendError(
            "the data that the version learned from is neither in DVC's cache nor in a remote, and could not be made "
            "again; the lines above say why"
        )


def _repeat(dvc: Dvc, stage: str) -> None:
    """Run one stage whatever DVC remembers of it, and let DVC remember nothing of this run."""
    if dvc("repro", "--single-item", "--force", "--no-commit", stage):
        raise StyleBlendError(f"stage {stage} failed in the version's own checkout; the lines above say why")


def _causes(record: Path, folder: Path, lock: Mapping[str, Any]) -> list[str]:
    """What was not as it was then: inputs of the training by DVC's hashes, and installed packages."""
    lines = []
    now = yaml.safe_load((folder / lineage.LOCK).read_text())
    before, after = (_hashes(each, "deps", TRAINING) for each in (lock, now))
    made = _hashes(lock, "outs", TRAINING)
    changed = sorted(path for path in before if path not in made and before[path] != after.get(path))
    if changed:
        lines.append(f"inputs that differ: {_some(changed)}")
    file = record / lineage.ENVIRONMENT
    if file.is_file():
        then, here = lineage.packages(file.read_text()), lineage.packages(lineage.environment())
        moved = [
            f"{name} {then.get(name, 'absent')}, now {here.get(name, 'absent')}"
            for name in sorted(then.keys() | here.keys(), key=lambda name: (name not in _DECISIVE, name))
            if then.get(name) != here.get(name)
        ]
        if moved:
            lines.append(f"packages that differ: {_some(moved, '; ')}")
    if not lines:
        lines.append("inputs and packages are the same: what remains is the machine and the order of its sums")
    return lines


def _figures(dvc: Dvc, folder: Path, record: Path, version: versions.Version) -> str:
    """The metrics of both, side by side."""
    _repeat(dvc, EVALUATION)
    places = (
        (f"version {version.version}", record / versions.SWAPPER, record),
        ("made again", folder / SWAPPER, folder / "reports"),
    )
    before, again = (
        comparison.Contender(
            title, version.tags, swapper, reports / "evaluate", json.loads((reports / "metrics.json").read_text())
        )
        for title, swapper, reports in places
    )
    return comparison.figures(before, again)


def _hashes(lock: Mapping[str, Any], side: str, stages: tuple[str, ...]) -> dict[str, str]:
    """Path to DVC's hash of the `deps` or `outs` of some stages."""
    known = (lock["stages"].get(stage, {}) for stage in stages)
    return {entry["path"]: str(entry.get("md5")) for stage in known for entry in stage.get(side, [])}


def _some(names: list[str], between: str = ", ") -> str:
    more = f"{between}and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return between.join(names[:_SHOWN]) + more
