"""Style decoder D (paper, section 2.3): StyleGAN synthesis (Karras et al. 2019) and the short pathway."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log2

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from styleblend.config.model import expect_decoder_sizes
from styleblend.errors import StyleBlendError
from styleblend.model.layers import Blur, EqualConv2d, EqualLinear, adain, expect_shape

Noise = tuple[Tensor, ...]

NEW_PARTS = ("pathway.", "to_mask.", "mask_bias")
"""Parameters that no pretrained decoder has."""

_MASK_START = 2.0
"""The mask's first logit, everywhere: at first nearly all pixels are drawn, so that D learns from all of them."""


class StyledLayer(nn.Module):
    """One style of a block: convolution, noise * w[C], bias, leaky ReLU 0.2, AdaIN(x, 1 + s0, s1).

    `inputs` None is the first layer, which has the learned constant in place of a convolution. `up` doubles
    the side and blurs after the convolution.
    """

    def __init__(self, inputs: int | None, outputs: int, style_dim: int, up: bool = False) -> None:
        super().__init__()
        self.conv = None if inputs is None else EqualConv2d(inputs, outputs, 3, up=up)
        self.blur = Blur() if up else None
        self.noise_weight = nn.Parameter(torch.zeros(outputs))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.style = EqualLinear(style_dim, 2 * outputs)

    def forward(self, x: Tensor, code: Tensor, noise: Tensor | None) -> Tensor:
        if self.conv is not None:
            x = self.conv(x)
        if self.blur is not None:
            x = self.blur(x)
        # Under autocast a float32 bias or weight would make the whole map float32 again.
        if noise is not None:
            x = x + noise.to(x.dtype) * self.noise_weight[:, None, None].to(x.dtype)
        x = F.leaky_relu(x + self.bias[:, None, None].to(x.dtype), 0.2)
        scale, shift = self.style(code).chunk(2, dim=1)
        return adain(x, 1 + scale, shift)


