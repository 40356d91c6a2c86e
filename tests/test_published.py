"""FFHQ, CelebA-HQ and archives, on small folders in exactly the form in which they are published."""

from __future__ import annotations

import http.server
import io
import json
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

import published_files
from published_files import LICENCES, PERSONS, md5, packed
from styleblend.config.base import ConfigError
from styleblend.config.data import Align
from styleblend.config.params import parse_params
from styleblend.config.sources import ArchiveSource, CelebaHqSource, Download, FfhqSource, Source
from styleblend.data import archives, published, sources
from styleblend.data.align import align_faces
from styleblend.errors import StyleBlendError
from styleblend.system.files import sha256


@pytest.fixture
def ffhq(tmp_path: Path) -> Path:
    return published_files.ffhq(tmp_path / "ffhq")


@pytest.fixture
def celeba(tmp_path: Path) -> Path:
    return published_files.celeba_mask_hq(tmp_path / "celeba")


def ffhq_source(root: Path, **changes: Any) -> FfhqSource:
    settings = {"path": root / "images1024x1024", "metadata": root / "ffhq-dataset-v2.json"}
    return FfhqSource(kind="ffhq", **(settings | changes))


def gather(source: Source, tmp_path: Path, origin: Path) -> Any:
    download = Download(sources=(source,), origin=origin, workers=1)
    return sources.gather(download, tmp_path / "raw", tmp_path / "st")


def list_ffhq(source: FfhqSource) -> list[published.Listed]:
    assert source.path is not None
    return published.ffhq(source, published.pictures_folder(source, source.path))


def list_celeba(source: CelebaHqSource) -> list[published.Listed]:
    assert source.path is not None
    return published.celeba_hq(source, published.pictures_folder(source, source.path))


def test_ffhq_has_licence_author_and_landmarks_of_each_picture(ffhq: Path, tmp_path: Path) -> None:
    """Each row has what the JSON says of that picture, and the landmarks align it without any detector."""
    index = gather(ffhq_source(ffhq), tmp_path, ffhq)
    assert list(index["licence"]) == list(LICENCES)
    assert list(index["author"]) == ["author 0", "author 1", "author 1000"]
    assert (index["terms"] == published.FFHQ_TERMS).all() and index["person"].isna().all()
    assert index["url"].iloc[2] == "https://www.flickr.com/photos/x/1000/"
    entries = json.loads((ffhq / "ffhq-dataset-v2.json").read_text())
    np.testing.assert_allclose(index["landmarks"].iloc[1], np.ravel(entries["1"]["image"]["face_landmarks"]), rtol=1e-6)
    cfg = Align(detector="annotations", size_px=64, workers=1, min_face_px=8)
    faces, refused = align_faces(tmp_path / "raw", tmp_path, tmp_path / "faces", cfg)
    assert len(faces) == 3 and refused.empty and list(faces["author"]) == list(index["author"])


def test_ffhq_permissive_leaves_out_what_forbids_commerce(ffhq: Path, tmp_path: Path) -> None:
    """Only pictures whose own licence allows it remain; without the JSON nobody could tell, and that is said."""
    listed = list_ffhq(ffhq_source(ffhq, licences="permissive"))
    assert [entry.licence for entry in listed] == [LICENCES[0], LICENCES[2]]
    with pytest.raises(StyleBlendError, match=r"needs metadata.*ffhq-dataset-v2\.json"):
        list_ffhq(ffhq_source(ffhq, licences="permissive", metadata=None))
    entries = json.loads((ffhq / "ffhq-dataset-v2.json").read_text())
    entries["0"]["metadata"]["license"] = "All rights reserved, not for commercial use"
    (ffhq / "ffhq-dataset-v2.json").write_text(json.dumps(entries))
    assert [entry.licence for entry in list_ffhq(ffhq_source(ffhq, licences="permissive"))] == [LICENCES[2]]
    plain = list_ffhq(ffhq_source(ffhq, metadata=None))
    assert len(plain) == 3 and plain[0].landmarks is None and plain[0].licence == published.FFHQ_LICENCE


