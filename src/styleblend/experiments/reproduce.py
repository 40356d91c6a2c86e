"""Making a registered version again from what it was made with, and saying whether the same came out.

The code comes from git, the settings and DVC's lock from the version, the data from DVC's cache. All of it meets in a
git worktree below .state/, which is removed at the end; nothing else of the project is touched, DVC's cache and
MLflow's records neither.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import load_file

from styleblend.config.tracking import Tracking
from styleblend.errors import StyleBlendError
from styleblend.registry import lineage, versions
from styleblend.reporting import comparison
from styleblend.system.hashes import sha256

TRAINING = ("train_encoder", "finetune_decoder")
EVALUATION = "evaluate"
SWAPPER = "data/models/swapper"
WEIGHTS = "swapper.safetensors"
_TERM_SECONDS = 20
_SHOWN = 8
_DECISIVE = ("numpy", "torch")
"""Packages whose version decides the sums: named first."""


@dataclass(frozen=True)
class Outcome:
    """Whether the same came out, and the lines that say so to a person."""

    same: bool
    text: str


def verify(track: Tracking, reference: str) -> Outcome:
    """Whether the version's model is the one that its dvc.lock names; nothing is trained.

    Raises:
        StyleBlendError: there is no such version, or it was registered without a dvc.lock.
    """
    version = versions.find_version(track, reference)
    with tempfile.TemporaryDirectory() as scratch:
        record = versions.fetch_record(track, version.version, Path(scratch) / "record")
        recorded = _hashes(_lock(record, version), "outs", ("finetune_decoder",)).get(SWAPPER)
        found = lineage.dvc_md5(record / versions.SWAPPER)
    if recorded == found:
        return Outcome(True, f"version {version.version}: its model is the one that its dvc.lock names, {found}")
    return Outcome(
        False, f"version {version.version}: not the same: its dvc.lock names a model {recorded}, it holds {found}"
    )


def reproduce(project: Path, track: Tracking, reference: str) -> Outcome:
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
        with _worktree(project, revision, record) as tree:
            _bring_data(tree, lock)
            began = time.monotonic()
            for stage in TRAINING:
                _repeat(tree, stage)
            seconds = time.monotonic() - began
            lines = [f"version {version.version} of revision {revision[:12]}, trained again in {seconds:.0f} s"]
            weights = [folder / WEIGHTS for folder in (record / versions.SWAPPER, tree / SWAPPER)]
            hashes = [sha256(file) for file in weights]
            if hashes[0] == hashes[1]:
                lines.append(f"the same, bit for bit: {WEIGHTS} has the sha256 {hashes[0]} again")
                return Outcome(True, "\n".join(lines))
            lines += ["not the same:", *difference(*weights), *_causes(record, tree, lock), ""]
            lines.append(_figures(tree, record, version))
            return Outcome(False, "\n".join(lines))


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
    """The commit that the version was made at, which this clone has.

    Raises:
        StyleBlendError: it is unknown, did not hold all of the code, or is not here.
    """
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
    if _git(project, "cat-file", "-e", f"{revision}^{{commit}}").returncode:
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


@contextmanager
def _worktree(project: Path, revision: str, record: Path) -> Iterator[Path]:
    """A checkout of the project at a revision with the version's settings and lock; gone when the block ends.

    One at a time. What a killed run left behind is removed first.
    """
    state = (project / ".state" / "reproduce").resolve()
    state.mkdir(parents=True, exist_ok=True)
    tree = state / "worktree"
    with (state / "lock").open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StyleBlendError(f"another version is being reproduced in {project.resolve()}: wait for it") from None
        try:
            _remove(project, tree)
            # Hooks are for a person's checkout: DVC's would bring the data of all stages.
            added = _git(project, "-c", "core.hooksPath=/dev/null", "worktree", "add", "--detach", str(tree), revision)
            if added.returncode:
                raise StyleBlendError(f"git could not check out {revision}: {' '.join(added.stderr.split())}")
            inside = tree / _git(project, "rev-parse", "--show-prefix").stdout.strip()
            _prepare(project, inside, record)
            yield inside
        finally:
            _remove(project, tree)


def _remove(project: Path, tree: Path) -> None:
    if tree.exists():
        _git(project, "worktree", "remove", "--force", "--force", str(tree))
        shutil.rmtree(tree, ignore_errors=True)
    _git(project, "worktree", "prune")


def _prepare(project: Path, tree: Path, record: Path) -> None:
    """Settings, lock and DVC's cache; runs are recorded in a store that goes with the worktree."""
    params = yaml.safe_load((record / lineage.PARAMS).read_text())
    params["tracking"] = {**params.get("tracking", {}), "uri": "sqlite:///mlflow.db"}
    (tree / lineage.PARAMS).write_text(yaml.safe_dump(params, sort_keys=False))
    shutil.copyfile(record / lineage.LOCK, tree / lineage.LOCK)
    # Where the project's own remotes and their passwords stand, if it has any.
    private = project / ".dvc" / "config.local"
    if private.is_file():
        shutil.copyfile(private, tree / ".dvc" / "config.local")
    asked = subprocess.run(
        [sys.executable, "-m", "dvc", "cache", "dir"], cwd=project, capture_output=True, text=True, check=False
    )
    if asked.returncode:
        raise StyleBlendError(f"DVC does not say where its cache is: {' '.join(asked.stderr.split())}")
    _dvc(tree, "cache", "dir", "--local", str((project / asked.stdout.strip()).resolve()))


