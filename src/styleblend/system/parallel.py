"""Independent tasks spread over processes, results in the order of the tasks."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from tqdm import tqdm

from styleblend.errors import StyleBlendError

Task = TypeVar("Task")
Result = TypeVar("Result")


def spread(function: Callable[[Task], Result], tasks: Sequence[Task], workers: int, label: str) -> Iterator[Result]:
    """Yield `function(task)` for each task, in order, computed by `workers` processes (1: in this process).

    Shows a bar in a terminal and about ten lines in a log. Errors of a task are raised here.

    Raises:
        StyleBlendError: a process was ended from outside, as the system does when memory runs out.
    """
    workers = min(workers, len(tasks))
    if workers <= 1:
        yield from _shown(map(function, tasks), len(tasks), label)
        return
    # Spawned, not forked: a fork copies the locks of torch's and OpenCV's threads in whatever state they are.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_leave_with_parent) as pool:
        chunk = max(1, min(32, len(tasks) // (8 * workers)))
        try:
            yield from _shown(pool.map(function, tasks, chunksize=chunk), len(tasks), label)
        except BrokenProcessPool:
            raise StyleBlendError(
                f"{label}: one of {workers} processes was ended from outside, often for lack of memory: "
                "lower this stage's workers, then start it again"
            ) from None


def _shown(results: Iterator[Result], total: int, label: str) -> Iterator[Result]:
    step = max(1, total // 10)
    for done, result in enumerate(tqdm(results, total=total, desc=label, disable=None), start=1):
        if not sys.stderr.isatty() and total >= 100 and done % step == 0:
            print(f"{label}: {done} of {total}", flush=True)
        yield result


def _leave_with_parent() -> None:
    """End this process when its parent dies: a killed stage must not leave workers that wait for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
