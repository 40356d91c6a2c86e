"""What every test stands on: one thread, no telemetry, no network beyond this machine, state in temporary folders."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile

# Read by torch, Ray, MLflow, Prefect and others when they are imported, so set before any of them can be.
os.environ |= {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
    "GX_ANALYTICS_ENABLED": "False",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "RAY_USAGE_STATS_ENABLED": "0",
    "MPLBACKEND": "agg",
    # face-alignment has two small functions compiled, for ten seconds in each process.
    "NUMBA_DISABLE_JIT": "1",
}

# Prefect makes its folder, but not the one above it, as soon as a test file imports it.
os.environ["PREFECT_HOME"] = tempfile.mkdtemp(prefix="prefect-")
atexit.register(shutil.rmtree, os.environ["PREFECT_HOME"], ignore_errors=True)

import ipaddress  # noqa: E402
import socket  # noqa: E402
import subprocess  # noqa: E402
from collections.abc import Callable, Iterator  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import pytest  # noqa: E402

from local_servers import mlflow_served  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]


SLOWEST_FIRST = (
    "test_end_to_end",
    "test_training_ray",
    "test_schedule",
    "test_flows",
    "test_pretraining",
    "test_synthetic",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take minutes come first: a last one would keep one process busy while the others have ended."""
    rank = {name: place for place, name in enumerate(SLOWEST_FIRST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


class NetworkBlocked(OSError):
    """A test reached for another machine."""


def _is_here(address: Any) -> bool:
    if not isinstance(address, tuple):
        return True  # the path of a Unix socket
    host = address[0]
    if host in ("", "localhost", "0.0.0.0", "::", socket.gethostname()):
        return True
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return False
    # Ray talks to itself under the machine's own address, which is private on any machine behind a router.
    return ip.is_loopback or str(ip) in _own_addresses()


def _own_addresses() -> set[str]:
    try:
        return {str(entry[4][0]) for entry in socket.getaddrinfo(socket.gethostname(), None)}
    except OSError:
        return set()


@pytest.fixture(scope="session", autouse=True)
def _no_network() -> Iterator[None]:
    """Connections leave this machine in no test; name look-ups of other hosts fail as they do offline."""
    with pytest.MonkeyPatch.context() as patch:
        connect, connect_ex, look_up = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo

        def guarded(method: Any) -> Any:
            def attempt(self: socket.socket, address: Any) -> Any:
                # Datagram sockets send nothing when they connect: it is how programs ask for their own address.
                if self.type == socket.SOCK_STREAM and not _is_here(address):
                    raise NetworkBlocked(f"tests may not connect to {address}")
                return method(self, address)

            return attempt

        def look_up_here(host: Any, *args: Any, **kwargs: Any) -> Any:
            name = host.decode() if isinstance(host, bytes) else host
            if name in (None, "", "localhost", socket.gethostname()) or _is_number(name):
                return look_up(host, *args, **kwargs)
            raise socket.gaierror(socket.EAI_NONAME, f"tests may not look up {name}")

        patch.setattr(socket.socket, "connect", guarded(connect))
        patch.setattr(socket.socket, "connect_ex", guarded(connect_ex))
        patch.setattr(socket, "getaddrinfo", look_up_here)
        yield


def _is_number(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


@pytest.fixture(scope="session", autouse=True)
def _private_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Engines keep their state below the tests' own folder, not in the person's home."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_GLOBAL_CONFIG_DIR", str(tmp_path_factory.mktemp("dvc-global")))
        patch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path_factory.mktemp("dvc-site")))
        yield


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's root."""
    return ROOT


@pytest.fixture(scope="session")
def photos() -> Path:
    """Photographs for trying the pipeline; the test is skipped where they are not there."""
    return _shared("photos")


@pytest.fixture(scope="session")
def yunet_file() -> Path:
    """YuNet's ONNX file; the test is skipped where it is not there."""
    return _shared("weights/yunet_n_dynamic.onnx")


@pytest.fixture(scope="session")
def fetched(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The file of a network of the catalogue that `styleblend weights fetch` brought, by its name.

    Else it is taken from the mirror that STYLEBLEND_TEST_MIRROR names; the test is skipped where neither has it.
    """
    from styleblend.config.pretrained import Pretrained
    from styleblend.weights.store import is_right, store_of
    from styleblend.weights.weight_files import in_mirror, obtain

    named = os.environ.get("STYLEBLEND_TEST_MIRROR")
    cache = tmp_path_factory.mktemp("fetched")

    def find(name: str) -> Path:
        store = store_of(Pretrained(), project=ROOT)
        entry = store.catalogue.get(name)
        if is_right(store.place(entry), entry, store):
            return store.place(entry)
        store = store_of(Pretrained(mirror=None if named is None else Path(named)), cache, cache / "lock")
        if in_mirror(entry, store) is None:
            pytest.skip(f"{name} was not fetched: `styleblend weights fetch {name}`")
        return obtain(entry, store)

    return find


def _shared(name: str) -> Path:
    path = ROOT.parent / "shared" / name
    if not path.exists():
        pytest.skip(f"{path} is not there")
    return path


@pytest.fixture
def mlflow_server(tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """MLflow's server, as `make ui` starts it."""
    with mlflow_served(tmp_path) as served:
        yield served
