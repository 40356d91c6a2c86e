"""system.kept: finished results are found again whole, or not at all, and go when nothing uses them."""

from __future__ import annotations

from pathlib import Path

import pytest

from styleblend.system.kept import Kept, kept, linked

ONE, TWO = "ab" + "1" * 62, "cd" + "2" * 62


def names(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b[:20], lambda b: b"", lambda b: b[:-1] + b"?"])
def test_a_damaged_result_is_none(damage, tmp_path: Path) -> None:
    """What was cut off or changed on the disk is not given out, and can be put again."""
    store = Kept(tmp_path)
    store.put(ONE, b"content!")
    assert store.get(ONE) == b"content!" and store.get(TWO) is None
    file = store.file(ONE)
    file.write_bytes(damage(file.read_bytes()))
    assert store.get(ONE) is None
    store.put(ONE, b"")
    assert store.get(ONE) == b""


def test_only_what_a_run_used_stays(tmp_path: Path) -> None:
    """Results of removed inputs, of other settings, and what a killed process left half written, go at the end."""
    with kept(tmp_path, "align", "old", tmp_path / "out") as (store, used):
        store.put(ONE, b"old")
        used.add(ONE)
    with kept(tmp_path, "align", "new", tmp_path / "out") as (store, used):
        for key in (ONE, TWO):
            store.put(key, b"new")
        store.file(ONE, "-0.png").write_bytes(b"picture")
        store.file(TWO).with_name(".half").write_bytes(b"")
        used.update((ONE, f"{ONE}-0.png"))
    assert names(tmp_path / "align") == {"lock", f"new/ab/{ONE}", f"new/ab/{ONE}-0.png"}


def test_a_failed_run_loses_nothing(tmp_path: Path) -> None:
    """What an earlier run left is there after a run that ended with an error, as is what that one finished."""
    with kept(tmp_path, "align", "old", tmp_path / "out") as (store, used):
        store.put(ONE, b"old")
        used.add(ONE)
    with pytest.raises(RuntimeError), kept(tmp_path, "align", "new", tmp_path / "out") as (store, _):
        store.put(TWO, b"new")
        raise RuntimeError
    assert names(tmp_path / "align") == {"lock", f"old/ab/{ONE}", f"new/cd/{TWO}"}


def test_a_run_at_work_keeps_its_results(tmp_path: Path) -> None:
    """Whoever ends first removes nothing of another that still works; whoever ends last cleans up."""
    with kept(tmp_path, "align", "long", tmp_path / "a") as (long, used):
        long.put(ONE, b"long")
        with kept(tmp_path, "align", "short", tmp_path / "b") as (short, used_too):
            short.put(TWO, b"short")
            used_too.add(TWO)
        assert long.get(ONE) == b"long"
        used.add(ONE)
    assert names(tmp_path / "align") == {"lock", f"long/ab/{ONE}"}


def test_without_a_state_nothing_is_left(tmp_path: Path) -> None:
    """Files that were linked to their place stay, the folder beside it goes."""
    with kept(None, "align", "new", tmp_path / "deep" / "out") as (store, _):
        store.put(ONE, b"content")
        linked(store.file(ONE), tmp_path / "linked")
    assert names(tmp_path) == {"linked"} and (tmp_path / "linked").read_bytes().endswith(b"content")