def test_ffhq_resized_by_others_scales_its_landmarks(ffhq: Path, tmp_path: Path) -> None:
    """A flat folder of `img00000000.png` at another size has the published landmarks, at its own size."""
    small = ffhq / "small" / "00000"
    small.mkdir(parents=True)
    Image.new("RGB", (256, 256)).save(small / "img00000001.png")
    index = gather(ffhq_source(ffhq, path=ffhq / "small", form="resized"), tmp_path, ffhq)
    entries = json.loads((ffhq / "ffhq-dataset-v2.json").read_text())
    wanted = (np.ravel(entries["1"]["image"]["face_landmarks"]) + 0.5) / 4 - 0.5
    np.testing.assert_allclose(index["landmarks"].iloc[0], wanted, atol=1e-4)


def test_ffhq_damaged_picture_is_told_by_its_published_checksum(ffhq: Path, tmp_path: Path) -> None:
    """A picture that is not the published one is not taken, for a reason with both checksums; the others are."""
    file = ffhq / "in-the-wild-images/00000/00001.png"
    Image.new("RGB", (9, 9)).save(file)
    index = gather(ffhq_source(ffhq, path=ffhq / "in-the-wild-images", form="in_the_wild"), tmp_path, ffhq)
    (refused,) = index["refused"].dropna()
    assert refused.startswith(f"it has md5 {md5(file)}, published is ") and refused.endswith("fetch this picture again")
    assert index["sha256"].notna().sum() == len(index) - 1 > 0


def test_ffhq_mistakes_are_one_line(ffhq: Path) -> None:
    """A folder above two resolutions, a foreign JSON, and a picture that the JSON does not know."""
    for side in (128, 256):
        (ffhq / f"resized/{side}").mkdir(parents=True)
        Image.new("RGB", (side, side)).save(ffhq / f"resized/{side}/00000.png")
    with pytest.raises(StyleBlendError, match=r"resized has two pictures with number 0, 128/00000.png and 256/"):
        list_ffhq(ffhq_source(ffhq, path=ffhq / "resized", form="resized"))
    with pytest.raises(StyleBlendError, match="absent is no folder: set the path of source 'ffhq'"):
        list_ffhq(ffhq_source(ffhq, path=ffhq / "absent"))
    foreign = ffhq / "foreign.json"
    foreign.write_text('{"0": {"metadata": {"license": "x"}}}')
    with pytest.raises(StyleBlendError, match="not FFHQ's JSON"):
        list_ffhq(ffhq_source(ffhq, metadata=foreign))
    Image.new("RGB", (9, 9)).save(ffhq / "images1024x1024/00000/00007.png")
    with pytest.raises(StyleBlendError, match="does not know picture 7"):
        list_ffhq(ffhq_source(ffhq))


def celeba_source(root: Path, **changes: Any) -> CelebaHqSource:
    files = {"mapping": root / "CelebA-HQ-to-CelebA-mapping.txt", "identities": root / "identity_CelebA.txt"}
    return CelebaHqSource(kind="celeba_hq", **({"path": root / "CelebA-HQ-img"} | files | changes))


def test_celeba_hq_gets_its_persons_through_the_mapping(celeba: Path, tmp_path: Path) -> None:
    """Picture to original file to identity: two pictures of one person are one, and the terms stand in each row."""
    index = gather(celeba_source(celeba), tmp_path, celeba)
    assert list(index["person"]) == list(PERSONS)
    assert (index["terms"] == published.CELEBA_TERMS).all()
    plain = list_celeba(celeba_source(celeba, mapping=None, identities=None))
    assert [entry.person for entry in plain] == [None] * 3


def test_celeba_hq_numbered_from_one(celeba: Path) -> None:
    """Where the first picture is 00001 the numbers are one ahead of the mapping's; taken for 0 that is noticed."""
    folder = celeba / "from-one"
    folder.mkdir()
    for number in (1, 2, 3):
        Image.new("RGB", (16, 16)).save(folder / f"{number:05d}.jpg")
    listed = list_celeba(celeba_source(celeba, path=folder, numbered_from=1))
    assert [entry.person for entry in listed] == list(PERSONS)
    with pytest.raises(StyleBlendError, match="no line for picture 3.*numbered_from 1"):
        list_celeba(celeba_source(celeba, path=folder))


