"""What a training records: on disk at once, in MLflow as soon as that answers. No error of MLflow reaches the training.

An outbox is a folder: the entries in their order (`journal`), pictures that wait, and what is needed to find or make
the run. Everything in it can be sent twice and is in MLflow once: figures carry the time at which they were taken, and
MLflow keeps equal ones once; tags and pictures replace their like. A training that was killed and repeats steps records
them again: what the folder has of the same attempt already is left out, so that curves have no doubles either.
"""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from styleblend.config.tracking import Tracking
from styleblend.errors import reason_of
from styleblend.registry import runs
from styleblend.registry.journal import Journal
from styleblend.system.files import whole_file
from styleblend.system.lock import Locked, hold

Say = Callable[[str], None]

PLACE = Path(".state/tracking")
"""Where a project's outboxes are, one folder for each training that runs or has something left to send."""
_TOGETHER = 100
"""So many entries are read and sent at once."""
_LONGEST_PAUSE_S = 60.0
_LOCK_S = 60.0


@dataclass(frozen=True)
class Address:
    """Which run the entries are for; see runs.open_child. run_id: once it is known."""

    parent_run_id: str
    stage: str
    key: str
    params: Mapping[str, Any]
    run_id: str | None = None


class Outbox:
    """One run's outbox. `lock` is held while it is used; `start` begins to send, in a thread of its own."""

    def __init__(self, folder: Path, cfg: Tracking, address: Address, say: Say) -> None:
        """Open the outbox in `folder`, or make it.

        Args:
            address: of a new outbox; of one that is there, its run_id is kept where it has one.
            say: takes lines for people: that MLflow does not answer, and that it does again.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self._cfg, self._say = folder, cfg, say
        known = address_of(folder)
        self._address = address if known is None else Address(**{**asdict(address), "run_id": known.run_id})
        self._keep_address()
        self._journal = Journal(folder)
        self._attempt = 0
        self._seen: set[tuple[int, str]] = set()
        self._run: runs.Run | None = None
        self._ended: str | None = None
        self._wake, self._ending, self._over = threading.Event(), threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._send_all, daemon=True, name="outbox")

    @property
    def run_id(self) -> str | None:
        """Id of the run in MLflow; None while MLflow has not answered yet."""
        return self._address.run_id

    @property
    def finished(self) -> bool:
        """Whether the last that was kept is that the run has FINISHED."""
        last = ""
        for entry in self._journal.entries():
            last = entry.get("status", last)
        return last == "FINISHED"

    def start(self) -> None:
        """Begin to send."""
        self._append({"status": "RUNNING"})
        self._thread.start()

    def begins(self, attempt: int) -> None:
        """A training begins, goes on or was rolled back: what this attempt has recorded already comes no second time.

        Args:
            attempt: how often the training was rolled back. Another attempt goes through the same steps with other
                figures.
        """
        self._attempt = attempt
        self._seen = {
            (entry["step"], _names(entry["metrics"]))
            for entry in self._journal.entries()
            if "metrics" in entry and entry["attempt"] == attempt
        }

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Keep figures of a step to be sent; those that this attempt has kept for it already are left out."""
        what = (step, _names(values))
        if what in self._seen:
            return
        self._seen.add(what)
        now = time.time_ns() // 1_000_000
        figures = {name: float(value) for name, value in values.items()}
        self._append({"metrics": figures, "step": step, "attempt": self._attempt, "time": now})

    def tags(self, values: Mapping[str, str]) -> None:
        """Keep tags to be set."""
        self._append({"tags": dict(values)})

    def picture(self, name: str, folder: str, save: Callable[[Path], object]) -> None:
        """Keep a picture to be sent into a folder of the run's artifacts; `save` writes it to the path it is given."""
        file = self.folder / "pictures" / name
        try:
            with whole_file(file) as partial:
                save(partial)
        except OSError as error:
            self._say(f"the picture {name} could not be kept ({error})")
            return
        self._append({"picture": name, "folder": folder})

    def end(self, status: str, patience_s: float) -> bool:
        """Keep how the run ended, and wait until all is sent, or `patience_s`. Returns whether all is sent."""
        if status != self._ended:
            self._append({"status": status})
        self._ended = status
        self._ending.set()
        self._wake.set()
        self._thread.join(patience_s)
        self._over.set()
        return self._journal.all_sent

    def send_now(self) -> bool:
        """Send all that waits, from this thread. Returns whether all is sent; says why not."""
        try:
            while self._send_some():
                pass
        except Exception as error:  # See _send_all.
            self._say(f"{self._address.stage}: figures still wait in {self.folder}: {reason_of(error)}")
        return self._journal.all_sent

    def _append(self, entry: Mapping[str, Any]) -> None:
        try:
            self._journal.append(entry)
        except OSError as error:
            self._say(f"figures are held in memory, for {self.folder} does not take them: {reason_of(error)}")
        self._wake.set()

    def _send_all(self) -> None:
        pause, troubled = 0.0, False
        while not self._over.is_set():
            try:
                some = self._send_some()
            # Whatever MLflow, its database, its server or the network raise: training is worth more than its curves.
            except Exception as error:
                if not troubled:
                    self._say(f"figures are kept in {self.folder} until they can be sent: {reason_of(error)}")
                pause, troubled = min(max(1.0, 2 * pause), _LONGEST_PAUSE_S), True
                # At the end somebody waits for it, and looks often.
                if self._ending.wait(0 if self._ending.is_set() else pause):
                    self._over.wait(1.0)
                continue
            if troubled:
                self._say("figures are sent again")
            pause, troubled = 0.0, False
            if not some:
                if self._ending.is_set():
                    return
                self._wake.wait()
                self._wake.clear()

    def _send_some(self) -> bool:
        """Send the first entries that wait. Returns whether there were any."""
        entries, end = self._journal.pending(_TOGETHER)
        if not entries:
            return False
        if self._run is None:
            self._open()
            entries, end = self._journal.pending(_TOGETHER)
        assert self._run is not None
        for kind, group in groupby(entries, key=lambda entry: next(iter(entry))):
            if kind == "metrics":
                self._run.log_figures(
                    [
                        (name, value, entry["time"], entry["step"])
                        for entry in group
                        for name, value in entry["metrics"].items()
                    ]
                )
                continue
            for entry in group:
                self._send_other(self._run, entry)
        self._journal.sent(end)
        for entry in entries:
            if "picture" in entry:
                (self.folder / "pictures" / entry["picture"]).unlink(missing_ok=True)
        return True

    def _send_other(self, run: runs.Run, entry: Mapping[str, Any]) -> None:
        if "tags" in entry:
            run.set_tags(entry["tags"])
        elif "status" in entry:
            run.set_status(entry["status"])
        elif (file := self.folder / "pictures" / entry["picture"]).exists():
            run.log_artifact(file, entry["folder"])

    def _open(self) -> None:
        """Find or make the run. In a store that never had it, all is sent again from its first entry."""
        each = self._address
        run = runs.open_child(self._cfg, each.parent_run_id, each.stage, each.key, each.params)
        if each.run_id not in (None, run.run_id):
            self._journal.sent(0)
        self._address = Address(run.parent_run_id, each.stage, each.key, each.params, run.run_id)
        self._keep_address()
        self._run = run

    def _keep_address(self) -> None:
        with whole_file(self.folder / "run.json") as partial:
            partial.write_text(json.dumps(asdict(self._address), indent=1) + "\n")


