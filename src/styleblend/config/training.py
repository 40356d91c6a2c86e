"""Sections `train_encoder` and `finetune_decoder`: what both training stages share."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, field_validator, model_validator

from styleblend.config.base import Probability, Section, Weight, expect_no_password


class LossWeights(Section):
    """Weights of Eq. 13 and of the terms that the paper has not; squared errors are means over their elements."""

    adversarial: Weight = Field(1, description="Eq. 5")
    identity: Weight = Field(10, description="Eq. 8, lambda_1")
    contrastive: Weight = Field(5, description="Eq. 9, lambda_2")
    reconstruction: Weight = Field(1, description="Eq. 10, lambda_3")
    landmarks: Weight = Field(100, description="Eq. 11, lambda_4; coordinates in [0, 1]")
    swap_consistency: Weight = Field(1, description="Eq. 12, lambda_5")
    outside: Weight = Field(0, description="not in the paper: L1 to the target outside the face")
    pixels: Weight = Field(0, description="not in the paper: L1, more in the face than beside, reconstructions only")
    edges: Weight = Field(0, description="not in the paper: L1 of edges, reconstructions only")
    colour: Weight = Field(0, description="not in the paper: the target's colours at 8 px a side")
    chroma: Weight = Field(0, description="not in the paper: swaps have the prior's colours; needs model.prior 'warp'")
    mask: Weight = Field(0, description="not in the paper: drawn pixels are the face's; needs model.join 'mask'")
    attributes: Weight = Field(0, description="not in the paper: pose and expression of the target")
    perceptual: Weight = Field(0, description="not in the paper: features of a frozen network, reconstructions only")
    perceptual_maps: Weight = Field(0, description="not in the paper: maps of the identity network, on all levels")
    identity_second: Weight = Field(0, description="not in the paper: Eq. 8 by pretrained.identity_second")
    target_margin: Weight = Field(0, description="not in the paper: likeness to the target above target_similarity")
    mesh: Weight = Field(0, description="not in the paper: Eq. 11 on all points of a mesh, swaps only")
    shape_3d: Weight = Field(0, description="not in the paper: the source's shape in 3-D landmarks without pose")


RAMPED = ("identity", "identity_second", "contrastive", "target_margin", "landmarks", "mesh")
"""Terms that identity_from and identity_ramp hold back: a network is fooled by blots before a face is drawn."""

PACE = frozenset(
    {
        "steps", "workers", "ray_address", "gpus_per_worker", "cpus_per_worker", "probe_every", "checkpoint_every",
        "log_every", "max_failures", "max_skipped", "skipped_within", "max_rollbacks", "recovered_after",
        "wait_for_cluster_s", "storage", "min_workers",
    }
)  # fmt: skip
"""Settings that leave the arithmetic of a step alone: a training goes on where it stood when they change."""

STORAGE_SCHEMES = ("s3", "gs", "abfs", "hdfs")

EncoderStart = Literal["pretrained", "new", "body", "starter"]


class Training(Section):
    steps: int = Field(ge=1)
    batch_size: int = Field(ge=2, description="pictures a step, over all workers")
    workers: int = Field(2, ge=1, description="Ray Train workers")
    ray_address: str | None = Field(None, description="a running Ray cluster, e.g. auto; null starts one here")
    storage: str | None = Field(
        None,
        description="where all machines of ray_address reach the state and the faces: a folder that they share, or a"
        " URL (s3://bucket/folder, gs://...); null is .state on this machine",
    )
    min_workers: int | None = Field(
        None, ge=1, description="fewest workers to train with when machines are lost; null is workers"
    )
    gpus_per_worker: float = Field(0, ge=0, le=1, description="1 on a GPU machine; half of one lets two share it")
    cpus_per_worker: float = Field(1, gt=0)
    wait_for_cluster_s: float = Field(
        600, ge=0, description="how long to wait for room on the cluster of ray_address, which may grow"
    )
    learning_rate: float = Field(4e-5, gt=0)
    cool_down: Probability = Field(0, description="last share of the steps, with a linear fall to rate 0; paper: 0")
    blending_lr_factor: float = Field(1, ge=1, description="learning rate of Eq. 2's bias over learning_rate")
    warm_up: int = Field(0, ge=0, description="first steps, with a linear rise to learning_rate; paper: 0")
    decoder_learning_rate: float | None = Field(
        None, gt=0, description="of D without its pathway, whose equalised weights bear more; null is learning_rate"
    )
    clip_norm: float | None = Field(None, gt=0, description="largest norm of G's gradients; null is none, the paper's")
    discriminator_clip_norm: float | None = Field(None, gt=0, description="the same of V's gradients")
    discriminator_learning_rate: float = Field(4e-5, gt=0)
    adam_betas: tuple[Probability, Probability] = (0.0, 0.99)
    discriminator_adam_betas: tuple[Probability, Probability] | None = Field(None, description="null is adam_betas")
    ema_decay: Probability = Field(0.99, description="of the averaged weights that the product uses; 0 is none")
    r1_gamma: float = Field(0, ge=0, description="R1 penalty of the discriminator on real pictures; 0 is none")
    loss: LossWeights = LossWeights()
    identity_from: int = Field(0, ge=0, description="step at which the terms of identity and points begin; paper: 0")
    identity_ramp: int = Field(0, ge=0, description="steps in which their weights rise from 0 to full; paper: 0")
    adversarial_from: int = Field(0, ge=0, description="step at which V begins to learn and to judge; paper: 0")
    target_similarity: float = Field(0, ge=-1, le=1, description="likeness to the target that target_margin allows")
    mesh_expression: float = Field(1, gt=0, description="of the term mesh: weight of points that show the expression")
    temperature: float = Field(0.07, gt=0, description="tau of Eq. 9")
    negatives: int = Field(32, ge=1, description="negatives of Eq. 9, drawn from the bank of embeddings")
    curriculum_start: Probability = Field(1, description="P(source is the target's person) at the first step")
    curriculum_end: Probability = Field(0, description="the same once the curriculum is over")
    curriculum_steps: int = Field(ge=0, description="length of the linear way from start to end")
    same_person: Probability = Field(0, description="share of self pairs of two pictures of one person; paper: 0")
    mirrored: Probability = Field(0, description="share of self pairs of one picture with a mirrored source; paper: 0")
    worn_faces: Probability = Field(0, description="share of self pairs whose target wears another's face; paper: 0")
    known_swaps: Probability = Field(
        0, description="share of swaps of a face with a true swap (split.true_swaps) that learn from it; paper: 0"
    )
    warped_swaps: Probability = Field(
        0, description="share of the other swaps that learn from the source bent onto the target; paper: 0"
    )
    colour_jitter: float = Field(0, ge=0, le=0.5, description="largest change of a source's colours; paper: 0")
    saturation_jitter: Probability = Field(
        0, description="largest share of saturation that identity and mesh networks do not see; paper: 0"
    )
    crop_jitter: float = Field(0, ge=0, le=0.3, description="largest zoom and move of what identity networks see")
    # pretrained: the small D's inversion; body: model_ir_se50.pth. That and `new` take D's mean code. starter: not E
    # alone, but all of G and V are the starter's.
    encoder_start: EncoderStart = Field("pretrained", description="train_encoder only: what E starts from")
    swap_every: int = Field(1, ge=1, description="Eq. 12 is taken at every k-th step; 1 in the paper")
    probe_every: int = Field(100, ge=1, description="steps between validation probes")
    checkpoint_every: int = Field(50, ge=1, description="steps between checkpoints")
    log_every: int = Field(20, ge=1)
    max_failures: int = Field(2, ge=0, description="lost workers in a row, without a checkpoint in between, to replace")
    max_skipped: int = Field(5, ge=0, description="steps in skipped_within with gradients that are not finite to omit")
    skipped_within: int = Field(100, ge=1, description="so many steps in a row; more to omit in them are a rollback")
    max_rollbacks: int = Field(2, ge=0, description="returns to the last good checkpoint before the run is given up")
    recovered_after: int = Field(1000, ge=1, description="steps past the last collapse that make rollbacks forgotten")
    continue_from: str | None = Field(
        None, description="checkpoint file, model folder or number of a version to begin with; null is none"
    )
    precision: Literal["float32", "bfloat16"] = "float32"
    tf32: bool = Field(False, description="on a GPU: matrix products that stay float32 in TF32, too")
    channels_last: bool = Field(False, description="weights and pictures as NHWC in memory")
    compile: bool = Field(False, description="torch.compile of G; needs a C++ compiler, on a GPU Triton")
    accumulate: int = Field(1, ge=1, description="parts of a worker's batch that are learned from one after the other")
    deterministic: bool = Field(
        False, description="the same bits again on the same GPUs, at a cost (docs/cluster.md); a CPU gives them anyway"
    )
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def batch_is_shared_evenly(self) -> Training:
        if self.batch_size % self.workers:
            raise ValueError(f"batch_size {self.batch_size} does not divide evenly over {self.workers} workers")
        if self.batch_size % (self.workers * self.accumulate):
            each = self.batch_size // self.workers
            raise ValueError(
                f"accumulate is {self.accumulate}, but each of {self.workers} workers has {each} pictures of batch_size"
                f" {self.batch_size}: choose a divisor of {each}"
            )
        return self

    @model_validator(mode="after")
    def fewest_workers_are_no_more_than_all(self) -> Training:
        if self.min_workers is not None and self.min_workers > self.workers:
            raise ValueError(f"min_workers {self.min_workers} is more than workers {self.workers}: lower it")
        return self

    @field_validator("storage")
    @classmethod
    def is_a_place_for_all(cls, value: str | None) -> str | None:
        """A whole path or a URL, without keys, which would stand in every version's settings."""
        if value is None:
            return None
        remedy = "set the variables or the role that its machines sign with (docs/cluster.md)"
        expect_no_password("storage", value, remedy)
        scheme, found, rest = value.partition("://")
        if found and scheme in STORAGE_SCHEMES and rest.strip("/"):
            return value
        if not found and value.startswith("/") and "?" not in value:
            return value
        raise ValueError(
            f"storage '{value}' is neither a whole path, with / first and no ?, nor a URL of"
            f" {', '.join(f'{each}://' for each in STORAGE_SCHEMES)}: name one of them"
        )

    @field_validator("continue_from", mode="before")
    @classmethod
    def is_a_place_or_a_number(cls, value: object) -> object:
        """An alias moves, and nobody could say later what a model began with. YAML gives a number as one."""
        value = str(value) if isinstance(value, int) else value
        if not isinstance(value, str) or value.isdecimal() or "/" in value or value.endswith(".pt"):
            return value
        raise ValueError(
            f"continue_from '{value}' is no version's number, nor a path with a / or the ending .pt: name one of them"
        )

    @model_validator(mode="after")
    def something_teaches_from_the_start(self) -> Training:
        weighty = [name for name, value in self.loss if value and name != "swap_consistency"]
        if weighty and not any(self.weight(name, 0) for name in weighty):
            raise ValueError(
                f"nothing teaches at step 0: {', '.join(weighty)} begin later (identity_from {self.identity_from},"
                f" identity_ramp {self.identity_ramp}, adversarial_from {self.adversarial_from}); give loss.pixels or"
                " loss.reconstruction a weight, or let one begin at 0"
            )
        return self

    @property
    def fewest_workers(self) -> int:
        """With how many a training begins and goes on."""
        return self.workers if self.min_workers is None else self.min_workers

    @property
    def workers_per_gpu(self) -> int:
        """How many workers share a GPU; none has parts of two."""
        return math.floor(1 / self.gpus_per_worker + 1e-6)

    @property
    def gpus(self) -> int:
        """How many GPUs all workers need."""
        return math.ceil(self.workers / self.workers_per_gpu) if self.gpus_per_worker else 0

    def weight(self, term: str, step: int) -> float:
        """The weight of a loss term at a step, by the section loss and by what holds terms back."""
        full: float = getattr(self.loss, term)
        if term == "adversarial":
            return full if step >= self.adversarial_from else 0.0
        late = step - self.identity_from
        if term not in RAMPED or late >= self.identity_ramp:
            return full
        return full * late / self.identity_ramp if late > 0 else 0.0
