"""The training loop of both stages. No engine: a Worker says who takes part, a Recorder takes figures."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from torch import Tensor

from styleblend.config.training import Training
from styleblend.errors import StyleBlendError
from styleblend.training import alarms, alike, checkpoint, probe
from styleblend.training.batches import Faces, same_person_probability
from styleblend.training.generated import Perception
from styleblend.training.progress import Progress, Said
from styleblend.training.steps import Average, Learner, arithmetic, begins_alike, both_steps, cooling
from styleblend.training.stream import Batches

DOUBTFUL_PROBES = 3
"""So many probes in a row, past the curriculum, that copy the target are a collapse."""


def alone(tensors: Sequence[Tensor]) -> None:
    """The `average` of a worker without others: tensors stay as they are."""


@dataclass(frozen=True)
class Worker:
    """One of `world_size` processes that train together. All must call `average` and `broadcast` alike.

    broadcast: replaces tensors by those of rank 0.
    """

    rank: int = 0
    world_size: int = 1
    device: torch.device = torch.device("cpu")
    average: Average = alone
    broadcast: Average = alone

    def wait(self) -> None:
        """Return when all workers have come here."""
        meeting = torch.zeros(1, device=self.device)
        self.average([meeting])
        # A GPU is only told to meet the others; to ask for the result is to wait for it.
        meeting.item()


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

    def finish(self) -> str | None:
        """Training has come to its end; returns the id of what was recorded, if it has one and it is known."""
        return None


class Collapse(StyleBlendError):
    """Training went wrong in a way that it may not with other draws; the message says what was seen."""


class NotFinite(Collapse):
    """Gradients or figures of the probe are not finite."""


def checkpoints(cfg: Training, folder: Path, mirror: checkpoint.Mirror | None = None) -> checkpoint.Checkpoints:
    """Those of a training: its own, and of shorter and longer ones what they have in common with it (begins_alike).

    The last one before the rate falls is kept to the end: a longer training begins there.
    """
    return checkpoint.Checkpoints(
        folder,
        cfg.steps,
        fits=lambda each: begins_alike(cfg, each.step, each.planned or cfg.steps),
        pinned=lambda each: cooling(cfg, max(0, each.step - 1), cfg.steps) == 1,
        mirror=mirror,
    )


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
    first: checkpoint.Kept | None = None,
    mirror: checkpoint.Mirror | None = None,
) -> Progress:
    """Train until step cfg.steps; returns what the run has to tell.

    Args:
        learner: new, or whatever: a checkpoint in `folder` replaces all of it and training goes on there.
        faces: of the training split. pairs: of the validation split.
        folder: checkpoints; only rank 0 looks there, the others get its state.
        began_with: the first probe of the stage before this one; alarms compare with it.
        first: checkpoint of another training to go on from, where `folder` has none of this one's.
        mirror: where checkpoints are kept for other machines; None is `folder` alone.

    Raises:
        StyleBlendError: the run collapsed more than cfg.max_rollbacks times without recovering, `first` has all the
            steps already, all checkpoints are damaged, or a picture is; workers have unlike settings or inputs.
    """
    if not any(value for name, value in cfg.loss if name != "swap_consistency"):
        raise StyleBlendError("all weights of the section loss but swap_consistency are 0: give one a weight")
    parts: dict[str, checkpoint.Stateful] = {each.name: getattr(learner, each.name) for each in fields(learner)}
    kept = checkpoints(cfg, folder, mirror)
    swapper = learner.swapper
    needs = (swapper.prior is not None, swapper.decoder.resolutions, worker.device)
    batches = Batches(cfg, faces, worker.rank, worker.world_size, *needs)
    said = Said(not learner.swapper_optimiser.fused)

    def restore(path: Path | None) -> Progress:
        """Of rank 0's checkpoint; None is the state as it is there."""
        facts = {} if path is None else checkpoint.load(path, parts)
        return Progress(**alike.share(parts, facts, worker))

    def keep() -> None:
        if worker.rank == 0:
            good = progress.doubtful == 0 and not progress.left_out(cfg)
            say(kept.keep(parts, asdict(progress), step=progress.step, attempt=progress.rollbacks, good=good))

    def say(problem: str | None) -> None:
        if problem is not None:
            recorder.line(problem)

    with closing(batches), closing(kept), arithmetic(cfg, worker.device):
        if worker.world_size > 1:
            alike.compare(alike.read_by_each(cfg, perception, faces), worker)
        # Begin, or go on where a killed run stopped.
        resumed, latest = _chosen(kept, worker, recorder)
        if first is not None and not resumed:
            if first.step >= cfg.steps:
                raise StyleBlendError(f"{first.path} has {first.step} steps already, steps is {cfg.steps}: raise it")
            if worker.rank == 0:
                first.expect_whole()
                latest = first.path
        progress = restore(latest)
        recorder.begins(progress.rollbacks)
        if first is None and not resumed:
            _probe(cfg, learner, perception, pairs, worker, recorder, progress, began_with)
        if not resumed:
            keep()
        if worker.rank == 0:
            _say_where(cfg, kept, "resumed" if resumed else "continued" if first else None, progress, recorder)
        began, began_at = time.perf_counter(), progress.step

        while progress.step < cfg.steps:
            try:
                step = progress.step
                batch = batches.at(step, progress.rollbacks).to(worker.device)
                outcome = both_steps(learner, perception, batch, cfg, step, worker.average)
                for bad in said.of(step, outcome.finite):
                    _leave_out(cfg, worker, recorder, progress, bad)
                progress.step += 1
                progress.recover(cfg)

                # What a GPU has said meanwhile, then figures, sparsely.
                ends = progress.step == cfg.steps
                due = progress.step % cfg.log_every == 0 or ends
                if due or progress.step % cfg.probe_every == 0 or progress.step % cfg.checkpoint_every == 0:
                    for bad in said.all():
                        _leave_out(cfg, worker, recorder, progress, bad)
                if due and said.finite:
                    pace = (time.perf_counter() - began) / (progress.step - began_at)
                    _log_terms(cfg, outcome.terms, worker, recorder, progress, pace)

                # Look at the validation pairs; keep the state.
                if progress.step % cfg.probe_every == 0 or ends:
                    _probe(cfg, learner, perception, pairs, worker, recorder, progress, began_with)
                if progress.step % cfg.checkpoint_every == 0 or ends:
                    keep()

            # Go back to the last good state and on with other draws, or give up.
            except Collapse as collapse:
                if progress.strikes == cfg.max_rollbacks:
                    raise StyleBlendError(
                        f"training collapsed at step {progress.step} after {progress.strikes} rollbacks without"
                        f" {cfg.recovered_after} good steps: {collapse}; lower learning_rate or loss.adversarial, or"
                        " raise loss.identity"
                    ) from None
                at, before = progress.step, progress
                said.forget()
                say(kept.settle())
                found, good = _chosen(kept, worker, recorder, good=True)
                if not found:
                    raise StyleBlendError(f"{folder} has lost its checkpoints while training: start again") from None
                progress = restore(good)
                progress.rollbacks, progress.strikes = before.rollbacks + 1, before.strikes + 1
                progress.collapsed_at, progress.skips = max(before.collapsed_at, at), before.skips
                if isinstance(collapse, NotFinite):
                    progress.note(at, "non_finite", "on", str(collapse))
                worker.wait()
                keep()
                began, began_at = time.perf_counter(), progress.step
                if worker.rank == 0:
                    recorder.begins(progress.rollbacks)
                    recorder.line(f"rollback {progress.rollbacks} to step {progress.step}: {collapse}")
                    recorder.metrics(progress.step, {"rollbacks": progress.rollbacks})
                    recorder.metrics(at, {"alarm/non_finite": float(isinstance(collapse, NotFinite))})
        say(kept.settle())

    worker.wait()
    return progress


