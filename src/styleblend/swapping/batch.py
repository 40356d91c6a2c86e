"""One source's face into many pictures: what becomes of each, and the words about it at the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from styleblend.data.folders import SUFFIXES, pictures_below
from styleblend.errors import StyleBlendError
from styleblend.provenance import picture_format
from styleblend.swapping.face_selector import SwapError
from styleblend.system.parallel import spread

_KEPT_SUFFIXES = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True)
class Task:
    """One picture to make."""

    target: Path
    output: Path


@dataclass(frozen=True)
class Outcome:
    """What became of a task: `notes` say what a person should know, `failure` why there is no picture."""

    task: Task
    notes: tuple[str, ...] = ()
    failure: str | None = None


def is_batch(targets: Sequence[Path], output: Path) -> bool:
    """Whether `output` means a folder: there are several targets, one is a folder, or it is one already."""
    return len(targets) > 1 or output.is_dir() or any(target.is_dir() for target in targets)


def plan(targets: Sequence[Path], output: Path, sources: Sequence[Path]) -> list[Task]:
    """Which picture becomes which file.

    In a batch, `output` is a folder: pictures of a folder keep their place below it, PNG and JPEG files keep their
    names, others get .png behind theirs. Else `output` is the file.

    Args:
        sources: other pictures that are read and must not be written over.
    Raises:
        StyleBlendError: a folder holds no picture, an output would be an input or another's output, or its ending is
            wrong.
    """
    if not is_batch(targets, output):
        picture_format(output)
        tasks = [Task(targets[0], output)]
    else:
        if output.is_file():
            raise SwapError(f"{output} is a file: for several pictures name a folder")
        tasks = [task for target in dict.fromkeys(targets) for task in _tasks(target, output)]
    inputs = {path.resolve() for path in (*sources, *(task.target for task in tasks))}
    writers: dict[Path, Path] = {}
    for task in tasks:
        if task.output.resolve() in inputs:
            raise SwapError(f"{task.output} is one of the pictures that are read: write to another place")
        other = writers.setdefault(task.output, task.target)
        if other != task.target:
            raise SwapError(f"{other} and {task.target} would both become {task.output}: rename one, or run them apart")
    return tasks


def _tasks(target: Path, output: Path) -> list[Task]:
    if not target.is_dir():
        return [Task(target, output / _output_name(Path(target.name)))]
    if output.resolve().is_relative_to(target.resolve()):
        raise SwapError(f"{output} lies in {target}, whose pictures are read: write to a folder outside of it")
    names = pictures_below(target)
    if not names:
        raise SwapError(f"{target} holds no picture ({', '.join(sorted(SUFFIXES))}): name another folder")
    return [Task(target / name, output / _output_name(name)) for name in names]


def _output_name(name: Path) -> Path:
    return name if name.suffix.lower() in _KEPT_SUFFIXES else name.with_name(f"{name.name}.png")


def run(tasks: Sequence[Task], make: Callable[[Task], tuple[str, ...]]) -> list[Outcome]:
    """Make all pictures, under a progress bar. One that fails is remembered with the reason, the others go on.

    Args:
        make: writes the picture of a task and returns notes on it.
    """

    def attempt(task: Task) -> Outcome:
        try:
            return Outcome(task, make(task))
        except StyleBlendError as error:
            return Outcome(task, failure=str(error))

    return list(spread(attempt, tasks, 1, "swap"))
