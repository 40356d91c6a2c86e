"""data.folders: endings come from the decoder, linked folders are followed, and what is passed over is told."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from styleblend.config.sources import ArchiveSource, Download, FolderSource
from styleblend.data import folders, sources
from styleblend.data.folders import list_folder, look_below
from styleblend.errors import StyleBlendError, shown
from styleblend.faces import picture_kinds
from styleblend.faces.pictures import UnusablePicture, open_picture
from styleblend.system.files import fitting_name, safe_name, whole_file, whole_folder

KINDS = ("a.avif", "b.gif", "c.jp2", "d.ppm", "e.bmp", "f.webp", "g.jfif", "h.jpe", "i.jpg", "j.JPG", "k.png", "l.TIF")
FOREIGN = os.fsdecode(b"M\xfcller.png")
"""A name in Latin-1."""


def picture(path: Path, size: tuple[int, int] = (20, 10)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {".jfif": "JPEG", ".jpe": "JPEG"}.get(path.suffix)
    Image.new("RGB", size, "red").save(path, content)
    return path


def gathered(folder: Path, out: Path, **changes: object) -> pd.DataFrame:
    given = FolderSource(kind="folder", path=folder, licence="mine", terms="agreed", **changes)
    return sources.gather(Download(sources=(given,), origin=folder, workers=1), out / "raw", out / "state")


def test_every_ending_of_the_decoder_is_listed(tmp_path: Path) -> None:
    """Each kind that one file alone can be read as is found in a folder, too, whatever the case of its ending."""
    for name in KINDS:
        picture(tmp_path / name)
        assert open_picture(tmp_path / name, 1000).rgb.size == (20, 10)
    found = list_folder(tmp_path)
    assert [str(path) for path in found.pictures] == sorted(KINDS) and not list(found.lines())


def test_endings_and_formats_agree_with_pillow() -> None:
    """No ending is promised whose format Pillow cannot open or is kept from opening; none of ours is called unread."""
    for ending in picture_kinds.endings():
        kind = Image.registered_extensions()[ending]
        assert {"MPO": "JPEG"}.get(kind, kind) in set(Image.OPEN) & set(picture_kinds.FORMATS)
        assert picture_kinds.unread_kind(ending) is None
    assert {".eps", ".ps", ".psd", ".wmf"}.isdisjoint(picture_kinds.endings())


def test_what_is_passed_over_is_counted_and_named(tmp_path: Path) -> None:
    """Pictures of other kinds by name, other files by ending, hidden ones by number; pipes are never opened."""
    picture(tmp_path / "a.png")
    for name in ("b.heic", "c.JXL", "d.heic", "e.nef", "notes.txt", "README", ".hidden.png"):
        (tmp_path / name).write_bytes(b"x")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "lost.jpg").symlink_to("nowhere")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    found = look_below(tmp_path)
    assert found.pictures == (Path("a.png"),) and found.hidden == 1
    pictures, others, hidden = found.lines()
    assert "7 passed over" in pictures and "2 .heic" in pictures and "b.heic" in pictures
    assert "2 passed over" in others and "1 .txt" in others and "1 without an ending" in others
    assert "1 hidden" in hidden
    reasons = {str(each.relative): each.reason for each in found.passed_over}
    assert reasons["b.heic"] == "HEIC (.heic) is not read: save it as JPEG or PNG"
    assert reasons["c.JXL"].startswith("JPEG XL") and reasons["e.nef"].startswith("a camera's raw data")
    assert "pipe" in reasons["pipe.jpg"] and "leads nowhere" in reasons["lost.jpg"] and "device" in reasons["zero.png"]


def test_linked_folders_are_followed_once(tmp_path: Path) -> None:
    """Through links to each other, to a folder that is read already and to one around it: each picture once."""
    photos, elsewhere = tmp_path / "photos", tmp_path / "elsewhere"
    picture(photos / "z/one.png")
    picture(elsewhere / "two.png")
    picture(tmp_path / "around.png")
    (photos / "a_link_to_z").symlink_to("z")
    (photos / "b").symlink_to(elsewhere)
    (photos / "c").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(photos)
    (photos / "up").symlink_to(tmp_path)
    (photos / "itself").symlink_to(".")
    found = look_below(photos)
    assert [str(path) for path in found.pictures] == ["b/two.png", "z/one.png"] and found.links == (Path("b"),)
    circles = {str(each.relative): each.reason for each in found.passed_over}
    assert set(circles) == {"a_link_to_z", "c", "b/back", "up", "itself"}
    assert circles["up"].endswith("holds the one that is read")
    assert any("linked folders are read (b)" in line for line in found.lines())


def test_an_empty_folder_says_what_is_there_instead(tmp_path: Path) -> None:
    """A folder of HEIC alone is not `no picture` and nothing more."""
    (tmp_path / "a.heic").write_bytes(b"x")
    with pytest.raises(StyleBlendError, match=r"hold no picture \(.*avif.*\); 1 passed over .*1 \.heic"):
        list_folder(tmp_path)


def test_the_index_names_what_was_not_taken(tmp_path: Path) -> None:
    """Rows without a copy, each with its reason; a file that cannot be read costs itself alone."""
    folder = picture(tmp_path / "photos/a.png").parent
    (folder / "b.heic").write_bytes(b"x")
    (folder / "c.txt").write_text("x")
    (folder / "mem.jpg").symlink_to("/proc/self/mem")  # can be opened, and gives an error when it is read
    index = gathered(folder, tmp_path).set_index("path")
    assert len(index) == 4 and index["sha256"].notna().sum() == 1
    refused = index["refused"].dropna().to_dict()
    assert refused["folder/images/mem.jpg"].startswith("cannot be read (")
    assert index["is_picture"].dropna().to_dict() == {
        "folder/images/b.heic": True, "folder/images/c.txt": False, "folder/images/mem.jpg": True
    }  # fmt: skip
    assert {path.name for path in (tmp_path / "raw").rglob("*.*")} == {"a.png", "index.parquet"}


def test_names_are_bytes(tmp_path: Path) -> None:
    """No name is lost: not UTF-8, of 255 bytes, with line breaks or in any script, also of folders that are labels."""
    folder = tmp_path / "photos"
    names = [
        f"{FOREIGN}", os.fsdecode(b"M\xfdller.png"), "x" * 251 + ".png", "字" * 83 + ".webp", "two\nlines.png",
        "\x1b[31mred.png", "نام\u200cها.jpg", "👩\u200d🦰.png", "a\u3000b.png", os.fsdecode(b"J\xfcrgen/1.png"),
        "%d {0}.png", "." * 3 + "x.png", "-o.png", " .png", "\u202egnp.png",
    ]  # fmt: skip
    for name in names:
        picture(folder / name)
    index = gathered(folder, tmp_path, label="parent_folder")
    kept = len(names) - 1  # one is hidden
    assert len(index) == kept and index["path"].is_unique and index["refused"].isna().all()
    for path in index["path"]:
        path.encode()
        assert shown(path) == path and (tmp_path / "raw" / path).is_file()
    assert {"folder/images/نام\u200cها.jpg", "folder/images/👩\u200d🦰.png"} <= set(index["path"])
    assert index["person"].dropna().tolist() == [r"J\xfcrgen"]


def test_dvc_s_limit_is_told_at_the_door(tmp_path: Path) -> None:
    """What DVC would end the run for is one line before it, with names that any terminal shows."""
    picture(tmp_path / FOREIGN)
    with pytest.raises(StyleBlendError, match=r"1 names that are not UTF-8.*\(M\\xfcller\.png\): rename them") as error:
        folders.expect_watchable(tmp_path)
    str(error.value).encode()


def test_names_are_shown_in_one_way() -> None:
    """Bytes that are not UTF-8 and what a terminal obeys become escapes; other text stays, shown once or twice."""
    odd = f"{FOREIGN}\n\x1b[0m\u202e"
    assert shown(odd) == r"M\xfcller.png\n\x1b[0m\u202e" and shown(shown(odd)) == shown(odd)
    assert str(StyleBlendError(f"{odd}: no")) == f"{shown(odd)}: no"
    for name in ("Zoë", "字\u3000体", "👩\u200d🦰", r"back\slash"):
        assert shown(name) == name


def test_safe_names_are_told_apart(tmp_path: Path) -> None:
    """Two names that read alike stay two, and a safe name is its own."""
    one, two = (safe_name(Path(os.fsdecode(name))) for name in (b"M\xfc.png", b"M\xfd.png"))
    assert one != two and safe_name(one) == one and one.suffix == ".png"
    assert safe_name(Path("a/b.png")) == Path("a/b.png")
    long = fitting_name("字" * 85, ".png")
    assert len(os.fsencode(long)) <= 255 and long.endswith(".png") and long != fitting_name("字" * 84 + "x", ".png")


@pytest.mark.parametrize("name", ["x" * 251 + ".png", "x" * 255, FOREIGN, "a." + "e" * 250])
def test_files_of_any_name_are_whole_or_not_there(name: str, tmp_path: Path) -> None:
    """Temporary names have room in any folder, and nothing is left of them."""
    with whole_file(tmp_path / name) as partial:
        partial.write_text("x")
    with whole_folder(tmp_path / "folders" / name[:250]) as folder:
        (folder / "y").write_text("y")
    assert sorted(os.listdir(tmp_path)) == sorted([name, "folders"])
    assert os.listdir(tmp_path / "folders") == [name[:250]]


def test_printing_a_foreign_name_ends_nothing(tmp_path: Path) -> None:
    """With the strictest of encodings a command says its line with escapes, not a traceback."""
    file = tmp_path / FOREIGN
    file.write_bytes(b"x")
    code = "import sys; from styleblend.commands import cli; cli.main(['verify', sys.argv[1]])"
    for encoding in ("utf-8:strict", "ascii:strict"):
        done = subprocess.run(
            [sys.executable, "-c", code, os.fsencode(file)],
            capture_output=True, text=True, env={**os.environ, "PYTHONIOENCODING": encoding}, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 2 and r"M\xfcller.png" in done.stderr and "Traceback" not in done.stderr


def test_kinds_are_guessed_for_a_person(tmp_path: Path) -> None:
    """A file with a picture's ending that is none is called what it is."""
    for content, kind in (
        (b"", "an empty file"), (bytes(500), "nothing but zero bytes"), (b"\0\0\0\x18ftypheic" + bytes(50), "HEIC"),
        (b"\xff\x0a" + bytes(50), "JPEG XL"), (b"<!doctype html><html>", "a web page"), (b"%PDF-1.7", "a PDF document"),
    ):  # fmt: skip
        (tmp_path / "a.jpg").write_bytes(content)
        with pytest.raises(UnusablePicture, match=f"cannot be decoded: it seems to be {kind}"):
            open_picture(tmp_path / "a.jpg", 1000)


def test_unreadable_names_of_an_archive_cost_themselves(tmp_path: Path) -> None:
    """What of an archive can be no file stands in the index with its reason, beside what can."""
    content = picture(tmp_path / "a.png")
    with tarfile.open(tmp_path / "in.tar", "w") as tar:
        for name in ("a.png", "y" * 300 + ".png", "a.png/b.png", os.fsdecode(b"M\xfc.png")):
            tar.add(content, name)
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    given = ArchiveSource(kind="archive", path=tmp_path / "in.tar", licence="mine", terms="agreed")
    cfg = Download(sources=(given,), origin=tmp_path, workers=1)
    index = sources.gather(cfg, tmp_path / "raw", tmp_path / "state")
    assert len(index) == 5 and index["refused"].isna().sum() == 2
    reasons = " ".join(index["refused"].dropna())
    assert "File name too long" in reasons and "File exists" in reasons and "a link in an archive" in reasons
