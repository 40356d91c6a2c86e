"""Unpacking: in parallel, gone on with after an interruption, said as it goes, and damage in one line."""

from __future__ import annotations

import contextlib
import os
import resource
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

import published_files
from published_files import packed
from styleblend.config.sources import ArchiveSource, CelebaHqSource, Download, FfhqSource, FolderSource, Source
from styleblend.data import archives, sources
from styleblend.errors import StyleBlendError

SMALL, LARGE = 1000, 5_000_000


def source(file: Path) -> ArchiveSource:
    return ArchiveSource(kind="archive", path=file, licence="mine", terms="all agreed")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """120 small files and a large one, the last by name."""
    folder = tmp_path / "files"
    for number in range(120):
        path = folder / f"{number % 7}/{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(SMALL))
    (folder / "large.png").write_bytes(os.urandom(LARGE))
    return folder


@contextlib.contextmanager
def disk_with(limit: int) -> Iterator[None]:
    """The system refuses to write larger files, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("ending", ["zip", "tar", "tar.gz"])
def test_unpacking_goes_on_where_it_failed(ending: str, files: Path, tmp_path: Path) -> None:
    """What was whole when the disk was full is not written again, the cut-off file is; the reason is one line."""
    archive, state = packed(files, tmp_path / f"in.{ending}", "top"), tmp_path / "state"
    with (
        disk_with(LARGE // 2),
        pytest.raises(StyleBlendError, match=r"cannot be unpacked \(File too large\): mend that"),
    ):
        archives.unpacked(source(archive), state)
    (partial,) = state.iterdir()
    before = {name: (partial / name).stat().st_mtime_ns for name in contents(partial) if "large" not in name}
    assert len(before) == 120 and (partial / "top/large.png").stat().st_size < LARGE
    folder = archives.unpacked(source(archive), state)
    assert contents(folder / "top") == contents(files) and [*state.iterdir()] == [folder]
    assert {name: (folder / name).stat().st_mtime_ns for name in before} == before


def test_processes_unpack_what_one_does(files: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Two processes write the same files, and a log is told about ten times how far they are."""
    archive = packed(files, tmp_path / "in.zip", "top")
    folder = archives.unpacked(source(archive), tmp_path / "state", workers=2)
    assert contents(folder / "top") == contents(files)
    said = [line for line in capfd.readouterr().out.splitlines() if line.startswith("unpack in.zip: ")]
    assert said == [f"unpack in.zip: {done} of 100" for done in range(10, 101, 10)]


