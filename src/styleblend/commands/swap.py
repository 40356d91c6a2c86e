"""The work of `styleblend swap`: one picture, or a folder of them that can be interrupted and continued."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageColor

from styleblend.config.params import Config
from styleblend.faces.pictures import Picture, as_picture
from styleblend.provenance import credentials, picture_format, save_picture
from styleblend.provenance.credentials import Credentials
from styleblend.swapping import batch
from styleblend.swapping.batch import Task
from styleblend.swapping.core import Swapping, choose_target, read_picture, swap_aligned
from styleblend.swapping.face_selector import SwapError, numbered
from styleblend.swapping.loaders import find_detector, find_model


@dataclass(frozen=True)
class Request:
    """What a person asks for; the fields are the options of the command line, which explains them."""

    source: Path
    targets: Sequence[Path]
    output: Path
    model: str | None = None
    detector_weights: Path | None = None
    source_face: int | None = None
    target_face: int | None = None
    target_like: Path | None = None
    all_faces: bool = False
    aligned: bool = False
    background: str = "white"
    overwrite: bool = False


@dataclass(frozen=True)
class Maker:
    """Swaps one source into one target after the other and writes marked pictures."""

    swap: Callable[[Picture], Image.Image]
    model_name: str
    max_pixels: int
    background: str
    credentials: Credentials

    def __call__(self, task: Task) -> tuple[str, ...]:
        """Make one picture; returns what a person should know of it, a line each.

        Raises:
            StyleBlendError: the target cannot be read or swapped, or the output not written.
        """
        target = read_picture(task.target, self.max_pixels)
        notes = [f"{task.target}: {note}" for note in target.notes]
        swapped = self.swap(target)
        if swapped.mode == "RGBA" and picture_format(task.output) == "JPEG":
            swapped = as_picture(swapped, self.max_pixels).opaque(self.background)
            notes.append(f"{task.output}: JPEG has no transparency, so transparent parts are {self.background}")
        try:
            save_picture(swapped, task.output, model=self.model_name, kind="swap", credentials=self.credentials)
        except OSError as error:
            reason = error.strerror or error
            raise SwapError(f"{task.output} cannot be written ({reason}): name another place") from None
        return tuple(notes)


def run(cfg: Config, request: Request) -> None:
    """Write the picture or pictures that are asked for, and say what was written.

    In a folder, what is there already is kept unless `overwrite` is set, and a picture that fails does not keep the
    others from being made.

    Raises:
        StyleBlendError: something cannot be used; in a batch, at the end, that pictures failed.
    """
    _check(request)
    inputs = [request.source] if request.target_like is None else [request.source, request.target_like]
    tasks = batch.plan(request.targets, request.output, inputs)
    if not batch.is_batch(request.targets, request.output):
        make = _maker(cfg, request)
        for note in make(tasks[0]):
            print(note)
        with Image.open(request.output) as written:
            print(f"{request.output}: {written.width}x{written.height} px by {make.model_name}, marked as synthetic")
        return
    waiting = [task for task in tasks if request.overwrite or not task.output.exists()]
    kept = len(tasks) - len(waiting)
    if kept:
        print(f"{request.output}: {kept} pictures are there already and stay (--overwrite makes them again)")
    if waiting:
        _make_all(waiting, _maker(cfg, request), request.output)


def _check(request: Request) -> None:
    if request.aligned and request.source_face is not None:
        raise SwapError("--aligned looks for no face, --source-face chooses one: give one of them")
    try:
        ImageColor.getrgb(request.background)
    except ValueError:
        raise SwapError(f"--background {request.background} is no colour: give a name or #rrggbb") from None


def _maker(cfg: Config, request: Request) -> Maker:
    """Read and load once what all targets share."""
    limit, signing = cfg.align.max_pixels, credentials.of(cfg.provenance)
    source = read_picture(request.source, limit)
    for note in source.notes:
        print(f"{request.source}: {note}")
    if request.aligned:
        model, name = find_model(cfg.tracking, request.model)
        face = source.opaque()
        return Maker(
            lambda target: swap_aligned(face, target.opaque(), model), name, limit, request.background, signing
        )
    like = None if request.target_like is None else read_picture(request.target_like, limit)
    detector = find_detector(cfg, request.detector_weights)
    choose = choose_target(cfg, detector, number=request.target_face, like=like, every=request.all_faces)
    model, name = find_model(cfg.tracking, request.model)
    number = request.source_face
    swapping = Swapping.of(source, model, detector, None if number is None else numbered("source", number))
    return Maker(lambda target: swapping.into(target, choose), name, limit, request.background, signing)


def _make_all(tasks: Sequence[Task], make: Maker, output: Path) -> None:
    outcomes = batch.run(tasks, make)
    failed = [outcome for outcome in outcomes if outcome.failure is not None]
    for outcome in outcomes:
        for note in outcome.notes:
            print(note)
    print(f"{output}: {len(outcomes) - len(failed)} pictures by {make.model_name}, marked as synthetic")
    for outcome in failed:
        reason = str(outcome.failure).removeprefix(f"{outcome.task.target}: ")
        print(f"{outcome.task.target}: {reason}", file=sys.stderr)
    if failed:
        raise SwapError(f"{len(failed)} of {len(outcomes)} pictures failed, for the reasons above; the others are done")
