"""Faces on their way to machines that do not have them: a few large files, each fetched when a face of it is drawn.

A bucket answers thousands of small requests slowly, and a machine needs, at first, few faces. Shards follow the order
of persons, so equal faces give equal shards; a machine keeps what it has fetched for all workers on it.
"""

from __future__ import annotations

import json
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from styleblend.errors import StyleBlendError
from styleblend.system.files import sha256
from styleblend.system.lock import hold
from styleblend.system.storage import Storage

SHARD_BYTES = 64 * 2**20
INDEX = "faces.json"
_WAIT_S = 3600.0


def drawn(splits: Path, faces: Path) -> list[str]:
    """Paths below `faces` of the pictures that a training reads: of its split, and of the probe's pairs."""
    pairs = pd.read_parquet(splits / "val_pairs.parquet", columns=["source_id", "target_id"])
    train = pd.read_parquet(splits / "train.parquet", columns=["face_id", "person"])
    train = train.sort_values(["person", "face_id"], kind="stable")
    paths = pd.read_parquet(faces / "manifest.parquet", columns=["face_id", "path"]).set_index("face_id")["path"]
    ids = dict.fromkeys([*sorted({*pairs["source_id"], *pairs["target_id"]}), *train["face_id"]])
    unknown = [face_id for face_id in ids if face_id not in paths.index]
    if unknown:
        raise StyleBlendError(f"{faces} has no picture of {len(unknown)} faces of {splits}: run the stage split again")
    return [str(paths[face_id]) for face_id in ids]


def send(splits: Path, faces: Path, place: Storage, shard_bytes: int | None = None) -> int:
    """Send the faces that a training reads, see send_pictures."""
    return send_pictures(drawn(splits, faces), faces, place, shard_bytes)


def send_pictures(pictures: Sequence[str], folder: Path, place: Storage, shard_bytes: int | None = None) -> int:
    """Send pictures, named below their folder, and last their index; returns how many shards there are.

    What was sent before, also by a run that was killed, is not sent again.

    Args:
        shard_bytes: size at which a shard is full; None is SHARD_BYTES.
    Raises:
        StyleBlendError: a picture is missing, or the storage does not take one.
    """
    there = set(place.names())
    index: dict[str, list[str]] = {}
    for paths in _groups(pictures, folder, shard_bytes or SHARD_BYTES):
        with tempfile.TemporaryDirectory(prefix="sb-shard-") as scratch:
            shard = Path(scratch) / "shard"
            _pack(shard, paths, folder)
            name = f"{sha256(shard)}.tar"
            if name not in there:
                place.send(shard, name)
        index[name] = paths
    place.write(INDEX, json.dumps(index).encode())
    return len(index)


class Shards:
    """The pictures of a training on one of its machines, for all workers there; fetched as they are asked for."""

    def __init__(self, place: Storage, faces: Path) -> None:
        """Args:
            faces: folder on this machine that gets them, at the paths that they have in the pipeline's.
        Raises:
            StyleBlendError: the storage has no index of shards.
        """
        index = place.read(INDEX)
        if index is None:
            raise StyleBlendError(f"storage {place.shown} has no faces for this training: start it again")
        self._place, self._faces = place, faces
        self._shards: dict[str, list[str]] = json.loads(index)
        self._of = {path: name for name, paths in self._shards.items() for path in paths}

    def bring(self, file: Path) -> None:
        """See that a picture is there.

        Raises:
            StyleBlendError: it is in no shard, or its shard is damaged or out of reach.
        """
        if file.exists():
            return
        name = self._of.get(file.relative_to(self._faces).as_posix())
        if name is None:
            raise StyleBlendError(f"{file.name} is in none of the shards in {self._place.shown}: start again")
        # One worker of the machine fetches; the lock is a file of this machine.
        with hold(self._faces / f"{name}.lock", "another worker is fetching", self._faces, _WAIT_S):
            if not file.exists():
                self._unpack(name)

    def _unpack(self, name: str) -> None:
        with tempfile.TemporaryDirectory(prefix="sb-shard-", dir=self._faces) as folder:
            shard = Path(folder) / name
            self._place.fetch(shard, expected=name.removesuffix(".tar"))
            with tarfile.open(shard) as archive:
                archive.extractall(folder, filter="data")
            for number, path in enumerate(self._shards[name]):
                final = self._faces / path
                final.parent.mkdir(parents=True, exist_ok=True)
                # In one move, for others look whether it is there and read it at once.
                (Path(folder) / str(number)).replace(final)


def _groups(paths: Sequence[str], faces: Path, most: int) -> Iterator[list[str]]:
    group: list[str] = []
    size = 0
    for path in paths:
        try:
            size += (faces / path).stat().st_size
        except OSError as error:
            raise StyleBlendError(f"{faces / path} cannot be read ({error}): run the stage align again") from None
        group.append(path)
        if size >= most:
            yield group
            group, size = [], 0
    if group:
        yield group


def _pack(shard: Path, paths: Sequence[str], faces: Path) -> None:
    """Names and contents alone, so that the same pictures are the same bytes whoever packs them, and when."""
    with tarfile.open(shard, "w", format=tarfile.USTAR_FORMAT) as archive:
        for number, path in enumerate(paths):
            entry = tarfile.TarInfo(str(number))
            entry.size = (faces / path).stat().st_size
            with (faces / path).open("rb") as stream:
                archive.addfile(entry, stream)
