"""The training loop of both stages. No engine: a Worker says who takes part, a Recorder takes figures."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import torch
from torch import Tensor

from styleblend.config.training import Training
from styleblend.errors import StyleBlendError
from styleblend.training import checkpoint, probe
from styleblend.training.batches import Faces, same_person_probability
from styleblend.training.generated import Perception
from styleblend.training.steps import Average, Learner, discriminator_step, generator_step
from styleblend.training.stream import Batches

DOUBTFUL_PROBES = 3
"""So many probes in a row, past the curriculum, that copy the target are a collapse."""


def alone(tensors: Sequence[Tensor]) -> None:
    """The `average` of a worker without others: tensors stay as they are."""


@dataclass(frozen=True)
class Worker:
    """One of `world_size` processes that train together. All must call `average` alike."""

    rank: int = 0
    world_size: int = 1
    device: torch.device = torch.device("cpu")
    average: Average = alone

    def wait(self) -> None:
        """Return when all workers have come here."""
        self.average([torch.zeros(1, device=self.device)])


class Recorder:
    """Where figures and pictures of a run go, called on rank 0 only; this one keeps nothing."""

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Figures after `step` steps."""

    def picture(self, step: int, pixels: Tensor) -> None:
        """A grid of swaps, uint8 [H, W, 3]."""

    def line(self, text: str) -> None:
        """A line of progress for people."""


class Collapse(StyleBlendError):
    """Training went wrong in a way that it may not with other draws; the message says what was seen."""


@dataclass
class Progress:
    """What a checkpoint keeps beside the states of networks and optimisers."""

    step: int = 0
    rollbacks: int = 0
    doubtful: int = 0
    history: list[dict[str, float]] = field(default_factory=list)


def train(
    cfg: Training,
    learner: Learner,
    perception: Perception,
    faces: Faces,
    pairs: probe.Pairs,
    folder: Path,
    worker: Worker,
    recorder: Recorder,
) -> list[dict[str, float]]:
    """Train until step cfg.steps; returns the rows of the validation probe.

    Args:
        learner: new, or whatever: a checkpoint in `folder` replaces all of it and training goes on there.
        faces: of the training split. pairs: of the validation split.
        folder: checkpoints, seen by all workers; rank 0 writes it.

    Raises:
        StyleBlendError: the run collapsed more than cfg.max_rollbacks times, or a checkpoint or picture is damaged.
    """
    if not any(value for name, value in cfg.loss if name != "swap_consistency"):
        raise StyleBlendError("all weights of the section loss but swap_consistency are 0: give one a weight")
    parts: dict[str, checkpoint.Stateful] = {each.name: getattr(learner, each.name) for each in fields(learner)}

    def restore(path: Path) -> Progress:
        return Progress(**checkpoint.load(path, parts, worker.device))

    def keep() -> None:
        if worker.rank == 0:
            step, rollbacks, good = progress.step, progress.rollbacks, progress.doubtful == 0
            checkpoint.save(folder, parts, asdict(progress), step=step, rollbacks=rollbacks, good=good)

    # Begin, or go on where a killed run stopped. All look at once, after rank 0 has come and before it writes.
    worker.wait()
    latest = checkpoint.newest(folder)
    worker.wait()
    progress = restore(latest) if latest else Progress()
    if latest is None:
        _probe(cfg, learner, perception, pairs, worker, recorder, progress)
        keep()
    elif worker.rank == 0:
        recorder.line(f"resumed at step {progress.step} of {cfg.steps}")
    began, began_at = time.perf_counter(), progress.step

    with closing(Batches(cfg, faces, worker.rank, worker.world_size, learner.swapper.prior is not None)) as batches:
        while progress.step < cfg.steps:
            try:
                # One step of the generator, one of the discriminator on the pictures it gave.
                step = progress.step
                batch = batches.at(step, progress.rollbacks).to(worker.device)
                outcome = generator_step(learner, perception, batch, cfg, step, worker.average)
                terms, finite = outcome.terms, outcome.finite
                if finite and cfg.weight("adversarial", step):
                    judged = discriminator_step(learner, batch, outcome.swapped, cfg, worker.average)
                    terms, finite = {**terms, **judged.terms}, judged.finite
                if not finite:
                    raise Collapse(f"the gradients of step {step} are not finite")
                progress.step += 1

                # Figures, sparsely.
                if progress.step % cfg.log_every == 0 or progress.step == cfg.steps:
                    pace = (time.perf_counter() - began) / (progress.step - began_at)
                    _log_terms(cfg, terms, worker, recorder, progress.step, pace)

                # Look at the validation pairs; keep the state.
                if progress.step % cfg.probe_every == 0 or progress.step == cfg.steps:
                    _probe(cfg, learner, perception, pairs, worker, recorder, progress)
                if progress.step % cfg.checkpoint_every == 0 or progress.step == cfg.steps:
                    keep()

            # Go back to the last good state and on with other draws, or give up.
            except Collapse as collapse:
                if progress.rollbacks == cfg.max_rollbacks:
                    raise StyleBlendError(
                        f"training collapsed at step {progress.step} after {progress.rollbacks} rollbacks:"
                        f" {collapse}; lower learning_rate or loss.adversarial, or raise loss.identity"
                    ) from None
                good = checkpoint.newest(folder, good=True)
                if good is None:
                    raise StyleBlendError(f"{folder} has lost its checkpoints while training: start again") from None
                rollbacks = progress.rollbacks + 1
                progress = restore(good)
                progress.rollbacks = rollbacks
                worker.wait()
                keep()
                began, began_at = time.perf_counter(), progress.step
                if worker.rank == 0:
                    recorder.line(f"rollback {rollbacks} to step {progress.step}: {collapse}")
                    recorder.metrics(progress.step, {"rollbacks": rollbacks})

    worker.wait()
    return progress.history


