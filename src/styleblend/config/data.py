"""Sections `align`, `perceive`, `validate` and `split`: from pictures to the faces that training reads."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from styleblend.config.base import Finder, Probability, Section

MAX_PIXELS = 100_000_000
"""Pictures of more pixels are refused by default; about 400 MB, decoded."""


Workers = Annotated[
    int | None, Field(ge=1, description="processes, each with its networks; null: one a core (perceive on a GPU: one)")
]


class Align(Section):
    detector: Literal["annotations", Finder] = Field(
        description="annotations ship with a source, and are used wherever they do; the others find faces where there"
        " are none: with five points (yunet, insightface's SCRFD, mediapipe, which needs a mesh as"
        " pretrained.landmarks) or 68 (face_alignment, which needs FAN there)"
    )
    size_px: int = Field(64, ge=16, le=1024, description="side of the aligned face")
    min_score: Probability = Field(0.6, description="faces that the detector trusts less are not used")
    min_face_px: int = Field(40, ge=8, description="smallest accepted longer side of a detected face")
    several_faces: Literal["largest", "all", "quarantine"] = "largest"
    # Pillow decodes nothing above the upper limit, which is twice its Image.MAX_IMAGE_PIXELS.
    max_pixels: int = Field(MAX_PIXELS, ge=1_000_000, le=178_956_970, description="larger pictures are refused")
    workers: Workers = None


class Perceive(Section):
    batch_size: int = Field(64, ge=1, description="faces that a network looks at together; the last batch is filled up")
    workers: Workers = None


class Validate(Section):
    """Expectations on the data; each failed one fails the stage."""

    min_faces: int = Field(40, ge=2)
    max_quarantined: Probability = Field(0.2, description="share of the input that may be quarantined")
    max_abs_yaw_deg: float = Field(100, gt=0, le=180)
    min_sharpness: float = Field(0.0, ge=0, description="lowest accepted variance of the Laplacian, [0,255] grey")
    mostly: Probability = Field(0.95, description="share of faces that must satisfy a per-face range")


class Split(Section):
    val: float = Field(0.1, gt=0, lt=0.5, description="share of persons")
    test: float = Field(0.2, gt=0, lt=0.5, description="share of persons")
    # It fits the identity network, and is higher than swap.min_likeness, since each face meets all others.
    cluster_similarity: float = Field(0.5, gt=-1, lt=1, description="unlabelled faces more alike are one person")
    test_pairs: int = Field(240, ge=1, description="(source, target) pairs of the evaluation, of different persons")
    val_pairs: int = Field(32, ge=1, description="pairs of the validation probe")
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def leaves_training(self) -> Split:
        if self.val + self.test > 0.8:
            raise ValueError(f"split.val {self.val} + split.test {self.test} leaves under 20 % for training")
        return self
