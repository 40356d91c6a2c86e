"""weights: files come from a mirror or a url, and only the right ones get their names."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from styleblend.config import Pretrained
from styleblend.errors import StyleBlendError
from styleblend.files import sha256
from styleblend.weights import SMALL_ROLES, YUNET, WeightFile, collect, obtain

CONTENT = b"weights" * 1000


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def origin(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder that a real web server on the loopback serves, and its address."""
    folder = tmp_path / "origin"
    folder.mkdir()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def entry(address: str = "http://127.0.0.1:9") -> WeightFile:
    digest = hashlib.sha256(CONTENT).hexdigest()
    return WeightFile("detector", "net.onnx", f"{address}/net.onnx", digest, len(CONTENT), "MIT", "onnx")


def small_networks(folder: Path) -> Path:
    folder.mkdir()
    for role in SMALL_ROLES:
        (folder / f"{role}.safetensors").write_bytes(role.encode() * 10)
        card = {"sha256": sha256(folder / f"{role}.safetensors"), "licence": "MIT"}
        (folder / f"{role}.json").write_text(json.dumps(card))
    return folder


def one_line(error: pytest.ExceptionInfo[StyleBlendError]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def test_mirror_is_used_before_the_url(tmp_path: Path) -> None:
    """A file of the mirror is taken without any network, under the name of its role."""
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    (mirror / "net.onnx").write_bytes(CONTENT)
    assert obtain(entry(), tmp_path / "out", mirror) == tmp_path / "out" / "detector.onnx"
    assert (tmp_path / "out" / "detector.onnx").read_bytes() == CONTENT


def test_url_gives_the_file_and_a_right_file_is_kept(tmp_path: Path, origin: tuple[Path, str]) -> None:
    """A download ends under its final name; what is there already is not fetched again."""
    folder, address = origin
    (folder / "net.onnx").write_bytes(CONTENT)
    path = obtain(entry(address), tmp_path / "out")
    (folder / "net.onnx").unlink()
    assert obtain(entry(address), tmp_path / "out") == path
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("content", [b"other", b"", CONTENT[:-1], b"<!DOCTYPE html><title>Sign in</title>"])
def test_wrong_content_is_refused(tmp_path: Path, origin: tuple[Path, str], content: bytes) -> None:
    """Another file, a cut-off one or a web page: one line with both hashes, and nothing is left behind."""
    folder, address = origin
    (folder / "net.onnx").write_bytes(content)
    with pytest.raises(StyleBlendError) as error:
        obtain(entry(address), tmp_path / "out")
    message = one_line(error)
    assert hashlib.sha256(content).hexdigest() in message and entry().sha256 in message
    assert ("a web page" in message) == content.startswith(b"<")
    assert list((tmp_path / "out").iterdir()) == []


def test_wrong_content_of_a_mirror_is_refused(tmp_path: Path) -> None:
    """A mirror's wrong file is named rather than passed over."""
    (tmp_path / "net.onnx").write_bytes(b"other")
    with pytest.raises(StyleBlendError, match="net.onnx gives a file of 5 bytes"):
        obtain(entry(), tmp_path / "out", tmp_path)


def test_unreachable_file_names_the_remedy(tmp_path: Path, origin: tuple[Path, str]) -> None:
    """No server, an answer 404 and a mirror that is no folder: one line that names pretrained.mirror."""
    for address in ("http://127.0.0.1:9", origin[1]):
        with pytest.raises(StyleBlendError, match="name that folder in pretrained.mirror") as error:
            obtain(entry(address), tmp_path / "out", tmp_path)
        assert "net.onnx" in one_line(error)
    with pytest.raises(StyleBlendError, match="pretrained.mirror .*absent is no folder"):
        obtain(entry(), tmp_path / "out", tmp_path / "absent")


def test_networks_of_a_run_are_collected(tmp_path: Path) -> None:
    """Small networks come with their cards and are listed in networks.json; no detector unless asked."""
    listed = collect(small_networks(tmp_path / "small"), tmp_path / "out", Pretrained())
    assert json.loads((tmp_path / "out" / "networks.json").read_text()) == listed
    assert set(listed) == set(SMALL_ROLES)
    for role, found in listed.items():
        assert sha256(tmp_path / "out" / found["file"]) == found["sha256"]
        assert (tmp_path / "out" / f"{role}.json").is_file()


def test_changed_or_missing_small_network_is_refused(tmp_path: Path) -> None:
    """A file that is not its card's, or is absent, gives one line with file, folder and remedy; no output."""
    small = small_networks(tmp_path / "small")
    (small / "identity.safetensors").write_bytes(b"changed")
    with pytest.raises(StyleBlendError, match="its card says") as changed:
        collect(small, tmp_path / "out", Pretrained())
    (small / "identity.safetensors").unlink()
    with pytest.raises(StyleBlendError, match="identity.safetensors is missing in .*small: restore") as missing:
        collect(small, tmp_path / "out", Pretrained())
    (small / "identity.json").write_text("{")
    with pytest.raises(StyleBlendError, match="not valid JSON") as card:
        collect(small, tmp_path / "out", Pretrained())
    assert all(one_line(error) for error in (changed, missing, card))
    assert not (tmp_path / "out").exists()


def test_one_network_cannot_train_and_judge_unless_asked(tmp_path: Path) -> None:
    """The same content in both roles is refused with its hash and leaves no output; pretrained.same_judge allows it."""
    small = small_networks(tmp_path / "small")
    for ending in ("safetensors", "json"):
        (small / f"identity_judge.{ending}").write_bytes((small / f"identity.{ending}").read_bytes())
    with pytest.raises(StyleBlendError, match="the same network .sha256 .*pretrained.same_judge") as refused:
        collect(small, tmp_path / "out", Pretrained())
    assert one_line(refused) and not (tmp_path / "out").exists()
    assert set(collect(small, tmp_path / "out", Pretrained(same_judge=True))) == set(SMALL_ROLES)


def test_the_detectors_entry_describes_the_file_that_people_have() -> None:
    """The catalogue's size and SHA-256 are those of the published file."""
    mirror = Path(__file__).parents[2] / "shared" / "weights"
    if not (mirror / YUNET.name).is_file():
        pytest.skip("no YuNet file in ../shared/weights")
    assert (mirror / YUNET.name).stat().st_size == YUNET.size_bytes
    assert sha256(mirror / YUNET.name) == YUNET.sha256
    assert replace(YUNET, name="x.pt").file == "detector.pt"