def _log_terms(
    cfg: Training, terms: dict[str, Tensor], worker: Worker, recorder: Recorder, step: int, seconds: float
) -> None:
    values = torch.stack([value.double() for value in terms.values()])
    worker.average([values])
    if worker.rank:
        return
    named = dict(zip(terms, values.tolist(), strict=True))
    pace = {"same_person_probability": same_person_probability(cfg, step), "seconds_per_step": seconds}
    recorder.metrics(step, {f"loss/{name}": value for name, value in named.items()} | pace)
    shown = "  ".join(f"{name} {value:.4g}" for name, value in named.items())
    recorder.line(f"step {step}/{cfg.steps}  {shown}  {seconds:.2f} s/step")


def _probe(
    cfg: Training,
    learner: Learner,
    perception: Perception,
    pairs: probe.Pairs,
    worker: Worker,
    recorder: Recorder,
    progress: Progress,
) -> None:
    """Log a probe of the averaged weights and judge it.

    While the curriculum lasts, most samples are right to copy the target, and before identity has its full weight
    nothing says otherwise; only after both does a probe that copies count as doubtful, and only several in a row are a
    collapse: a short run is slow, not broken.

    Raises:
        Collapse: the last DOUBTFUL_PROBES probes copied the target.
    """
    seen = probe.look(learner.averaged, perception, pairs, worker.rank, worker.world_size, worker.average)
    progress.history = [*progress.history, {"step": progress.step, **seen}]
    judged = progress.step > max(cfg.curriculum_steps, cfg.identity_from + cfg.identity_ramp)
    progress.doubtful = progress.doubtful + 1 if seen["copies_target"] and judged else 0
    if worker.rank == 0:
        recorder.metrics(progress.step, {f"probe/{name}": value for name, value in seen.items()})
        recorder.picture(progress.step, probe.grid(learner.averaged, pairs))
        recorder.line(
            f"probe at step {progress.step}: identity to source {seen['identity_to_source']:.3f}, to target"
            f" {seen['identity_to_target']:.3f}, pose {seen['pose_error_deg']:.2f} deg,"
            f" expression {seen['expression_error']:.3f}, outside {seen['outside_l1']:.3f}"
        )
    if progress.doubtful >= DOUBTFUL_PROBES:
        raise Collapse(f"{progress.doubtful} probes in a row copy the target")
    if not all(value == value for value in seen.values()):
        raise Collapse(f"the probe of step {progress.step} is not finite")
