"""How far a training has come and what it has to tell: what a checkpoint keeps beside networks and optimisers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from styleblend.config.training import Training

LOSS_ROWS = 200
"""So many rows of losses are kept with a model; a longer run keeps every second, fourth, ... of its rows."""


@dataclass
class Progress:
    """What a checkpoint keeps beside the states of networks and optimisers.

    rollbacks: how often training went back; each attempt has draws of its own. strikes: those of them that count, for
    training has not come cfg.recovered_after steps past collapsed_at, the furthest collapse, since.
    skips: steps that were left out; skipped: which of the last ones.
    history: rows of the probe; losses: rows of the loss terms, thinned; each with its `step`.
    alarms: those that are on, a sentence each; events: when one came or went, as `step`, `alarm`, `state` and `text`.
    """

    step: int = 0
    rollbacks: int = 0
    strikes: int = 0
    collapsed_at: int = 0
    skips: int = 0
    skipped: list[int] = field(default_factory=list)
    doubtful: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    losses: list[dict[str, float]] = field(default_factory=list)
    losses_every: int = 1
    alarms: dict[str, str] = field(default_factory=dict)
    events: list[dict[str, str | int]] = field(default_factory=list)

    def left_out(self, cfg: Training, until: int | None = None) -> list[int]:
        """The steps left out among the cfg.skipped_within up to `until`; None is the step that training is at."""
        last = self.step if until is None else until
        return [step for step in self.skipped if step > last - cfg.skipped_within]

    def recover(self, cfg: Training) -> None:
        """Forget rollbacks after good progress: collapses weeks apart are none of one another's business."""
        if self.strikes and self.step >= self.collapsed_at + cfg.recovered_after:
            self.strikes = 0

    def note(self, step: int, alarm: str, state: str, text: str) -> None:
        """Add an event."""
        self.events = [*self.events, {"step": step, "alarm": alarm, "state": state, "text": text}]

    def keep_terms(self, cfg: Training, named: Mapping[str, float]) -> None:
        """Keep a row of the terms, at most LOSS_ROWS of them, evenly spread."""
        if self.step == cfg.steps or self.step // cfg.log_every % self.losses_every == 0:
            self.losses = [*self.losses, {"step": self.step, **named}]
        if len(self.losses) > LOSS_ROWS:
            self.losses, self.losses_every = self.losses[1::2], 2 * self.losses_every


class Said:
    """Which steps had finite gradients: asked at once where the host waits for each step anyway, else seldom.

    A question stops a GPU. All workers hear the same: gradients are averaged before they are looked at.
    """

    def __init__(self, at_once: bool) -> None:
        self.finite = True
        """Of the last step that was asked for."""
        self._at_once = at_once
        self._waiting: list[tuple[int, Tensor]] = []

    def of(self, step: int, finite: Tensor) -> list[int]:
        """Take down a step; returns the steps that are known to be bad by now."""
        self._waiting.append((step, finite))
        return self.all() if self._at_once else []

    def all(self) -> list[int]:
        """The bad ones of all steps that nobody has asked for yet."""
        if not self._waiting:
            return []
        steps, flags = zip(*self._waiting, strict=True)
        self.forget()
        told: list[bool] = torch.stack(flags).tolist()
        self.finite = told[-1]
        return [step for step, finite in zip(steps, told, strict=True) if not finite]

    def forget(self) -> None:
        """What is not asked for yet, as after a return to an earlier step."""
        self._waiting = []
