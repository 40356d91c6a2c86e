"""All of params.yaml, read at the door and checked before anything runs.

Every section is named after the stage that reads it (`model`, `tracking` and `provenance` are shared). Each lies in a
module of its own, so that a stage depends on the sections that it reads and on no other.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import Field, ValidationError, ValidationInfo, model_validator

from styleblend.config.base import ConfigError, Section
from styleblend.config.data import Align, Perceive, Split, Validate
from styleblend.config.evaluation import Evaluate
from styleblend.config.face_pretraining import PretrainFaces
from styleblend.config.model import Model
from styleblend.config.needs import expect_body, expect_detector, expect_device, expect_for_training, expect_reached
from styleblend.config.pretrained import Pretrained, known_networks
from styleblend.config.pretraining import Pretrain
from styleblend.config.product import Follow, Serve, Swap
from styleblend.config.provenance import Provenance
from styleblend.config.registry import Register, expect_measured
from styleblend.config.retraining import Retrain
from styleblend.config.sources import AnySource, Download
from styleblend.config.tracking import Tracking
from styleblend.config.training import Training


class Config(Section):
    """All of params.yaml."""

    tracking: Tracking
    model: Model
    download: Download
    pretrain: Pretrain
    pretrain_faces: PretrainFaces | None = None
    pretrained: Pretrained
    align: Align
    perceive: Perceive
    validate_: Validate = Field(alias="validate")
    split: Split
    train_encoder: Training
    finetune_decoder: Training
    evaluate: Evaluate
    register_: Register = Field(alias="register")
    swap: Swap = Swap()
    follow: Follow = Follow()
    serve: Serve = Serve()
    retrain: Retrain
    provenance: Provenance = Provenance()

    def _expect_decoder(self, info: ValidationInfo) -> None:
        name, side = self.pretrained.decoder, self.model.resolution
        entry = known_networks(self.pretrained, info).get(name)
        if entry.resolution not in (None, side):
            raise ValueError(
                f"pretrained.decoder '{name}' draws {entry.resolution} px, model.resolution is {side}: "
                "choose another, or set model.resolution and model.decoder_widths to it"
            )

    @model_validator(mode="after")
    def sections_agree(self, info: ValidationInfo) -> Config:
        side, input_px = self.align.size_px, self.model.input_px
        if side != input_px:
            raise ValueError(f"align.size_px {side} and model.input_px {input_px} differ: set both alike")
        if self.align.detector != "annotations":
            expect_detector(self.align, self.pretrained, info)
        if "decoder" in self.pretrained.chosen():
            self._expect_decoder(info)
        unannotated = [source.name for source in self.download.sources if not source.annotated]
        if self.align.detector == "annotations" and unannotated:
            raise ValueError(f"align.detector 'annotations' cannot serve {unannotated}: set it to 'yunet'")
        for name in ("train_encoder", "finetune_decoder"):
            expect_for_training(name, getattr(self, name), self.model, self.pretrained, info, self.split.true_swaps)
            expect_device(name, getattr(self, name))
            expect_reached(name, getattr(self, name), self.tracking)
        gate = self.register_.gate
        if self.retrain.promote == "auto" and not gate.decides:
            raise ValueError(
                "retrain.promote is 'auto' but register.gate has no limit, so that every version would become the "
                "champion: set limits, or promote by hand ('manual')"
            )
        return self

    @model_validator(mode="after")
    def encoder_can_start(self, info: ValidationInfo) -> Config:
        """What training would refuse, hours of rendering or downloads later."""
        start, chosen = self.train_encoder.encoder_start, self.pretrained
        if (start == "starter") != (chosen.starter != "none"):
            raise ValueError(
                f"train_encoder.encoder_start is '{start}', but pretrained.starter is '{chosen.starter}': set them to"
                " 'starter' and 'faces', or to another start and 'none'"
            )
        if start == "starter" and chosen.discriminator == "small":
            raise ValueError(
                "pretrained.discriminator is 'small', but train_encoder.encoder_start is 'starter', which has its"
                " own: set it to 'none'"
            )
        if start == "starter":
            return self  # nothing begins as the small decoder or its inversion
        expect_body(start, self.model, chosen, info)
        if start == "pretrained" and chosen.decoder != "small":
            raise ValueError(
                "train_encoder.encoder_start is 'pretrained', which inverts the small decoder, but pretrained.decoder"
                f" is '{chosen.decoder}': set encoder_start to 'body' or 'new'"
            )
        if chosen.decoder == "small" and chosen.encoder == "none":
            raise ValueError(
                "pretrained.encoder is 'none', but the small decoder's mean code stands there: set it to 'small'"
            )
        return self

    @model_validator(mode="after")
    def gate_compares_with_what_is_measured(self) -> Config:
        expect_measured(self.register_.gate.baselines, self.train_encoder.encoder_start, self.model.prior)
        return self


# Of an address: what a wrong value shows must not show this.
_PASSWORD = re.compile(r"(://[^/\s:@]*:)[^/\s@]+@")
_MOVED = {
    "model.blending_pace": "it is train_encoder.blending_lr_factor now",
    "model.decoder_variant": "remove it: there is one decoder, which draws what 'nvidia' drew",
}
_KINDS = {kind for each in get_args(AnySource) for kind in get_args(each.model_fields["kind"].annotation)}
_UNSTATED = ("missing", "string_type", "string_too_short")
_STATE = {
    "licence": "state in one line under which licence the pictures are",
    "terms": "state in one line what may be done with the pictures: consent, purpose, limits",
}


def parse_params(values: Any, origin: str, folder: Path = Path()) -> Config:
    """Check parsed parameters.

    Args:
        origin: is named in errors. folder: of the project, where a relative pretrained.catalogue begins.
    Raises:
        ConfigError: with one line a mistake: where, what was given, what is wanted.
    """
    if not isinstance(values, dict):
        raise ConfigError(f"{origin}: expected sections with keys, found {type(values).__name__}")
    try:
        return Config.model_validate(values, context={"folder": folder})
    except ValidationError as error:
        lines = []
        for mistake in error.errors():
            # pydantic puts the tag of a union into the path; a user's file has no such level.
            where = ".".join(str(part) for part in mistake["loc"] if part not in _KINDS)
            if mistake["type"] == "extra_forbidden":
                lines.append(f"{where}: unknown key; {_MOVED.get(where, 'remove it or correct its spelling')}")
            elif (key := where.rpartition(".")[2]) in _STATE and mistake["type"] in _UNSTATED:
                lines.append(f"{where}: missing; {_STATE[key]}")
            elif mistake["type"] == "missing":
                lines.append(f"{where}: missing; add it (the committed params.yaml shows an example)")
            elif mistake["type"] == "value_error":
                lines.append(mistake["msg"].removeprefix("Value error, "))
            else:
                lines.append(f"{where}: {mistake['msg']}, got {mistake['input']!r}")
        raise ConfigError(_PASSWORD.sub(r"\1***@", f"{origin}: " + "; ".join(lines))) from None


def load_params(path: Path = Path("params.yaml")) -> Config:
    """Read and check a params.yaml; its folder is the project's.

    Raises:
        ConfigError: the file is missing, not YAML, or holds a wrong value.
    """
    try:
        values = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist: run in the project's folder, or name a file") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    return parse_params(values, str(path), path.parent)
