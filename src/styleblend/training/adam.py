"""Adam as training needs it: the same after a resume, and on a GPU without asking it anything."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

_WAYS = ("foreach", "fused", "capturable")
"""How a step is computed: a matter of where, and no part of what was learned."""


class Adam(torch.optim.Adam):
    """torch's Adam, fused on a GPU, with a step that may be left out.

    On the CPU it is torch's plain loop, so that results stay the same bit for bit; its fused kernel there promises no
    such thing.

    Args:
        params, lr, betas: as torch's. fused: None is whether the parameters are on a GPU.
    """

    fused: bool
    found_inf: Tensor

    def __init__(self, params: Iterable[Any], lr: float, betas: tuple[float, float], fused: bool | None = None) -> None:
        super().__init__(params, lr, betas)
        learning = [parameter for group in self.param_groups for parameter in group["params"]]
        self.fused = all(parameter.is_cuda for parameter in learning) if fused is None else fused
        if self.fused:
            for group in (self.defaults, *self.param_groups):
                group["fused"] = True

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take moments, steps and rates of a state, but not how and where they were computed.

        torch would take both: steps on a GPU, say, of which each costs a wait at each step, or moments in another
        layout than that of the weights, which the fused kernels refuse.
        """
        own = [{way: group[way] for way in _WAYS} for group in self.param_groups]
        groups = [{**group, **ways} for group, ways in zip(state_dict["param_groups"], own, strict=True)]
        super().load_state_dict({**state_dict, "param_groups": groups})
        for parameter, state in self.state.items():
            if not self.fused:
                state["step"] = state["step"].cpu()
            for name in ("exp_avg", "exp_avg_sq"):
                if state[name].stride() != parameter.stride():
                    state[name] = torch.empty_like(parameter).copy_(state[name])

    def step_if(self, finite: Tensor) -> None:
        """A step where `finite`, a bool [], holds, else none at all. A fused one looks at it where it is."""
        if not self.fused:
            if finite:
                self.step()
            return
        for group in self.param_groups:
            for parameter in group["params"]:
                # Autograd may lay an axis of length 1 out otherwise, which the fused kernels take for another tensor.
                if parameter.grad is not None and parameter.grad.stride() != parameter.stride():
                    parameter.grad = torch.empty_like(parameter).copy_(parameter.grad)
        # What torch's GradScaler tells the fused kernels.
        self.found_inf = (~finite).float()
        try:
            self.step()
        finally:
            del self.found_inf
