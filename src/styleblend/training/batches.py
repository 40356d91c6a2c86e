"""What is in step t: a pure function of (seed, t), sample by sample, for any number of workers."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from styleblend.config.training import Training
from styleblend.errors import StyleBlendError
from styleblend.faces.pixels import from_8bit

Indices = NDArray[np.int64]
Chances = NDArray[np.float64] | None
"""Running sum of weights [M + 1] of M faces; None: all weigh alike."""


@dataclass(frozen=True)
class Faces:
    """Aligned faces and what `perceive` knows of them, sorted by person. Pictures are read when asked for."""

    face_ids: tuple[str, ...]
    files: tuple[Path, ...]
    persons: Indices
    """[M], ascending codes of persons."""
    identity: Tensor
    """[M, D], vectors of the run's identity network, compared by its metric."""
    landmarks: Tensor
    """[M, 68, 2], x and y in [0, 1]."""
    size_px: int
    chances: Chances = None
    """Of the weights that the faces' sources have."""

    def __len__(self) -> int:
        return len(self.files)

    def images(self, indices: Sequence[int] | Indices) -> Tensor:
        """Pictures [N, 3, size_px, size_px] in [-1, 1].

        Raises:
            StyleBlendError: a picture is missing, damaged or of another size.
        """
        rows = []
        for index in indices:
            file = self.files[index]
            try:
                with Image.open(file) as picture:
                    pixels = np.asarray(picture.convert("RGB"))
            except OSError as error:
                raise StyleBlendError(f"{file} cannot be read ({error}): run the stage align again") from None
            if pixels.shape != (self.size_px, self.size_px, 3):
                raise StyleBlendError(
                    f"{file} is {pixels.shape[1]}x{pixels.shape[0]} px, model.input_px is {self.size_px}:"
                    " run the stage align again"
                )
            rows.append(torch.from_numpy(pixels.copy()))
        return from_8bit(torch.stack(rows).permute(0, 3, 1, 2))


def read_faces(split: Path, faces: Path, perceived: Path, size_px: int) -> Faces:
    """The faces of one split (a parquet file of face_id and person) with their manifest and perception.

    Raises:
        StyleBlendError: a face of the split is not perceived, or the split has under two persons.
    """
    rows = pd.read_parquet(split, columns=["face_id", "person"])
    manifest = pd.read_parquet(faces / "manifest.parquet", columns=["face_id", "path", "weight"])
    known = pd.read_parquet(perceived, columns=["face_id", "identity", "landmarks"])
    table = rows.merge(manifest, on="face_id").merge(known, on="face_id")
    if len(table) < len(rows):
        raise StyleBlendError(f"{split} has {len(rows) - len(table)} faces unknown to {perceived}: run perceive again")
    table = table.sort_values(["person", "face_id"], kind="stable", ignore_index=True)
    codes = pd.factorize(table["person"])[0].astype(np.int64)
    if len(table) == 0 or codes[-1] < 1:
        raise StyleBlendError(f"{split} has {len(table)} faces of one person at most: training needs two persons")
    weights = table["weight"].to_numpy(np.float64)
    return Faces(
        face_ids=tuple(table["face_id"]),
        files=tuple(faces / path for path in table["path"]),
        persons=codes,
        identity=torch.from_numpy(np.stack(table["identity"].to_list()).astype(np.float32)),
        landmarks=torch.from_numpy(np.stack(table["landmarks"].to_list()).astype(np.float32)).reshape(-1, 68, 2),
        size_px=size_px,
        chances=None if np.ptp(weights) == 0 else np.concatenate([[0.0], weights.cumsum()]),
    )


class Draw(NamedTuple):
    """Which faces meet in the samples of a step; indices into Faces."""

    source: Indices
    target: Indices
    same_person: NDArray[np.bool_]
    negatives: Indices
    """[N, K], of other persons than the source."""
    noise_seeds: tuple[int, ...]


class Batch(NamedTuple):
    """A step's tensors, N samples."""

    source: Tensor
    target: Tensor
    source_identity: Tensor
    target_identity: Tensor
    target_landmarks: Tensor
    """[N, 68, 2]"""
    same_person: Tensor
    """bool [N]: the source is the target's person, so the target itself is the right answer."""
    negatives: Tensor
    """[N, K, D]"""
    noise_seeds: tuple[int, ...]

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        parts: list[Any] = [each.to(device, non_blocking=True) if isinstance(each, Tensor) else each for each in self]
        return Batch(*parts)


