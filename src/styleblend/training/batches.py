"""What is in step t: a pure function of (seed, t), sample by sample, for any number of workers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
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
from styleblend.training.ready import Ready

Indices = NDArray[np.int64]
Pixels = NDArray[np.uint8]
TRUE_SWAPS = "true_swaps"
"""Folder of true swaps beside the splits."""
Chances = NDArray[np.float64] | None
"""Running sum of weights [M + 1] of M faces; None: all weigh alike."""


class TrueSwaps(NamedTuple):
    """Faces that wear another's identity truly, as a renderer knows it; one for each of M faces, or none."""

    files: tuple[Path | None, ...]
    identity: Indices
    """[M], the face whose identity the picture has, -1 where there is none."""


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
    mesh: NDArray[np.float32] | None = None
    """[M, K, 3], points with depth as faces.warp takes them; None where the landmark network sees no mesh."""
    true_swaps: TrueSwaps | None = None
    """None where the split has none."""
    bring: Callable[[Path], None] | None = None
    """Sees that a picture is on this machine before it is read; None where all are."""

    def __len__(self) -> int:
        return len(self.files)

    def images(self, indices: Sequence[int] | Indices) -> Tensor:
        """Pictures [N, 3, size_px, size_px] in [-1, 1].

        Raises:
            StyleBlendError: a picture is missing, damaged or of another size.
        """
        return as_images(self.pixels(indices))

    def pixels(self, indices: Sequence[int] | Indices) -> Pixels:
        """The same as they are stored, RGB [N, size_px, size_px, 3]."""
        return self._read([self.files[index] for index in indices])

    def true_swap(self, index: int) -> Pixels:
        """The true swap of a face, of a face that has one: RGB [size_px, size_px, 3]."""
        file = None if self.true_swaps is None else self.true_swaps.files[index]
        assert file is not None
        pixels: Pixels = self._read([file])[0]
        return pixels

    def _read(self, files: Sequence[Path]) -> Pixels:
        rows = []
        for file in files:
            if self.bring is not None:
                self.bring(file)
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
            rows.append(pixels)
        return np.stack(rows)


def as_images(pixels: Pixels) -> Tensor:
    """RGB [N, S, S, 3] to [N, 3, S, S] in [-1, 1]."""
    return from_8bit(torch.from_numpy(pixels).permute(0, 3, 1, 2))


def read_faces(split: Path, faces: Path, perceived: Path, size_px: int) -> Faces:
    """The faces of one split (a parquet file of face_id and person) with their manifest and perception.

    Raises:
        StyleBlendError: a face of the split is not perceived, or the split has under two persons.
    """
    rows = pd.read_parquet(split, columns=["face_id", "person"])
    manifest = pd.read_parquet(faces / "manifest.parquet", columns=["face_id", "path", "weight"])
    swaps = split.with_name(TRUE_SWAPS) / f"{split.stem}.parquet"
    known = pd.read_parquet(perceived)
    known = known[["face_id", "identity", "landmarks", *(("mesh",) if "mesh" in known else ())]]
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
        identity=torch.from_numpy(_column(table, "identity")),
        landmarks=torch.from_numpy(_column(table, "landmarks")).reshape(-1, 68, 2),
        size_px=size_px,
        mesh=_column(table, "mesh").reshape(len(table), -1, 3) if "mesh" in table else None,
        chances=None if np.ptp(weights) == 0 else np.concatenate([[0.0], weights.cumsum()]),
        true_swaps=_true_swaps(swaps, table["face_id"]) if swaps.is_file() else None,
    )


def _true_swaps(table: Path, face_ids: pd.Series) -> TrueSwaps:
    rows = pd.read_parquet(table).set_index("target_id").reindex(face_ids)
    place = pd.Index(face_ids)
    files = [None if path != path else table.parent / path for path in rows["path"]]
    return TrueSwaps(tuple(files), place.get_indexer(rows["source_id"]).astype(np.int64))


def _column(table: pd.DataFrame, name: str) -> NDArray[np.float32]:
    return np.stack(table[name].to_list()).astype(np.float32)


