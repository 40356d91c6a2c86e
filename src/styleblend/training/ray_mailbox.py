"""What the first worker, on whichever machine, records: to the trainer, which keeps it and tells MLflow."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from styleblend.training import loop

_LOOK_S = 0.5


class _Mailbox:
    """Entries in their order, until they are taken."""

    def __init__(self) -> None:
        self._entries: list[tuple[str, tuple[Any, ...]]] = []

    def put(self, kind: str, given: tuple[Any, ...]) -> None:
        """Keep an entry."""
        self._entries.append((kind, given))

    def take(self) -> list[tuple[str, tuple[Any, ...]]]:
        """All entries that were not taken yet."""
        entries, self._entries = self._entries, []
        return entries


@contextmanager
def emptied_into(recorder: loop.Recorder) -> Iterator[Any]:
    """A mailbox on Ray, whose entries are told to a recorder of this process; all of them at the end of the block.

    Yields:
        what a Sender needs.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # On the trainer's own machine: elsewhere it would be lost with another one, or begun on one that is lost already.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    mailbox: Any = ray.remote(num_cpus=0)(_Mailbox)
    box = mailbox.options(scheduling_strategy=here).remote()
    over, trouble = threading.Event(), list[Exception]()

    def empty() -> None:
        last = False
        while not last:
            last = over.wait(_LOOK_S)
            try:
                for kind, given in ray.get(box.take.remote()):
                    getattr(recorder, kind)(*given)
            # Ray's, for its own end, or the recorder's.
            except Exception as error:
                trouble.append(error)
                return

    thread = threading.Thread(target=empty, daemon=True, name="mailbox")
    thread.start()
    try:
        yield box
    finally:
        over.set()
        thread.join()
    if trouble:
        raise trouble[0]


class Sender(loop.Recorder):
    """A recorder that puts all into a mailbox and does not wait for it."""

    def __init__(self, box: Any) -> None:
        self._box = box
        self._last: Any = None

    def begins(self, attempt: int) -> None:
        self._put("begins", attempt)

    def metrics(self, step: int, values: dict[str, float]) -> None:
        self._put("metrics", step, values)

    def picture(self, step: int, pixels: Tensor) -> None:
        self._put("picture", step, pixels)

    def tags(self, values: dict[str, str]) -> None:
        self._put("tags", values)

    def line(self, text: str) -> None:
        self._put("line", text)

    def finish(self) -> str | None:
        """Wait until all is in the mailbox. Its owner ends the run, and knows its id."""
        import ray

        if self._last is not None:
            ray.get(self._last)
        return None

    def _put(self, kind: str, *given: Any) -> None:
        self._last = self._box.put.remote(kind, given)