def test_celeba_hq_mistakes_are_one_line(celeba: Path) -> None:
    """One file of the two, a torn file and a missing person say so."""
    with pytest.raises(ValueError, match="has mapping but no identities"):
        celeba_source(celeba, identities=None)
    (celeba / "identity_CelebA.txt").write_text("099095.jpg 2880\n119614.jpg 17\n")
    with pytest.raises(StyleBlendError, match=r"no line for 200122\.jpg"):
        list_celeba(celeba_source(celeba))
    (celeba / "identity_CelebA.txt").write_text("<html>\n")
    with pytest.raises(StyleBlendError, match="'<html>' where 2 columns"):
        list_celeba(celeba_source(celeba))


@pytest.mark.parametrize("form", ["aligned", "in_the_wild"])
@pytest.mark.parametrize("ending", ["zip", "tar", "tar.gz"])
def test_ffhq_in_an_archive_is_ffhq_in_a_folder(form: str, ending: str, ffhq: Path, tmp_path: Path) -> None:
    """The published zip of one of its folders, and a tar of it, give the same rows and files as the folder."""
    folder = ffhq / published.FFHQ_FOLDERS[form]
    plain = gather(ffhq_source(ffhq, path=folder, form=form), tmp_path, ffhq)
    file = packed(folder, tmp_path / f"{folder.name}.{ending}", top=folder.name)
    index = gather(ffhq_source(ffhq, path=file, form=form, sha256=sha256(file)), tmp_path, tmp_path)
    pd.testing.assert_frame_equal(index, plain)
    assert [sha256(tmp_path / "raw" / path) for path in index["path"]] == list(index["sha256"])


@pytest.mark.parametrize("ending", ["zip", "tar"])
def test_celeba_mask_hq_zip_is_read_as_published(ending: str, celeba: Path, tmp_path: Path) -> None:
    """Pictures and mapping are found in it, persons through them; its masks are not unpacked. A tar alike."""
    identities = celeba / "identity_CelebA.txt"
    file = packed(celeba, tmp_path / f"CelebAMask-HQ.{ending}", "CelebAMask-HQ", leave_out=(identities.name,))
    source = CelebaHqSource(kind="celeba_hq", path=file, identities=identities)
    index = gather(source, tmp_path, tmp_path)
    assert list(index["person"]) == list(PERSONS)
    pd.testing.assert_frame_equal(index, gather(celeba_source(celeba), tmp_path, celeba))
    (folder,) = (tmp_path / "st").glob("unpacked-*")
    assert {path.name for path in folder.rglob("*.*")} == {"0.jpg", "1.jpg", "2.jpg", published.CELEBA_MAPPING}
    flat = packed(celeba / "CelebA-HQ-img", tmp_path / "flat.zip", ".")
    with pytest.raises(StyleBlendError, match=r"flat\.zip comes without CelebA-HQ-to-CelebA-mapping\.txt: name that"):
        gather(source.model_copy(update={"path": flat}), tmp_path, tmp_path)


def test_a_folder_above_is_searched_for_the_published_one(ffhq: Path, celeba: Path, tmp_path: Path) -> None:
    """The whole release in one folder: the form says which of FFHQ's folders; two of a name are a question."""
    for form, name in (("aligned", "images1024x1024"), ("in_the_wild", "in-the-wild-images")):
        source = ffhq_source(ffhq, path=ffhq, form=form)
        assert published.pictures_folder(source, ffhq) == ffhq / name and len(list_ffhq(source)) == 3
    above = celeba_source(celeba, path=celeba.parent, mapping=None)
    assert [entry.person for entry in list_celeba(above)] == list(PERSONS)
    published_files.celeba_mask_hq(tmp_path / "again")
    with pytest.raises(StyleBlendError, match=r"several folders CelebA-HQ-img, again/CelebA-HQ-img and celeba/"):
        list_celeba(above)


