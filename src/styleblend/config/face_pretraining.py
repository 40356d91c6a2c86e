"""Section `pretrain_faces`: the recipe of the starter for photographs; only the frozen stage of its name reads it."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, ValidationInfo, model_validator

from styleblend.config.base import Probability
from styleblend.config.data import Align, Keep
from styleblend.config.model import Model
from styleblend.config.needs import expect_detector, expect_for_training
from styleblend.config.pretrained import Pretrained
from styleblend.config.sources import Sources
from styleblend.config.training import Training


class PretrainFaces(Sources):
    """Photographs, frozen networks, sizes and training of the starter; each part is what the section of its name is."""

    held_out: dict[str, Probability] = Field({}, description="share of persons no training sees, by source; else none")
    val: Probability = Field(0.03, description="share of persons of each source for the probe")
    val_pairs: int = Field(48, ge=1, description="pairs of the probe")
    networks: Pretrained = Field(description="as the section pretrained, which is the pipeline's")
    align: Align
    keep: Keep = Field(Keep(), description="limits of the faces that are used, as validate.keep")
    model: Model
    training: Training
    start: Path | None = Field(None, description="folder of a starter to go on from; null is new weights")

    @model_validator(mode="after")
    def parts_fit(self, info: ValidationInfo) -> PretrainFaces:
        names = [source.name for source in self.sources]
        for name, share in self.held_out.items():
            if self.sources and name not in names:
                raise ValueError(f"pretrain_faces.held_out names '{name}', which is no source: choose from {names}")
            if share + self.val >= 1:
                raise ValueError(
                    f"pretrain_faces.held_out of '{name}' {share:g} and val {self.val:g} leave no person: lower one"
                )
        if self.align.size_px != self.model.input_px:
            sizes = f"size_px {self.align.size_px} and pretrain_faces.model.input_px {self.model.input_px}"
            raise ValueError(f"pretrain_faces.align.{sizes} differ: set both alike")
        if self.training.workers != 1:
            raise ValueError(
                f"pretrain_faces.training.workers is {self.training.workers}, but the recipe learns in one process:"
                " set it to 1"
            )
        if self.training.continue_from is not None:
            raise ValueError(
                f"pretrain_faces.training.continue_from is '{self.training.continue_from}', but the recipe begins with"
                " pretrain_faces.start: name a starter there"
            )
        if self.align.detector != "annotations":
            expect_detector(self.align, self.networks, info)
        elif unannotated := [source.name for source in self.sources if not source.annotated]:
            raise ValueError(f"pretrain_faces.align.detector 'annotations' cannot serve {unannotated}: set 'yunet'")
        body, network = self.model.encoder_body, self.networks.encoder_body
        if (body == "se_resnet") != (network == "none"):
            raise ValueError(
                f"pretrain_faces.model.encoder_body is '{body}', but pretrain_faces.networks.encoder_body is"
                f" '{network}': set them to one face network, or to 'se_resnet' and 'none'"
            )
        expect_for_training("pretrain_faces.training", self.training, self.model, self.networks, info)
        return self
