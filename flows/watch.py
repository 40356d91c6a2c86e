"""The watcher of photographs: starts a retraining once they have changed and come to rest.

Folders of photographs, and archives, are compared by the names, sizes and times of their files; one that `dvc import`
or `dvc import-url` brought is brought up to date first. What only lies in a DVC remote is not looked at.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from styleblend.config.params import Config, load_params
from styleblend.config.retraining import Retrain
from styleblend.config.sources import Download
from styleblend.data.folders import list_pictures
from styleblend.errors import StyleBlendError, TransientError
from styleblend.system import dvc
from styleblend.system.files import whole_file
from styleblend.system.lock import Locked, only_one

log = logging.getLogger("retrain.watch")


def snapshot(folder: Path) -> str | None:
    """A text that changes when a picture below the folder is added, removed, renamed or written, or an archive is.

    Returns:
        None where there is no picture at all: a disk that is not mounted is no reason to train.
    """
    digest = hashlib.sha256()
    try:
        for place in [Path()] if folder.is_file() else list_pictures(folder):
            facts = (folder / place).stat()
            digest.update(os.fsencode(f"{place}\0{facts.st_size}\0{facts.st_mtime_ns}\n"))
    except FileNotFoundError:
        # Removed between listing and looking: the next look tells.
        return f"in motion at {time.monotonic()}"
    except StyleBlendError:
        return None
    return digest.hexdigest()


def imports(project: Path, cfg: Download) -> list[Path]:
    """The .dvc files of folders of photographs that DVC can bring up to date from elsewhere."""
    places = {*cfg.places, cfg.origin}
    files = [project / place.parent / f"{place.name}.dvc" for place in sorted(places)]
    return [file for file in files if file.is_file() and "deps" in yaml.safe_load(file.read_text())]


def update(project: Path, file: Path) -> None:
    """Bring an import up to date; downloads nothing and touches nothing where nothing is new.

    Raises:
        TransientError: another DVC is at work, or the import's origin does not answer.
    """
    try:
        dvc.says(project, "update", "--quiet", str(file))
    except StyleBlendError as error:
        # DVC does not tell a network that is away from a place that is gone.
        raise TransientError(f"{file.name} could not be brought up to date: {error}") from error


@dataclass
class Changes:
    """Which state of each folder a run has been started for, and since when the present one holds.

    A folder that was never seen is no change: a run for it is a person's to start.
    """

    known: dict[str, str]
    _seen: dict[str, str] = field(default_factory=dict)
    _since: float = 0

    def settled(self, now: Mapping[str, str], seconds: float, clock: float) -> bool:
        """Whether the folders differ from what is known, and have been as they are for so many seconds."""
        if now != self._seen:
            self._seen, self._since = dict(now), clock
        for folder, state in now.items():
            self.known.setdefault(folder, state)
        differ = any(self.known[folder] != state for folder, state in now.items())
        return differ and clock - self._since >= seconds


def watch(project: Path, start: Callable[[], None], adopt: Callable[[Retrain], None]) -> None:
    """Look at the folders of params.yaml for ever, and call `start` when they have changed and come to rest.

    Settings are read anew at each look, and `adopt` gets them. A failure is logged, and the next look tries again.
    Changes that were made while nobody watched count, too: what a run was started for is kept in .state.
    """
    file = _file(project)
    changes = Changes(json.loads(file.read_text()) if file.is_file() else {})
    asked = time.monotonic()
    while True:
        seconds = 60.0
        try:
            cfg = load_params(project / "params.yaml")
            seconds = cfg.retrain.watch_seconds or seconds
            if cfg.retrain.watch_upstream_seconds and time.monotonic() - asked > cfg.retrain.watch_upstream_seconds:
                asked = time.monotonic()
                _update(project, cfg.download)
            if cfg.retrain.watch_seconds:
                _look(project, cfg, changes, start)
            adopt(cfg.retrain)
        except StyleBlendError as error:
            log.warning("%s; next look in %.0f s", error, seconds)
        except Exception:  # A watcher that died unseen would be worse than any of its failures.
            log.exception("could not look for changes, next try in %.0f s", seconds)
        time.sleep(seconds)


def _look(project: Path, cfg: Config, changes: Changes, start: Callable[[], None]) -> None:
    folders = {str(folder) for folder in cfg.download.places}
    found = {folder: state for folder in folders if (state := snapshot(project / folder)) is not None}
    before = dict(changes.known)
    if changes.settled(found, cfg.retrain.settle_seconds, time.monotonic()):
        print(f"retrain: the photographs in {', '.join(sorted(folders))} have changed", flush=True)
        start()
        changes.known |= found
    if changes.known != before:
        with whole_file(_file(project)) as partial:
            partial.write_text(json.dumps(changes.known))


def _update(project: Path, cfg: Download) -> None:
    files = imports(project, cfg)
    if not files:
        return
    try:
        # DVC is busy while a run is at work, and a run must not see its data change.
        with only_one(project, "an update of imported photographs"):
            for file in files:
                update(project, file)
    except Locked:
        return
    except TransientError as error:
        log.warning("%s", error)


def _file(project: Path) -> Path:
    return project / ".state" / "retrain" / "watched.json"
