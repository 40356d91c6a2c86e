"""Pair lists of every form, and what is said where one cannot be used."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from styleblend.data.pair_list import ListedPair, read_pair_list, require_pictures, swapped_files
from styleblend.errors import StyleBlendError


def listed(folder: Path, name: str, text: str) -> Path:
    file = folder / name
    file.write_text(text)
    return file


def touched(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_csv_and_lines_say_the_same(tmp_path: Path) -> None:
    """The same pairs as a table and as lines; columns in any order, comments, blanks and a byte order mark."""
    table = listed(tmp_path, "a.csv", "\ufefftarget,source\nx/t.jpg, s.png\nu.png,s.png\n")
    lines = listed(tmp_path, "a.txt", "source target\ns.png   x/t.jpg # the first\n\ns.png u.png\n")
    pairs = read_pair_list(table, tmp_path)
    assert pairs == read_pair_list(lines, tmp_path)
    assert pairs[0] == ListedPair("s.png", "x/t.jpg", "s_t", "s.png", "x/t.jpg")


def test_a_csv_names_swaps_and_persons(tmp_path: Path) -> None:
    """Given columns are taken as they are; empty cells as if the column were not there."""
    heads = "source,target,swapped,source_person,target_person,more\n"
    table = listed(tmp_path, "a.csv", f"{heads}s.png,t.png,out/7.jpg,anna,bo,1\nu.png,t.png,,,bo,2\n")
    assert read_pair_list(table, tmp_path) == [
        ListedPair("s.png", "t.png", "out/7.jpg", "anna", "bo"),
        ListedPair("u.png", "t.png", "u_t", "u.png", "bo"),
    ]


def test_faceforensics_pairs_go_both_ways_frame_by_frame(tmp_path: Path) -> None:
    """[a, b] is target a with the face of b as a_b, and b_a; evenly spaced frames; a person is a sequence."""
    touched(tmp_path, *(f"000/{k:04}.png" for k in range(9)), *(f"003/{k:04}.png" for k in range(5)))
    file = listed(tmp_path, "test.json", json.dumps([["000", "003"]]))
    pairs = read_pair_list(file, tmp_path, frames=3)
    assert [(pair.target, pair.source, pair.swapped) for pair in pairs] == [
        ("000/0000.png", "003/0000.png", "000_003/0000"),
        ("000/0004.png", "003/0002.png", "000_003/0004"),
        ("000/0008.png", "003/0004.png", "000_003/0008"),
        ("003/0000.png", "000/0000.png", "003_000/0000"),
        ("003/0002.png", "000/0004.png", "003_000/0002"),
        ("003/0004.png", "000/0008.png", "003_000/0004"),
    ]
    assert {pair.source_person for pair in pairs[:3]} == {"003"} and pairs[0].target_person == "000"
    single = touched(tmp_path / "single", "000.png", "003.jpg")
    (first, second) = read_pair_list(file, single)
    assert (first.target, first.source, first.swapped) == ("000.png", "003.jpg", "000_003")
    assert second.swapped == "003_000"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "from,to\ns,t\n", "has the columns from, to"),
        ("a.csv", "", "has the columns none"),
        ("a.csv", "source,target\n", "holds no pair"),
        ("a.csv", "source,target\ns.png,\n", "line 2, lacks a source or a target"),
        ("a.csv", "source,target\ns.png,t.png\ns.png,t.png\n", "the pair 's.png, t.png' twice"),
        ("a.csv", "source,target\na/s.png,t.png\nb/s.png,t.png\n", "picture 's_t' twice .* column 'swapped'"),
        ("a.txt", "one\n", "line 1, has 1 words"),
        ("a.json", '{"a": 1}', "holds no pairs of sequences"),
        ("a.json", "[[", "is not valid JSON"),
        ("a.json", '[["000", "003"]]', "sequence '000' has no frames"),
        ("a.xlsx", "", "ends in '.xlsx'"),
    ],
)  # fmt: skip
def test_a_wrong_list_is_one_line(tmp_path: Path, name: str, text: str, message: str) -> None:
    """The file, the place and the remedy, without a traceback."""
    with pytest.raises(StyleBlendError, match=message) as caught:
        read_pair_list(listed(tmp_path, name, text), tmp_path)
    assert "\n" not in str(caught.value) and name in str(caught.value) or "sequence" in message
    with pytest.raises(StyleBlendError, match=r"nowhere.csv is missing"):
        read_pair_list(tmp_path / "nowhere.csv", tmp_path)


def test_missing_pictures_and_gaps_are_counted_and_named(tmp_path: Path) -> None:
    """All are counted, three are named; a swap is found with any usual ending, or as the list names it."""
    rows = "".join(f"s{k}.png,t.png\n" for k in range(6))
    file = listed(tmp_path, "a.csv", f"source,target\n{rows}")
    pairs = read_pair_list(file, tmp_path)
    touched(tmp_path, "t.png", "s0.png")
    with pytest.raises(StyleBlendError, match=r"5 of 7 pictures .*: s1.png, s2.png, s3.png and 2 more; .*--pictures"):
        require_pictures(file, pairs, tmp_path)
    require_pictures(file, pairs, touched(tmp_path, *(f"s{k}.png" for k in range(6))))
    swaps = touched(tmp_path / "swaps", "s0_t.png", "s1_t.jpg")
    with pytest.raises(StyleBlendError, match=r"swaps 'other': 4 of 6 swapped .*: s2_t, s3_t, s4_t and 1 more"):
        swapped_files("other", pairs, swaps)
    with pytest.raises(StyleBlendError, match="is no folder"):
        swapped_files("other", pairs, tmp_path / "nothing")
    touched(swaps, *(f"s{k}_t.webp" for k in range(2, 6)))
    assert [file.name for file in swapped_files("other", pairs, swaps)[:3]] == ["s0_t.png", "s1_t.jpg", "s2_t.webp"]
