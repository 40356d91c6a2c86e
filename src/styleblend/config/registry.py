"""Section `register`: the gate and the alias of a new model version."""

from __future__ import annotations

from pydantic import Field

from styleblend.config.base import Section


class Gate(Section):
    """What a version must reach to become `candidate`, each limit on a name of reports/metrics.json."""

    min: dict[str, float] = Field({}, description="lowest accepted value a metric")
    max: dict[str, float] = Field({}, description="highest accepted value a metric")


class Register(Section):
    gate: Gate = Gate()
    alias: str = Field("candidate", pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")
