"""Sections `align`, `perceive`, `validate` and `split`: from pictures to the faces that training reads."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from styleblend.config.base import Finder, Probability, Section

MAX_PIXELS = 100_000_000
"""Pictures of more pixels are refused by default; about 400 MB, decoded."""


Workers = Annotated[
    int | None, Field(ge=1, description="processes, each with its networks; null: one a core (perceive on a GPU: one)")
]


WHERE = {"workers", "ray_address", "gpus_per_worker"}
"""Settings of these sections that say where a stage runs: no part of the name of a kept result."""


class OnCluster(Section):
    """Where a stage that looks at pictures runs."""

    workers: Workers = None
    ray_address: str | None = Field(
        None, description="a running Ray cluster that this machine belongs to, e.g. auto; null works on this machine"
    )

    @field_validator("ray_address")
    @classmethod
    def is_a_member(cls, address: str | None) -> str | None:
        """Ray's Client gives a machine outside no place in the cluster, and files are read from this machine."""
        if address is not None and address.startswith("ray://"):
            raise ValueError(
                f"ray_address '{address}' is of Ray's Client, by which this machine is no part of the cluster, but its"
                " pictures are read here: join it by `ray start --address`, and set auto"
            )
        return address


class Align(OnCluster):
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


class Perceive(OnCluster):
    # A process needs 80 MB for each of them where faceres judges: 5.6 GB for 64.
    batch_size: int = Field(8, ge=1, description="faces that a network looks at together; the last batch is filled up")
    gpus_per_worker: float = Field(0, ge=0, le=1, description="of a process on the cluster of ray_address")


class Keep(Section):
    """Which faces a run uses; the others stay in the tables, with the limit that they miss. By default none is missed.

    Two faces are copies of one picture where hashes, embeddings and pixels agree, see data.copies;
    benchmarks/near_duplicates.py measures all three limits.
    """

    duplicate_bits: int = Field(22, ge=0, le=32, description="of a face's 64 bits of hash, that a copy may change")
    duplicate_similarity: float = Field(0.9, gt=-1, le=1, description="lowest likeness of the embeddings of copies")
    duplicate_structure: float = Field(0.97, gt=0, le=1, description="lowest likeness of a copy's patches")
    min_face_px: float = Field(0, ge=0, description="lowest side of the crop in the photograph")
    min_sharpness: float = Field(0, ge=0, description="lowest variance of the Laplacian, [0, 255] grey")
    max_abs_yaw_deg: float = Field(180, gt=0, le=180)
    max_abs_pitch_deg: float = Field(180, gt=0, le=180)
    min_brightness: float = Field(0, ge=0, le=255, description="mean grey level of the middle of the face")
    max_brightness: float = Field(255, ge=0, le=255)
    max_dark: Probability = Field(1, description="share of the middle of the face that is nearly black")
    max_light: Probability = Field(1, description="share of the middle of the face that is nearly white")
    max_covered: Probability = Field(1, description="share of the face of another colour than most, see data.quality")

    @model_validator(mode="after")
    def leaves_brightness(self) -> Keep:
        if self.min_brightness >= self.max_brightness:
            low, high = self.min_brightness, self.max_brightness
            raise ValueError(f"validate.keep.min_brightness {low} is not below max_brightness {high}: no face is left")
        return self


class Validate(Section):
    """Expectations on the data; each failed one fails the stage."""

    min_faces: int = Field(40, ge=2, description="faces that are used")
    max_quarantined: Probability = Field(0.2, description="share of the input that may be quarantined")
    max_abs_yaw_deg: float = Field(100, gt=0, le=180)
    min_sharpness: float = Field(0.0, ge=0, description="lowest accepted variance of the Laplacian, [0,255] grey")
    mostly: Probability = Field(0.95, description="share of faces that must satisfy a per-face range")
    max_duplicates: Probability = Field(0.5, description="share of the faces that may be copies of others")
    max_two_labels: Probability = Field(0.05, description="share of the pictures that may have copies of two labels")
    max_drift: Probability = Field(
        0.2, description="how far a column may move from the champion's data, see data.drift"
    )
    on_drift: Literal["warn", "fail"] = Field("warn", description="warn: data that moved are reported and used")
    keep: Keep = Keep()


class Split(Section):
    val: float = Field(0.1, gt=0, lt=0.5, description="share of persons")
    test: float = Field(0.2, gt=0, lt=0.5, description="share of persons")
    # It fits the identity network, and is higher than swap.min_likeness, since each face meets all others.
    cluster_similarity: float = Field(0.5, gt=-1, lt=1, description="unlabelled faces more alike are one person")
    test_pairs: int = Field(240, ge=1, description="(source, target) pairs of the evaluation, of different persons")
    val_pairs: int = Field(32, ge=1, description="pairs of the validation probe")
    true_swaps: bool = Field(
        False, description="render a true swap of each rendered training face; photographs have none"
    )
    workers: Workers = None
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def leaves_training(self) -> Split:
        if self.val + self.test > 0.8:
            raise ValueError(f"split.val {self.val} + split.test {self.test} leaves under 20 % for training")
        return self
