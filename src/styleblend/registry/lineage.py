"""What a model was made with, so that somebody can make it again: code, settings, data and installed packages."""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

import torch

from styleblend.registry.versions import PROFILE
from styleblend.system import git
from styleblend.system.files import md5, sha256

UNKNOWN = "unknown"
NONE = "none"
PARAMS, LOCK, ENVIRONMENT = "params.yaml", "dvc.lock", "environment.txt"
CODE = ("src", "dvc.yaml", "data/pretrained/small", "data/pretrained/faces")
"""What git holds and the pipeline reads, except for the settings and DVC's lock, which a version carries itself."""


@dataclass(frozen=True)
class Lineage:
    """Short facts for people, and the files that hold the whole of it, by name."""

    facts: dict[str, str]
    files: dict[str, Path]


def collect(params: Path, folder: Path) -> Lineage:
    """What the project of `params` stands at; copies of its files and the list of packages go into `folder`.

    A project outside git, as from an archive, has `unknown` for a revision; before DVC's first run it has no lock,
    and before its data were validated no profile of them.
    """
    project = params.parent
    files = {PARAMS: Path(shutil.copyfile(params, folder / PARAMS))}
    if (project / LOCK).is_file():
        files[LOCK] = Path(shutil.copyfile(project / LOCK, folder / LOCK))
    # What the data were like: the next data are compared with it, when these may be long gone.
    if (project / "reports" / PROFILE).is_file():
        files[PROFILE] = Path(shutil.copyfile(project / "reports" / PROFILE, folder / PROFILE))
    files[ENVIRONMENT] = folder / ENVIRONMENT
    files[ENVIRONMENT].write_text(environment())
    changed = changed_code(project)
    installed = packages(files[ENVIRONMENT].read_text())
    facts = {
        "git_revision": git_revision(project),
        "git_changes": UNKNOWN if changed is None else ", ".join(changed) or NONE,
        "params_sha256": sha256(files[PARAMS]),
        "dvc_lock_sha256": sha256(files[LOCK]) if LOCK in files else "none yet",
        "environment": f"Python {platform.python_version()}, torch {torch.__version__}, {len(installed)} packages",
    }
    return Lineage(facts, files)


def git_revision(project: Path) -> str:
    """The checked-out commit in 40 hex digits; `unknown` outside a repository or before its first commit."""
    done = git.run(project, "rev-parse", "--verify", "--quiet", "HEAD")
    return UNKNOWN if done.returncode else done.stdout.strip()


def git_refusal(project: Path) -> str | None:
    """Why there is no revision, in git's own words where it has some; None where there is one."""
    if git_revision(project) != UNKNOWN:
        return None
    return git.refusal(project) or "there is no commit yet"


def changed_code(project: Path) -> list[str] | None:
    """Files of CODE that are not as git's commit has them, new ones included; None where there is no git."""
    done = git.run(project, "status", "--porcelain", "--no-renames", "--untracked-files=all", "-z", "--", *CODE)
    if done.returncode:
        return None
    # What records them takes no names that are not UTF-8.
    text = done.stdout.encode(errors="surrogateescape").decode(errors="replace")
    # Each entry is two letters of status, a space, and the path.
    return sorted(entry[3:] for entry in text.split("\0") if entry)


def environment() -> str:
    """Python, platform and devices as comments, then a line `name==version` for each installed package."""
    found: dict[str, str] = {}
    for package in distributions():
        # What comes first on the path is what Python imports.
        found.setdefault(package.metadata["Name"].lower().replace("_", "-"), package.version)
    found.pop("styleblend", None)
    gpus = [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())]
    lines = [
        f"# Python {platform.python_version()} ({platform.python_implementation()})",
        f"# {platform.platform()}",
        f"# GPUs: {', '.join(gpus) or NONE}",
        *(f"{name}=={found[name]}" for name in sorted(found)),
    ]
    return "\n".join(lines) + "\n"


def packages(text: str) -> dict[str, str]:
    """Name to version, of what `environment` wrote."""
    return dict(line.split("==", 1) for line in text.splitlines() if "==" in line and not line.startswith("#"))


def dvc_md5(path: Path) -> str:
    """The MD5 by which dvc.lock knows a file, or a folder: there it is that of the sorted list of its files."""
    if path.is_file():
        return md5(path)
    names = sorted((file.relative_to(path).as_posix(), file) for file in path.rglob("*") if file.is_file())
    listed = [{"md5": md5(file), "relpath": name} for name, file in names]
    return hashlib.md5(json.dumps(listed, sort_keys=True).encode(), usedforsecurity=False).hexdigest() + ".dir"
