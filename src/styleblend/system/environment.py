"""What a person's environment may hold that would end what is started here, and the one place that sets or clears it.

`settle` is called once, where a program of this project begins; what that starts inherits the rest. Variables that are
a person's choice for this project stay: proxies for the internet, threads, devices, passwords.
"""

from __future__ import annotations

import os
import pwd
import socket
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from styleblend.errors import StyleBlendError

HERE = ("127.0.0.1", "localhost", "::1")
"""Names of this machine that no proxy may be asked for."""
_SOCKET_PATH = 107
"""Linux takes no longer path of a socket."""
_CACHES = {"XDG_CACHE_HOME": "cache", "MPLCONFIGDIR": "matplotlib", "npm_config_cache": "npm"}
"""Where libraries write below the home folder unless they are told otherwise."""
_RAYS_OWN = ("RAY_TRAIN_", "RAY_DATA_", "RAY_EXPERIMENTAL_NOSET_")


@dataclass(frozen=True)
class Change:
    """A variable, what it gets (None: it is cleared), and why in one line."""

    name: str
    value: str | None
    why: str


REPEATABLE = (
    Change("CUBLAS_WORKSPACE_CONFIG", ":4096:8", "cuBLAS adds in one order only where its workspace has one size"),
)
"""For a process that must give the same bits again on a GPU (the setting deterministic of a training)."""


def changes(given: Mapping[str, str], project: Path) -> tuple[Change, ...]:
    """What must differ from the environment `given` for anything that is started here. Nothing is changed or made.

    Args:
        project: its .state gets what libraries would write into a home folder that there is not.
    """
    return (*_name(given), *_home(given, project.absolute() / ".state" / "home"), *_proxies(given))


def ray_changes(given: Mapping[str, str]) -> tuple[Change, ...]:
    """What must go for a Ray cluster of one's own on this machine: what names another, and what changes its start.

    Ray's tunings, which have lower case after RAY_, and those of Ray Train stay.
    """
    why = "is cleared for the cluster that a run starts here (ray_address is null)"
    return tuple(
        Change(name, None, f"{name} {why}")
        for name in sorted(given)
        if name.startswith("RAY_") and name.isupper() and not name.startswith(_RAYS_OWN)
    )


def settle(project: Path) -> tuple[Change, ...]:
    """Set and clear what `changes` says in this process's environment; returns it."""
    found = changes(os.environ, project)
    apply(found)
    return found


def apply(found: Sequence[Change]) -> None:
    """Make changes in this process's environment."""
    for change in found:
        if change.value is None:
            os.environ.pop(change.name, None)
        else:
            os.environ[change.name] = change.value


def socket_folder(longest_name: int) -> Path:
    """A folder in which a socket can be made whose path below the folder has so many characters; tried by making one.

    The temporary folder of the environment (TMPDIR) where it will do, for a person may have chosen it for its room.

    Raises:
        StyleBlendError: there is none.
    """
    tried = []
    for folder in dict.fromkeys((tempfile.gettempdir(), "/tmp", "/var/tmp", "/dev/shm")):
        problem = _try_socket(Path(folder), longest_name)
        if problem is None:
            return Path(folder)
        tried.append(f"{folder} ({problem})")
    shortest = _SOCKET_PATH - longest_name - 1
    raise StyleBlendError(
        f"no folder for sockets: {', '.join(tried)}; set TMPDIR to one of at most {shortest} characters that this user"
        " can write"
    )


def _try_socket(folder: Path, longest_name: int) -> str | None:
    """Why no socket can be made there; None if it can."""
    if len(os.fsencode(folder)) + 1 + longest_name > _SOCKET_PATH:
        return f"its path has {len(os.fsencode(folder))} characters"
    try:
        with tempfile.TemporaryDirectory(prefix="sb-", dir=folder) as place, socket.socket(socket.AF_UNIX) as trial:
            trial.bind(f"{place}/s")
    except OSError as error:
        return error.strerror or type(error).__name__
    return None


def nameless(given: Mapping[str, str]) -> bool:
    """Whether nothing says what this process's user is called: programs that ask, as DVC, end with an error."""
    if any(given.get(name) for name in ("LOGNAME", "USER", "LNAME", "USERNAME")):
        return False
    return _entry() is None


def _name(given: Mapping[str, str]) -> list[Change]:
    if not nameless(given):
        return []
    name = f"uid-{os.getuid()}"
    return [Change("USER", name, f"the user {os.getuid()} has no name: USER is {name} for what is started")]


def _home(given: Mapping[str, str], own: Path) -> list[Change]:
    entry = _entry()
    home = given.get("HOME") or (entry.pw_dir if entry else "")
    if not home or not Path(home).is_dir():
        what = f"the home folder {home} is not there" if home else "there is no home folder"
        return [Change("HOME", str(own), f"{what}: HOME is {own} for what is started")]
    found = [] if given.get("HOME") else [Change("HOME", home, f"HOME is not set: it is {home} for what is started")]
    if os.access(home, os.W_OK | os.X_OK):
        return found
    # It stays: passwords and settings are read there.
    return found + [
        Change(name, str(own / folder), f"the home folder {home} cannot be written: {name} is {own / folder}")
        for name, folder in _CACHES.items()
        if name not in given
    ]


def _proxies(given: Mapping[str, str]) -> list[Change]:
    named = {name: value for name, value in given.items() if value and name.lower().endswith("_proxy")}
    proxies = {name: value for name, value in named.items() if name.lower() != "no_proxy"}
    if not proxies:
        return []
    found = []
    for name, value in sorted(proxies.items()):
        if value.lower().startswith("socks"):
            found.append(Change(name, None, f"{name} is cleared, for nothing here speaks SOCKS: name an http proxy"))
    before = named.get("no_proxy") or named.get("NO_PROXY") or ""
    listed = [part.strip() for part in before.split(",") if part.strip()]
    if "*" in listed:
        return found
    wanted = ",".join([*listed, *(host for host in (*HERE, socket.gethostname()) if host not in listed)])
    for name in ("no_proxy", "NO_PROXY"):
        if given.get(name) != wanted:
            found.append(Change(name, wanted, f"{name} gets this machine's own names, which no proxy is asked for"))
    return found


def _entry() -> pwd.struct_passwd | None:
    try:
        return pwd.getpwuid(os.getuid())
    except KeyError:
        return None
