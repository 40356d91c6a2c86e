"""`styleblend swap`: one picture, or a folder of them that can be interrupted and continued."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Iterable
from dataclasses import fields

from PIL import Image, ImageColor

from styleblend.config.params import Config, load_params
from styleblend.errors import StyleBlendError, shown
from styleblend.swapping import SwapError, batch, errors, read_picture


def run(given: Namespace) -> None:
    """Write the swapped pictures and print what was written.

    In a folder, existing pictures are kept unless --overwrite is given, and one that fails does not stop the others.

    Raises:
        StyleBlendError: something cannot be used; in a batch, at the end, pictures failed.
    """
    try:
        _swap(load_params(given.params), given)
    except SwapError as error:
        raise StyleBlendError(in_options(error)) from None


def _swap(cfg: Config, given: Namespace) -> None:
    if given.aligned and given.source_face is not None:
        raise StyleBlendError("--aligned looks for no face, --source-face chooses one: give one of them")
    try:
        ImageColor.getrgb(given.background)
    except ValueError:
        raise StyleBlendError(f"--background {given.background} is no colour: give a name or #rrggbb") from None
    output, is_batch = given.output, batch.is_batch(given.targets, given.output)
    below = batch.look(given.targets)
    tasks = batch.plan(given.targets, output, [path for path in (given.source, given.target_like) if path], below)
    _print(batch.passed_over(below))
    waiting = [task for task in tasks if not is_batch or given.overwrite or not os.path.exists(task.output)]
    if kept := len(tasks) - len(waiting):
        print(f"{shown(output)}: {kept} pictures are there already and stay (--overwrite makes them again)")
    if not waiting:
        return
    source = read_picture(given.source, cfg.align.max_pixels)
    _print([f"{shown(given.source)}: {note}" for note in source.notes])
    options = batch.Options(**{field.name: getattr(given, field.name) for field in fields(batch.Options)})
    write = batch.Writer.load(cfg, source, options)
    if not is_batch:
        _print(write(tasks[0]))
        with Image.open(output) as written:
            print(f"{shown(output)}: {written.width}x{written.height} px by {write.model_name}, marked as synthetic")
        return
    outcomes = batch.run(waiting, write)
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    _print([note for outcome in outcomes for note in outcome.notes])
    print(f"{shown(output)}: {len(outcomes) - len(failed)} pictures by {write.model_name}, marked as synthetic")
    for outcome in failed:
        target = shown(outcome.task.target)
        print(f"{target}: {in_options(outcome.error).removeprefix(f'{target}: ')}", file=sys.stderr)
    if failed:
        count = f"{len(failed)} of {len(outcomes)}"
        raise StyleBlendError(f"{count} pictures failed, for the reasons above; the others are done")


def _print(lines: Iterable[str]) -> None:
    for line in lines:
        print(line)


def in_options(error: StyleBlendError | None) -> str:
    """The message of an error with the options of the command line as remedies."""
    match error:
        case errors.NoFace(role="target_like"):
            return error.told("the picture of --target-like")
        case errors.SeveralFaces(role="source"):
            return f"{error.problem} give --source-face NUMBER"
        case errors.SeveralFaces(role="target"):
            return f"{error.problem} give --target-face NUMBER, --target-like PICTURE or --all-faces"
        case errors.SeveralFaces():
            return f"the picture of --target-like has {len(error.faces)} faces: give one with that person alone"
        case errors.FaceNumberOutOfRange():
            return f"--{error.role}-face {error.number}: {error.problem}"
        case errors.NotAlike() | errors.AmbiguousLikeness():
            return f"{error.problem}: give another picture of that person, or --target-face NUMBER"
        case errors.DetectorMissing():
            return f"{error.problem}, or name it with --detector-weights, or give aligned faces and --aligned"
    return str(error)