def same_person_probability(cfg: Training, step: int) -> float:
    """The curriculum P of section 2.4: linear from start to end over curriculum_steps, then constant."""
    if step >= cfg.curriculum_steps:
        return cfg.curriculum_end
    return cfg.curriculum_start + (cfg.curriculum_end - cfg.curriculum_start) * step / cfg.curriculum_steps


def draw(
    cfg: Training, persons: Indices, step: int, samples: Sequence[int], attempt: int = 0, chances: Chances = None
) -> Draw:
    """The draw of some samples of a step.

    Args:
        persons: ascending person codes of the faces.
        samples: numbers of the samples in the whole batch; each has a random generator of its own.
        attempt: another number gives other draws: how often training was rolled back.
        chances: of each face to be drawn.
    """
    probability = same_person_probability(cfg, step)
    source, target, same, negatives, seeds = [], [], [], [], []
    for sample in samples:
        random = np.random.default_rng((cfg.seed, attempt, step, sample))
        of_target = _any(random, persons, chances)
        is_same = bool(random.random() < probability)
        another = bool(random.random() < cfg.same_person)
        of_source = _source(random, persons, of_target, is_same, another, chances)
        source.append(of_source)
        target.append(of_target)
        same.append(is_same)
        negatives.append(_of_others(random, persons, of_source, cfg.negatives, chances))
        seeds.append(int(random.integers(2**62)))
    return Draw(np.array(source), np.array(target), np.array(same), np.stack(negatives), tuple(seeds))


def _any(random: np.random.Generator, persons: Indices, chances: Chances) -> int:
    if chances is None:
        return int(random.integers(len(persons)))
    return int(np.searchsorted(chances, random.random() * chances[-1], side="right")) - 1


def _source(
    random: np.random.Generator, persons: Indices, target: int, same: bool, another: bool, chances: Chances
) -> int:
    if not same:
        return int(_of_others(random, persons, target, 1, chances)[0])
    first, end = _block(persons, target)
    if not another or end - first < 2:
        return target
    chosen = first + int(random.integers(end - first - 1))
    return chosen + (chosen >= target)


def _of_others(random: np.random.Generator, persons: Indices, face: int, count: int, chances: Chances) -> Indices:
    """Faces of other persons than that of `face`. Persons stand in blocks, so its block is simply skipped."""
    first, end = _block(persons, face)
    if chances is None:
        chosen = random.integers(len(persons) - (end - first), size=count)
        return np.where(chosen < first, chosen, chosen + (end - first))
    own = chances[end] - chances[first]
    place = random.random(count) * (chances[-1] - own)
    return np.searchsorted(chances, np.where(place < chances[first], place, place + own), side="right") - 1


def _block(persons: Indices, face: int) -> tuple[int, int]:
    person = persons[face]
    return int(np.searchsorted(persons, person)), int(np.searchsorted(persons, person, side="right"))


class Batches:
    """The share of one worker of every step's batch, read one step ahead in a thread."""

    def __init__(self, cfg: Training, faces: Faces, rank: int, world_size: int) -> None:
        if cfg.batch_size % world_size:
            raise StyleBlendError(f"batch_size {cfg.batch_size} does not divide evenly over {world_size} workers")
        self.cfg, self.faces = cfg, faces
        share = cfg.batch_size // world_size
        self.samples = range(rank * share, (rank + 1) * share)
        self.thread = ThreadPoolExecutor(1)
        self.ahead: tuple[tuple[int, int], Future[Batch]] | None = None

    def at(self, step: int, attempt: int) -> Batch:
        """This worker's samples of a step."""
        if self.ahead is not None and self.ahead[0] == (step, attempt):
            batch = self.ahead[1].result()
        else:
            batch = self._read(step, attempt)
        self.ahead = ((step + 1, attempt), self.thread.submit(self._read, step + 1, attempt))
        return batch

    def close(self) -> None:
        """End the reading thread."""
        self.thread.shutdown(cancel_futures=True)

    def _read(self, step: int, attempt: int) -> Batch:
        faces = self.faces
        drawn = draw(self.cfg, faces.persons, step, self.samples, attempt, faces.chances)
        return Batch(
            source=faces.images(drawn.source),
            target=faces.images(drawn.target),
            source_identity=faces.identity[drawn.source],
            target_identity=faces.identity[drawn.target],
            target_landmarks=faces.landmarks[drawn.target],
            same_person=torch.from_numpy(drawn.same_person),
            negatives=faces.identity[drawn.negatives],
            noise_seeds=drawn.noise_seeds,
        )
