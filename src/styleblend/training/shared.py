"""A training on machines that share nothing but a storage: what is sent there, and what they get from it.

Below the setting `storage` a training has a folder of its name: `inputs` by their SHA-256, `faces` and
`true_swaps` in shards, `checkpoints`, and at the end `result`. No lock holds there. Instead each trainer that starts
leaves a ticket of its own; a worker that outlived its trainer finds another ticket before it keeps a checkpoint, and
ends. What it may have written between the two looks is a whole checkpoint of the same training, which harms nobody.
"""

from __future__ import annotations

import json
import tempfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from styleblend.errors import StyleBlendError
from styleblend.system.files import files_below, sha256, whole_file, whole_folder
from styleblend.system.lock import hold
from styleblend.system.storage import Storage, scratch_of_user
from styleblend.training import checkpoint, loop, shards
from styleblend.training.batches import TRUE_SWAPS
from styleblend.training.job import CHECKPOINTS, ERROR, RESULT, Job

_TICKET, _INPUTS, _FACES, _INDEX = "ticket", "inputs", "faces", "index.json"
_WAIT_S = 3600.0


def place_of(job: Job) -> Storage:
    """The training's folder in its storage."""
    assert job.training.storage is not None
    return Storage(job.training.storage).below(job.state.name)


def begin(job: Job) -> Job:
    """Take the training over, before anything else is done there; returns the job with this trainer's ticket."""
    place, ticket = place_of(job), uuid.uuid4().hex
    place.write(_TICKET, ticket.encode())
    place.remove(ERROR)
    return replace(job, ticket=ticket)


def send(job: Job) -> int:
    """Send what workers read and is not there yet; returns how many shards of faces there are.

    Raises:
        StyleBlendError: a file is missing, or the storage does not take it.
    """
    place = place_of(job)
    inputs = place.below(_INPUTS)
    there, index = set(inputs.names()), {}
    for name, file in _small(job):
        digest = sha256(file)
        if digest not in there:
            inputs.send(file, digest)
            there.add(digest)
        index[name] = digest
    count = shards.send(job.splits, job.faces, place.below(_FACES))
    if (swaps := job.splits / TRUE_SWAPS).is_dir():
        count += shards.send_pictures(sorted(each.name for each in swaps.glob("*.png")), swaps, place.below(TRUE_SWAPS))
    inputs.write(_INDEX, json.dumps(index).encode())
    return count


def _small(job: Job) -> Iterator[tuple[str, Path]]:
    """Names and files of all but the pictures."""
    origin = None if job.origin is None else job.origin.path
    named = {"splits": job.splits, "networks": job.networks, "encoder": job.encoder, "origin": origin}
    yield "perceived.parquet", job.perceived
    yield "faces/manifest.parquet", job.faces / "manifest.parquet"
    # Pictures of true swaps travel in shards.
    swaps = set((job.splits / TRUE_SWAPS).glob("*.png"))
    for name, path in named.items():
        if path is not None and path.is_dir():
            files = (file for file in files_below(path) if file not in swaps)
            yield from ((f"{name}/{file.relative_to(path).as_posix()}", file) for file in files)
        elif path is not None:
            # A checkpoint's name says what it is.
            yield f"{name}/{path.name}", path


