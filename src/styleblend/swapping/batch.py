"""One source's face into many pictures: plan the files, write marked pictures, collect what failed."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from styleblend.config.params import Config
from styleblend.data.folders import Found, look_below, no_picture
from styleblend.errors import StyleBlendError, shown
from styleblend.faces.pictures import Picture, as_picture
from styleblend.provenance import credentials, picture_format, save_picture
from styleblend.provenance.credentials import Credentials
from styleblend.swapping.errors import SwapError
from styleblend.swapping.face_selector import face_number
from styleblend.swapping.loaders import find_detector, find_model
from styleblend.swapping.swap import FaceSwapper, read_picture, swap_aligned, target_selector
from styleblend.system.files import fitting_name
from styleblend.system.parallel import spread

_KEPT_SUFFIXES = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True)
class Task:
    """One picture to make."""

    target: Path
    output: Path


@dataclass(frozen=True)
class Outcome:
    """The result of a task: `notes` for the user, a line each; `error` where no picture was made."""

    task: Task
    notes: tuple[str, ...] = ()
    error: StyleBlendError | None = None


@dataclass(frozen=True)
class Options:
    """How to swap; the fields are those of `swap_faces`. `aligned`: all pictures are aligned faces, none is detected.

    `background` is the colour behind transparent parts in a JPEG.
    """

    model: str | None = None
    detector_weights: Path | None = None
    source_face: int | None = None
    target_face: int | None = None
    target_like: Path | None = None
    all_faces: bool = False
    aligned: bool = False
    background: str = "white"


@dataclass(frozen=True)
class Writer:
    """Swaps one source into one target after the other and writes marked pictures."""

    swap: Callable[[Picture], Image.Image]
    model_name: str
    max_pixels: int
    background: str
    credentials: Credentials

    @classmethod
    def load(cls, cfg: Config, source: Picture, options: Options) -> Writer:
        """Load once what all targets share.

        Raises:
            StyleBlendError: the source's face, the model, the detector or the certificate cannot be used.
        """
        limit, signing, background = cfg.align.max_pixels, credentials.of(cfg.provenance), options.background
        if options.aligned:
            model, name = find_model(cfg, options.model, photographs=False)
            face = source.opaque()
            return cls(lambda target: swap_aligned(face, target.opaque(), model), name, limit, background, signing)
        reference = None if options.target_like is None else read_picture(options.target_like, limit)
        detector = find_detector(cfg, options.detector_weights)
        of_target = target_selector(cfg, detector, options.target_face, reference, options.all_faces)
        model, name = find_model(cfg, options.model)
        of_source = None if options.source_face is None else face_number("source", options.source_face)
        swapper = FaceSwapper.from_source(source, model, detector, of_source)
        return cls(lambda target: swapper.swap_into(target, of_target), name, limit, background, signing)

    def __call__(self, task: Task) -> tuple[str, ...]:
        """Make one picture; returns notes for the user, a line each.

        Raises:
            StyleBlendError: the target cannot be read or swapped, or the output not written.
        """
        target = read_picture(task.target, self.max_pixels)
        notes = [f"{shown(task.target)}: {note}" for note in target.notes]
        swapped = self.swap(target)
        if swapped.mode == "RGBA" and picture_format(task.output) == "JPEG":
            swapped = as_picture(swapped, self.max_pixels).opaque(self.background)
            notes.append(f"{shown(task.output)}: JPEG has no transparency, so transparent parts are {self.background}")
        try:
            save_picture(swapped, task.output, model=self.model_name, kind="swap", credentials=self.credentials)
        except OSError as error:
            reason = error.strerror or error
            raise SwapError(f"{task.output} cannot be written ({reason}): name another place") from None
        return tuple(notes)


def is_batch(targets: Sequence[Path], output: Path) -> bool:
    """Whether `output` means a folder: there are several targets, a target is a folder, or it is one already."""
    return len(targets) > 1 or os.path.isdir(output) or any(os.path.isdir(target) for target in targets)


def look(targets: Sequence[Path]) -> dict[Path, Found]:
    """What lies in each folder among the targets: the pictures, and what is passed over."""
    return {target: look_below(target) for target in targets if os.path.isdir(target)}


def plan(targets: Sequence[Path], output: Path, sources: Sequence[Path], below: Mapping[Path, Found]) -> list[Task]:
    """List which picture becomes which file.

    In a batch `output` is a folder, and pictures of an input folder keep their path below it. PNG and JPEG files keep
    their names, others get .png appended. Without a batch `output` is the file.

    Args:
        sources: other inputs, which must not be overwritten. below: of the targets, as `look` gives it.
    Raises:
        StyleBlendError: a folder holds no picture, an output would be an input or another's output, or has a wrong
            ending.
    """
    if not is_batch(targets, output):
        picture_format(output)
        tasks = [Task(targets[0], output)]
    else:
        if os.path.isfile(output):
            raise SwapError(f"{output} is a file: for several pictures name a folder")
        tasks = [task for target in dict.fromkeys(targets) for task in _tasks(target, output, below.get(target))]
    inputs = {path.resolve() for path in (*sources, *(task.target for task in tasks))}
    writers: dict[Path, Path] = {}
    for task in tasks:
        if task.output.resolve() in inputs:
            raise SwapError(f"{task.output} is one of the pictures that are read: write to another place")
        other = writers.setdefault(task.output, task.target)
        if other != task.target:
            raise SwapError(f"{other} and {task.target} would both become {task.output}: rename one, or run them apart")
    return tasks


def _tasks(target: Path, output: Path, found: Found | None) -> list[Task]:
    if found is None:
        return [Task(target, output / _output_name(Path(target.name)))]
    if output.resolve().is_relative_to(target.resolve()):
        raise SwapError(f"{output} lies in {target}, whose pictures are read: write to a folder outside of it")
    if not found.pictures:
        raise SwapError(f"{no_picture(target, found)}: name another folder")
    return [Task(target / name, output / _output_name(name)) for name in found.pictures]


def passed_over(below: Mapping[Path, Found]) -> list[str]:
    """What lies in the folders that `look` saw and is not read, a line each."""
    return [f"{shown(folder)}: {line}" for folder, found in below.items() for line in found.lines(watched=False)]


def _output_name(name: Path) -> Path:
    return name if name.suffix.lower() in _KEPT_SUFFIXES else name.with_name(fitting_name(name.name, ".png"))


def run(tasks: Sequence[Task], write: Callable[[Task], tuple[str, ...]]) -> list[Outcome]:
    """Make all pictures, under a progress bar; a failed one is recorded with its error, and the others go on.

    Args:
        write: writes the picture of a task and returns notes on it.
    """

    def attempt(task: Task) -> Outcome:
        try:
            return Outcome(task, write(task))
        except StyleBlendError as error:
            return Outcome(task, error=error)
        except Exception as error:  # what a library stumbles over in one picture costs that picture, not the others
            reason = f"{task.target}: cannot be swapped ({type(error).__name__}: {error})"
            return Outcome(task, error=SwapError(reason))

    return list(spread(attempt, tasks, 1, "swap"))
