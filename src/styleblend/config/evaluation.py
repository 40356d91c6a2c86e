"""Section `evaluate`."""

from __future__ import annotations

from pydantic import Field

from styleblend.config.base import Section


class Evaluate(Section):
    bootstrap: int = Field(1000, ge=100, description="resamples of each 95 % interval")
    grid_rows: int = Field(8, ge=1)
    yaw_bins_deg: tuple[float, ...] = Field((15, 30), description="limits between the pose groups, |yaw| of the target")
    batch_size: int = Field(32, ge=1)
    inception_sha256: str | None = Field(
        None,
        pattern=r"^[0-9a-f]{64}$",
        description="of the networks' inception.pt, a TorchScript program that is run if it has this hash: the FID;"
        " not needed with pretrained.inception, whose hash the catalogue states",
    )
    seed: int = Field(0, ge=0)
