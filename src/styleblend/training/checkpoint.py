"""Live states of a run: whole files that name their own checksum, the newest few kept, read without unpickling code.

step-00000050-of-00001250-0-good-1f2e3d4c5b6a7980.pt holds the state after 50 steps of a training that was to have 1250,
in its first attempt, fit to roll back to; the last part begins the SHA-256 of its content. Nothing else has to be kept
in step with a file, and damage is noticed before anything is read.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Protocol

import torch
from torch import Tensor

from styleblend.errors import StyleBlendError
from styleblend.system.files import flush, sha256

# Files without the two optional parts are an earlier version's: they are read, and cannot be checked.
_NAME = re.compile(r"^step-(\d+)(?:-of-(\d+))?-(\d+)-(good|doubtful)(?:-([0-9a-f]{16}))?\.pt$")
_DIGITS = 16
_PARTIAL = ".writing.pt"
"""One name for all unfinished files: what a kill leaves is written over by the next."""


class Stateful(Protocol):
    """Modules and optimisers."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any: ...


@dataclass(frozen=True)
class Kept:
    """A checkpoint, by its name.

    planned: steps of the training that it belongs to; None where an earlier version wrote it.
    good: no probe since the last healthy one was doubtful, and no step was left out lately; fit to roll back to.
    """

    path: Path
    step: int
    planned: int | None
    attempt: int
    good: bool
    digest: str | None

    def expect_whole(self) -> None:
        """Raises:
        StyleBlendError: the content is another than that which was written.
        """
        if self.digest is not None and (found := sha256(self.path)[:_DIGITS]) != self.digest:
            size = self.path.stat().st_size
            raise StyleBlendError(f"checkpoint {self.path} is damaged: {size} bytes with sha256 {found}...")


def named(path: Path) -> Kept | None:
    """What a file's name says; None where it is no checkpoint's."""
    match = _NAME.match(path.name)
    if match is None:
        return None
    step, planned, attempt, state, digest = match.groups()
    return Kept(path, int(step), None if planned is None else int(planned), int(attempt), state == "good", digest)


def kept(folder: Path) -> list[Kept]:
    """The checkpoints of a folder, the newest last: a later attempt is newer at any step."""
    return in_order(folder.glob("step-*.pt"))


def in_order(files: Iterable[Path]) -> list[Kept]:
    """Those of the files that are checkpoints by their names, in the same order."""
    found = [each for file in files if (each := named(file)) is not None]
    return sorted(found, key=lambda each: (each.attempt, each.step, each.path.name))


def snapshot(parts: Mapping[str, Stateful]) -> dict[str, Any]:
    """Copies of every part's state on the CPU, which further training does not change."""
    return {name: _copied(part.state_dict()) for name, part in parts.items()}


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: _copied(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copied(each) for each in value)
    return value


def save(
    folder: Path,
    states: Mapping[str, Any],
    facts: Mapping[str, Any],
    *,
    step: int,
    planned: int,
    attempt: int,
    good: bool,
) -> Path:
    """Write states (see `snapshot`) and the plain `facts` to a file, which has its name only once it is on the disk.

    Args:
        step: steps done, of `planned`. attempt: how often the run was rolled back. good: see Kept.
    Raises:
        StyleBlendError: it could not be written, as on a full disk; what was there is as it was.
    """
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / _PARTIAL
    try:
        torch.save({"parts": dict(states), "facts": dict(facts)}, partial)
        flush(partial)
        state = "good" if good else "doubtful"
        path = folder / f"step-{step:08d}-of-{planned:08d}-{attempt}-{state}-{sha256(partial)[:_DIGITS]}.pt"
        partial.replace(path)
        flush(folder)
    # torch tells of a full disk by a RuntimeError of its own words.
    except (OSError, RuntimeError) as error:
        partial.unlink(missing_ok=True)
        reason, free = " ".join(str(error).split())[:200], shutil.disk_usage(folder).free
        raise StyleBlendError(
            f"the checkpoint of step {step} could not be written to {folder}, which has {free / 1e9:.1f} GB free"
            f" ({reason}): make room"
        ) from None
    return path


def load(path: Path, parts: Mapping[str, Stateful]) -> dict[str, Any]:
    """Put a checkpoint's states into `parts`, wherever these are; returns its facts.

    Raises:
        StyleBlendError: the file is damaged, or its states are not exactly those of `parts`.
    """
    try:
        # Onto the host: each part takes what is its own, and a GPU need not hold all of it twice.
        state = torch.load(path, map_location="cpu", weights_only=True)
        saved = state["parts"]
        if set(saved) != set(parts):
            raise KeyError(f"it holds {sorted(saved)}, wanted {sorted(parts)}")
        for name, part in parts.items():
            part.load_state_dict(saved[name])
    except (OSError, RuntimeError, KeyError, ValueError, EOFError, UnpicklingError) as error:
        reason = " ".join(str(error).split())[:300]
        raise StyleBlendError(f"checkpoint {path} does not fit this run ({reason}): delete it to go on") from None
    return dict(state["facts"])


