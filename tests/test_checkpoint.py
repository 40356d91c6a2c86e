"""Checkpoints: whole or not there, checked before they are read, written while training goes on, the right ones."""

from __future__ import annotations

import errno
import os
import resource
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny_training as tiny
from styleblend.config.training import Training
from styleblend.errors import StyleBlendError
from styleblend.system import files
from styleblend.training import checkpoint, loop, steps


def parts(width: int = 2) -> dict[str, checkpoint.Stateful]:
    layer = torch.nn.Linear(width, 2)
    optimiser = torch.optim.Adam(layer.parameters())
    layer(torch.ones(1, width)).sum().backward()
    optimiser.step()
    return {"layer": layer, "optimiser": optimiser}


def saved(folder: Path, step: int, planned: int = 9, attempt: int = 0, good: bool = True) -> Path:
    given = {"step": step, "planned": planned, "attempt": attempt, "good": good}
    return checkpoint.save(folder, checkpoint.snapshot(parts()), {"step": step}, **given)


def of(folder: Path, **changes: Any) -> checkpoint.Checkpoints:
    return loop.checkpoints(tiny.training(**changes), folder)


def steps_of(folder: Path) -> list[int]:
    return [each.step for each in checkpoint.kept(folder)]


@contextmanager
def disk_of(size: int) -> Iterator[None]:
    """No file of this process may grow beyond `size` bytes: the system refuses the write, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_is_kept(tmp_path: Path) -> None:
    """The last two, the newest good one, and the last before the rate falls; a later attempt is newer at any step."""
    with closing(of(tmp_path, steps=10, cool_down=0.8)) as kept:
        for step, good in enumerate([True, True, True, True, True, False, False, False]):
            kept.keep(parts(), {"step": step}, step=step, attempt=0, good=good)
        kept.settle()
        # The rate is full for step 2, the third, and falls from the next on.
        assert steps_of(tmp_path) == [3, 4, 6, 7]
        kept.keep(parts(), {}, step=5, attempt=1, good=True)
        kept.settle()
    newest = checkpoint.kept(tmp_path)[-1]
    assert (newest.step, newest.attempt) == (5, 1) and newest.path == checkpoint.kept(tmp_path)[-1].path


def test_states_come_back_bit_for_bit(tmp_path: Path) -> None:
    """Weights, moments and counts of steps are equal, and the facts; what does not fit is named."""
    written, read = parts(), parts()
    path = checkpoint.save(tmp_path, checkpoint.snapshot(written), {"a": [1]}, step=1, planned=2, attempt=0, good=True)
    assert checkpoint.load(path, read) == {"a": [1]}
    assert all(torch.equal(a, b) for a, b in zip(tensors(written), tensors(read), strict=True))
    for misfit in ({"layer": torch.nn.Linear(3, 2)}, parts(3)):
        with pytest.raises(StyleBlendError, match="does not fit this run"):
            checkpoint.load(path, misfit)


def tensors(given: dict[str, checkpoint.Stateful]) -> list[torch.Tensor]:
    moments = given["optimiser"].state_dict()["state"].values()
    return [*given["layer"].state_dict().values(), *(each for slots in moments for each in slots.values())]


@pytest.mark.parametrize("damage", ["truncated", "emptied", "a bit"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(tmp_path: Path, damage: str) -> None:
    """Whatever happened to the newest file, it is noticed by its checksum, and is not looked at again."""
    saved(tmp_path, 1)
    before, newest = saved(tmp_path, 2), saved(tmp_path, 3)
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes({"truncated": content[:100], "emptied": b"", "a bit": content}[damage])
    with closing(of(tmp_path, steps=9)) as kept:
        found, (line,) = kept.choose()
        assert found is not None and found.path == before
        assert newest.name in line and "is damaged" in line and "the one before it is used" in line
        assert kept.choose() == (found, [])
    assert newest.with_suffix(".damaged").exists() and steps_of(tmp_path) == [1, 2]


def test_training_does_not_begin_anew_where_all_checkpoints_are_damaged(tmp_path: Path) -> None:
    """Weeks are not written over in silence."""
    for step in (1, 2):
        saved(tmp_path, step).write_bytes(b"?")
    with closing(of(tmp_path, steps=9)) as kept, pytest.raises(StyleBlendError, match="all checkpoints in .* damaged"):
        kept.choose()


def test_a_resumed_run_goes_back_over_a_damaged_checkpoint(tmp_path: Path) -> None:
    """The loop says which one was damaged, goes on from the one before, and ends with the weights of a whole run."""
    written = tiny.write_inputs(tmp_path / "inputs")
    train, val = tiny.read_splits(written)
    pairs = loop.probe.read_pairs(written["splits"] / "val_pairs.parquet", val, torch.device("cpu"))
    cfg, perception = tiny.training(steps=4), tiny.perception()

    def run(folder: Path, recorder: loop.Recorder) -> steps.Learner:
        learner = tiny.learner(cfg)
        loop.train(cfg, learner, perception, train, pairs, folder, loop.Worker(), recorder)
        return learner

    class Stop(loop.Recorder):
        def line(self, text: str) -> None:
            if text.startswith("step 3/"):
                raise KeyboardInterrupt

    whole = run(tmp_path / "whole", loop.Recorder()).averaged.state_dict()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", Stop())
    newest = checkpoint.kept(tmp_path / "parts")[-1].path
    assert newest is not None
    newest.write_bytes(newest.read_bytes()[:1000])
    lines = tiny.Lines()
    again = run(tmp_path / "parts", lines).averaged.state_dict()
    assert f"checkpoint {newest} is damaged: 1000 bytes" in lines.said[0] and lines.said[1] == "resumed at step 1 of 4"
    assert all(torch.equal(value, again[name]) for name, value in whole.items())


def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path: Path) -> None:
    """The system stops the writer in the middle of a file: a line, no half file, and with room it works again."""
    saved(tmp_path, 1)
    with closing(of(tmp_path, steps=9)) as kept:
        with disk_of(1500):
            kept.keep(parts(), {}, step=2, attempt=0, good=True)
            problem = kept.settle()
        assert problem is not None and "step 2 could not be written" in problem and "before it stay" in problem
        assert [path.name for path in tmp_path.iterdir()] == [checkpoint.kept(tmp_path)[0].path.name]
        found, lines = kept.choose()
        assert found is not None and found.step == 1 and not lines
        assert kept.keep(parts(), {}, step=3, attempt=0, good=True) is None and kept.settle() is None
    assert steps_of(tmp_path) == [1, 3]


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The content is flushed first, then the name is given, then the folder's list of names is flushed."""
    order: list[str] = []
    sync, replace = os.fsync, os.replace

    def fsync(handle: int) -> None:
        order.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name)
        sync(handle)

    def renamed(source: Path, target: Path) -> None:
        order.append("named")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", renamed)
    monkeypatch.setattr(Path, "replace", renamed)
    saved(tmp_path / "kept", 1)
    assert order == [".writing.pt", "named", "kept"]
    order.clear()
    with files.whole_file(tmp_path / "kept" / "file") as partial:
        partial.write_text("x")
        name = partial.name
    assert order == [name, "named", "kept"]


