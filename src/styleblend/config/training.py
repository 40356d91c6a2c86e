"""Sections `train_encoder` and `finetune_decoder`: what both training stages share."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from styleblend.config.base import Probability, Section, Weight


class LossWeights(Section):
    """Weights of Eq. 13 and of the terms that the paper has not; squared errors are means over their elements."""

    adversarial: Weight = Field(1, description="Eq. 5")
    identity: Weight = Field(10, description="Eq. 8, lambda_1")
    contrastive: Weight = Field(5, description="Eq. 9, lambda_2")
    reconstruction: Weight = Field(1, description="Eq. 10, lambda_3")
    landmarks: Weight = Field(100, description="Eq. 11, lambda_4; coordinates in [0, 1]")
    swap_consistency: Weight = Field(1, description="Eq. 12, lambda_5")
    outside: Weight = Field(0, description="not in the paper: L1 to the target outside the face")
    edges: Weight = Field(0, description="not in the paper: L1 of edges, reconstructions only")
    mask: Weight = Field(0, description="not in the paper: drawn pixels are the face's; needs model.join 'mask'")
    attributes: Weight = Field(0, description="not in the paper: pose and expression of the target")
    perceptual: Weight = Field(0, description="not in the paper: features of a frozen network, reconstructions only")
    shape_3d: Weight = Field(0, description="not in the paper: the source's shape in 3-D landmarks without pose")


EncoderStart = Literal["pretrained", "new", "body", "starter"]


class Training(Section):
    steps: int = Field(ge=1)
    batch_size: int = Field(ge=2, description="pictures a step, over all workers")
    workers: int = Field(2, ge=1, description="Ray Train workers")
    ray_address: str | None = Field(None, description="a running Ray cluster, e.g. auto; null starts one here")
    gpus_per_worker: float = Field(0, ge=0, le=1, description="1 on a GPU machine")
    cpus_per_worker: float = Field(1, gt=0)
    learning_rate: float = Field(4e-5, gt=0)
    cool_down: Probability = Field(0, description="last share of the steps, with a linear fall to rate 0; paper: 0")
    blending_lr_factor: float = Field(1, ge=1, description="learning rate of Eq. 2's bias over learning_rate")
    discriminator_learning_rate: float = Field(4e-5, gt=0)
    adam_betas: tuple[Probability, Probability] = (0.0, 0.99)
    ema_decay: Probability = Field(0.99, description="of the averaged weights that the product uses; 0 is none")
    r1_gamma: float = Field(0, ge=0, description="R1 penalty of the discriminator on real pictures; 0 is none")
    loss: LossWeights = LossWeights()
    temperature: float = Field(0.07, gt=0, description="tau of Eq. 9")
    negatives: int = Field(32, ge=1, description="negatives of Eq. 9, drawn from the bank of embeddings")
    curriculum_start: Probability = Field(1, description="P(source is the target's person) at the first step")
    curriculum_end: Probability = Field(0, description="the same once the curriculum is over")
    curriculum_steps: int = Field(ge=0, description="length of the linear way from start to end")
    same_person: Probability = Field(0, description="share of self pairs of two pictures of one person; paper: 0")
    mirrored: Probability = Field(0, description="share of self pairs of one picture with a mirrored source; paper: 0")
    worn_faces: Probability = Field(0, description="share of self pairs whose target wears another's face; paper: 0")
    colour_jitter: float = Field(0, ge=0, le=0.5, description="largest change of a source's colours; paper: 0")
    # pretrained: the small D's inversion; body: model_ir_se50.pth. That and `new` take D's mean code. starter: not E
    # alone, but all of G and V are the starter's.
    encoder_start: EncoderStart = Field("pretrained", description="train_encoder only: what E starts from")
    swap_every: int = Field(1, ge=1, description="Eq. 12 is taken at every k-th step; 1 in the paper")
    probe_every: int = Field(100, ge=1, description="steps between validation probes")
    checkpoint_every: int = Field(50, ge=1, description="steps between checkpoints")
    log_every: int = Field(20, ge=1)
    max_failures: int = Field(2, ge=0, description="lost workers that Ray replaces before it gives up")
    max_rollbacks: int = Field(2, ge=0, description="returns to the last good checkpoint before the run is given up")
    precision: Literal["float32", "bfloat16"] = "float32"
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def batch_is_shared_evenly(self) -> Training:
        if self.batch_size % self.workers:
            raise ValueError(f"batch_size {self.batch_size} does not divide evenly over {self.workers} workers")
        return self
