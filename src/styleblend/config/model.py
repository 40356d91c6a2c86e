"""Section `model`: sizes of the paper's networks, and the rules that these sizes keep.

Each rule stands in one of the functions below, which the networks' constructors call too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log2
from typing import Any, Literal, get_args

from pydantic import Field, model_validator

from styleblend.config.base import Section
from styleblend.errors import StyleBlendError

EncoderBody = Literal["se_resnet", "ir_se50", "dlib_resnet"]
StemStride = Literal[1, 2]
BlendingWeights = Literal["channel", "element"]
Join = Literal["none", "mask"]
Prior = Literal["none", "warp"]

DLIB_WIDTHS = (32, 32, 64, 640)
"""Channels of the maps of dlib's network at 1/2, 1/4, 1/8 and 1/16 of a picture's side; the last are of three sides."""

_FACE_NETWORKS: dict[str, tuple[Sequence[int], Sequence[int], int]] = {
    "ir_se50": ((3, 4, 14, 3), (64, 128, 256, 512), 1),
    "dlib_resnet": ((1, 3, 4, 7), DLIB_WIDTHS, 2),
}
"""Blocks and channels of the four stages and the stride of the stem, of bodies that are another's."""


def expect_encoder_sizes(
    input_px: int, n_styles: int, blocks: Sequence[int], widths: Sequence[int], stem_stride: int, body: str
) -> None:
    """Refuse sizes that the encoder cannot be built with.

    Raises:
        StyleBlendError: names the first size that does not fit, and its value. The functions below do the same.
    """
    _expect_power_of_two("input_px", input_px, 32)
    if n_styles < 3:
        raise StyleBlendError(f"n_styles is {n_styles}: the three pyramid levels need at least 3")
    if len(blocks) != 4 or min(blocks) < 1:
        raise StyleBlendError(f"encoder_blocks is {list(blocks)}: give 4 numbers, each at least 1")
    if len(widths) != 4 or any(width < 1 or (width > 8 and width % 8) for width in widths):
        # The groups of the norms have 8 channels.
        raise StyleBlendError(f"encoder_widths is {list(widths)}: give 4 numbers, each from 1 to 7 or a multiple of 8")
    _expect_choice("stem_stride", stem_stride, get_args(StemStride))
    _expect_choice("encoder_body", body, get_args(EncoderBody))


def expect_blending_sizes(style_dim: int, layers: int, heads: int, weights: str) -> None:
    """Refuse sizes that the blending module cannot be built with."""
    if layers < 1:
        raise StyleBlendError(f"blending_layers is {layers}: give at least 1")
    if heads < 1 or style_dim % heads:
        raise StyleBlendError(f"blending_heads is {heads}: it must divide style_dim {style_dim}")
    _expect_choice("blending_weights", weights, get_args(BlendingWeights))


def expect_decoder_sizes(resolution: int, widths: Mapping[int, int], pathway_resolutions: Sequence[int]) -> None:
    """Refuse sizes that the decoder cannot be built with."""
    _expect_power_of_two("resolution", resolution, 16)
    blocks = [2**k for k in range(2, int(log2(resolution)) + 1)]
    if sorted(widths) != blocks:
        raise StyleBlendError(f"decoder_widths has blocks {sorted(widths)}: give {blocks}")
    if min(widths.values()) < 1:
        raise StyleBlendError(f"decoder_widths is {dict(widths)}: give each block at least 1 channel")
    if wrong := [side for side in pathway_resolutions if side not in blocks]:
        raise StyleBlendError(f"pathway_resolutions {wrong} are no decoder blocks: choose from {blocks}")


def expect_discriminator_sizes(input_px: int, scales: int) -> None:
    """Refuse sizes that the discriminator cannot be built with."""
    # Not the encoder's 32: a discriminator alone works on smaller pictures.
    _expect_power_of_two("input_px", input_px, 16)
    if scales < 1 or input_px >> (scales - 1) < 16:
        most = f"at most {int(log2(input_px)) - 3}, for each halves the side and the last needs 16 px"
        raise StyleBlendError(f"discriminator_scales is {scales}: give at least 1, and of {input_px} px {most}")


def _expect_power_of_two(name: str, value: int, least: int) -> None:
    if value < least or value & (value - 1):
        raise StyleBlendError(f"{name} is {value}: it must be a power of two, at least {least}")


def _expect_choice(name: str, value: Any, choices: Sequence[Any]) -> None:
    if value not in choices:
        raise StyleBlendError(f"{name} is {value!r}: choose {' or '.join(map(repr, choices))}")


