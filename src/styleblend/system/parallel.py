"""Independent tasks spread over processes, results in the order of the tasks."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from tqdm import tqdm

from styleblend.errors import StyleBlendError

Task = TypeVar("Task")
Result = TypeVar("Result")

# Chunks a worker that are handed out before the oldest result is taken. More would pile up results in memory where the
# taker is slower than the workers, and fewer would leave workers idle behind a slow chunk.
_AHEAD = 4


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def spread(function: Callable[[Task], Result], tasks: Sequence[Task], workers: int, label: str) -> Iterator[Result]:
    """Yield `function(task)` for each task, in order, computed by `workers` processes (1: in this process).

    Tasks are handed out as results are taken, so that of a million tasks few results wait in memory. Shows a bar in a
    terminal and about ten lines in a log. Errors of a task are raised here.

    Raises:
        StyleBlendError: a process was ended from outside, as the system does when memory runs out.
    """
    workers = min(workers, len(tasks))
    if workers <= 1:
        yield from shown_progress(map(function, tasks), len(tasks), label)
        return
    # Spawned, not forked: a fork copies the locks of torch's and OpenCV's threads in whatever state they are.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_leave_with_parent) as pool:
        try:
            yield from shown_progress(_computed(pool, function, tasks, workers), len(tasks), label)
        except BrokenProcessPool:
            raise StyleBlendError(
                f"{label}: one of {workers} processes was ended from outside, often for lack of memory: "
                "lower this stage's workers, then start it again"
            ) from None


def _computed(
    pool: ProcessPoolExecutor, function: Callable[[Task], Result], tasks: Sequence[Task], workers: int
) -> Iterator[Result]:
    size = max(1, min(32, len(tasks) // (8 * workers)))
    waiting: deque[Future[list[Result]]] = deque()
    try:
        for start in range(0, len(tasks), size):
            waiting.append(pool.submit(_each, function, tasks[start : start + size]))
            if len(waiting) >= _AHEAD * workers:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def _each(function: Callable[[Task], Result], tasks: Sequence[Task]) -> list[Result]:
    return [function(task) for task in tasks]


def shown_progress(results: Iterator[Result], total: int, label: str) -> Iterator[Result]:
    """Pass results on, with a bar in a terminal and about ten lines in a log."""
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
