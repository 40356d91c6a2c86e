"""data.sources: rendered faces and folders of photographs become pictures with an index."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from styleblend.config.sources import Download, FolderSource, RenderedSource
from styleblend.data import sources
from styleblend.errors import StyleBlendError
from styleblend.provenance import read_marks
from styleblend.system.files import sha256

ORIGIN = Path("src/styleblend/synthetic")


def rendered(**changes: object) -> RenderedSource:
    settings = {"identities": 6, "pictures_per_identity": 3, "size_px": 48, "supersample": 1, "seed": 5}
    return RenderedSource(kind="rendered", **(settings | changes))


def download(*given: RenderedSource | FolderSource, workers: int = 1, origin: Path = ORIGIN) -> Download:
    return Download(sources=given, workers=workers, origin=origin)


def folder_source(path: Path, **changes: str) -> FolderSource:
    return FolderSource(**({"kind": "folder", "path": path, "licence": "mine", "terms": "all agreed"} | changes))


def photographs(folder: Path) -> Path:
    """Four pictures in some nesting, beside things that are none."""
    for place in ("one.JPG", "anna/two.png", "anna/2020/three.webp", "ben/four.tiff"):
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 10), "red").save(folder / place)
    (folder / "notes.txt").write_text("no picture")
    (folder / ".hidden").mkdir()
    Image.new("RGB", (20, 10)).save(folder / ".hidden" / "five.png")
    Image.new("RGB", (20, 10)).save(folder / "._six.jpg")
    return folder


def test_rendered_faces_come_with_their_truth(tmp_path: Path) -> None:
    """Each picture exists, is marked as synthetic, has its hash, licence, label, seed and 68 landmarks inside it."""
    index = sources.gather(download(rendered()), tmp_path / "raw", tmp_path / "state")
    assert len(index) == 18
    assert (index["person"].value_counts() == 3).all()
    for row in index.itertuples():
        assert sha256(tmp_path / "raw" / row.path) == row.sha256
        with Image.open(tmp_path / "raw" / row.path) as image:
            assert image.size == (48, 48) and image.mode == "RGB"
        marks = np.reshape(row.landmarks, (68, 2))
        assert marks.dtype == np.float32 and (abs(marks - 24) < 34).all()
    assert read_marks(tmp_path / "raw" / index["path"][0])["kind"] == "rendered"
    assert index["licence"].str.len().gt(0).all() and index["terms"].str.len().gt(0).all()
    assert index["url"].isna().all()
    assert str(index["render_seed"].dtype) == "Int64" and set(index["render_seed"]) == {5}


def test_workers_make_the_same_pictures(tmp_path: Path) -> None:
    """Two processes and one give the same files, bit for bit, in the same order."""
    one = sources.gather(download(rendered()), tmp_path / "one", tmp_path / "state")
    two = sources.gather(download(rendered(), workers=2), tmp_path / "two", tmp_path / "state")
    pd.testing.assert_frame_equal(one, two)


def test_a_picture_depends_on_seed_person_and_number_only(tmp_path: Path) -> None:
    """More people and more sources leave the pictures of the first people as they were; another seed does not."""
    few = sources.gather(download(rendered()), tmp_path / "few", tmp_path / "state")
    more = sources.gather(
        download(rendered(identities=7), rendered(name="other", seed=6)), tmp_path / "more", tmp_path / "state"
    ).set_index("path")
    first = more.loc[few["path"]]
    assert (first["person"].to_numpy() == few["person"].to_numpy()).all()
    assert (first["sha256"].to_numpy() == few["sha256"].to_numpy()).all()
    others = more[more["source"] == "other"]
    assert not set(others["sha256"]) & set(few["sha256"]) and not set(others["person"]) & set(few["person"])


def test_a_killed_download_goes_on(tmp_path: Path) -> None:
    """After SIGKILL the finished pictures are kept, a damaged one is made again, and the result is the same."""
    code = (
        "from pathlib import Path\n"
        "from styleblend.config.sources import Download, RenderedSource\n"
        "from styleblend.data.sources import gather\n"
        "source = RenderedSource(kind='rendered', identities=30, pictures_per_identity=3, size_px=48, "
        "supersample=1, seed=5)\n"
        f"cfg = Download(sources=[source], workers=1, origin='{ORIGIN}')\n"
        f"gather(cfg, Path({str(tmp_path / 'raw')!r}), Path({str(tmp_path / 'state')!r}))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    records: list[Path] = []
    deadline = time.monotonic() + 100
    while len(records) < 2 and process.poll() is None and time.monotonic() < deadline:
        records = sorted(tmp_path.glob("state/*/records/0*.json"))
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert len(records) >= 2 and not (tmp_path / "raw").exists()
    work = records[0].parents[1]
    damaged, kept = Path("images/00000/000.png"), Path("images/00004/000.png")  # of the first and second batch
    made = (work / kept).stat().st_mtime_ns
    os.truncate(work / damaged, 100)
    source = rendered(identities=30)
    resumed = sources.gather(download(source), tmp_path / "raw", tmp_path / "state")
    fresh = sources.gather(download(source), tmp_path / "fresh", tmp_path / "other_state")
    pd.testing.assert_frame_equal(resumed, fresh)
    for row in resumed.itertuples():
        assert sha256(tmp_path / "raw" / row.path) == row.sha256
    assert (tmp_path / "raw/rendered" / kept).stat().st_mtime_ns == made
    assert list((tmp_path / "state").iterdir()) == []


def test_a_folder_keeps_its_nesting(tmp_path: Path) -> None:
    """All picture kinds at any depth are found; others are named, hidden ones not; originals stay untouched."""
    folder = photographs(tmp_path / "photos")
    index = sources.gather(download(folder_source(folder), origin=folder), tmp_path / "raw", tmp_path / "state")
    assert index.loc[index["refused"].notna(), "path"].tolist() == ["folder/images/notes.txt"]
    index = index[index["refused"].isna()]
    assert index["path"].tolist() == [
        f"folder/images/{name}" for name in ("anna/2020/three.webp", "anna/two.png", "ben/four.tiff", "one.JPG")
    ]
    assert index["person"].isna().all() and index["render_seed"].isna().all()
    assert set(index["licence"]) == {"mine"} and set(index["terms"]) == {"all agreed"}
    for row in index.itertuples():
        copy = tmp_path / "raw" / row.path
        original = folder / Path(row.path).relative_to("folder/images")
        assert sha256(copy) == row.sha256 == sha256(original)
        # A shared inode would let DVC's read-only cache reach the person's own file.
        assert copy.stat().st_ino != original.stat().st_ino


def test_labels_are_the_folder_that_holds_the_picture(tmp_path: Path) -> None:
    """With parent_folder the label is the path of the sub-folder, and pictures at the top have none."""
    folder = photographs(tmp_path / "photos")
    source = folder_source(folder, label="parent_folder")
    index = sources.gather(download(source, origin=folder), tmp_path / "raw", tmp_path / "state")
    labels = dict(zip(index["path"].str.rsplit("/", n=1).str[1], index["person"], strict=True))
    assert (labels["two.png"], labels["three.webp"], labels["four.tiff"]) == ("anna", "anna/2020", "ben")
    assert pd.isna(labels["one.JPG"])


def test_a_corrupted_picture_is_no_error_here(tmp_path: Path) -> None:
    """Content is not looked at by the download: that is for align to judge."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"no picture")
    source = folder_source(tmp_path / "photos")
    index = sources.gather(download(source, origin=source.path), tmp_path / "raw", tmp_path / "state")
    assert len(index) == 1


def test_useless_folders_are_one_line(tmp_path: Path) -> None:
    """A missing or empty folder, or a file: one line that names it, before anything else is made."""
    (tmp_path / "empty" / "inner").mkdir(parents=True)
    (tmp_path / "file").write_text("")
    for name, what in (("absent", "does not exist"), ("empty", "hold no picture"), ("file", "is a file")):
        cfg = download(rendered(), folder_source(tmp_path / name), origin=tmp_path)
        with pytest.raises(StyleBlendError, match=what) as error:
            sources.gather(cfg, tmp_path / "raw", tmp_path / "state")
        assert str(tmp_path / name) in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "raw").exists() and not (tmp_path / "state").exists()


def test_reading_without_an_index_is_one_line(tmp_path: Path) -> None:
    """The index of an empty folder is an error that says what to run."""
    with pytest.raises(StyleBlendError, match="run the stage download first"):
        sources.read_index(tmp_path)
