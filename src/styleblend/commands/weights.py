"""`styleblend weights`: what pretrained networks there are, which are here, and getting those that a run needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from styleblend.config.catalogue import Entry
from styleblend.config.pretrained import Pretrained
from styleblend.errors import StyleBlendError
from styleblend.reporting.table import columns
from styleblend.weights import weight_files
from styleblend.weights.store import Store, archives_of, is_right, package_of, store_of

HERE, MISSING, WRONG = "here", "missing", "wrong"


def table(cfg: Pretrained, project: Path = Path()) -> str:
    """A line a network of the catalogue: its state, size, use in this run, licence and consequence."""
    store = store_of(cfg, project=project)
    used = _roles_by_name(cfg)
    rows = [("name", "state", "MB", "used as", "may be", "licence", "that means")]
    for name, entry in store.catalogue.networks.items():
        size = f"{entry.size_bytes / 1e6:.1f}" if entry.size_bytes else "?"
        uses, roles = ", ".join(used.get(name, [])), ", ".join(entry.roles)
        rows.append((name, state(entry, store), size, uses, roles, entry.licence, entry.consequence))
    return "\n".join(columns(rows, rule=True))


def show(cfg: Pretrained, name: str, project: Path = Path()) -> str:
    """All that the catalogue says of a network, a line each: what it is, where from, its terms, doubts.

    Raises:
        StyleBlendError: there is no such network.
    """
    store = store_of(cfg, project=project)
    entry = store.catalogue.get(name)
    package, wanted = package_of(entry, store), store.wanted(entry)
    places = [*entry.urls, *(url for archive in archives_of(entry, store) for url in archive.urls)]
    places += [f"{package} ({package.file}): {', '.join(entry.members)}"] if package else []
    lines = [
        ("state", f"{state(entry, store)}, {store.place(entry)}"),
        ("may be", ", ".join(entry.roles)),
        ("what", entry.expects),
        ("sha256", wanted or "recorded at first use"),
        *(("from", place) for place in [*places, *([entry.page] if entry.page else [])]),
        ("project", entry.project),
        ("licence", f"{entry.licence}; commercial use: {'allowed' if entry.commercial else 'not allowed'}"),
        ("that means", entry.consequence),
        ("not verified", entry.not_verified),
    ]
    return "\n".join([name, *(f"  {what:13}{text}" for what, text in lines if text)])


def fetch(cfg: Pretrained, names: Sequence[str], mirror: Path | None = None, project: Path = Path()) -> list[Path]:
    """Obtain the named networks, or all that the parameters ask for; prints a line a network, also of those that fail.

    Args:
        mirror: in place of pretrained.mirror, relative to the current folder.
    Raises:
        StyleBlendError: a name is not in the catalogue, or, once all were tried, a file was not to be had.
    """
    store = store_of(cfg if mirror is None else cfg.model_copy(update={"mirror": mirror.absolute()}), project=project)
    entries = [store.catalogue.get(name) for name in names or _roles_by_name(cfg)]
    if not entries:
        print("params.yaml asks for small networks alone, which are here: nothing to fetch")
    found, failed = [], []
    for entry in entries:
        try:
            path = weight_files.obtain(entry, store)
        except StyleBlendError as error:
            if len(entries) == 1:
                raise
            print(f"{entry.name}: {error}")
            failed.append(entry.name)
        else:
            doubt = f"; not verified: {entry.not_verified}" if entry.not_verified else ""
            print(f"{entry.name}: {path} ({entry.licence}: {entry.consequence}{doubt})")
            found.append(path)
    if failed:
        raise StyleBlendError(f"{', '.join(failed)} were not obtained: the lines above say why, and what to do")
    return found


def verify(cfg: Pretrained, project: Path = Path()) -> bool:
    """Whether every network that is here is the right one; prints a line each.

    A file that nothing is known to compare with counts as wrong: it did not come through `fetch`.
    """
    store = replace(store_of(cfg, project=project), mirror=None)
    right, seen = True, False
    for entry in store.catalogue.networks.values():
        found = state(entry, store)
        if found != MISSING:
            remedy = f"; remove {store.place(entry)} and fetch it again" if found == WRONG else ""
            print(f"{entry.name}: {'right' if found == HERE else found}{remedy}")
            right, seen = right and found == HERE, True
    if not seen:
        print(f"no network of the catalogue is in {store.cache}: `styleblend weights fetch` gets those of params.yaml")
    return right


def where(cfg: Pretrained, name: str, project: Path = Path()) -> Path:
    """Path of a network's file.

    Raises:
        StyleBlendError: there is no such network, or it is not here, or its file is a wrong one.
    """
    store = store_of(cfg, project=project)
    entry = store.catalogue.get(name)
    found = state(entry, store)
    if found != HERE:
        raise StyleBlendError(f"{name} is {found}: run `styleblend weights fetch {name}`")
    return store.place(entry)


def state(entry: Entry, store: Store) -> str:
    """`here`, `missing` or `wrong`, by the file in the store and its SHA-256."""
    path = store.place(entry)
    if not path.is_file():
        return MISSING
    return HERE if is_right(path, entry, store) else WRONG


def _roles_by_name(cfg: Pretrained) -> dict[str, list[str]]:
    """What the parameters use, each network once, with its roles."""
    used: dict[str, list[str]] = {}
    for role, name in cfg.chosen().items():
        used.setdefault(name, []).append(role)
    return used
