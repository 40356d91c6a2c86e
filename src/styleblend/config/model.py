"""Section `model`: sizes of the paper's networks."""

from __future__ import annotations

from math import log2
from typing import Literal

from pydantic import Field, model_validator

from styleblend.config.base import Section

Variant = Literal["nvidia", "lernapparat", "rosinality"]


class Model(Section):
    """Networks of the paper, sections 2.1-2.3. presets/paper.yaml has the paper's own numbers."""

    resolution: int = Field(64, description="side of the decoder's picture in pixels, a power of two")
    input_px: int = Field(64, description="side of the encoder's input in pixels, a power of two")
    style_dim: int = Field(128, ge=8, description="dimensions of one style element; 512 in the paper")
    encoder_blocks: tuple[int, int, int, int] = Field((1, 2, 2, 2), description="residual blocks a stage; 3,4,14,3")
    encoder_widths: tuple[int, int, int, int] = Field((16, 32, 64, 96), description="channels a stage; 64..512")
    stem_stride: Literal[1, 2] = Field(2, description="stride of the encoder's first convolution; 1 in the paper")
    encoder_body: Literal["se_resnet", "ir_se50"] = Field(
        "se_resnet",
        description="ir_se50 takes the weights of the face network model_ir_se50.pth and has its sizes",
    )
    pyramid_width: int = Field(64, ge=8, description="channels of the feature pyramid; 512")
    head_width: int = Field(32, ge=4, description="channels inside each style head; 512")
    blending_layers: int = Field(4, ge=1, description="cross-attention layers of the SBM; 4")
    blending_heads: int = Field(4, ge=1)
    blending_pace: float = Field(
        1, ge=1, description="how many times as fast as the rest the weights of Eq. 2 learn; short trainings need it"
    )
    blending_weights: Literal["channel", "element"] = Field(
        "channel", description="Eq. 2: one softmax per style channel, or one scalar per style element"
    )
    decoder_widths: dict[int, int] = Field(
        {4: 96, 8: 96, 16: 64, 32: 32, 64: 16}, description="channels of the decoder's block at each resolution"
    )
    decoder_variant: Variant = Field(
        "nvidia", description="whose StyleGAN the decoder's layers follow; rosinality's weights need rosinality's"
    )
    pathway_resolutions: tuple[int, ...] = Field(
        (8, 16, 32), description="decoder resolutions after whose style block the target's features are added"
    )
    discriminator_width: int = Field(24, ge=4)
    discriminator_scales: int = Field(2, ge=1, le=4)

    @property
    def n_styles(self) -> int:
        """Style elements: two for each decoder block, 2 log2(resolution) - 2."""
        return 2 * int(log2(self.resolution)) - 2

    @model_validator(mode="after")
    def sizes_fit(self) -> Model:
        for name, side in (("resolution", self.resolution), ("input_px", self.input_px)):
            if side < 16 or side & (side - 1):
                raise ValueError(f"model.{name} is {side}: it must be a power of two, at least 16")
        expected = [2**k for k in range(2, int(log2(self.resolution)) + 1)]
        if sorted(self.decoder_widths) != expected:
            raise ValueError(f"model.decoder_widths has blocks {sorted(self.decoder_widths)}: give {expected}")
        sizes = (self.encoder_blocks, self.encoder_widths, self.stem_stride)
        if self.encoder_body == "ir_se50" and sizes != ((3, 4, 14, 3), (64, 128, 256, 512), 1):
            raise ValueError(
                "model.encoder_body 'ir_se50' has encoder_blocks [3, 4, 14, 3], encoder_widths [64, 128, 256, 512]"
                f" and stem_stride 1, got {list(sizes[0])}, {list(sizes[1])} and {sizes[2]}: set these or 'se_resnet'"
            )
        if self.style_dim % self.blending_heads:
            raise ValueError(f"model.style_dim {self.style_dim} is not divisible by {self.blending_heads} heads")
        wrong = [side for side in self.pathway_resolutions if side not in expected]
        if wrong:
            raise ValueError(f"model.pathway_resolutions {wrong} are no decoder blocks: choose from {expected}")
        return self
