"""Section `provenance`: who signs the C2PA manifests of pictures that leave; marking itself has no switch."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from styleblend.config.base import Section, expect_no_password


class Provenance(Section):
    certificate: Path | None = Field(None, description="PEM chain, the signer's first; null: this machine's test one")
    private_key: Path | None = Field(None, description="PEM file of the certificate's unlocked key, kept out of git")
    algorithm: Literal["es256", "es384", "es512", "ps256", "ps384", "ps512", "ed25519"] = "es256"
    timestamp_url: str | None = Field(None, pattern=r"^https?://", description="RFC 3161 authority; null: no timestamp")

    @model_validator(mode="after")
    def both_or_none(self) -> Provenance:
        expect_no_password("provenance.timestamp_url", self.timestamp_url, "and name an authority that asks for none")
        if (self.certificate is None) != (self.private_key is None):
            raise ValueError(
                f"provenance.certificate is '{self.certificate}' and provenance.private_key is '{self.private_key}': "
                "give both, or neither for a test certificate"
            )
        return self
