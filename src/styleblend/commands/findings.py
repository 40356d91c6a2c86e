"""What `styleblend doctor` finds, a line each: pictures of the sources, and GPUs, memory and disk of this machine."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil
import torch

from styleblend.commands.describe import describe
from styleblend.commands.step_memory import Needs
from styleblend.config.params import Config
from styleblend.config.sources import Source
from styleblend.config.training import Training
from styleblend.data import licences, published
from styleblend.data.folders import expect_watchable, look_below
from styleblend.errors import StyleBlendError
from styleblend.system.storage import Storage

Verdict = Literal["ok", "note", "FAIL"]
BESIDE = ("metadata", "mapping", "identities")
"""Keys of sources that name a file beside the pictures."""
_GIB = 2**30
_FACE_BYTES_PER_PIXEL = 2.0
"""Of an aligned face's PNG; 1.5 to 2 on photographs."""
_PICTURE_BYTES = 1.4e6
"""Of an archived picture whose size is not known yet: FFHQ's at 1024 px are about that."""
_CHECKPOINTS = 5
"""The last two, the newest good one, the last before the rate falls, and the one that is being written."""
_WORKER_BYTES = 1.0 * _GIB
"""Python, torch and Ray in a worker, before any network is loaded."""


@dataclass(frozen=True)
class Finding:
    """One line of the examination; FAIL: a run would fail."""

    part: str
    verdict: Verdict
    text: str


@dataclass(frozen=True)
class Listing:
    """The pictures in a source's folder that a run would take, or in one line why it cannot; what is passed over."""

    files: tuple[Path, ...] = ()
    problem: str | None = None
    notes: tuple[str, ...] = ()


def listings(cfg: Config, project: Path) -> dict[str, Listing]:
    """Source name to what is in its folder; sources that are rendered, packed, fetched or missing have no entry."""
    listed = {}
    for source in cfg.download.sources:
        if source.kind != "rendered" and source.path is not None and (project / source.path).is_dir():
            try:
                problem = _lacking(source, project)
                listed[source.name] = Listing(problem=problem) if problem else _listing(source, project, source.path)
            except StyleBlendError as error:
                listed[source.name] = Listing(problem=str(error))
    return listed


def _listing(source: Source, project: Path, path: Path) -> Listing:
    """The pictures of a folder; of a published set those that the files beside it name.

    Raises:
        StyleBlendError: a published set is not there in one of its forms, a file beside it is of another set, or DVC
            cannot watch the folder.
    """
    folder = project / path
    expect_watchable(folder)
    if not isinstance(source, published.Published):
        found = look_below(folder)
        return Listing(tuple(folder / file for file in found.pictures), notes=tuple(found.lines()))
    folder = published.pictures_folder(source, folder)
    own = source.model_copy(update={name: project / file for name, file in _beside(source)})
    listed = published.SETS[source.kind].pictures(own, folder)
    return Listing(tuple(folder / each.relative for each in listed))


def _beside(source: Source) -> list[tuple[str, Path]]:
    return [(name, file) for name in BESIDE if (file := getattr(source, name, None)) is not None]


def _lacking(source: Source, project: Path) -> str | None:
    """The first file beside the pictures that is named but not there, with the remedy."""
    missing = (f"{name} {file}" for name, file in _beside(source) if not (project / file).is_file())
    return next((f"{each} is missing: put it there, or name another" for each in missing), None)


def data(cfg: Config, project: Path, listed: dict[str, Listing]) -> Iterator[Finding]:
    """Sources: are they there, how many pictures, and what their licences allow.

    Args:
        listed: as `listings` gives them.
    """
    known, total = True, 0
    for source in cfg.download.sources:
        if source.kind == "rendered":
            count = source.identities * source.pictures_per_identity
            total += count
            yield Finding("data", "ok", f"{source.name}: {count} faces are rendered here; no person's likeness")
            continue
        licence, listing = _licence(source), listed.get(source.name)
        problem = _lacking(source, project) if listing is None else listing.problem
        if problem is not None:
            yield Finding("data", "FAIL", f"{source.name}: {problem}")
        if listing is not None and problem is None:
            count = len(listing.files)
            total += count
            verdict: Verdict = "ok" if count else "FAIL"
            remedy = licence if count else "put the pictures there, or correct download.sources"
            yield Finding("data", verdict, f"{source.name}: {count} pictures in {source.path}; {remedy}")
            yield from (Finding("data", "note", f"{source.name}: {note}") for note in listing.notes)
            continue
        known = False
        if source.path is None:
            yield Finding("data", "note", f"{source.name}: is fetched from {getattr(source, 'url', None)}; {licence}")
        elif (project / source.path).is_file():
            yield Finding("data", "ok", f"{source.name}: {source.path} is unpacked by the run; {licence}")
        elif listing is None:
            remedy = "put the data set there, or correct the path"
            yield Finding("data", "FAIL", f"{source.name}: {source.path} is missing: {remedy}")
    if known and total < (wanted := cfg.validate_.min_faces):
        few = f"{total} pictures in all, validate.min_faces wants {wanted} faces"
        yield Finding("data", "FAIL", f"{few}: add pictures, or lower it")
    if not (project / cfg.download.origin).exists():
        yield Finding("data", "FAIL", f"download.origin {cfg.download.origin} is missing: name the pictures' folder")


