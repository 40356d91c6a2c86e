"""Section `retrain`: when the Prefect flow runs and what it may do."""

from __future__ import annotations

from pathlib import Path
from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, model_validator

from styleblend.config.base import Section


class Retrain(Section):
    cron: str = Field("0 3 * * 0", description="schedule: minute, hour, day of month, month, day of week")
    timezone: str = Field("UTC", description="time zone of cron, as Europe/Berlin")
    retries: int = Field(1, ge=0, description="further tries of the pipeline where its failure may pass")
    retry_seconds: float = Field(10, ge=0, description="pause before each")
    watch_seconds: float = Field(60, ge=0, description="between looks at the folders of photographs; 0 looks never")
    settle_seconds: float = Field(120, ge=0, description="a run starts when changed photographs have rested so long")
    watch_upstream_seconds: float = Field(3600, ge=0, description="between `dvc update`s; 0 updates only with a run")
    promote: Literal["manual", "auto"] = Field("manual", description="auto: what passes register.gate becomes champion")
    notify_file: Path = Path("reports/notifications.log")
    webhook: str | None = Field(None, description="http address that gets the result; ${NAME}: from the environment")

    @model_validator(mode="after")
    def timezone_is_known(self) -> Retrain:
        try:
            ZoneInfo(self.timezone)
        except (ZoneInfoNotFoundError, ValueError):
            raise ValueError(f"retrain.timezone '{self.timezone}' is not known: give one as Europe/Berlin") from None
        return self
