"""Section `evaluate`."""

from __future__ import annotations

from pydantic import Field

from styleblend.config.base import Section


class Evaluate(Section):
    bootstrap: int = Field(1000, ge=100, description="resamples of each 95 % interval")
    grid_rows: int = Field(8, ge=1)
    report_rows: int = Field(4, ge=1, description="best, median and worst pairs on the report page, of each so many")
    yaw_bins_deg: tuple[float, ...] = Field((15, 30), description="limits between the pose groups, |yaw| of the target")
    batch_size: int = Field(32, ge=1)
    # inception.pt is a program. With pretrained.inception the catalogue states the hash, and this is not needed.
    inception_sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$", description="of inception.pt, for the FID")
    seed: int = Field(0, ge=0)
