"""Starts a Prefect server on 127.0.0.1 and the retraining that it schedules; one Ctrl-C ends both.

python flows/server.py [--port 4200] [--project FOLDER]
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from styleblend.system import environment
from styleblend.system.process import running

PROJECT = Path(__file__).resolve().parents[1]
HOST = "127.0.0.1"
START_SECONDS = 300
# Prefect gives a run 30 s to end before it is killed. Its server has nothing to lose: its database is on disk.
RUN_END_SECONDS = 40
SERVER_END_SECONDS = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=4200, help="port of the server (default: %(default)s)")
    parser.add_argument("--project", type=Path, default=PROJECT, help="folder with dvc.yaml and params.yaml")
    given = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    sys.exit(serve(given.project.resolve(), given.port))


def serve(project: Path, port: int) -> int:
    """Run both until one ends or a signal comes. Returns an exit code."""
    if _taken(port):
        print(f"serve: port {port} of {HOST} is taken: give another with --port, or end what runs there")
        return 1
    environment.settle(project)
    url = f"http://{HOST}:{port}"
    env = {
        "PREFECT_HOME": os.environ.get("PREFECT_HOME", str(project / ".state" / "prefect")),
        "PREFECT_API_URL": f"{url}/api",
        # The page asks the API where it was loaded from, and no other page in the same browser may ask it.
        "PREFECT_SERVER_UI_API_URL": f"{url}/api",
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": url,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }
    Path(env["PREFECT_HOME"]).mkdir(parents=True, exist_ok=True)
    start = [sys.executable, "-m", "prefect", "server", "start", "--host", HOST, "--port", str(port)]
    try:
        with running(start, env, SERVER_END_SECONDS) as server:
            if not _answers(f"{url}/api/health", server):
                print(f"serve: Prefect's server did not start within {START_SECONDS} s: the lines above say why")
                return 1
            program = str(Path(__file__).with_name("retrain.py"))
            retrain = [sys.executable, program, "--serve", "--project", str(project)]
            with running(retrain, env, RUN_END_SECONDS) as flow:
                print(f"serve: Prefect runs at {url} (Ctrl-C ends it)", flush=True)
                while server.poll() is None and flow.poll() is None:
                    time.sleep(0.5)
                return flow.poll() or server.poll() or 0
    except KeyboardInterrupt:
        print("serve: stopped", flush=True)
        return 0


def _stop(number: int, frame: object) -> None:
    # One is enough: a second must not end this before what it started.
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt


def _taken(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def _answers(url: str, server: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + START_SECONDS
    while server.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return True
        except OSError:
            time.sleep(0.5)
    return False


if __name__ == "__main__":
    main()
