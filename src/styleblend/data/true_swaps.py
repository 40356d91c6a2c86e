"""True swaps of rendered training faces: each wears the identity of another training person.

Beside the splits, `true_swaps/train.parquet` names the pictures (target_id, source_id, path), which training.batches
reads. A face and its true swap teach both ways: each is the right answer for the other as the target.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image

from styleblend.config.sources import RenderedSource
from styleblend.evaluation.true_swap import true_swaps
from styleblend.provenance.marking import save_picture
from styleblend.system.parallel import cores, spread

FOLDER = "true_swaps"
"""Beside the splits."""

TOGETHER = 12
"""Faces that are rendered as one batch."""


@dataclass(frozen=True)
class _Task:
    """Rows of the manifest: who is swapped into whom."""

    sources: pd.DataFrame
    targets: pd.DataFrame
    settings: Mapping[str, RenderedSource]
    folder: Path


def write_true_swaps(
    train: pd.DataFrame,
    manifest: pd.DataFrame,
    settings: Mapping[str, RenderedSource],
    seed: int,
    folder: Path,
    workers: int | None = None,
) -> int:
    """Render the true swap of each rendered face of `train` with a random face of another person, if there is one.

    Args:
        train: face_id and person. manifest: of all faces. settings: of each rendered source by its name.
        folder: gets `train.parquet` and the pictures. workers: processes; None is all cores.
    Returns:
        how many there are.
    """
    folder.mkdir(parents=True)
    faces = train.merge(manifest.drop(columns="person"), on="face_id")
    faces = faces[faces["source"].isin(list(settings))].sort_values("face_id", ignore_index=True)
    if faces["person"].nunique() < 2:
        faces = faces.iloc[:0]
    persons, random = faces["person"].to_numpy(), np.random.default_rng(seed)
    chosen = [int(random.choice(np.flatnonzero(persons != person))) for person in persons]
    starts = range(0, len(faces), TOGETHER)
    tasks = [
        _Task(faces.iloc[chosen[k : k + TOGETHER]], faces.iloc[k : k + TOGETHER], settings, folder) for k in starts
    ]
    paths = [path for made in spread(_render, tasks, workers or cores(), "split: true swaps") for path in made]
    rows = {"target_id": faces["face_id"], "source_id": faces["face_id"].to_numpy()[chosen], "path": paths}
    pd.DataFrame(rows).to_parquet(folder / "train.parquet", index=False)
    return len(faces)


def _render(task: _Task) -> list[str]:
    torch.set_num_threads(1)  # the processes are the parallelism
    pixels = true_swaps(task.sources, task.targets, task.settings, int(task.targets["size_px"].iloc[0]))
    names = [f"{face_id}.png" for face_id in task.targets["face_id"]]
    for name, face in zip(names, pixels, strict=True):
        picture = Image.fromarray(face)
        save_picture(picture, task.folder / name, model="styleblend.synthetic", kind="rendered", lasting=False)
    return names
