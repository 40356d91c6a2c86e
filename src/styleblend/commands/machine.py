"""GPUs, memory and disk of this machine against what a run asks for."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from pathlib import Path

import psutil
import torch

from styleblend.commands import describe
from styleblend.commands.findings import Finding
from styleblend.commands.photographs import Listing
from styleblend.commands.step_memory import Needs
from styleblend.config.params import Config
from styleblend.config.training import Training

_GIB = 2**30
_FACE_BYTES_PER_PIXEL = 2.0
"""Of an aligned face's PNG; 1.5 to 2 on photographs."""
_PICTURE_BYTES = 1.4e6
"""Of an archived picture whose size is not known yet: FFHQ's at 1024 px are about that."""
_CHECKPOINTS = 3
_WORKER_BYTES = 1.0 * _GIB
"""Python, torch and Ray in a worker, before any network is loaded."""


def machine(cfg: Config, project: Path, listed: dict[str, Listing]) -> Iterator[Finding]:
    """GPUs, memory and disk against what both training stages and the data ask for.

    Args:
        listed: as `photographs.listings` gives them.
    """
    needs = {need.stage: need for need in describe.describe(cfg).stages}
    for stage, need in needs.items():
        training: Training = getattr(cfg, stage)
        if training.ray_address is not None:
            yield Finding("machine", "note", f"{stage}: trains on Ray's cluster {training.ray_address}: not looked at")
        elif training.gpus_per_worker:
            yield from _gpus(stage, training, need)
        else:
            yield memory(stage, training, need)
    yield _disk(cfg, project, listed, max(needs.values(), key=lambda need: need.optimiser))


def _gpus(stage: str, training: Training, need: Needs) -> Iterator[Finding]:
    wanted, there = math.ceil(training.workers * training.gpus_per_worker), torch.cuda.device_count()
    if there < wanted:
        yield Finding(
            "machine",
            "FAIL",
            f"{stage}: {wanted} GPUs wanted, {there} here: lower {stage}.workers, or set gpus_per_worker to 0",
        )
        return
    smallest = min(torch.cuda.get_device_properties(number).total_memory for number in range(wanted))
    share = smallest * training.gpus_per_worker
    enough = need.memory <= share
    yield Finding(
        "machine",
        "ok" if enough else "FAIL",
        f"{stage}: {wanted} of {there} GPUs, {need.memory / _GIB:.1f} of {share / _GIB:.1f} GiB on each, beside the"
        f" networks of the losses{'' if enough else f': lower {stage}.batch_size'}",
    )


def memory(stage: str, training: Training, need: Needs) -> Finding:
    """The machine's free memory against what a stage's workers ask for that train on its CPU."""
    wanted = training.workers * (need.memory + _WORKER_BYTES)
    there = psutil.virtual_memory().available
    enough = wanted <= there
    remedy = "" if enough else f": lower {stage}.batch_size or workers"
    return Finding(
        "machine",
        "ok" if enough else "FAIL",
        f"{stage}: no GPU asked for; {training.workers} workers need about {wanted / _GIB:.1f} of {there / _GIB:.1f}"
        f" GiB of memory{remedy}",
    )


def _disk(cfg: Config, project: Path, listed: dict[str, Listing], need: Needs) -> Finding:
    copies = 0.0
    faces = 0
    for source in cfg.download.sources:
        count = 0
        if source.kind == "rendered":
            count = source.identities * source.pictures_per_identity
            copies += count * source.size_px**2 * _FACE_BYTES_PER_PIXEL
        elif source.name in listed:
            files = listed[source.name].files
            count = len(files)
            copies += sum(file.stat().st_size for file in files)
        elif source.path is not None and (project / source.path).is_file():
            # Unpacked once, copied once.
            size = (project / source.path).stat().st_size
            count = int(size / _PICTURE_BYTES)
            copies += 2 * size
        faces += count
    aligned = faces * cfg.align.size_px**2 * _FACE_BYTES_PER_PIXEL
    state = need.weights + need.average + need.optimiser
    # DVC's cache holds every output a second time where the disk cannot share its blocks.
    wanted = 2 * (copies + aligned) + 2 * _CHECKPOINTS * state
    there = shutil.disk_usage(project).free
    enough = wanted <= there
    return Finding(
        "machine",
        "ok" if enough else "FAIL",
        f"disk: at most {wanted / _GIB:.1f} GiB for the pictures that are here, their faces and checkpoints,"
        f" {there / _GIB:.1f} GiB free"
        f"{'' if enough else ': make room, or work on another disk'}",
    )