def _chosen(
    kept: checkpoint.Checkpoints, worker: Worker, recorder: Recorder, *, good: bool = False
) -> tuple[bool, Path | None]:
    """Whether there is a whole checkpoint, and on rank 0, which alone looks, the newest one; names damaged ones.

    Raises:
        StyleBlendError: all are damaged.
    """
    path = None
    if worker.rank == 0:
        found, lines = kept.choose(good=good)
        for line in lines:
            recorder.line(line)
        path = None if found is None else found.path
    there = torch.tensor([float(path is not None)], device=worker.device)
    worker.average([there])
    return bool(there), path


def _say_where(
    cfg: Training, kept: checkpoint.Checkpoints, goes_on: str | None, progress: Progress, recorder: Recorder
) -> None:
    """Say where training goes on, and what of a training with another number of steps it does not go on with."""
    if goes_on:
        recorder.line(f"{goes_on} at step {progress.step} of {cfg.steps}")
    own = {each.path for each in kept.own()}
    for each in kept.all():
        if each.step > progress.step and each.path not in own:
            why = "this one has fewer" if each.step > cfg.steps else "its rate had fallen by then"
            recorder.line(f"not used: the checkpoint of step {each.step}, of a training of {each.planned} steps; {why}")


def _leave_out(cfg: Training, worker: Worker, recorder: Recorder, progress: Progress, step: int) -> None:
    """Count a step whose gradients were not finite, so that no worker has learned from it.

    Raises:
        NotFinite: there were too many lately.
    """
    before = progress.left_out(cfg, step)
    progress.skipped, progress.skips = [*before, step], progress.skips + 1
    text = f"the gradients of step {step} are not finite: it is left out"
    if len(progress.skipped) > cfg.max_skipped:
        many = f"the gradients of {len(progress.skipped)} of the last {cfg.skipped_within} steps are not finite"
        raise NotFinite(f"{many}, those of step {step} the last")
    if not before:
        progress.note(step, "non_finite", "left out", text)
    if worker.rank == 0:
        recorder.line(text)
        recorder.metrics(step, {"skipped_steps": progress.skips})


def _log_terms(
    cfg: Training, terms: dict[str, Tensor], worker: Worker, recorder: Recorder, progress: Progress, seconds: float
) -> None:
    step = progress.step
    values = torch.stack([value.double() for value in terms.values()])
    worker.average([values])
    named = dict(zip(terms, values.tolist(), strict=True))
    progress.keep_terms(cfg, named)
    if worker.rank:
        return
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
