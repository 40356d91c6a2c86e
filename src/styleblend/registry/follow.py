"""The model behind an alias, kept current while a program runs: set the alias in MLflow and the program follows.

    with LiveModel(cfg.tracking, bending.load, cfg.follow) as live:
        loaded = live.current                   # read it once a request: model and version belong together
        picture = swap(source, target, loaded.model)
        print(loaded.name)                      # "styleblend version 3"

To roll back, set the alias back.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Self, TypeVar

from styleblend.config.product import Follow
from styleblend.config.tracking import Tracking
from styleblend.errors import StyleBlendError
from styleblend.registry import mlflow_store, versions

_log = logging.getLogger(__name__)
_PATIENCE_S = 5.0

Model = TypeVar("Model")


@dataclass(frozen=True)
class LoadedVersion(Generic[Model]):
    """A loaded model and the version that it came from."""

    model: Model
    version: versions.Version

    @property
    def name(self) -> str:
        """As in marks and answers: `styleblend version 3`."""
        return self.version.title


@dataclass(frozen=True)
class Provisional(Generic[Model]):
    """What serves until a version has the alias."""

    model: Model
    name: str


class LiveModel(Generic[Model]):
    """Polls the registry for the version that has an alias, and loads another version when the alias moves.

    The old version serves until the new one is loaded, and whoever read `current` before keeps it. If a version cannot
    be loaded, the alias is gone or the registry does not answer, the old one stays in use and the log gets one line.
    """

    def __init__(
        self,
        track: Tracking,
        load: Callable[[Path], Model],
        cfg: Follow,
        kept: Path = Path(".state/versions"),
        provisional: Provisional[Model] | None = None,
    ) -> None:
        """Args:
        load: makes a model from a version's folder, as `perception.bending.load` does; runs in another thread.
        kept: folder where fetched versions stay, so that going back needs no download.
        provisional: serves as long as no version has the alias; None makes that an error.
        """
        # The current folder may change while the program runs.
        self._track = mlflow_store.resolved(track)
        self._load = load
        self._cfg = cfg
        self._kept = kept.resolve()
        self._in_use: LoadedVersion[Model] | None = None
        self._provisional = provisional
        self._complaint = ""
        self._refreshing = threading.Lock()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._watch, name=f"follow-{cfg.alias}", daemon=True)

    def __enter__(self) -> Self:
        """Load the first version, then follow in the background.

        Raises:
            StyleBlendError: no version has the alias, or it cannot be loaded.
        """
        try:
            self.refresh()
        except mlflow_store.NoVersion:
            if self._provisional is None:
                raise
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Stop following; a version that is just being loaded is not waited for long."""
        self._closing.set()
        self._thread.join(_PATIENCE_S)

    @property
    def current(self) -> LoadedVersion[Model] | Provisional[Model]:
        """What is used now. Take it once for a piece of work and keep it until that is done."""
        if self._in_use is None:
            if self._provisional is not None:
                return self._provisional
            raise StyleBlendError("no model is loaded yet: enter the `with` block first")
        return self._in_use

    def refresh(self) -> bool:
        """Ask now, and take over another version if there is one; for a webhook, or who will not wait.

        Returns:
            whether the model in use changed.
        Raises:
            StyleBlendError: the registry cannot be asked or the version not be loaded; the old one stays in use.
        """
        with self._refreshing:
            wanted = versions.alias_holder(self._track, self._cfg.alias)
            if self._in_use is not None and wanted.identity == self._in_use.version.identity:
                return False
            replacement = LoadedVersion(self._load(versions.kept_version(self._track, wanted, self._kept)), wanted)
            before, self._in_use = self._in_use, replacement
        _log.info("using %s%s", replacement.name, f" in place of version {before.version.version}" if before else "")
        return True

    def _watch(self) -> None:
        while not self._closing.wait(self._cfg.every_s):
            try:
                self.refresh()
            except mlflow_store.NoVersion as error:
                # Nothing new where the provisional model serves; else the alias was taken away.
                if self._in_use is not None:
                    self._complain(error)
            # Whatever a new version brings with it, the program goes on with the old one.
            except Exception as error:
                self._complain(error)
            else:
                self._complaint = ""

    def _complain(self, error: Exception) -> None:
        complaint = f"still using {self.current.name}: {' '.join(str(error).split()) or repr(error)}"
        if complaint != self._complaint:
            _log.warning("%s", complaint)
        self._complaint = complaint
