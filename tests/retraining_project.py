"""A DVC project of one little stage for the retraining flow, and what its tests ask of a Prefect server."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from textwrap import indent
from typing import Any
from urllib.error import HTTPError

import psutil
import yaml

from local_servers import answers, wait_for

ROOT = Path(__file__).resolve().parents[1]
REGISTERED = {"name": "m", "version": "1", "gate": "passed", "alias": "candidate", "reasons": []}
STAGE = """\
import json, os, pathlib, subprocess, sys, time
from styleblend import errors
from styleblend.stages.entry import run

# The stage may run in a working copy of the project.
project = pathlib.Path({project!r})
(project / "runs").open("a").write("x")

def main(given, cfg):
{body}
    pathlib.Path("reports").mkdir(exist_ok=True)
    pathlib.Path("reports/registered.json").write_text(json.dumps({registered!r}))

run("register", main)
"""


def make_project(folder: Path, **retrain: Any) -> Path:
    """A project whose one stage makes registered.json and counts its runs in the file `runs`."""
    subprocess.run(["git", "init", "-q", folder], check=True)
    (folder / ".dvc").mkdir()
    (folder / "reports").mkdir()
    shutil.copy(ROOT / ".dvc/config", folder / ".dvc")
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values["retrain"] |= {"retry_seconds": 0.1, "watch_seconds": 0} | retrain
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    stage = {
        "cmd": "python stage.py",
        "deps": ["stage.py"],
        "params": ["evaluate.seed"],
        "outs": ["reports/registered.json"],
    }
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"register": stage}}))
    write_stage(folder)
    return folder


def write_stage(project: Path, body: str = "", **registered: object) -> None:
    """Change what the stage does and what it registers."""
    values = {"project": str(project), "body": indent(body, "    "), "registered": REGISTERED | registered}
    (project / "stage.py").write_text(STAGE.format(**values))


def notes(project: Path) -> list[str]:
    """What was notified, without the times."""
    file = project / "reports/notifications.log"
    return [line.split(" ", 1)[1] for line in file.read_text().splitlines()] if file.exists() else []


def ask(api: str, path: str, body: Any = None) -> Any:
    """One request to Prefect's API, POST where there is a body; again while a busy server asks for that (503)."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{api}{path}", data, {"Content-Type": "application/json"})
    for left in reversed(range(20)):
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.loads(answer.read() or b"null")
        except HTTPError as error:
            error.close()
            if error.code != 503 or not left:
                raise
            time.sleep(1)


def deployment(api: str) -> Any:
    """The served deployment, or None where it is not there yet."""
    try:
        return ask(api, "/deployments/name/retrain/scheduled")
    except OSError:
        return None


def alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def start_server(port: int, log: Path) -> subprocess.Popen[bytes]:
    """Prefect's server alone, answering."""
    with log.open("w") as stream:
        server = subprocess.Popen(
            [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)],
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=os.environ,
        )
    wait_for(lambda: answers(f"http://127.0.0.1:{port}/api/health") or server.poll() is not None, seconds=280)
    assert server.poll() is None, log.read_text()
    return server


class Hook(BaseHTTPRequestHandler):
    """Answers with the next code and keeps what it was sent."""

    codes: list[int]
    got: list[Any]

    def do_POST(self) -> None:
        self.got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(self.codes.pop(0))
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def listening() -> Iterator[tuple[type[Hook], str]]:
    """A webhook on this machine, and its address."""
    handler = type("Handler", (Hook,), {"codes": [], "got": []})
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield handler, f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
