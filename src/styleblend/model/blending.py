"""Style blending module B (paper, section 2.2): cross-attention between source and target codes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from styleblend.config.model import BlendingWeights, expect_blending_sizes
from styleblend.model.layers import expect_shape


def _feed_forward(dim: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))


class CrossAttention(nn.Module):
    """One multi-head cross-attention layer with its feed-forward parts, for both directions of Eq. 1.

    A_t = softmax(q_s k_t^T / sqrt(d)) v_t is added to the target's stream, A_s with the roles exchanged to
    the source's; each stream then has a feed-forward part of its own. Norms stand before (pre-norm transformer).
    q, k and v have no biases: a key's bias cancels in the softmax.
    """

    def __init__(self, style_dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_s, self.norm_t = nn.LayerNorm(style_dim), nn.LayerNorm(style_dim)
        self.qkv_s = nn.Linear(style_dim, 3 * style_dim, bias=False)
        self.qkv_t = nn.Linear(style_dim, 3 * style_dim, bias=False)
        self.out_s, self.out_t = nn.Linear(style_dim, style_dim), nn.Linear(style_dim, style_dim)
        self.forward_s, self.forward_t = _feed_forward(style_dim), _feed_forward(style_dim)

    def split(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[N, n, 3 d] to q, k, v of [N, heads, n, d / heads]."""
        batch, elements, _ = qkv.shape
        q, k, v = qkv.reshape(batch, elements, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        return q, k, v

    def forward(self, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        q_s, k_s, v_s = self.split(self.qkv_s(self.norm_s(source)))
        q_t, k_t, v_t = self.split(self.qkv_t(self.norm_t(target)))
        attended_t = F.scaled_dot_product_attention(q_s, k_t, v_t).transpose(1, 2).flatten(2)
        attended_s = F.scaled_dot_product_attention(q_t, k_s, v_s).transpose(1, 2).flatten(2)
        target = target + self.out_t(attended_t)
        source = source + self.out_s(attended_s)
        return source + self.forward_s(source), target + self.forward_t(target)


class Blending(nn.Module):
    """W' = A_w^t * W_t + A_w^s * W_s (Eq. 3) from two codes [N, n_styles, style_dim].

    A learned place embedding is added to the codes, since attention itself ignores the order of the style elements.
    `weights`: "channel" weighs each channel of a style element, "element" each style element. The exponents of Eq. 2
    are linear maps of the normalised streams after the last layer plus a learned bias for each element. They start
    small, so that the first mix is nearly even and every style can move either way.

    Raises:
        StyleBlendError: a size does not fit; names it and its value.
    """

    def __init__(
        self, n_styles: int, style_dim: int, layers: int, heads: int, weights: BlendingWeights = "channel"
    ) -> None:
        super().__init__()
        expect_blending_sizes(style_dim, layers, heads, weights)
        outputs = style_dim if weights == "channel" else 1
        self.n_styles, self.style_dim = n_styles, style_dim
        self.place = nn.Parameter(0.02 * torch.randn(n_styles, style_dim))
        self.layers = nn.ModuleList(CrossAttention(style_dim, heads) for _ in range(layers))
        self.norm_s, self.norm_t = nn.LayerNorm(style_dim), nn.LayerNorm(style_dim)
        self.exponent_s = nn.Linear(style_dim, outputs, bias=False)
        self.exponent_t = nn.Linear(style_dim, outputs, bias=False)
        self.bias = nn.Parameter(torch.zeros(n_styles, outputs))
        for linear in (self.exponent_s, self.exponent_t):
            nn.init.normal_(linear.weight, std=0.1 / style_dim**0.5)

    def weights(self, source_codes: Tensor, target_codes: Tensor) -> tuple[Tensor, Tensor]:
        """(A_w^t, A_w^s) of Eq. 2, [N, n_styles, style_dim or 1] each; they sum to 1."""
        expect_shape("source_codes", source_codes, None, self.n_styles, self.style_dim)
        expect_shape("target_codes", target_codes, source_codes.shape[0], self.n_styles, self.style_dim)
        source, target = source_codes + self.place, target_codes + self.place
        for layer in self.layers:
            source, target = layer(source, target)
        # e^a / (e^a + e^b) is the sigmoid of a - b, which cannot overflow.
        difference = self.exponent_t(self.norm_t(target)) - self.exponent_s(self.norm_s(source)) + self.bias
        return torch.sigmoid(difference), torch.sigmoid(-difference)

    def forward(self, source_codes: Tensor, target_codes: Tensor) -> Tensor:
        weight_t, weight_s = self.weights(source_codes, target_codes)
        return weight_t * target_codes + weight_s * source_codes
