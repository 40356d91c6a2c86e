"""What is started here does not hang on a person's environment."""

from __future__ import annotations

import os
import pwd
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import requests.utils

from styleblend.commands import doctor
from styleblend.config.params import load_params
from styleblend.errors import StyleBlendError
from styleblend.system import environment
from styleblend.training import ray_cluster

TIDY = {"HOME": "/tmp", "USER": "somebody", "PATH": "/bin"}


def changed(given: dict[str, str], project: Path) -> dict[str, str | None]:
    return {change.name: change.value for change in environment.changes(given, project)}


def test_an_environment_without_faults_stays_as_it_is(tmp_path: Path) -> None:
    """Nothing is set where nothing is wrong, and looking makes no file."""
    assert changed(TIDY, tmp_path) == {} and not any(tmp_path.iterdir())
    assert environment.ray_changes(TIDY | {"RAY_TRAIN_X": "1", "RAY_memory_usage_threshold": "0.9"}) == ()


def test_what_names_another_cluster_goes() -> None:
    """All of Ray's variables in capitals that could lead the start of an own cluster elsewhere are cleared."""
    given = {name: "x" for name in ("RAY_ADDRESS", "RAY_TMPDIR", "RAY_JOB_CONFIG_JSON_ENV_VAR", "RAY_AUTH_MODE")}
    assert {change.name: change.value for change in environment.ray_changes(TIDY | given)} == dict.fromkeys(given)


@pytest.mark.parametrize("spelling", ["http_proxy", "HTTP_PROXY", "all_proxy"])
def test_no_proxy_is_asked_for_this_machine(spelling: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As requests, urllib and httpx read the environment: servers here directly, others by the proxy as before."""
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv(spelling, "http://proxy.example:3128")
    monkeypatch.setenv("no_proxy", "intern.example")
    for change in environment.changes(os.environ, tmp_path):
        monkeypatch.setenv(change.name, str(change.value))
    for host in ("127.0.0.1:5000", "localhost:4200", socket.gethostname(), "intern.example"):
        assert requests.utils.should_bypass_proxies(f"http://{host}/", no_proxy=None)
    assert not requests.utils.should_bypass_proxies("http://elsewhere.example/", no_proxy=None)


def test_a_proxy_that_nothing_here_speaks_to_goes(tmp_path: Path) -> None:
    """Prefect's client ends at its start with a SOCKS proxy; an http proxy beside it stays."""
    found = changed(TIDY | {"ALL_PROXY": "socks5://a:1", "https_proxy": "http://b:2"}, tmp_path)
    assert found["ALL_PROXY"] is None and "https_proxy" not in found


def test_a_home_that_cannot_be_used_is_replaced(tmp_path: Path) -> None:
    """One that is not there is replaced; one that cannot be written is read, and caches go elsewhere."""
    own = tmp_path / ".state" / "home"
    assert changed(TIDY | {"HOME": str(tmp_path / "none")}, tmp_path)["HOME"] == str(own)
    without = {name: value for name, value in TIDY.items() if name != "HOME"}
    assert changed(without, tmp_path).get("HOME") == pwd.getpwuid(os.getuid()).pw_dir
    # Nobody can write there, root neither.
    found = changed(TIDY | {"HOME": "/proc/self"}, tmp_path)
    if os.access("/proc/self", os.W_OK):
        assert found == {}
    else:
        assert "HOME" not in found and found["XDG_CACHE_HOME"] == str(own / "cache")


def test_a_long_temporary_folder_is_passed_by_for_sockets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's longest socket fits into the folder that is found; one that fits nowhere is one line with the limit."""
    deep = tmp_path / ("x" * 60)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    folder = environment.socket_folder(ray_cluster.SOCKET_NAME)
    assert folder != deep and len(str(folder)) + 1 + ray_cluster.SOCKET_NAME <= 107
    with socket.socket(socket.AF_UNIX) as trial, pytest.raises(OSError, match="path too long"):
        trial.bind(str(Path("/tmp") / ("y" * 104)))
    with pytest.raises(StyleBlendError, match=r"no folder for sockets: .*x \(its path has .* set TMPDIR"):
        environment.socket_folder(105)


def test_doctor_says_what_a_run_clears(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each cause is one line: what a run mends is a note, a user without a name is what DVC fails at."""
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6399")
    cfg = load_params(root / "params.yaml")
    proxied = environment.changes(TIDY | {"http_proxy": "http://p:1"}, tmp_path)
    found = list(doctor.surroundings(cfg, proxied))
    assert [each.verdict for each in found] == ["ok", "note", "note"]
    assert "RAY_ADDRESS is cleared" in " ".join(each.text for each in found)
    nameless = environment.Change("USER", "uid-7", "")
    (failure,) = (each for each in doctor.surroundings(cfg, [nameless]) if each.verdict == "FAIL")
    assert failure.text.endswith("`export USER=uid-7` before dvc, which asks for it")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become a user without an entry")
def test_a_user_without_an_entry_gets_a_name_and_a_home(root: Path, tmp_path: Path) -> None:
    """As in a container that runs under any number: after `settle` Python finds both, before neither."""
    program = (
        "import getpass, os, sys; from pathlib import Path\n"
        f"sys.path.insert(0, {str(root / 'src')!r}); from styleblend.system import environment\n"
        "os.setuid(54321)\n"
        "for ask in (getpass.getuser, Path.home):\n"
        "    try: ask(); sys.exit('it is known')\n"
        "    except (KeyError, OSError, RuntimeError): pass\n"
        "environment.settle(Path('/tmp/project')); print(getpass.getuser(), Path.home())"
    )
    done = subprocess.run([sys.executable, "-c", program], env={}, capture_output=True, text=True)
    assert done.stdout == "uid-54321 /tmp/project/.state/home\n", done.stderr
