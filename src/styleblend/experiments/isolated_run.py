"""A working copy of the project below .state, in which DVC runs with other settings than the project's.

Nothing that runs there writes the project's params.yaml, dvc.lock or outputs: a kill leaves nothing to repair, and the
next working copy removes the last. Both share DVC's cache. A copy of the current files also shares, by links: .state,
so that a training goes on from its checkpoint, but nothing goes that the project itself made (system.kept.is_guest);
MLflow's local store; and the files that the settings name.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import yaml

from styleblend.config.merge import merged
from styleblend.config.params import Config, load_params, parse_params
from styleblend.errors import StyleBlendError
from styleblend.system import dvc as dvc_door
from styleblend.system import git
from styleblend.system.files import whole_file
from styleblend.system.process import guarded
from styleblend.weights.store import LOCK as WEIGHTS_LOCK

PARAMS, PIPELINE, LOCK = "params.yaml", "dvc.yaml", "dvc.lock"
_STATE = Path(".state")
_CONFIG = Path(".dvc/config.local")
"""Where DVC keeps a project's own remotes and their passwords, if it has any."""
_NEVER_COPIED = {
    Path(name) for name in (".git", ".venv", ".state", ".dvc/cache", ".dvc/tmp", "mlruns", "mlflow.db", "datasets")
}
_SQLITE = "sqlite:///"


def values(project: Path, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The content of params.yaml with overrides on top."""
    content: dict[str, Any] = merged(yaml.safe_load((project / PARAMS).read_text()), overrides)
    return content


def checked(project: Path, overrides: Mapping[str, Any]) -> Config:
    """The project's settings with overrides on top.

    Raises:
        ConfigError: an unknown key or a value out of range, in params.yaml or in the overrides.
    """
    cfg = load_params(project / PARAMS)
    if not overrides:
        return cfg
    return parse_params(values(project, overrides), f"{project / PARAMS} with this run's overrides", project)


@contextmanager
def working_copy(project: Path, purpose: str, settings: Mapping[str, Any]) -> Iterator[Path]:
    """A copy of the project's current files, changes that git does not have included; removed at the end.

    Inside git it is a git worktree, so that a version made there records revision and changes as the project would.

    Args:
        purpose: names the folder below .state/isolated; one working copy a purpose at a time.
        settings: content of its params.yaml. Relative paths in it are the project's.
    Raises:
        StyleBlendError: the settings are not in order, or git or DVC failed.
    """
    project = project.resolve()
    cfg = parse_params(settings, f"{project / PARAMS} with this run's settings", project)
    tracked = _listed(project, "--cached")
    listed = tracked | _listed(project, "--others", "--exclude-standard")
    if Path(PIPELINE) not in listed:
        # No git, or one of a folder around the project that ignores it.
        tracked, listed = set(), set()
    in_git = Path(PIPELINE) in tracked and not git.run(project, "rev-parse", "--verify", "HEAD").returncode
    with _place(project, purpose) as place:
        if in_git:
            _add_worktree(project, place, "HEAD", "--no-checkout")
            # git's index is then the revision's, and `git status` tells how the copied files differ from it.
            git.run(place, "reset", "--quiet")
        folder = place / _prefix(project) if in_git else place
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _STATE).symlink_to(project / _STATE)
        left_out = _NEVER_COPIED | _outputs(project) | _link(project, folder, cfg, tracked)
        _copy_files(project, folder, listed or set(_walked(project, left_out)), left_out)
        (folder / PARAMS).write_text(_dump(_absolute(settings, project)))
        _share_cache(project, folder, in_git)
        if (folder / LOCK).is_file() and (folder / ".dvc").is_dir():
            try:
                dvc_door.says(folder, "checkout", "--quiet", "--force", PIPELINE)
            except dvc_door.DvcBusy:
                raise
            except StyleBlendError:
                # What the cache lacks is made again.
                pass
        try:
            yield folder
        finally:
            # Hashes of networks that were seen for the first time.
            _bring(folder, project, WEIGHTS_LOCK)


@contextmanager
def at_revision(
    project: Path, purpose: str, revision: str, settings: Mapping[str, Any], dvc_lock: Path
) -> Iterator[Path]:
    """A git checkout of a revision with these settings and this dvc.lock, and a .state of its own; removed at the end.

    Raises:
        StyleBlendError: git or DVC failed.
    """
    project = project.resolve()
    with _place(project, purpose) as place:
        _add_worktree(project, place, revision)
        folder = place / _prefix(project)
        (folder / PARAMS).write_text(_dump(settings))
        shutil.copyfile(dvc_lock, folder / LOCK)
        _share_cache(project, folder, in_git=True)
        yield folder


def adopt(folder: Path, project: Path) -> None:
    """Make the outputs of a finished run the project's own: its dvc.lock, and what that names from DVC's cache.

    params.yaml stays, so the next `dvc repro` of the project goes back to the project's own settings.

    Raises:
        StyleBlendError: DVC could not write the outputs.
    """
    _bring(folder, project, Path(LOCK))
    dvc_door.says(project, "checkout", "--quiet", "--force", PIPELINE)


def dvc(
    folder: Path, *arguments: str, lock: int, env: Mapping[str, str] | None = None
) -> AbstractContextManager[subprocess.Popen[str]]:
    """Run DVC in a working copy, or in the project, on that folder's own code; see process.guarded."""
    paths = {
        "PATH": (Path(sys.executable).parent, os.environ.get("PATH", "")),
        "PYTHONPATH": (folder.resolve() / "src", os.environ.get("PYTHONPATH", "")),
    }
    own = {name: os.pathsep.join(str(part) for part in parts if part) for name, parts in paths.items()}
    return guarded(dvc_door.command(*arguments), folder, lock, own | dict(env or {}))


def run_dvc(folder: Path, *arguments: str, lock: int) -> int:
    """Run DVC as `dvc` does and print its lines. Returns its exit code."""
    with dvc(folder, *arguments, lock=lock) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
        return process.wait()


def has_commit(project: Path, revision: str) -> bool:
    """Whether the project's git repository has the commit.

    Raises:
        StyleBlendError: git cannot be asked.
    """
    git.expect_repository(project)
    return not git.run(project, "cat-file", "-e", f"{revision}^{{commit}}").returncode


@contextmanager
def _place(project: Path, purpose: str) -> Iterator[Path]:
    place = project / _STATE / "isolated" / purpose
    place.parent.mkdir(parents=True, exist_ok=True)
    _remove(project, place)
    try:
        yield place
    finally:
        _remove(project, place)


def _remove(project: Path, place: Path) -> None:
    # Not by git, which knows nothing of links: rmtree removes them and leaves what they point to.
    shutil.rmtree(place, ignore_errors=True)
    git.run(project, "worktree", "remove", "--force", "--force", str(place))


def _add_worktree(project: Path, place: Path, revision: str, *options: str) -> None:
    # Without hooks, which are for a person's checkout: DVC's would bring the data of all stages.
    command = ("-c", "core.hooksPath=/dev/null", "worktree", "add", "--detach")
    added = git.run(project, *command, *options, str(place), revision)
    if added.returncode:
        raise StyleBlendError(f"git could not check out {revision}: {git.words(added)}")


def _prefix(project: Path) -> str:
    """The project's folder inside its git repository; empty where it is the whole of it."""
    return git.run(project, "rev-parse", "--show-prefix").stdout.strip()


def _listed(project: Path, *options: str) -> set[Path]:
    """Files that `git ls-files` lists; none outside git."""
    return {Path(name) for name in git.run(project, "ls-files", "-z", *options).stdout.split("\0") if name}


def _outputs(project: Path) -> set[Path]:
    """Outputs of dvc.yaml that DVC keeps in its cache."""
    if not (project / PIPELINE).is_file():
        return set()
    stages = yaml.safe_load((project / PIPELINE).read_text())["stages"].values()
    entries = [entry for stage in stages for kind in ("outs", "metrics", "plots") for entry in stage.get(kind, ())]
    flat = [entry if isinstance(entry, dict) else {entry: {}} for entry in entries]
    return {Path(path) for entry in flat for path, how in entry.items() if how.get("cache", True)}


def _link(project: Path, folder: Path, cfg: Config, tracked: set[Path]) -> set[Path]:
    """Link what the settings name inside the project, except for what git has; returns the links."""
    named = {path for path in _paths(cfg.model_dump()) if (project / path).exists()}
    if cfg.tracking.uri.startswith(_SQLITE):
        # Also one that is not there yet: it is made where the link leads.
        named.add(Path(cfg.tracking.uri.removeprefix(_SQLITE)))
    inside = {path for path in named if not path.is_absolute() and ".." not in path.parts and path != Path()}
    code = {part for file in tracked for part in (file, *file.parents)}
    links: set[Path] = set()
    for path in sorted(inside - code):
        if links.isdisjoint(path.parents):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).symlink_to(project / path)
            links.add(path)
    return links