class Decoder(nn.Module):
    """Style codes to pictures: [N, n_styles, style_dim] to [N, 3, R, R], about [-1, 1] (not clamped).

    Args:
        style_dim: dimensions of a style element.
        widths: channels of the block at each resolution 4, 8, ..., R. Each block takes two style elements.
        feature_sides: sides of the encoder's pyramid maps, coarse to fine. feature_width: their channels, one number
            or one for each map.
        pathway_resolutions: after the blocks of these resolutions the target's features are added: the pyramid map
            of the nearest side, resized, through a 1x1 and a 3x3 convolution. The last begins at zero, so that a
            loaded decoder draws what it drew before. Empty: no pathway.
        mask: whether `draw` gives a mask that joins the drawn face and the target's pixels, too.

    Raises:
        StyleBlendError: a size does not fit; names it and its value.
    """

    def __init__(
        self,
        style_dim: int,
        widths: Mapping[int, int],
        feature_sides: Sequence[int] = (),
        feature_width: int | Sequence[int] = 0,
        pathway_resolutions: Sequence[int] = (),
        mask: bool = False,
    ) -> None:
        super().__init__()
        expect_decoder_sizes(max(widths, default=0), widths, pathway_resolutions)
        if pathway_resolutions and not feature_sides:
            given = f"pathway_resolutions is {list(pathway_resolutions)} but feature_sides is empty"
            raise StyleBlendError(f"{given}: give the sides of the pyramid's maps")
        self.resolutions = tuple(sorted(widths))
        self.style_dim = style_dim
        self.n_styles = 2 * len(self.resolutions)
        # Not ones, as in StyleGAN: AdaIN of a constant channel without noise divides by the root of its epsilon.
        self.constant = nn.Parameter(torch.randn(1, widths[4], 4, 4))
        layers = [StyledLayer(None, widths[4], style_dim), StyledLayer(widths[4], widths[4], style_dim)]
        for lower, side in zip(self.resolutions, self.resolutions[1:], strict=False):
            layers.append(StyledLayer(widths[lower], widths[side], style_dim, up=True))
            layers.append(StyledLayer(widths[side], widths[side], style_dim))
        self.layers = nn.ModuleList(layers)
        self.to_rgb = EqualConv2d(widths[self.resolutions[-1]], 3, 1, gain=1)
        self.rgb_bias = nn.Parameter(torch.zeros(3))
        if mask:
            self.to_mask = EqualConv2d(widths[self.resolutions[-1]], 1, 1, gain=1)
            self.mask_bias = nn.Parameter(torch.full((1,), _MASK_START))
        self.pathway = nn.ModuleDict()
        self.level: dict[int, int] = {}
        channels = [feature_width] * len(feature_sides) if isinstance(feature_width, int) else feature_width
        self.feature_shapes = [(width, side, side) for width, side in zip(channels, feature_sides, strict=True)]
        for side in sorted(pathway_resolutions):
            # The nearest level, counted in doublings; of two equally near the finer one.
            distances = [abs(log2(each) - log2(side)) for each in feature_sides]
            self.level[side] = min(reversed(range(len(distances))), key=distances.__getitem__)
            last = nn.Conv2d(widths[side], widths[side], 3, padding=1)
            for parameter in last.parameters():
                nn.init.zeros_(parameter)
            self.pathway[str(side)] = nn.Sequential(
                nn.Conv2d(channels[self.level[side]], widths[side], 1), nn.LeakyReLU(0.2, inplace=True), last
            )

    def forward(self, codes: Tensor, features: Sequence[Tensor] | None = None, noise: Noise | None = None) -> Tensor:
        """The pictures of `codes` [N, 3, R, R], see `draw`."""
        return self.draw(codes, features, noise)[0]

    def draw(
        self, codes: Tensor, features: Sequence[Tensor] | None = None, noise: Noise | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Draw the pictures of `codes` [N, 3, R, R], and where they count: logits [N, 1, R, R], None without a mask.

        Args:
            codes: [N, n_styles, style_dim], coarse first.
            features: the target's pyramid maps, coarse to fine; None leaves the pathway out.
            noise: a map [N, 1, S, S] for each style layer, as `make_noise` gives it; None is no noise.
        """
        expect_shape("codes", codes, None, self.n_styles, self.style_dim)
        if noise is not None:
            if len(noise) != self.n_styles:
                raise StyleBlendError(f"noise has {len(noise)} maps: give one for each of the {self.n_styles} styles")
            for k, given in enumerate(noise):
                side = self.resolutions[k // 2]
                expect_shape(f"noise[{k}]", given, codes.shape[0], 1, side, side)
        if features is not None and self.pathway:
            if len(features) != len(self.feature_shapes):
                raise StyleBlendError(f"features has {len(features)} maps: expected {len(self.feature_shapes)}")
            for k, shape in enumerate(self.feature_shapes):
                expect_shape(f"features[{k}]", features[k], codes.shape[0], *shape)
        x = self.constant.expand(codes.shape[0], -1, -1, -1)
        for k, layer in enumerate(self.layers):
            x = layer(x, codes[:, k], None if noise is None else noise[k])
            side = self.resolutions[k // 2]
            if k % 2 and features is not None and side in self.level:
                x = x + self.from_target(features[self.level[side]], side)
        picture: Tensor = self.to_rgb(x) + self.rgb_bias[:, None, None].to(x.dtype)
        if not hasattr(self, "to_mask"):
            return picture, None
        return picture, self.to_mask(x) + self.mask_bias[:, None, None].to(x.dtype)

    def from_target(self, features: Tensor, side: int) -> Tensor:
        """What the pathway adds after the block of resolution `side`."""
        # Resized where there are fewer pixels: a coarser map gains nothing from convolutions on a finer grid.
        if features.shape[-1] > side:
            features = F.adaptive_avg_pool2d(features, side)
        added: Tensor = self.pathway[str(side)](features)
        if added.shape[-1] < side:
            added = F.interpolate(added, size=(side, side), mode="bilinear", align_corners=False)
        return added

    def synthesis_parameters(self) -> list[nn.Parameter]:
        """Everything but the pathway and the mask: what a pretrained decoder brings, and what stage 1 freezes."""
        return [value for name, value in self.named_parameters() if not name.startswith(NEW_PARTS)]

    def make_noise(self, seeds: Sequence[int], device: torch.device | str = "cpu") -> Noise:
        """Noise maps for a batch, one [N, 1, S, S] a style layer. Sample i depends on seeds[i] alone."""
        return self.noise_maps(draw_noise(self.resolutions, seeds).to(device))

    def noise_maps(self, drawn: Tensor) -> Noise:
        """The maps that lie one after the other in rows of `draw_noise`; they share its memory."""
        sides = [side for side in self.resolutions for _ in range(2)]
        parts = drawn.split([side * side for side in sides], dim=1)
        return tuple(part.reshape(-1, 1, side, side) for part, side in zip(parts, sides, strict=True))


def draw_noise(resolutions: Sequence[int], seeds: Sequence[int]) -> Tensor:
    """Noise of a decoder of these resolutions, [N, two maps each]. Sample i depends on seeds[i] alone.

    Drawn on the CPU, so that a GPU gives the same pictures.
    """
    count = 2 * sum(side * side for side in resolutions)
    rows = [torch.randn(count, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(rows)