def _bring_data(tree: Path, lock: Mapping[str, Any]) -> None:
    """Put what training and evaluation read into the worktree: from the cache, a remote, or made again.

    Raises:
        StyleBlendError: none of these works.
    """
    stages = (*TRAINING, EVALUATION)
    others = tuple(name for name in lock["stages"] if name not in stages)
    read = _hashes(lock, "deps", stages)
    makers = {name: [path for path in _hashes(lock, "outs", (name,)) if path in read] for name in others}
    wanted = sorted(path for paths in makers.values() for path in paths)
    if not wanted or _dvc(tree, "checkout", *wanted) == 0 or _dvc(tree, "pull", *wanted) == 0:
        return
    print("the data is in no cache: making it again", flush=True)
    if _dvc(tree, "repro", "--no-commit", *(name for name, paths in makers.items() if paths)):
        raise StyleBlendError(
            "the data that the version learned from is neither in DVC's cache nor in a remote, and could not be made "
            "again; the lines above say why"
        )


def _repeat(tree: Path, stage: str) -> None:
    """Run one stage whatever DVC remembers of it, and let DVC remember nothing of this run."""
    if _dvc(tree, "repro", "--single-item", "--force", "--no-commit", stage):
        raise StyleBlendError(f"stage {stage} failed in the version's own checkout; the lines above say why")


def _causes(record: Path, tree: Path, lock: Mapping[str, Any]) -> list[str]:
    """What was not as it was then: inputs of the training by DVC's hashes, and installed packages."""
    lines = []
    now = yaml.safe_load((tree / lineage.LOCK).read_text())
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


def _figures(tree: Path, record: Path, version: versions.Version) -> str:
    """The metrics of both, side by side."""
    _repeat(tree, EVALUATION)
    before = comparison.Contender(
        title=f"version {version.version}",
        facts=version.tags,
        swapper=record / versions.SWAPPER,
        evaluation=record / "evaluate",
        metrics=json.loads((record / "metrics.json").read_text()),
    )
    again = replace(
        before,
        title="made again",
        swapper=tree / SWAPPER,
        evaluation=tree / "reports/evaluate",
        metrics=json.loads((tree / "reports/metrics.json").read_text()),
    )
    return comparison.figures(before, again)


def _hashes(lock: Mapping[str, Any], side: str, stages: tuple[str, ...]) -> dict[str, str]:
    """Path to DVC's hash of the `deps` or `outs` of some stages."""
    known = (lock["stages"].get(stage, {}) for stage in stages)
    return {entry["path"]: str(entry.get("md5")) for stage in known for entry in stage.get(side, [])}


def _some(names: list[str], between: str = ", ") -> str:
    more = f"{between}and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return between.join(names[:_SHOWN]) + more


def _git(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *arguments], cwd=project, capture_output=True, text=True, check=False)


def _dvc(tree: Path, *arguments: str) -> int:
    """Run DVC on the worktree's own code; whatever ends this process ends the stage with it."""
    paths = {
        "PATH": [str(Path(sys.executable).parent), os.environ.get("PATH", "")],
        "PYTHONPATH": [str(tree / "src"), os.environ.get("PYTHONPATH", "")],
    }
    own = {name: os.pathsep.join(part for part in parts if part) for name, parts in paths.items()}
    command = [sys.executable, "-m", "dvc", *arguments]
    # A session of its own: one signal reaches DVC, the stage and its workers.
    with subprocess.Popen(command, cwd=tree, env=os.environ | own, start_new_session=True) as process:
        try:
            return process.wait()
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process and all it started, first kindly."""
    for sign, patience in ((signal.SIGTERM, _TERM_SECONDS), (signal.SIGKILL, None)):
        try:
            os.killpg(process.pid, sign)
        except ProcessLookupError:
            return
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            continue
