"""Section `pretrain`: the recipe of the small networks; only the frozen stage `pretrain` reads it."""

from __future__ import annotations

from pydantic import Field

from styleblend.config.base import Section


class Pretrain(Section):
    identities: int = Field(ge=20)
    pictures_per_identity: int = Field(ge=2)
    judge_identities: int = Field(ge=20, description="how many other people the judge of the evaluation learns from")
    profile_identities: int = Field(ge=10, description="people of each set that is seen evenly from -60 to 60 degrees")
    test_identities: int = Field(200, ge=100, description="unseen people on whom accuracy is measured")
    identity_steps: int = Field(ge=1)
    judge_steps: int = Field(ge=1)
    geometry_steps: int = Field(ge=1)
    landmarks_3d_steps: int = Field(ge=1)
    attributes_judge_steps: int = Field(ge=1)
    decoder_steps: int = Field(ge=1)
    encoder_code_steps: int = Field(ge=1)
    encoder_steps: int = Field(ge=1)
    sharpen_steps: int = Field(ge=1, description="in which decoder and encoder learn on against a discriminator")
    seed: int = Field(0, ge=0)
