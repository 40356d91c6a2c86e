"""The gate of the registry: the limits that a version's metrics must keep to get an alias."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from styleblend.config.registry import Gate
from styleblend.errors import StyleBlendError


def failures(gate: Gate, metrics: Mapping[str, Any]) -> list[str]:
    """The limits that are missed, a clause each; empty when the gate passes. A metric that is NaN misses its limit.

    Raises:
        StyleBlendError: a limit names a metric that metrics.json lacks.
    """
    numbers = {name: value for name, value in metrics.items() if not isinstance(value, str)}
    for name in (*gate.min, *gate.max):
        if name not in numbers:
            near = get_close_matches(name, numbers, n=3)
            hint = f", did you mean {' or '.join(near)}" if near else ""
            raise StyleBlendError(f"register.gate names '{name}', which was not measured{hint}: correct params.yaml")
    low = [f"{name} is {numbers[name]:.4g}, below {limit:g}" for name, limit in gate.min.items()
           if not numbers[name] >= limit]  # fmt: skip
    high = [f"{name} is {numbers[name]:.4g}, above {limit:g}" for name, limit in gate.max.items()
            if not numbers[name] <= limit]  # fmt: skip
    return low + high