def _paths(setting: Any) -> Iterator[Path]:
    if isinstance(setting, Path):
        yield setting
    elif isinstance(setting, Mapping | list | tuple):
        for part in setting.values() if isinstance(setting, Mapping) else setting:
            yield from _paths(part)


def _absolute(setting: Any, project: Path) -> Any:
    """The same settings; paths that lead out of the project are absolute, for the copy stands elsewhere."""
    if isinstance(setting, Mapping):
        return {key: _absolute(value, project) for key, value in setting.items()}
    if isinstance(setting, list | tuple):
        return [_absolute(value, project) for value in setting]
    if isinstance(setting, str):
        scheme = _SQLITE if setting.startswith(_SQLITE) else ""
        if (path := setting.removeprefix(scheme)).startswith("../"):
            return f"{scheme}{os.path.normpath(project / path)}"
    return setting


def _copy_files(project: Path, folder: Path, files: set[Path], left_out: set[Path]) -> None:
    for path in sorted({*files, Path(LOCK)}):
        source, target = project / path, folder / path
        # git lists deleted files, too.
        if source.exists() and left_out.isdisjoint((path, *path.parents)):
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                target.symlink_to(source)
            else:
                shutil.copy2(source, target)


def _walked(project: Path, left_out: set[Path]) -> Iterator[Path]:
    for place, folders, names in os.walk(project):
        inside = Path(place).relative_to(project)
        folders[:] = [name for name in folders if name != "__pycache__" and inside / name not in left_out]
        yield from (inside / name for name in names)


def _share_cache(project: Path, folder: Path, in_git: bool) -> None:
    if not (project / ".dvc").is_dir():
        return
    if (project / _CONFIG).is_file():
        shutil.copyfile(project / _CONFIG, folder / _CONFIG)
    cache = project / dvc_door.says(project, "cache", "dir").strip()
    dvc_door.says(folder, "cache", "dir", "--local", str(cache.resolve()))
    if not in_git:
        # git ignores .state, and DVC refuses a pipeline that git ignores.
        dvc_door.says(folder, "config", "--local", "core.no_scm", "true")


def _bring(folder: Path, project: Path, path: Path) -> None:
    source, target = folder / path, project / path
    if source.is_file() and not (target.is_file() and target.read_bytes() == source.read_bytes()):
        with whole_file(target) as partial:
            shutil.copyfile(source, partial)


def _dump(settings: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True, width=110)
