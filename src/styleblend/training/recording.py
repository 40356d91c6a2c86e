"""Where the figures, pictures and lines of a training go: MLflow's outbox, and a file that the stage shows."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from PIL import Image
from torch import Tensor

from styleblend.provenance import save_picture
from styleblend.registry import outbox
from styleblend.training import loop
from styleblend.training.job import Job

PROGRESS = "progress.log"


class OutboxRecorder(loop.Recorder):
    """A loop.Recorder that keeps what MLflow is to get, and writes lines for the stage to show."""

    def __init__(self, kept: outbox.Outbox, job: Job) -> None:
        self.kept, self.job = kept, job

    def begins(self, attempt: int) -> None:
        self.kept.begins(attempt)

    def metrics(self, step: int, values: dict[str, float]) -> None:
        self.kept.metrics(step, values)

    def picture(self, step: int, pixels: Tensor) -> None:
        grid, model = Image.fromarray(pixels.numpy()), f"styleblend {self.job.stage}"
        save = partial(save_picture, grid, model=model, kind="grid")
        self.kept.picture(f"step-{step:07d}.png", "probe", save)

    def tags(self, values: dict[str, str]) -> None:
        self.kept.tags(values)

    def line(self, text: str) -> None:
        say(self.job, text)

    def finish(self) -> str | None:
        """Training has come to its end: wait for MLflow, if not for ever; returns the id of the run, if it has one."""
        self.kept.end("FINISHED", self.job.tracking.patience_s)
        return self.kept.run_id


@contextmanager
def recorded(job: Job) -> Iterator[OutboxRecorder]:
    """A recorder of the training, into its outbox, from which a thread sends. One process at a time has it."""
    params = {"model": job.model.model_dump(mode="json"), job.stage: job.training.model_dump(mode="json")}
    address = outbox.Address(job.parent_run_id, job.stage, job.fingerprint, params)
    with outbox.opened(job.outbox, job.tracking, address, partial(say, job), job.tracking.patience_s) as kept:
        yield OutboxRecorder(kept, job)


def say(job: Job, text: str) -> None:
    """A line of progress for people, from whichever process."""
    with (job.state / PROGRESS).open("a") as stream:
        stream.write(f"{job.stage}: {text}\n")


@contextmanager
def shown(path: Path) -> Iterator[None]:
    """Print what workers write into a new file `path`, while the block runs and what is left at its end."""
    path.write_text("")
    done = threading.Event()

    def follow() -> None:
        with path.open() as stream:
            ended = False
            while not ended:
                ended = done.wait(0.2)
                if text := stream.read():
                    print(text, end="", flush=True)

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
