"""Section `register`: the gate and the alias of a new model version."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import Field, model_validator

from styleblend.config.base import Section
from styleblend.config.figures import BASELINES, COMPARED, is_figure, near


class Gate(Section):
    """What a version must reach to become `candidate`, each limit on a name of reports/metrics.json.

    Absolute limits suit faces and judges that are known; the others hold wherever a version is measured.
    """

    min: dict[str, float] = Field({}, description="lowest accepted value a metric")
    max: dict[str, float] = Field({}, description="highest accepted value a metric")
    champion: tuple[str, ...] = Field((), description="metrics that must not be clearly worse than the champion's")
    baselines: dict[str, tuple[str, ...]] = Field({}, description="methods that a metric must be clearly better than")

    @property
    def decides(self) -> bool:
        """Whether it can refuse a first version: without a champion its limits are not there yet."""
        return bool(self.min or self.max or any(self.baselines.values()))

    @model_validator(mode="after")
    def names_are_known(self) -> Gate:
        for part in ("min", "max"):
            for name in getattr(self, part):
                if not is_figure(name):
                    raise ValueError(f"register.gate names '{name}' in {part}, which is no metric: {near(name)}")
        for part in ("champion", "baselines"):
            for name in getattr(self, part):
                if name not in COMPARED:
                    words = "which is no metric with a better direction"
                    raise ValueError(f"register.gate names '{name}' in {part}, {words}: {near(name, COMPARED)}")
        for name, methods in self.baselines.items():
            for method in methods:
                if method not in BASELINES:
                    told = f"register.gate.baselines names the method '{method}' for {name}, which there is not"
                    raise ValueError(f"{told}: {near(method, BASELINES)}")
        return self


class Register(Section):
    gate: Gate = Gate()
    alias: str = Field("candidate", pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")


def expect_measured(baselines: Mapping[str, Sequence[str]], start: str, prior: str) -> None:
    """Refuse a gate that compares with methods which an evaluation of these settings does not have.

    Args:
        baselines: of the gate: methods by the metric. start: of the encoder. prior: of the model.
    Raises:
        ValueError: names the method and those that there are.
    """
    begins = f"train_encoder.encoder_start '{start}'"
    absent = {"untrained_mixing" if start == "starter" else "starter": begins}
    # Of the small decoder's codes alone, which this start means, it is known which channels are identity's.
    if start != "pretrained":
        absent["half_mask"] = begins
    if prior == "none":
        absent |= dict.fromkeys(("prior_alone", "shuffled_codes"), "model.prior 'none'")
    for metric, methods in baselines.items():
        for method in methods:
            if method in absent:
                there = ", ".join(each for each in BASELINES if each not in absent)
                raise ValueError(
                    f"register.gate.baselines.{metric} names '{method}', which is not measured with {absent[method]}:"
                    f" take it out, or choose from {there}"
                )
