"""The training loop of both stages. No engine: a Worker says who takes part, a Recorder takes figures."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import torch
from torch import Tensor

from styleblend.config.training import Training
from styleblend.errors import StyleBlendError
from styleblend.training import alarms, checkpoint, probe
from styleblend.training.batches import Faces, same_person_probability
from styleblend.training.generated import Perception
from styleblend.training.steps import Average, Learner, discriminator_step, generator_step
from styleblend.training.stream import Batches

DOUBTFUL_PROBES = 3
"""So many probes in a row, past the curriculum, that copy the target are a collapse."""
LOSS_ROWS = 200
"""So many rows of losses are kept with a model; a longer run keeps every second, fourth, ... of its rows."""


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

    def begins(self, attempt: int) -> None:
        """Training begins or goes on after so many rollbacks; figures of a later attempt do not repeat an earlier's."""

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Figures after `step` steps."""

    def picture(self, step: int, pixels: Tensor) -> None:
        """A grid of swaps, uint8 [H, W, 3]."""

    def line(self, text: str) -> None:
        """A line of progress for people."""

    def tags(self, values: dict[str, str]) -> None:
        """How the run stands, in words."""


class Collapse(StyleBlendError):
    """Training went wrong in a way that it may not with other draws; the message says what was seen."""


class NotFinite(Collapse):
    """Gradients or figures of the probe are not finite."""


@dataclass
class Progress:
    """What a checkpoint keeps beside the states of networks and optimisers.

    history: rows of the probe; losses: rows of the loss terms, thinned; each with its `step`.
    alarms: those that are on, a sentence each; events: when one came or went, as `step`, `alarm`, `state` and `text`.
    """

    step: int = 0
    rollbacks: int = 0
    doubtful: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    losses: list[dict[str, float]] = field(default_factory=list)
    losses_every: int = 1
    alarms: dict[str, str] = field(default_factory=dict)
    events: list[dict[str, str | int]] = field(default_factory=list)

    def note(self, step: int, alarm: str, state: str, text: str) -> None:
        """Add an event."""
        self.events = [*self.events, {"step": step, "alarm": alarm, "state": state, "text": text}]


def train(
    cfg: Training,
    learner: Learner,
    perception: Perception,
    faces: Faces,
    pairs: probe.Pairs,
    folder: Path,
    worker: Worker,
    recorder: Recorder,
    began_with: Mapping[str, float] | None = None,
) -> Progress:
    """Train until step cfg.steps; returns what the run has to tell.

    Args:
        learner: new, or whatever: a checkpoint in `folder` replaces all of it and training goes on there.
        faces: of the training split. pairs: of the validation split.
        folder: checkpoints, seen by all workers; rank 0 writes it.
        began_with: the first probe of the stage before this one; alarms compare with it.

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
    recorder.begins(progress.rollbacks)
    if latest is None:
        _probe(cfg, learner, perception, pairs, worker, recorder, progress, began_with)
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
                    raise NotFinite(f"the gradients of step {step} are not finite")
                progress.step += 1

                # Figures, sparsely.
                if progress.step % cfg.log_every == 0 or progress.step == cfg.steps:
                    pace = (time.perf_counter() - began) / (progress.step - began_at)
                    _log_terms(cfg, terms, worker, recorder, progress, pace)

                # Look at the validation pairs; keep the state.
                if progress.step % cfg.probe_every == 0 or progress.step == cfg.steps:
                    _probe(cfg, learner, perception, pairs, worker, recorder, progress, began_with)
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
                rollbacks, at = progress.rollbacks + 1, progress.step
                progress = restore(good)
                progress.rollbacks = rollbacks
                if isinstance(collapse, NotFinite):
                    progress.note(at, "non_finite", "on", str(collapse))
                worker.wait()
                keep()
                began, began_at = time.perf_counter(), progress.step
                if worker.rank == 0:
                    recorder.begins(rollbacks)
                    recorder.line(f"rollback {rollbacks} to step {progress.step}: {collapse}")
                    recorder.metrics(progress.step, {"rollbacks": rollbacks})
                    recorder.metrics(at, {"alarm/non_finite": float(isinstance(collapse, NotFinite))})

    worker.wait()
    return progress


