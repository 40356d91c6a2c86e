"""Training on machines that share a storage alone: what is sent, what they get, and that the result is the same."""

from __future__ import annotations

import json
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import tiny_training as tiny
from s3_server import at, s3_server
from styleblend.config.tracking import Tracking
from styleblend.errors import StyleBlendError, TransientError
from styleblend.system.storage import Storage
from styleblend.training import beginning, checkpoint, inputs, loop, ray_trainer, shards, shared
from styleblend.training.batches import TRUE_SWAPS
from styleblend.training.job import CHECKPOINTS, RESULT, Job
from thread_workers import Together


@pytest.fixture(scope="module", params=["folder", "s3"])
def address(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of an empty storage: a folder, or a bucket of a server that speaks S3."""
    if request.param == "folder":
        yield str(tmp_path_factory.mktemp("storage"))
        return
    with s3_server() as options:
        yield at("some/folder", options)


def job_of(folder: Path, storage: str | None, **changes: object) -> Job:
    inputs = tiny.write_inputs(folder)
    cfg = tiny.training(**{"steps": 4, "probe_every": 4, "storage": storage} | changes)
    return Job("train_encoder", "0" * 16, tiny.MODEL, cfg, Tracking(), "", folder / "train_encoder-0", **inputs)


def elsewhere(monkeypatch: pytest.MonkeyPatch, machine: Path) -> None:
    """From now on this process is another machine, by its temporary folder."""
    machine.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(machine))


def test_files_are_whole_or_not_there(address: str, tmp_path: Path) -> None:
    """Contents come back as they went, listed by name; what is missing or another is one line; nothing is left over."""
    place = Storage(address).below("a").below("b")
    assert place.names() == [] and place.read("none") is None
    place.remove("none")
    big = tmp_path / "big"
    big.write_bytes(bytes(range(256)) * 50000)
    place.write("small", b"1")
    place.write("small", b"22")
    place.send(big)
    assert place.names() == ["big", "small"] and place.read("small") == b"22"
    place.fetch(tmp_path / "here" / "big")
    assert (tmp_path / "here" / "big").read_bytes() == big.read_bytes()
    with pytest.raises(StyleBlendError, match="small in .* has another content than was sent"):
        place.fetch(tmp_path / "here" / "small", expected="0" * 64)
    with pytest.raises(StyleBlendError, match="storage .*b lacks what was sent there"):
        place.fetch(tmp_path / "here" / "none")
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == ["big"]
    place.rename("big", "bigger")
    assert place.names() == ["bigger", "small"]
    Storage(address).below("a").clear()
    assert place.names() == []
    Storage(address).below("a").clear()


def test_a_storage_out_of_reach_is_one_line(tmp_path: Path) -> None:
    """A folder that cannot be made, and a file system that nothing here knows: the address, the reason, the remedy."""
    (tmp_path / "file").write_text("")
    for address in (f"{tmp_path}/file/below", "nosuch://somewhere/x"):
        with pytest.raises(TransientError, match="cannot write to storage .*(file|nosuch).*: see that this") as caught:
            Storage(address).write("x", b"")
        assert "\n" not in str(caught.value)


def test_a_training_goes_on_on_another_machine_without_the_faces(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two workers of a machine are lost in the middle; another machine ends with the weights of an undisturbed run.

    Neither has the project's files: the inputs are gone once they were sent. What the storage and the second machine
    keep afterwards is the last checkpoint, and no picture.
    """
    in_turn(monkeypatch)
    job = job_of(tmp_path, address)
    whole = replace(job, training=job.training.model_copy(update={"storage": None}), state=tmp_path / "whole")
    Together(2).run(lambda worker: ray_trainer._train(whole, worker, loop.Recorder()))
    wanted = load_file(whole.state / RESULT / "swapper.safetensors")
    job = shared.begin(job)
    monkeypatch.setattr(shards, "SHARD_BYTES", 10000)
    assert shared.send(job) > 2 and shared.send(job) > 2
    for path in (job.splits, job.faces, job.perceived, job.networks):
        path.rename(path.with_name(f"gone-{path.name}"))

    class Lost(loop.Recorder):
        def line(self, text: str) -> None:
            if text.startswith("step 3/"):
                raise KeyboardInterrupt

    elsewhere(monkeypatch, tmp_path / "first")
    with pytest.raises(KeyboardInterrupt):
        Together(2).run(lambda worker: ray_trainer._train_elsewhere(job, worker, Lost() if not worker.rank else quiet))
    elsewhere(monkeypatch, tmp_path / "second")
    again = shared.begin(job)
    with pytest.raises(checkpoint.Superseded, match="another one's now"):
        shared.Mirror(job).send(tmp_path / "whole" / RESULT / "model.json")
    told = tiny.Lines()
    Together(2).run(lambda worker: ray_trainer._train_elsewhere(again, worker, quiet if worker.rank else told))
    assert told.said[0] == "resumed at step 2 of 4"
    shared.receive_result(again, "7")
    found = load_file(again.state / RESULT / "swapper.safetensors")
    assert all(torch.equal(value, wanted[name]) for name, value in found.items())
    shared.retire(again)
    left = shared.place_of(job)
    assert [each.step for each in map(checkpoint.named, map(Path, left.below(CHECKPOINTS).names()))] == [4]
    assert not any(left.below(name).names() for name in ("inputs", "faces", "result"))
    assert not list((tmp_path / "second").rglob("*.png"))


def in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let workers, which are threads here, begin one after the other: they share torch's generator.

    New weights are drawn from it, and also whatever is built to be loaded into: one worker that reads its frozen
    networks would change what another one draws.
    """
    one_at_a_time = threading.Lock()

    def alone(real: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: object) -> object:
            with one_at_a_time:
                return real(*args)

        return called

    monkeypatch.setattr(beginning, "learner", alone(beginning.learner))
    monkeypatch.setattr(inputs, "read", alone(inputs.read))


quiet = loop.Recorder()


def test_a_machine_fetches_the_shards_that_it_draws_from(tmp_path: Path) -> None:
    """One face brings its shard and no other; equal bytes; a shard that was damaged in the storage is refused."""
    inputs, place = tiny.write_inputs(tmp_path / "there"), Storage(str(tmp_path / "storage"))
    count = shards.send(inputs["splits"], inputs["faces"], place, shard_bytes=10000)
    assert count > 3 and count == len(place.names()) - 1
    here = shards.Shards(place, tmp_path / "here")
    name = "images/tiny-0-1.png"
    here.bring(tmp_path / "here" / name)
    assert (tmp_path / "here" / name).read_bytes() == (inputs["faces"] / name).read_bytes()
    came = [path for path in (tmp_path / "here").rglob("*.png")]
    drawn = shards.drawn(inputs["splits"], inputs["faces"])
    assert 1 <= len(came) < len(drawn) and set(drawn) == {
        f"images/{each}.png"
        for each in [f"tiny-{person}-{k}" for person in range(4) for k in range(3)]
        + ["tiny-4-0", "tiny-4-1", "tiny-4-2", "tiny-5-0", "tiny-5-1", "tiny-5-2"]
    }
    missing = next(tmp_path / "here" / each for each in drawn if not (tmp_path / "here" / each).exists())
    for shard in place.names():
        if shard.endswith(".tar"):
            file = tmp_path / "storage" / shard
            file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(StyleBlendError, match="has another content than was sent"):
        here.bring(missing)
    with pytest.raises(StyleBlendError, match="nobody.png is in none of the shards"):
        here.bring(tmp_path / "here" / "images" / "nobody.png")


def test_true_swaps_travel_in_shards_like_the_faces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No picture is an input by itself; another machine gets the table at once, and a picture when it is asked for."""
    job = job_of(tmp_path, str(tmp_path / "storage"))
    swaps = job.splits / TRUE_SWAPS
    swaps.mkdir()
    (swaps / "train.parquet").write_bytes(b"table")
    for number in range(3):
        (swaps / f"{number}.png").write_bytes(bytes([number]))
    shared.send(job)
    listed = json.loads(shared.place_of(job).below("inputs").read("index.json") or b"")
    assert f"splits/{TRUE_SWAPS}/train.parquet" in listed and not any(name.endswith(".png") for name in listed)
    elsewhere(monkeypatch, tmp_path / "machine")
    there, bring = shared.receive(job)
    here = there.splits / TRUE_SWAPS
    assert [file.name for file in here.iterdir()] == ["train.parquet"]
    bring(here / "1.png")
    bring(there.faces / "images/tiny-0-1.png")
    assert (here / "1.png").read_bytes() == b"\x01" and (there.faces / "images/tiny-0-1.png").is_file()


def test_workers_share_a_batch_in_units_of_its_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 24 pictures in 3 parts a worker, three workers would have 8, which 3 does not divide: two of them learn."""
    monkeypatch.setattr(torch.distributed, "new_group", list)
    assert ray_trainer.among(24 // 3, 3) == ([0, 1], 2)
    assert ray_trainer.among(24, 3) == (None, 3)
