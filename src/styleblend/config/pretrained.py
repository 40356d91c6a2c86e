"""Section `pretrained`: which frozen network fills which role of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, model_validator

from styleblend.config import catalogue
from styleblend.config.base import Section
from styleblend.config.catalogue import Catalogue
from styleblend.errors import StyleBlendError

Choice = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
"""`small`, `none` where a role may be empty, or a network of the catalogue."""

_GEOMETRY = ("landmarks", "landmarks_3d", "attributes", "attributes_judge")
SMALL_OR_LISTED = ("identity", "identity_judge", *_GEOMETRY, "decoder")
NONE_OR_LISTED = ("identity_second", "encoder_body", "inception", "detector")
ROLES = (*SMALL_OR_LISTED, "encoder", "discriminator", *NONE_OR_LISTED)
"""What frozen networks do in a run, and keys of the section `pretrained`."""


class Pretrained(Section):
    """Which frozen networks a run uses, one for each role.

    `small` are the ones that this project made on rendered faces; other names stand in the catalogue, which
    `styleblend weights list` shows with licences and sizes.
    """

    identity: Choice = Field("small", description="whose face it is; training learns under it")
    identity_second: Choice = Field("none", description="a second one for training, unlike both, or none")
    identity_judge: Choice = Field("small", description="the same for the evaluation, another network")
    landmarks: Choice = Field("small", description="68 points, for Eq. 11")
    landmarks_3d: Choice = Field("small", description="68 points in three dimensions")
    attributes: Choice = Field("small", description="pose and expression, for training")
    attributes_judge: Choice = Field("small", description="pose and expression, for the evaluation")
    decoder: Choice = Field("small", description="what D starts from: small, or a StyleGAN")
    encoder: Literal["small", "none"] = Field("small", description="the inversion of the small decoder, or none")
    discriminator: Literal["small", "none"] = Field("none", description="V that the small decoder learned against")
    encoder_body: Choice = Field("none", description="the face network that the encoder's body starts from")
    inception: Choice = Field("none", description="features of the Frechet distance")
    detector: Choice = Field("none", description="face detector to obtain")
    starter: Literal["none", "faces"] = Field("none", description="whole model that training starts from")
    mirror: Path | None = Field(None, description="folder with the catalogue's files, for use without internet")
    catalogue: Path | None = Field(None, description="YAML file with networks of your own, as catalogue.yaml")
    same_judge: bool = Field(False, description="allow one identity network for training and evaluation")

    def chosen(self) -> dict[str, str]:
        """Role to the name of the network that the catalogue describes; neither small ones nor none."""
        names = {role: str(getattr(self, role)) for role in ROLES}
        return {role: name for role, name in names.items() if name not in ("small", "none")}

    def small(self) -> list[str]:
        """Roles that this project's own networks fill."""
        return [role for role in ROLES if getattr(self, role) == "small"]

    @model_validator(mode="after")
    def networks_fit_their_roles(self, info: ValidationInfo) -> Pretrained:
        wrong = [(role, "none", "but a run needs one") for role in SMALL_OR_LISTED]
        wrong += [(role, "small", "which there is not") for role in NONE_OR_LISTED]
        for role, name, why in wrong:
            if getattr(self, role) == name:
                raise ValueError(f"pretrained.{role} is '{name}', {why}: {_choices(self, role, info)}")
        for role, name in self.chosen().items():
            if name not in known_networks(self, info).fitting(role):
                raise ValueError(f"pretrained.{role} cannot be '{name}': {_choices(self, role, info)}")
        judge = self.identity_judge
        if judge != "small" and judge == self.identity and not self.same_judge:
            raise ValueError(
                f"pretrained.identity and identity_judge are both '{judge}', so evaluation would flatter the model: "
                "choose another for one of them, or set pretrained.same_judge to true"
            )
        second = self.identity_second
        if second != "none" and second in (self.identity, judge):
            other = "identity" if second == self.identity else "identity_judge"
            raise ValueError(
                f"pretrained.identity_second and {other} are both '{second}': choose another for one of them, or none"
            )
        return self


def known_networks(cfg: Pretrained, info: ValidationInfo) -> Catalogue:
    """The catalogue that the parameters name, relative to the folder of their file."""
    try:
        return catalogue.load(cfg.catalogue, (info.context or {}).get("folder", Path()))
    except StyleBlendError as error:
        raise ValueError(str(error)) from None


def _choices(cfg: Pretrained, role: str, info: ValidationInfo) -> str:
    fixed = "none" if role in NONE_OR_LISTED else "small"
    return f"choose {' or '.join((fixed, *known_networks(cfg, info).fitting(role)))}"