def _licence(source: Source) -> str:
    stated = published.SETS.get(source.kind, source)
    licence, terms = getattr(stated, "licence", ""), getattr(stated, "terms", "")
    limited = licences.forbids(f"{licence} | {terms}")
    return f"{licence}{' (not for commercial use)' if limited else ''}"


def machine(cfg: Config, project: Path, listed: dict[str, Listing]) -> Iterator[Finding]:
    """GPUs, memory and disk against what both training stages and the data ask for.

    Args:
        listed: as `listings` gives them.
    """
    needs = {need.stage: need for need in describe(cfg, project=project).stages}
    for stage, need in needs.items():
        training: Training = getattr(cfg, stage)
        if training.storage is not None:
            yield storage(stage, training.storage)
        if training.ray_address is not None:
            yield Finding("machine", "note", f"{stage}: trains on Ray's cluster {training.ray_address}: not looked at")
        elif training.gpus_per_worker:
            yield from _gpus(stage, training, need)
        else:
            yield memory(stage, training, need)
    yield _disk(cfg, project, listed, max(needs.values(), key=lambda need: need.optimiser))


def storage(stage: str, address: str) -> Finding:
    """Whether this machine can write there; its cluster's machines are not asked."""
    place = Storage(address)
    try:
        place.write(".doctor", b"")
        place.remove(".doctor")
    except StyleBlendError as error:
        return Finding("machine", "FAIL", f"{stage}: {error}")
    return Finding("machine", "ok", f"{stage}: storage {place.shown} can be written from here")


def _gpus(stage: str, training: Training, need: Needs) -> Iterator[Finding]:
    wanted, there = training.gpus, torch.cuda.device_count()
    if there < wanted:
        remedy = f"lower {stage}.workers, or set gpus_per_worker to 0"
        yield _sufficient(False, f"{stage}: {wanted} GPUs wanted, {there} here", remedy)
        return
    smallest = min(torch.cuda.get_device_properties(number).total_memory for number in range(wanted))
    share = smallest * training.gpus_per_worker
    found = f"{stage}: {wanted} of {there} GPUs, {need.memory / _GIB:.1f} of {share / _GIB:.1f} GiB on each"
    yield _sufficient(need.memory <= share, f"{found}, beside the networks of the losses", f"lower {stage}.batch_size")


def memory(stage: str, training: Training, need: Needs) -> Finding:
    """The machine's free memory against what a stage's workers ask for that train on its CPU."""
    wanted = training.workers * (need.memory + _WORKER_BYTES)
    there = psutil.virtual_memory().available
    found = f"{training.workers} workers need about {wanted / _GIB:.1f} of {there / _GIB:.1f} GiB of memory"
    return _sufficient(wanted <= there, f"{stage}: no GPU asked for; {found}", f"lower {stage}.batch_size or workers")


def _disk(cfg: Config, project: Path, listed: dict[str, Listing], need: Needs) -> Finding:
    copies, faces = 0.0, 0
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
    asked = f"disk: at most {wanted / _GIB:.1f} GiB for the pictures that are here, their faces and checkpoints"
    return _sufficient(wanted <= there, f"{asked}, {there / _GIB:.1f} GiB free", "make room, or work on another disk")


def _sufficient(enough: bool, text: str, remedy: str) -> Finding:
    return Finding("machine", "ok" if enough else "FAIL", text if enough else f"{text}: {remedy}")