def _log_terms(
    cfg: Training, terms: dict[str, Tensor], worker: Worker, recorder: Recorder, progress: Progress, seconds: float
) -> None:
    step = progress.step
    values = torch.stack([value.double() for value in terms.values()])
    worker.average([values])
    named = dict(zip(terms, values.tolist(), strict=True))
    _keep_terms(progress, cfg, named)
    if worker.rank:
        return
    pace = {"same_person_probability": same_person_probability(cfg, step), "seconds_per_step": seconds}
    recorder.metrics(step, {f"loss/{name}": value for name, value in named.items()} | pace)
    shown = "  ".join(f"{name} {value:.4g}" for name, value in named.items())
    recorder.line(f"step {step}/{cfg.steps}  {shown}  {seconds:.2f} s/step")


def _keep_terms(progress: Progress, cfg: Training, named: dict[str, float]) -> None:
    """Keep a row of the terms, at most LOSS_ROWS of them, evenly spread."""
    if progress.step == cfg.steps or progress.step // cfg.log_every % progress.losses_every == 0:
        progress.losses = [*progress.losses, {"step": progress.step, **named}]
    if len(progress.losses) > LOSS_ROWS:
        progress.losses, progress.losses_every = progress.losses[1::2], 2 * progress.losses_every


def _probe(
    cfg: Training,
    learner: Learner,
    perception: Perception,
    pairs: probe.Pairs,
    worker: Worker,
    recorder: Recorder,
    progress: Progress,
    began_with: Mapping[str, float] | None,
) -> None:
    """Log a probe of the averaged weights and judge it.

    While the curriculum lasts, most samples are right to copy the target, and before identity has its full weight
    nothing says otherwise; only after both does a probe that copies count as doubtful, and only several in a row are a
    collapse: a short run is slow, not broken.

    Raises:
        Collapse: the last DOUBTFUL_PROBES probes copied the target.
    """
    judged = learner.discriminator if cfg.loss.adversarial else None
    seen = probe.look(learner.averaged, perception, pairs, worker.rank, worker.world_size, worker.average, judged)
    progress.history = [*progress.history, {"step": progress.step, **seen}]
    settled = progress.step > max(cfg.curriculum_steps, cfg.identity_from + cfg.identity_ramp)
    progress.doubtful = progress.doubtful + 1 if seen["copies_target"] and settled else 0
    if worker.rank == 0:
        recorder.metrics(progress.step, {f"probe/{name}": value for name, value in seen.items()})
        recorder.picture(progress.step, probe.grid(learner.averaged, pairs))
        recorder.line(
            f"probe at step {progress.step}: identity to source {seen['identity_to_source']:.3f}, to target"
            f" {seen['identity_to_target']:.3f}, pose {seen['pose_error_deg']:.2f} deg,"
            f" expression {seen['expression_error']:.3f}, outside {seen['outside_l1']:.3f}"
        )
    _watch(cfg, worker, recorder, progress, began_with)
    if progress.doubtful >= DOUBTFUL_PROBES:
        raise Collapse(f"{progress.doubtful} probes in a row copy the target")
    if not all(value == value for value in seen.values()):
        raise NotFinite(f"the probe of step {progress.step} is not finite")


def _watch(
    cfg: Training, worker: Worker, recorder: Recorder, progress: Progress, began_with: Mapping[str, float] | None
) -> None:
    """Log which alarms are on, as figures at each probe, in words when one comes or goes."""
    on = alarms.raised(progress.history, began_with or progress.history[0], cfg)
    changed = [(name, "on", text) for name, text in on.items() if name not in progress.alarms]
    changed += [(name, "over", text) for name, text in progress.alarms.items() if name not in on]
    for name, state, text in changed:
        progress.note(progress.step, name, state, text)
    progress.alarms = on
    if worker.rank == 0:
        recorder.metrics(progress.step, {f"alarm/{name}": float(name in on) for name in alarms.WORDS})
        for name, state, text in changed:
            said = f"ALARM at step {progress.step}: {text}"
            recorder.line(said if state == "on" else f"alarm over at step {progress.step}: {alarms.WORDS[name]}")
        recorder.tags({"alarms": ", ".join(on) or "none"})