def address_of(folder: Path) -> Address | None:
    """Which run an outbox is for; None where there is none."""
    try:
        return Address(**json.loads((folder / "run.json").read_text()))
    except (OSError, ValueError, TypeError):
        return None


def lock(folder: Path, wait_s: float = _LOCK_S) -> AbstractContextManager[int]:
    """Hold an outbox: one process sends from it."""
    return hold(folder / "lock", "a process sends figures", folder, wait_s)


@contextmanager
def opened(folder: Path, cfg: Tracking, address: Address, say: Say, patience_s: float) -> Iterator[Outbox]:
    """An outbox that sends while the block runs. A block that raises ends the run as FAILED.

    The folder stays, for a training that goes on needs to know what it has recorded: see `deliver`.
    """
    with lock(folder):
        outbox = Outbox(folder, cfg, address, say)
        outbox.start()
        try:
            yield outbox
        except BaseException:
            outbox.end("FAILED", min(patience_s, 5.0))
            raise
        if not outbox.end("FINISHED", patience_s):
            say(f"figures wait in {folder}: the next stage sends them")


def deliver(cfg: Tracking, say: Say, place: Path = PLACE) -> None:
    """Send what trainings have left in their outboxes, where nobody else does; what cannot be sent stays, and is said.

    An outbox of which all was sent, and whose run has ended, goes.
    """
    for folder in sorted(path.parent for path in place.glob("*/run.json")):
        address = address_of(folder)
        if address is None:
            continue
        try:
            with lock(folder, wait_s=0):
                outbox = Outbox(folder, cfg, address, say)
                if outbox.send_now() and outbox.finished:
                    shutil.rmtree(folder)
        except Locked:
            continue


def _names(values: Mapping[str, float]) -> str:
    return " ".join(sorted(values))