class Model(Section):
    """Networks of the paper, sections 2.1-2.3. presets/paper.yaml has the paper's own numbers."""

    resolution: int = Field(64, description="side of the decoder's picture in pixels, a power of two")
    input_px: int = Field(64, description="side of the encoder's input in pixels, a power of two")
    style_dim: int = Field(128, ge=8, description="dimensions of one style element; 512 in the paper")
    encoder_blocks: tuple[int, int, int, int] = Field((1, 2, 2, 2), description="residual blocks a stage; 3,4,14,3")
    encoder_widths: tuple[int, int, int, int] = Field((16, 32, 64, 96), description="channels a stage; 64..512")
    stem_stride: StemStride = Field(2, description="stride of the encoder's first convolution; 1 in the paper")
    encoder_body: EncoderBody = Field("se_resnet", description="ir_se50, dlib_resnet: face networks of fixed sizes")
    pyramid_width: int = Field(64, ge=8, description="channels of the feature pyramid; 512")
    head_width: int = Field(32, ge=4, description="channels inside each style head; 512")
    blending_layers: int = Field(4, description="cross-attention layers of the SBM; 4")
    blending_heads: int = 4
    blending_weights: BlendingWeights = Field("channel", description="Eq. 2: a weight for each channel, or each style")
    decoder_widths: dict[int, int] = Field({4: 96, 8: 96, 16: 64, 32: 32, 64: 16}, description="channels of each block")
    pathway_resolutions: tuple[int, ...] = Field((8, 16, 32), description="blocks that the target's features follow")
    fine_levels: int = Field(0, ge=0, le=2, description="maps for the pathway at 1/2 of the side, then at all of it")
    join: Join = Field("none", description="mask: the decoder also draws where its pixels replace the target's")
    prior: Prior = Field("none", description="warp: the source, bent onto the target in 3-D, as a further input")
    prior_colour: float = Field(
        1,
        ge=0,
        le=1,
        description="share of the colour of what D adds to the prior's picture; 0 adds light and dark alone",
    )
    prior_width: int = Field(16, ge=4, description="channels of the prior's encoder at the full side")
    discriminator_width: int = Field(24, ge=4)
    discriminator_scales: int = 2

    @property
    def n_styles(self) -> int:
        """Style elements: two for each decoder block, 2 log2(resolution) - 2."""
        return 2 * int(log2(self.resolution)) - 2

    @property
    def feature_shapes(self) -> list[tuple[int, int, int]]:
        """Channels and sides of the target's maps that the encoder hands to the decoder, coarse to fine."""
        paper = [(self.pyramid_width, self.input_px // part, self.input_px // part) for part in (16, 8, 4)]
        finer = [(self.pyramid_width >> k, self.input_px >> 2 - k, self.input_px >> 2 - k) for k in (1, 2)]
        return paper + finer[: self.fine_levels]

    @model_validator(mode="after")
    def sizes_fit(self) -> Model:
        encoder = (self.encoder_blocks, self.encoder_widths, self.stem_stride)
        try:
            expect_decoder_sizes(self.resolution, self.decoder_widths, self.pathway_resolutions)
            expect_encoder_sizes(self.input_px, self.n_styles, *encoder, self.encoder_body)
            expect_blending_sizes(self.style_dim, self.blending_layers, self.blending_heads, self.blending_weights)
            expect_discriminator_sizes(self.input_px, self.discriminator_scales)
        except StyleBlendError as error:
            raise ValueError(f"model.{error}") from None
        fixed = _FACE_NETWORKS.get(self.encoder_body, encoder)
        if encoder != fixed:
            raise ValueError(
                f"model.encoder_body '{self.encoder_body}' has encoder_blocks {list(fixed[0])}, encoder_widths"
                f" {list(fixed[1])} and stem_stride {fixed[2]}, got {list(encoder[0])}, {list(encoder[1])} and"
                f" {encoder[2]}: set these or 'se_resnet'"
            )
        return self


def sizes_of(stored: Mapping[str, Any]) -> Model:
    """The sizes in a model.json or in the card of a small network, from this version or an earlier one.

    Earlier versions had two more keys: `blending_pace`, which model.load takes into account, and `decoder_variant`.

    Raises:
        ValueError: a key is unknown or a value does not fit, or the decoder is not of the variant "nvidia".
    """
    if (variant := stored.get("decoder_variant", "nvidia")) != "nvidia":
        raise ValueError(f"its decoder_variant is '{variant}', and only 'nvidia' can be drawn")
    return Model(**{key: value for key, value in stored.items() if key not in ("blending_pace", "decoder_variant")})