class Superseded(StyleBlendError):
    """Another trainer has taken this training over: this one must end."""


class Mirror(Protocol):
    """Where checkpoints are kept so that other machines reach them; see training.shared."""

    def names(self) -> list[str]: ...

    def send(self, file: Path) -> None: ...

    def fetch(self, file: Path) -> None: ...

    def remove(self, name: str) -> None: ...

    def set_aside(self, name: str) -> None: ...


class Checkpoints:
    """The checkpoints of one training in its folder, written in a thread while training goes on.

    With a mirror those there count, and the folder, of this machine, holds copies.

    One is written at a time; the next waits for it, so that one copy of the state is held beside the live one. Only
    one process may use a folder so (ray_trainer.lock).
    """

    def __init__(
        self,
        folder: Path,
        planned: int,
        fits: Callable[[Kept], bool],
        pinned: Callable[[Kept], bool],
        mirror: Mirror | None = None,
    ) -> None:
        """Args:
        planned: steps of this training.
        fits: whether a checkpoint is a beginning of this training. Others, as of one with fewer steps, are neither
            used nor removed.
        pinned: those of which the newest is kept to the end, for a longer training to begin from.
        """
        self.folder, self.planned, self.fits, self.pinned, self.mirror = folder, planned, fits, pinned, mirror
        self._thread = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None

    @property
    def writing(self) -> bool:
        """Whether one is being written."""
        return self._writing is not None and not self._writing.done()

    def own(self) -> list[Kept]:
        """Checkpoints of this training, the newest last."""
        return [each for each in self.all() if self.fits(each)]

    def all(self) -> list[Kept]:
        """Those of other trainings, too."""
        if self.mirror is None:
            return kept(self.folder)
        return in_order(self.folder / name for name in self.mirror.names())

    def choose(self, *, good: bool = False) -> tuple[Kept | None, list[str]]:
        """The newest whole checkpoint, of the good ones if asked, and a line for each damaged one that was newer.

        Damaged ones lose their ending, so that nobody looks at them again.

        Raises:
            StyleBlendError: there are checkpoints, and all are damaged.
        """
        lines: list[str] = []
        for each in reversed([each for each in self.own() if each.good or not good]):
            if self.mirror is not None and not each.path.exists():
                self.mirror.fetch(each.path)
            try:
                each.expect_whole()
            except StyleBlendError as error:
                each.path.rename(each.path.with_suffix(".damaged"))
                if self.mirror is not None:
                    self.mirror.set_aside(each.path.name)
                lines.append(f"{error}; the one before it is used")
            else:
                return each, lines
        if lines:
            raise StyleBlendError(
                f"all checkpoints in {self.folder} are damaged ({'; '.join(lines)}): delete the folder to begin anew"
            )
        return None, lines

    def keep(
        self, parts: Mapping[str, Stateful], facts: Mapping[str, Any], *, step: int, attempt: int, good: bool
    ) -> str | None:
        """Copy the state and begin to write it. Returns why the one before could not be written, if so."""
        problem = self.settle()
        given = {"step": step, "planned": self.planned, "attempt": attempt, "good": good}
        self._writing = self._thread.submit(self._write, snapshot(parts), facts, given)
        return problem

    def settle(self) -> str | None:
        """Wait until nothing is being written. Returns why the last one could not be, if so."""
        writing, self._writing = self._writing, None
        try:
            if writing is not None:
                writing.result()
        except Superseded:
            raise
        except StyleBlendError as error:
            return f"{error}; the checkpoints before it stay"
        return None

    def close(self) -> None:
        """End the thread, with what it has begun."""
        self._thread.shutdown()

    def _write(self, states: Mapping[str, Any], facts: Mapping[str, Any], given: Mapping[str, Any]) -> None:
        file = save(self.folder, states, facts, **given)
        if self.mirror is not None:
            try:
                self.mirror.send(file)
            except StyleBlendError:
                file.unlink(missing_ok=True)
                raise
        own = self.own()
        good = [each for each in own if each.good]
        self._remove_all_but([*own[-2:], *good[-1:], *self._beginnings()])

    def finish(self) -> None:
        """Keep what a longer training of the same kind begins from, and no finished training of another length."""
        self._remove_all_but([*self.own()[-1:], *self._beginnings()])
        others = [each for each in self.all() if each.planned != self.planned]
        finished = {each.planned for each in others if each.step == each.planned}
        for each in others:
            if each.planned in finished and not self.fits(each):
                self._remove(each)

    def _beginnings(self) -> list[Kept]:
        return [each for each in self.own() if self.pinned(each)][-1:]

    def _remove_all_but(self, needed: Sequence[Kept]) -> None:
        for each in self.own():
            if each not in needed:
                self._remove(each)

    def _remove(self, each: Kept) -> None:
        each.path.unlink(missing_ok=True)
        if self.mirror is not None:
            self.mirror.remove(each.path.name)