def test_sources_are_mixed_with_their_weights(ffhq: Path, celeba: Path, tmp_path: Path) -> None:
    """Each row, and each aligned face after it, has the weight of its source, by which training draws."""
    mixed = (
        ffhq_source(ffhq, weight=2.5),
        celeba_source(celeba, weight=0.5),
        archive_source(path=zipped(tmp_path / "in.zip", "1.png"), weight=4),
    )
    cfg = Download(sources=mixed, origin=tmp_path, workers=1)
    index = sources.gather(cfg, tmp_path / "raw", tmp_path / "st")
    assert dict(zip(index["source"], index["weight"], strict=True)) == {"ffhq": 2.5, "celeba_hq": 0.5, "archive": 4}
    align = Align(detector="annotations", size_px=64, workers=1, min_face_px=8)
    faces, refused = align_faces(tmp_path / "raw", tmp_path, tmp_path / "faces", align)
    assert list(faces["weight"]) == [2.5] * 3 and len(refused) == 4


def test_archives_of_something_else_are_one_line(celeba: Path, tmp_path: Path) -> None:
    """No numbered picture, no such file, a checksum for a folder, and neither or both of path and url."""
    other = zipped(tmp_path / "other.zip", "anna/portrait.png")
    with pytest.raises(StyleBlendError, match=r"other\.zip holds no picture whose name is a number"):
        gather(CelebaHqSource(kind="celeba_hq", path=other), tmp_path, tmp_path)
    with pytest.raises(StyleBlendError, match=r"absent\.zip does not exist: set the path of source 'ffhq'"):
        gather(FfhqSource(kind="ffhq", path=tmp_path / "absent.zip"), tmp_path, tmp_path)
    with pytest.raises(StyleBlendError, match=r"CelebA-HQ-img is a folder: set it to null"):
        gather(celeba_source(celeba, sha256="0" * 64), tmp_path, tmp_path)
    with pytest.raises(ValueError, match="either path or url"):
        FfhqSource(kind="ffhq")
    with pytest.raises(ValueError, match="url but no sha256"):
        CelebaHqSource(kind="celeba_hq", url="http://127.0.0.1/x.zip")
    assert not (tmp_path / "raw").exists()


def zipped(file: Path, *names: str) -> Path:
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            content = io.BytesIO()
            Image.new("RGB", (16, 16), "red").save(content, "PNG")
            archive.writestr(name, content.getvalue())
    return file


def archive_source(**given: Any) -> ArchiveSource:
    return ArchiveSource(kind="archive", licence="mine", terms="all agreed", **given)


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_archive_is_a_folder_of_photographs(kind: str, tmp_path: Path) -> None:
    """Pictures of a zip and of a compressed tar, with the names of folders as persons; unpacked once."""
    file = zipped(tmp_path / "in.zip", "anna/1.png", "anna/2.png", "ben/1.png")
    if kind != "zip":
        with zipfile.ZipFile(file) as archive, tarfile.open(tmp_path / "in.tar.gz", "w:gz") as tar:
            archive.extractall(tmp_path / "plain")
            tar.add(tmp_path / "plain", arcname=".")
        file = tmp_path / "in.tar.gz"
    source = archive_source(path=file, label="parent_folder", sha256=sha256(file))
    index = gather(source, tmp_path, tmp_path)
    assert list(index["person"]) == ["anna", "anna", "ben"] and (index["licence"] == "mine").all()
    (folder,) = (tmp_path / "st").glob("unpacked-*")
    before = folder.stat().st_mtime_ns
    assert archives.unpacked(source, tmp_path / "st") == folder and folder.stat().st_mtime_ns == before


def test_archive_that_reaches_outside_is_refused(tmp_path: Path) -> None:
    """A name with `..` ends it before anything lies outside, and another checksum before anything is unpacked."""
    file = zipped(tmp_path / "in.zip", "1.png", "../../out.png")
    with pytest.raises(StyleBlendError, match="outside itself"):
        gather(archive_source(path=file), tmp_path, tmp_path)
    assert not list(tmp_path.parent.glob("out.png"))
    with pytest.raises(StyleBlendError, match=f"sha256 {sha256(file)}, wanted {'0' * 64}"):
        gather(archive_source(path=file, sha256="0" * 64), tmp_path, tmp_path)
    (tmp_path / "text.zip").write_text("no archive")
    with pytest.raises(StyleBlendError, match="neither a zip nor a tar"):
        gather(archive_source(path=tmp_path / "text.zip"), tmp_path, tmp_path)
    with pytest.raises(ValueError, match="either path or url"):
        archive_source()
    with pytest.raises(ValueError, match="url but no sha256"):
        archive_source(url="http://127.0.0.1/x.zip")