class Draw(NamedTuple):
    """Which faces meet in the samples of a step; indices into Faces."""

    source: Indices
    target: Indices
    same_person: NDArray[np.bool_]
    negatives: Indices
    """[N, K], of other persons than the source."""
    noise_seeds: tuple[int, ...]
    mirrored: NDArray[np.bool_]
    """Whether the source's picture is mirrored: what stands for another picture where a person has only one."""
    worn: Indices
    """Whose face the target wears, -1 for its own: then its own picture is the right answer, and not to be seen."""
    answered: NDArray[np.bool_]
    """Whether the right answer of a sample is known: of self pairs always, of swaps where it is rendered or bent."""
    colours: NDArray[np.float32]
    """[N, 6], a gain and a shift for each colour of the source, in [-1, 1]."""
    bent: NDArray[np.bool_]
    """Whether a swap's answer is the source bent onto the target, as a classical program swaps."""


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
    truth: Tensor
    """The right answer where there is one. Elsewhere, and in self pairs, the target as it was photographed."""
    answered: Tensor
    """bool [N]: there is a right answer."""
    target_mesh: Tensor | None = None
    """[N, K, 3], see Faces.mesh."""
    warped: Tensor | None = None
    """[N, 4, S, S], the source bent onto the target, see faces.warp; None for a model without that prior."""
    ready: Ready | None = None
    """What the reading threads have made already; None: a step makes what it needs."""

    def each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """The same batch with every tensor changed."""

        def changed(part: Any) -> Any:
            if isinstance(part, Ready):
                return Ready(*map(changed, part))
            return change(part) if isinstance(part, Tensor) else part

        return Batch(*map(changed, self))

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device; from pinned memory without a wait."""
        return self.each(lambda tensor: tensor.to(device, non_blocking=True))

    def shares(self, count: int) -> list[Batch]:
        """The batch in `count` equal parts, one after the other, which share its memory."""
        if count == 1:
            return [self]
        size = len(self.noise_seeds) // count
        found = []
        for first in range(0, size * count, size):
            part = self.each(partial(torch.narrow, dim=0, start=first, length=size))
            if part.ready is not None:
                swaps = tuple(row - first for row in part.ready.swaps if first <= row < first + size)
                part = part._replace(ready=part.ready._replace(swaps=swaps))
            found.append(part._replace(noise_seeds=self.noise_seeds[first : first + size]))
        return found


def same_person_probability(cfg: Training, step: int) -> float:
    """The curriculum P of section 2.4: linear from start to end over curriculum_steps, then constant."""
    if step >= cfg.curriculum_steps:
        return cfg.curriculum_end
    return cfg.curriculum_start + (cfg.curriculum_end - cfg.curriculum_start) * step / cfg.curriculum_steps


def draw(
    cfg: Training,
    persons: Indices,
    step: int,
    samples: Sequence[int],
    attempt: int = 0,
    chances: Chances = None,
    true_swaps: Indices | None = None,
) -> Draw:
    """The draw of some samples of a step.

    Args:
        persons: ascending person codes of the faces.
        samples: numbers of the samples in the whole batch; each has a random generator of its own.
        attempt: another number gives other draws: how often training was rolled back.
        chances: of each face to be drawn.
        true_swaps: whose identity the true swap of each face has, -1 where it has none; see TrueSwaps.
    """
    probability = same_person_probability(cfg, step)
    source, target, same, negatives, seeds = [], [], [], [], []
    mirrored, worn, answered, colours, bent = [], [], [], [], []
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
        # After all others, so that settings that leave these out draw as before.
        mirrored.append(of_source == of_target and bool(random.random() < cfg.mirrored))
        wears = is_same and random.random() < cfg.worn_faces
        if true_swaps is None:
            known = -1
            worn.append(int(_of_others(random, persons, of_target, 1, chances)[0]) if wears else -1)
        else:
            known = int(true_swaps[of_target])
            worn.append(known if wears else -1)
        is_known = known >= 0 and not is_same and bool(random.random() < cfg.known_swaps)
        if is_known:
            first, end = _block(persons, known)
            source[-1] = first + int(random.integers(end - first))
            negatives[-1] = _of_others(random, persons, source[-1], cfg.negatives, chances)
        colours.append(random.uniform(-1, 1, 6) * cfg.colour_jitter)
        is_bent = not is_same and not is_known and bool(random.random() < cfg.warped_swaps)
        bent.append(is_bent)
        answered.append(is_same or is_known or is_bent)
    return Draw(
        source=np.array(source),
        target=np.array(target),
        same_person=np.array(same),
        negatives=np.stack(negatives),
        noise_seeds=tuple(seeds),
        mirrored=np.array(mirrored),
        worn=np.array(worn),
        answered=np.array(answered),
        colours=np.array(colours, np.float32),
        bent=np.array(bent),
    )


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
