"""Packages of registries, made here: a wheel, a source distribution whose setup.py must not run, an npm tarball."""

from __future__ import annotations

import base64
import hashlib
import http.server
import io
import json
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote

ABOUT = "Metadata-Version: 2.1\nName: face-nets\nVersion: 1.0\n"


def zipped(members: Mapping[str, bytes]) -> bytes:
    """A zip file with these members."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


def tarred(members: Mapping[str, bytes]) -> bytes:
    """A tar.gz file with these members."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, content in members.items():
            about = tarfile.TarInfo(name)
            about.size = len(content)
            archive.addfile(about, io.BytesIO(content))
    return stream.getvalue()


def wheel(folder: Path, members: Mapping[str, bytes], tags: str = "py3-none-any") -> Path:
    """face_nets 1.0 as a wheel, in a folder that pip takes for an index (`find-links`)."""
    about = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\n"
    added = {"METADATA": ABOUT, "WHEEL": about + f"Tag: {tags}\n", "RECORD": ""}
    content = {**members, **{f"face_nets-1.0.dist-info/{name}": text.encode() for name, text in added.items()}}
    return _written(folder / f"face_nets-1.0-{tags}.whl", zipped(content))


def sdist(folder: Path, members: Mapping[str, bytes], mark: Path) -> Path:
    """The same as a source distribution; its setup.py leaves `mark` when somebody runs it."""
    setup = f"from setuptools import setup\nopen({str(mark)!r}, 'w').close()\nsetup(name='face-nets', version='1.0')\n"
    content = {"setup.py": setup.encode(), "PKG-INFO": ABOUT.encode(), **members}
    return _written(
        folder / "face_nets-1.0.tar.gz", tarred({f"face_nets-1.0/{name}": each for name, each in content.items()})
    )


def npm_tarball(folder: Path, members: Mapping[str, bytes], name: str = "@faces/nets") -> Path:
    """Version 1.0.0 of an npm package, under the name that `npm pack` gives it."""
    about = json.dumps({"name": name, "version": "1.0.0", "scripts": {"prepare": "exit 1", "prepack": "exit 1"}})
    content = {"package.json": about.encode(), **members}
    file = f"{name.removeprefix('@').replace('/', '-')}-1.0.0.tgz"
    return _written(folder / file, tarred({f"package/{path}": each for path, each in content.items()}))


def _written(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@contextmanager
def npm_registry(tarball: Path, name: str = "@faces/nets", cut_at: int | None = None) -> Iterator[str]:
    """The address of an npm registry on this machine that has one package; `cut_at` ends its tarball too early."""
    content = tarball.read_bytes()
    digest = base64.b64encode(hashlib.sha512(content).digest()).decode()

    def answer(asked: str, address: str) -> bytes | None:
        dist = {"tarball": f"{address}/{tarball.name}", "integrity": f"sha512-{digest}"}
        versions = {"1.0.0": {"name": name, "version": "1.0.0", "dist": dist}}
        about = {"name": name, "dist-tags": {"latest": "1.0.0"}, "versions": versions}
        return {tarball.name: content, name: json.dumps(about).encode()}.get(asked)

    with _served(answer, content, cut_at) as address:
        yield address


@contextmanager
def pip_index(file: Path, name: str = "face-nets", cut_at: int | None = None) -> Iterator[str]:
    """The address of a simple index on this machine that has one file; `cut_at` ends it too early."""
    content = file.read_bytes()
    page = f'<!DOCTYPE html><html><body><a href="/{file.name}">{file.name}</a></body></html>'.encode()
    with _served(
        lambda asked, address: {file.name: content, f"simple/{name}/": page}.get(asked), content, cut_at
    ) as at:
        yield f"{at}/simple"


@contextmanager
def _served(answer: Callable[[str, str], bytes | None], package: bytes, cut_at: int | None) -> Iterator[str]:
    """A web server on this machine that gives what `answer` says for a path and its own address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            address = f"http://127.0.0.1:{self.server.server_address[1]}"
            body = answer(unquote(self.path).lstrip("/"), address)
            self.send_response(404 if body is None else 200)
            self.send_header("Content-Type", "text/html" if body and body.startswith(b"<") else "application/json")
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write((body or b"")[: cut_at if body is package else None])

        def log_message(self, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