def test_a_file_that_the_disk_refuses_has_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of flushing, where a disk reports what it could not write, is an error of the whole."""

    def fails(handle: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(StyleBlendError, match=r"could not be written .*Input/output error"):
        saved(tmp_path, 1)
    assert not list(tmp_path.iterdir())


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written is the state of its step, whatever is learned meanwhile; the next one waits for it."""
    may_write, real = threading.Event(), torch.save

    def slow(state: Any, path: Path) -> None:
        assert may_write.wait(60)
        real(state, path)

    monkeypatch.setattr(torch, "save", slow)
    live = parts()
    before = checkpoint.snapshot(live)
    with closing(of(tmp_path, steps=9)) as kept:
        kept.keep(live, {}, step=1, attempt=0, good=True)
        assert steps_of(tmp_path) == []
        with torch.no_grad():
            for value in live["layer"].parameters():  # type: ignore[attr-defined]
                value.add_(1)
        live["optimiser"].step()  # type: ignore[attr-defined]
        may_write.set()
        kept.keep(live, {}, step=2, attempt=0, good=True)
        kept.settle()
    first, read = checkpoint.kept(tmp_path)[0], parts()
    checkpoint.load(first.path, read)
    wanted = [*before["layer"].values(), *(v for s in before["optimiser"]["state"].values() for v in s.values())]
    assert all(torch.equal(a, b) for a, b in zip(tensors(read), wanted, strict=True))
    assert steps_of(tmp_path) == [1, 2]


def test_files_of_an_earlier_version_are_read(tmp_path: Path) -> None:
    """Without a checksum in their name, and without the number of steps that was planned."""
    written = saved(tmp_path, 7)
    old = written.rename(tmp_path / "step-00000007-0-good.pt")
    with closing(of(tmp_path, steps=9)) as kept:
        found, lines = kept.choose()
    assert found is not None and (found.path, found.step, found.planned, lines) == (old, 7, None, [])


@pytest.mark.parametrize(
    ("cool_down", "planned", "steps_now", "done", "alike"),
    [
        (0, 10, 20, 10, True),
        (0, 20, 10, 11, False),
        (0.5, 10, 10, 9, True),
        (0.5, 10, 20, 6, True),
        (0.5, 10, 20, 7, False),
        (0.5, 20, 10, 6, True),
        (0.5, 20, 10, 7, False),
        (1, 10, 20, 1, True),
        (1, 10, 20, 2, False),
    ],
)
def test_which_steps_two_lengths_have_in_common(
    cool_down: float, planned: int, steps_now: int, done: int, alike: bool
) -> None:
    """Where it says that two trainings begin alike, the rates of all those steps are equal; one more would not be."""
    cfg: Training = tiny.training(steps=steps_now, cool_down=cool_down)
    assert steps.begins_alike(cfg, done, planned) is alike
    other = cfg.model_copy(update={"steps": planned})
    equal = all(steps.learning_rate(cfg, step) == steps.learning_rate(other, step) for step in range(done))
    assert equal is (alike or cool_down == 0)


def test_a_training_of_another_length_is_neither_used_nor_removed(tmp_path: Path) -> None:
    """Someone tries ten steps on what had a thousand of them: it begins anew, and the thousand are still there."""
    long = saved(tmp_path, 1000, planned=2000)
    with closing(of(tmp_path, steps=10)) as kept:
        assert kept.choose() == (None, [])
        for step in (5, 10):
            kept.keep(parts(), {}, step=step, attempt=0, good=True)
        kept.settle()
        kept.finish()
        assert long.exists() and steps_of(tmp_path) == [10, 1000]
    with closing(of(tmp_path, steps=2000)) as kept:
        found, _ = kept.choose()
        assert found is not None and found.path == long