def receive(job: Job) -> tuple[Job, Callable[[Path], None]]:
    """The job as a worker on another machine has it, small inputs fetched and checked, and what brings its pictures.

    Raises:
        StyleBlendError: something is not there, or damaged.
    """
    place = place_of(job)
    here = scratch_of_user(tempfile.gettempdir()) / job.state.name
    inputs = place.below(_INPUTS)
    listed = inputs.read(_INDEX)
    if listed is None:
        raise StyleBlendError(f"storage {place.shown} has no inputs for this training: start it again")
    with hold(here / "inputs.lock", "another worker is fetching", here, _WAIT_S):
        for name, digest in json.loads(listed).items():
            file = here / name
            if not file.is_file() or sha256(file) != digest:
                inputs.fetch(file, digest, digest)
    origin = job.origin
    if origin is not None:
        folder = here / "origin"
        origin = replace(origin, path=folder / origin.path.name if origin.is_checkpoint else folder)
    there = replace(
        job,
        state=here,
        splits=here / "splits",
        networks=here / "networks",
        perceived=here / "perceived.parquet",
        faces=here / "faces",
        encoder=None if job.encoder is None else here / "encoder",
        origin=origin,
    )
    faces, swaps = shards.Shards(place.below(_FACES), there.faces), there.splits / TRUE_SWAPS
    dressed = shards.Shards(place.below(TRUE_SWAPS), swaps) if swaps.is_dir() else None

    def bring(file: Path) -> None:
        (dressed if dressed is not None and file.is_relative_to(swaps) else faces).bring(file)

    return there, bring


class Mirror:
    """A checkpoint.Mirror in the storage."""

    def __init__(self, job: Job) -> None:
        self._training, self._ticket = place_of(job), job.ticket
        self._place = self._training.below(CHECKPOINTS)

    def names(self) -> list[str]:
        """Of all files there."""
        return self._place.names()

    def send(self, file: Path) -> None:
        """Raises:
        Superseded: another trainer has begun with this training.
        """
        if self._ticket is not None and (found := self._training.read(_TICKET)) != self._ticket.encode():
            since = "nobody's" if found is None else "another one's"
            raise checkpoint.Superseded(
                f"this training is {since} now: a trainer that started later works on {self._training.shown}"
            )
        self._place.send(file)

    def fetch(self, file: Path) -> None:
        """Its content is checked by whoever uses it."""
        self._place.fetch(file)

    def remove(self, name: str) -> None:
        """Take one away."""
        self._place.remove(name)

    def set_aside(self, name: str) -> None:
        """Take a damaged one out of the way."""
        self._place.rename(name, f"{name}.damaged")


def checkpoints(job: Job) -> checkpoint.Checkpoints:
    """Those of the training, wherever they are kept."""
    mirror = None if job.training.storage is None else Mirror(job)
    return loop.checkpoints(job.training, job.state / CHECKPOINTS, mirror)


def tell_error(job: Job, text: str) -> None:
    """Leave a worker's last line for its trainer; for no other one, to which it says nothing."""
    if job.training.storage is None:
        with whole_file(job.state / ERROR) as partly:
            partly.write_text(text)
        return
    place = place_of(job)
    if place.read(_TICKET) == str(job.ticket).encode():
        place.write(ERROR, text.encode())


def error_of(job: Job) -> str | None:
    """The last line that a worker has left."""
    if job.training.storage is None:
        message = job.state / ERROR
        return message.read_text() if message.exists() else None
    found = place_of(job).read(ERROR)
    return None if found is None else found.decode()


def send_result(job: Job) -> None:
    """Send the finished model, its list last."""
    place, folder = place_of(job).below(RESULT), job.state / RESULT
    index = {}
    for file in files_below(folder):
        name = file.relative_to(folder).as_posix()
        index[name] = sha256(file)
        place.send(file, index[name])
    place.write(_INDEX, json.dumps(index).encode())


def receive_result(job: Job, run_id: str | None) -> None:
    """Fetch the finished model into the state on this machine.

    Args:
        run_id: of MLflow, which workers do not know.
    """
    place = place_of(job).below(RESULT)
    listed = place.read(_INDEX)
    if listed is None:
        raise StyleBlendError(f"storage {place.shown} lacks the finished model: start the training again")
    with whole_folder(job.state / RESULT) as folder:
        for name, digest in json.loads(listed).items():
            place.fetch(folder / name, digest, digest)
        job.write_runs(folder, run_id)


def retire(job: Job) -> None:
    """Leave of the checkpoints what a longer training begins from; in a storage no picture, no network of others."""
    checkpoints(job).finish()
    if job.training.storage is None:
        return
    for name in (_INPUTS, _FACES, TRUE_SWAPS, RESULT, "ray"):
        place_of(job).below(name).clear()