def test_a_large_tar_says_how_far_it_is(
    files: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though how many files it holds is only known at its end."""
    archive = packed(files, tmp_path / "in.tar", "top")
    monkeypatch.setattr(archives, "LOGGED_BYTES", archive.stat().st_size)
    archives.unpacked(source(archive), tmp_path / "state")
    said = [line for line in capfd.readouterr().out.splitlines() if line.startswith("unpack in.tar: ")]
    assert said and said[-1].endswith(" of 100 %")


def damaged_zip(file: Path) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("1.png", b"abc" * 5000)
    content = bytearray(file.read_bytes())
    content[45:60] = b"\xff" * 15
    file.write_bytes(content)


def cut_zip(file: Path) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("1.png", b"abc" * 5000)
    file.write_bytes(file.read_bytes()[:-10])


def changed_zip(file: Path) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("1.png", b"abc" * 5000)
    file.write_bytes(file.read_bytes().replace(b"abcabcabc", b"abcabXabc", 1))


def locked_zip(file: Path) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("1.png", b"abc")
    content = bytearray(file.read_bytes())
    content[6] |= 1  # flags of the file, and of the file in the table of contents: encrypted
    content[content.index(b"PK\x01\x02") + 8] |= 1
    file.write_bytes(content)


def cut_tar(file: Path) -> None:
    with tarfile.open(file, "w:gz") as tar:
        inside = file.with_name("inside")
        inside.write_bytes(os.urandom(50_000))
        tar.add(inside, "1.png")
    file.write_bytes(file.read_bytes()[:20_000])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damaged_zip, r"cannot be unpacked \(.*\): get it again"),
        (cut_zip, "neither a zip nor a tar file: get it again"),
        (changed_zip, r"cannot be unpacked \(Bad CRC-32.*\): get it again"),
        (locked_zip, r"cannot be unpacked \(.*password.*\): unpack it by other means and name the folder"),
        (cut_tar, r"cannot be unpacked \(.*\): get it again"),
    ],
    ids=lambda given: getattr(given, "__name__", ""),
)
def test_a_damaged_archive_is_one_line_each_time(damage: object, message: str, tmp_path: Path) -> None:
    """Whatever is wrong with it; and a second try does not take what the first has left for whole."""
    assert callable(damage)
    damage(tmp_path / "in.zip")
    for _ in range(2):
        with pytest.raises(StyleBlendError, match=message) as error:
            archives.unpacked(source(tmp_path / "in.zip"), tmp_path / "state")
        assert "\n" not in str(error.value)


def growing_zip(file: Path, entries: int, claimed: int) -> None:
    """A zip of small entries, each of which claims to unpack to so many bytes."""
    with zipfile.ZipFile(file, "w") as archive:
        for number in range(entries):
            archive.writestr(f"{number}.png", b"abc")
    content, place = bytearray(file.read_bytes()), 0
    while (place := content.find(b"PK\x01\x02", place)) >= 0:
        content[place + 24 : place + 28] = claimed.to_bytes(4, "little")
        place += 4
    file.write_bytes(content)


def test_a_decompression_bomb_is_refused_before_it_is_written(tmp_path: Path) -> None:
    """Many entries that grow beyond all reason: one line, and no file."""
    growing_zip(tmp_path / "in.zip", 20, 1 << 30)
    with pytest.raises(StyleBlendError, match=r"seems to be a decompression bomb \(.* would become 21\.5 GB\)"):
        archives.unpacked(source(tmp_path / "in.zip"), tmp_path / "state")
    assert not [path for path in (tmp_path / "state").rglob("*") if path.is_file()]


def test_an_entry_larger_than_any_picture_is_left_out(tmp_path: Path) -> None:
    """It alone, with its reason; the others are unpacked."""
    growing_zip(tmp_path / "in.zip", 1, (1 << 30) + 1)
    with zipfile.ZipFile(tmp_path / "in.zip", "a") as archive:
        archive.writestr("small.png", b"abc")
    folder = archives.unpacked(source(tmp_path / "in.zip"), tmp_path / "state")
    assert contents(folder) == {"small.png": b"abc"}
    assert "decompression bomb" in archives.left_out(folder)["0.png"]


def test_a_folder_is_no_archive(tmp_path: Path) -> None:
    """It is said to be one, not to be absent."""
    with pytest.raises(StyleBlendError, match="is a folder: set the path of source 'archive' to a zip or tar file"):
        archives.unpacked(source(tmp_path), tmp_path / "state")


@pytest.mark.parametrize("kind", ["folder", "ffhq", "celeba_hq"])
def test_copying_goes_on_where_it_failed(kind: str, tmp_path: Path) -> None:
    """Pictures that were copied before the disk was full are not copied again, and the result is whole."""
    if kind == "ffhq":
        folder = published_files.ffhq(tmp_path / "set") / "images1024x1024"
        given: Source = FfhqSource(kind="ffhq", path=folder)
    else:
        folder = published_files.celeba_mask_hq(tmp_path / "set") / "CelebA-HQ-img"
        given = CelebaHqSource(kind="celeba_hq", path=folder)
        if kind == "folder":
            given = FolderSource(kind="folder", path=folder, licence="mine", terms="all agreed")
    last = sorted(path for path in folder.rglob("*") if path.is_file())[-1]
    last.write_bytes(last.read_bytes() + bytes(LARGE))
    cfg = Download(sources=(given,), origin=folder, workers=1)
    with (
        disk_with(LARGE // 2),
        pytest.raises(StyleBlendError, match=rf"{last.name} cannot be copied to .* \(File too large\): mend that"),
    ):
        sources.gather(cfg, tmp_path / "raw", tmp_path / "state")
    assert not (tmp_path / "raw").exists()
    copies = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "state").rglob("*.[pj]*g")}
    assert len(copies) == 2
    index = sources.gather(cfg, tmp_path / "raw", tmp_path / "state")
    made = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "raw").rglob("*.[pj]*g")}
    assert len(index) == 3 and made.items() > copies.items()
    with Image.open(tmp_path / "raw" / index["path"].iloc[2]) as image:
        image.load()
