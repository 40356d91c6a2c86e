"""Where pretrained networks are kept on this machine, and the lock that holds each to what it was at first use."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from styleblend.config import catalogue
from styleblend.config.base import Section
from styleblend.config.catalogue import Archive, Catalogue, Entry, Package, Sha256
from styleblend.config.pretrained import Pretrained
from styleblend.errors import StyleBlendError
from styleblend.system.files import sha256, whole_file

SMALL = Path("data/pretrained/small")
"""Networks that this project made, each with its card; git holds them."""

CACHE = Path(".state/weights")
LOCK = Path("data/pretrained/weights.lock")


class Locked(Section):
    """A line of the lock: what a file was at first use."""

    sha256: Sha256
    size_bytes: int


_LOCKED = TypeAdapter(dict[str, Locked])


@dataclass(frozen=True)
class Store:
    """Where files of the catalogue are kept and looked for.

    cache: folder of files that were obtained. lock: JSON file with the SHA-256 of those whose entry states none, as
    they were at first use. mirror: folder that is looked into before any url.
    """

    catalogue: Catalogue
    cache: Path = CACHE
    lock: Path = LOCK
    mirror: Path | None = None

    def place(self, entry: Entry) -> Path:
        """Where the network's file is, once it is there."""
        return self.cache / f"{entry.name}{entry.suffix}"

    def wanted(self, item: Entry | Archive | Package) -> str | None:
        """The SHA-256 that a file must have: stated, or recorded at first use, or not known yet.

        Raises:
            StyleBlendError: the lock is damaged.
        """
        locked = self._locked().get(_key(item))
        return item.sha256 or (locked.sha256 if locked else None)

    def record(self, item: Entry | Archive | Package, digest: str, size_bytes: int) -> None:
        """Hold a file that states no SHA-256 to this one from now on."""
        if item.sha256 is None:
            known = self._locked() | {_key(item): Locked(sha256=digest, size_bytes=size_bytes)}
            with whole_file(self.lock) as partial:
                lines = {name: line.model_dump() for name, line in sorted(known.items())}
                partial.write_text(json.dumps(lines, indent=1) + "\n")

    def _locked(self) -> dict[str, Locked]:
        if not self.lock.is_file():
            return {}
        try:
            return _LOCKED.validate_json(self.lock.read_bytes())
        except ValidationError:
            raise StyleBlendError(f"{self.lock} is damaged: restore it with `git checkout {self.lock}`") from None


def archives_of(entry: Entry, store: Store) -> list[Archive]:
    """The archives that hold the network's file."""
    return [store.catalogue.archives[name] for name in entry.archives]


def package_of(entry: Entry, store: Store) -> Package | None:
    """The package that holds the network, if one does."""
    return None if entry.package is None else store.catalogue.packages[entry.package]


def packs_of(entry: Entry, store: Store) -> list[Archive | Package]:
    """The archives and the package that hold the network's file."""
    package = package_of(entry, store)
    return [*archives_of(entry, store), *([] if package is None else [package])]


def _key(item: Entry | Archive | Package) -> str:
    return item.name if isinstance(item, Entry) else item.file


def store_of(cfg: Pretrained, cache: Path = CACHE, lock: Path = LOCK, project: Path = Path()) -> Store:
    """The store with the catalogue and the mirror that the parameters name.

    Args:
        project: where all four paths begin, as far as they are relative.
    Raises:
        StyleBlendError: the catalogue cannot be read, or the mirror is no folder.
    """
    mirror = None if cfg.mirror is None else project / cfg.mirror
    if mirror is not None and not mirror.is_dir():
        raise StyleBlendError(f"pretrained.mirror {mirror} is no folder: name one with pretrained files, or null")
    return Store(catalogue.load(cfg.catalogue, project), project / cache, project / lock, mirror)


def is_right(path: Path, entry: Entry, store: Store) -> bool:
    """Whether a file is there and has the SHA-256 that is stated or was recorded for it; not, if none is known."""
    wanted = store.wanted(entry)
    return wanted is not None and path.is_file() and sha256(path) == wanted