class Server(http.server.SimpleHTTPRequestHandler):
    """Knows ranges, as SimpleHTTPRequestHandler does not, and notes them."""

    TAG = '"as it was"'
    ranges: list[str | None] = []

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.ranges.append(asked)
        content = Path(self.translate_path(self.path)).read_bytes()
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        self.send_response(206 if asked else 200)
        self.send_header("ETag", self.TAG)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start:])

    def log_message(self, *_: object) -> None:
        """Tests print nothing."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    Server.ranges.clear()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Server, directory=str(tmp_path))) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def test_fetching_goes_on_where_it_was_cut_off(server: str, tmp_path: Path) -> None:
    """The second call asks for the rest alone, and the whole has the right checksum; a third asks for nothing."""
    file = zipped(tmp_path / "in.zip", "1.png", "2.png")
    content = sha256(file)
    begun = tmp_path / "st/archives" / f"{content[:16]}.part"
    begun.parent.mkdir(parents=True)
    begun.write_bytes(file.read_bytes()[:100])
    begun.with_name(f"{begun.name}.state").write_text(Server.TAG)
    source = archive_source(url=f"{server}/in.zip", sha256=content)
    index = gather(source, tmp_path, tmp_path)
    assert Server.ranges == ["bytes=100-"] and len(index) == 2 and (index["url"] == source.url).all()
    archives.fetched(str(source.url), content, tmp_path / "st")
    assert len(Server.ranges) == 1


def test_a_published_set_by_url_goes_on_alike(server: str, celeba: Path, tmp_path: Path) -> None:
    """CelebAMask-HQ.zip behind a url: the rest is fetched, checked and read."""
    file = packed(celeba, tmp_path / "CelebAMask-HQ.zip", "CelebAMask-HQ")
    content = sha256(file)
    begun = tmp_path / "st/archives" / f"{content[:16]}.part"
    begun.parent.mkdir(parents=True)
    begun.write_bytes(file.read_bytes()[:100])
    begun.with_name(f"{begun.name}.state").write_text(Server.TAG)
    url = f"{server}/{file.name}"
    source = CelebaHqSource(kind="celeba_hq", url=url, sha256=content, identities=celeba / "identity_CelebA.txt")
    index = gather(source, tmp_path, tmp_path)
    assert Server.ranges == ["bytes=100-"] and list(index["person"]) == list(PERSONS)


def test_fetching_something_else_says_both_checksums(server: str, tmp_path: Path) -> None:
    """A file with another content is removed and named; a server that is not there is one line."""
    file = zipped(tmp_path / "in.zip", "1.png")
    with pytest.raises(StyleBlendError, match=f"{sha256(file)}, wanted {'1' * 64}"):
        archives.fetched(f"{server}/in.zip", "1" * 64, tmp_path / "st")
    assert not list((tmp_path / "st/archives").iterdir())
    with pytest.raises(StyleBlendError, match="cannot be fetched.*set path"):
        archives.fetched("http://127.0.0.1:9/in.zip", "1" * 64, tmp_path / "st")


@pytest.mark.parametrize("kind", ["folder", "archive"])
@pytest.mark.parametrize("stated", [{}, {"terms": None}, {"terms": "  "}], ids=["absent", "empty", "blank"])
def test_a_source_without_terms_asks_for_the_line(kind: str, stated: dict[str, Any], root: Path) -> None:
    """A source that is mixed in and whose terms nobody states is refused; the message says what to write where."""
    values = yaml.safe_load((root / "params.yaml").read_text())
    values["download"]["sources"].append({"kind": kind, "path": "photos.zip", "licence": "mine"} | stated)
    with pytest.raises(ConfigError, match=r"download\.sources\.1\.terms: missing; state in one line") as error:
        parse_params(values, "params.yaml")
    assert "\n" not in str(error.value)
