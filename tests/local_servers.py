"""What tests of servers on this machine share: a free port, whether somebody answers, and waiting with an end."""

from __future__ import annotations

import http.server
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def wait_for(condition: Callable[[], object], seconds: float = 240) -> Any:
    """What the condition gives once it is true."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except OSError:
        return False


class Files:
    """A folder that a web server on this machine gives out, by ranges too.

    asked: of each request its path and its headers Range and If-Range. cut_at: content after which the connection
    breaks, once. tags: whether the server says which state of a file it sends; tag: what it calls any state.
    """

    def __init__(self, folder: Path, address: str) -> None:
        self.folder, self.address = folder, address
        self.asked: list[tuple[str, str | None, str | None]] = []
        self.cut_at: int | None = None
        self.tags = True
        self.tag: str | None = None


@contextmanager
def files_served(folder: Path) -> Iterator[Files]:
    """Serve a folder until the block ends."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted, known = self.headers.get("Range"), self.headers.get("If-Range")
            served.asked.append((self.path, wanted, known))
            file = folder / self.path.lstrip("/")
            if not file.is_file():
                self.send_error(404)
                return
            content = file.read_bytes()
            tag = served.tag or f'"{hash(content)}"'
            start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and known in (None, tag) else 0
            if start and start >= len(content):
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(content) - start))
            if served.tags:
                self.send_header("ETag", tag)
            self.end_headers()
            end, served.cut_at = served.cut_at, None
            self.wfile.write(content[start:end])

        def log_message(self, format: str, *args: object) -> None:
            """Tests print nothing."""

    folder.mkdir(exist_ok=True)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        served = Files(folder, f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield served
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def mlflow_served(folder: Path, patience_s: float = 120) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """MLflow's server with its store in a folder, until the block ends; yields its address and its process."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = ["mlflow", "server", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--workers", "1"]
    command += ["--artifacts-destination", str(folder / "mlruns"), "--host", "127.0.0.1", "--port", str(port)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            stdout=log,
            stderr=log,
            env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            start_new_session=True,
        )
        try:
            wait_for(lambda: answers(f"{url}/health") or process.poll() is not None, patience_s)
            assert process.poll() is None, (folder / "log").read_text()
            yield url, process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
