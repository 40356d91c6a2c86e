"""Encoder, blending, decoder and discriminator against slow references, and what they promise.

Eq. 1 to 4 are in test_equations.py.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import tiny_training as tiny
from styleblend import model
from styleblend.config.model import Model
from styleblend.errors import StyleBlendError
from styleblend.model.blending import Blending
from styleblend.model.decoder import Decoder, StyledLayer
from styleblend.model.discriminator import Discriminator
from styleblend.model.encoder import Encoder
from styleblend.model.layers import Blur, EqualConv2d
from tiny_model import randomised


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def convolved(x: Tensor, weight: Tensor) -> Tensor:
    """Cross-correlation with zeros outside, one output pixel at a time."""
    half = weight.shape[-1] // 2
    padded = torch.zeros(x.shape[0], x.shape[1], x.shape[2] + 2 * half, x.shape[3] + 2 * half, dtype=x.dtype)
    padded[:, :, half : half + x.shape[2], half : half + x.shape[3]] = x
    out = torch.zeros(x.shape[0], weight.shape[0], *x.shape[2:], dtype=x.dtype)
    for row in range(x.shape[2]):
        for column in range(x.shape[3]):
            window = padded[:, :, row : row + 2 * half + 1, column : column + 2 * half + 1]
            out[:, :, row, column] = torch.einsum("nchw,ochw->no", window, weight)
    return out


def test_upsampling_convolution_is_nearest_doubling_then_convolution() -> None:
    """The one transposed convolution gives the same picture, borders included."""
    layer = EqualConv2d(3, 5, 3, up=True).double()
    x = torch.randn(2, 3, 4, 6, dtype=torch.float64)
    doubled = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    wanted = convolved(doubled, layer.weight * math.sqrt(2) / math.sqrt(3 * 9))
    torch.testing.assert_close(layer(x), wanted)


def test_blur_is_the_binomial_filter_with_zeros_outside() -> None:
    """Each channel is filtered by [1, 2, 1] x [1, 2, 1] / 16 on its own."""
    x = torch.randn(2, 3, 5, 5, dtype=torch.float64)
    kernel = torch.tensor([[1, 2, 1], [2, 4, 2], [1, 2, 1]], dtype=torch.float64)[None, None] / 16
    wanted = torch.cat([convolved(x[:, k : k + 1], kernel) for k in range(3)], dim=1)
    torch.testing.assert_close(Blur().double()(x), wanted)


def test_styled_layer_has_stylegan_order() -> None:
    """Convolution, noise * w, bias, leaky ReLU 0.2, instance norm, (1 + s0) x + s1."""
    layer = randomised(StyledLayer(3, 4, 6))
    assert isinstance(layer, StyledLayer) and layer.conv is not None
    x, code, noise = torch.randn(2, 3, 4, 4), torch.randn(2, 6), torch.randn(2, 1, 4, 4)
    y = convolved(x, layer.conv.weight * math.sqrt(2) / math.sqrt(27))
    y = y + noise * layer.noise_weight.reshape(1, 4, 1, 1) + layer.bias.reshape(1, 4, 1, 1)
    y = torch.where(y > 0, y, 0.2 * y)
    y = (y - y.mean((2, 3), keepdim=True)) / y.std((2, 3), keepdim=True, correction=0)
    style = code @ layer.style.weight.T / math.sqrt(6) + layer.style.bias
    wanted = y * (1 + style[:, :4, None, None]) + style[:, 4:, None, None]
    torch.testing.assert_close(layer(x, code, noise), wanted, atol=1e-5, rtol=1e-4)


def test_new_pathway_leaves_a_decoders_pictures_unchanged() -> None:
    """The pathway begins at zero: with the target's features or without, the picture is the same bit for bit."""
    decoder = model.build_decoder(tiny.MODEL)
    codes = torch.randn(2, decoder.n_styles, 16)
    features = tuple(torch.randn(2, 8, side, side) for side in (2, 4, 8))
    assert torch.equal(decoder(codes, features), decoder(codes))
    randomised(decoder.pathway)
    assert not torch.allclose(decoder(codes, features), decoder(codes))


def test_every_style_and_noise_map_matters_where_it_should() -> None:
    """Each style element and noise map changes the picture; noise is used only if given."""
    decoder = randomised(model.build_decoder(tiny.MODEL))
    assert isinstance(decoder, Decoder)
    codes, noise = torch.randn(1, decoder.n_styles, 16), decoder.make_noise([3])
    plain = decoder(codes, None, noise)
    for k in range(decoder.n_styles):
        moved = codes.clone()
        moved[:, k] += 1
        assert not torch.allclose(decoder(moved, None, noise), plain)
        other = list(noise)
        other[k] = other[k] + 1 + torch.randn_like(other[k])
        assert not torch.allclose(decoder(codes, None, tuple(other)), plain)
    assert torch.equal(decoder(codes), decoder(codes))


def test_noise_of_a_sample_depends_on_its_seed_alone() -> None:
    """Neither its place in a batch nor its neighbours change a sample's noise; maps have the layers' sides."""
    decoder = model.build_decoder(tiny.MODEL)
    together, alone = decoder.make_noise([5, 7, 5]), decoder.make_noise([7])
    for maps, single in zip(together, alone, strict=True):
        assert torch.equal(maps[1], single[0]) and torch.equal(maps[0], maps[2])
        assert not torch.equal(maps[0], maps[1])
    assert [maps.shape[-1] for maps in together] == [4, 4, 8, 8, 16, 16, 32, 32]


def test_blending_begins_nearly_even_and_keeps_equal_codes() -> None:
    """A new module mixes about half and half; a picture blended with itself keeps its code."""
    blending = Blending(10, 128, 4, 4)
    source, target = torch.randn(2, 3, 10, 128)
    weight_t, _ = blending.weights(source, target)
    assert (weight_t - 0.5).abs().max() < 0.25
    torch.testing.assert_close(blending(source, source), source)


def test_a_pictures_encoding_does_not_depend_on_its_batch() -> None:
    """No batch statistics: alone or among others, in training mode too."""
    encoder = model.build_encoder(tiny.MODEL).double().train()
    images = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    together, alone = encoder(images), encoder(images[1:2])
    torch.testing.assert_close(together.codes[1:2], alone.codes)
    for of_batch, single in zip(together.features, alone.features, strict=True):
        torch.testing.assert_close(of_batch[1:2], single)
    assert [tuple(x.shape[1:]) for x in together.features] == [(8, 2, 2), (8, 4, 4), (8, 8, 8)]


@pytest.mark.parametrize(("n_styles", "shares"), [(18, [6, 6, 6]), (10, [3, 3, 4]), (8, [2, 3, 3])])
def test_style_heads_are_spread_evenly_over_the_levels(n_styles: int, shares: list[int]) -> None:
    """Six a level at the paper's 18 styles; the first styles come from the coarsest level."""
    encoder = Encoder(32, n_styles, 16, (1, 1, 1, 1), (8, 8, 8, 8), 8, 8)
    assert [heads.heads for heads in encoder.heads] == shares
    assert encoder(torch.zeros(1, 3, 32, 32)).codes.shape == (1, n_styles, 16)
    with torch.no_grad():
        encoder.heads[0].linear.bias += 1
    moved = encoder(torch.zeros(1, 3, 32, 32)).codes
    with torch.no_grad():
        encoder.heads[0].linear.bias -= 1
    changed = (moved - encoder(torch.zeros(1, 3, 32, 32)).codes).abs().amax((0, 2)) > 1e-3
    assert changed.tolist() == [k < shares[0] for k in range(n_styles)]


def test_the_paper_sizes_fit_together() -> None:
    """SE-ResNet50 at 256 px and a decoder of 1024 px: 18 styles of 512; pyramid of 16, 32 and 64 px."""
    paper = Model(
        resolution=1024,
        input_px=256,
        style_dim=512,
        encoder_blocks=(3, 4, 14, 3),
        encoder_widths=(64, 128, 256, 512),
        stem_stride=1,
        pyramid_width=512,
        head_width=512,
        blending_layers=4,
        blending_heads=8,
        decoder_widths={4: 512, 8: 512, 16: 512, 32: 512, 64: 256, 128: 128, 256: 64, 512: 32, 1024: 16},
        pathway_resolutions=(16, 32, 64),
        discriminator_width=64,
        discriminator_scales=3,
    )
    with torch.device("meta"):
        swapper = model.build(paper)
        images = torch.empty(1, 3, 256, 256)
        encoding = swapper.encoder(images)
        assert encoding.codes.shape == (1, 18, 512)
        assert [x.shape[-1] for x in encoding.features] == [16, 32, 64]
        assert swapper(images, images).shape == (1, 3, 1024, 1024)


def test_discriminator_scores_patches_at_each_scale_without_its_batch() -> None:
    """One map a scale, finest first; a picture's score is its own."""
    discriminator = Discriminator(64, 4, 3).eval()
    images = torch.randn(3, 3, 64, 64)
    scores = discriminator(images)
    assert [score.shape[-1] for score in scores] == [8, 4, 2]
    for of_batch, alone in zip(scores, discriminator(images[2:]), strict=True):
        torch.testing.assert_close(of_batch[2:], alone)


def test_swapper_exports_and_follows_autocast() -> None:
    """torch.export of a dynamic batch gives the same pictures; bfloat16 autocast gives nearly the same."""
    swapper = randomised(model.build(tiny.MODEL)).eval()
    source, target = torch.rand(2, 3, 3, 32, 32) * 2 - 1
    batch = torch.export.Dim("batch", min=1, max=16)
    with torch.no_grad():
        program = torch.export.export(swapper, (source, target), dynamic_shapes=({0: batch}, {0: batch}))
        torch.testing.assert_close(program.module()(source[:2], target[:2]), swapper(source[:2], target[:2]))
        with torch.autocast("cpu", torch.bfloat16):
            drawn = swapper(source, target).float()
        wanted = swapper(source, target)
        assert (drawn - wanted).abs().mean() < 0.1 * wanted.std()
        last = swapper.to(memory_format=torch.channels_last)(source, target)
        torch.testing.assert_close(last, wanted, atol=1e-4, rtol=1e-3)


def test_wrong_shapes_and_sizes_name_what_was_given() -> None:
    """Each mistake is one line with the value."""
    swapper = model.build(tiny.MODEL)
    codes = torch.randn(2, 8, 16)
    with pytest.raises(StyleBlendError, match=r"images has the shape \(2, 3, 16, 16\): expected \(any, 3, 32, 32\)"):
        swapper.encoder(torch.zeros(2, 3, 16, 16))
    with pytest.raises(StyleBlendError, match=r"codes has the shape \(2, 7, 16\)"):
        swapper.decoder(codes[:, 1:])
    with pytest.raises(StyleBlendError, match="features has 1 maps"):
        swapper.decoder(codes, (torch.zeros(2, 8, 2, 2),))
    with pytest.raises(StyleBlendError, match="noise has 0 maps"):
        swapper.decoder(codes, None, ())
    with pytest.raises(StyleBlendError, match=r"target_codes has the shape \(1, 8, 16\)"):
        swapper.blending(codes, codes[:1])
    with pytest.raises(StyleBlendError, match="input_px is 48"):
        Encoder(48, 8, 16, (1, 1, 1, 1), (8, 8, 8, 8), 8, 8)
    with pytest.raises(StyleBlendError, match=r"encoder_widths is \[8, 8, 12, 8\]: .* multiple of 8"):
        Encoder(32, 8, 16, (1, 1, 1, 1), (8, 8, 12, 8), 8, 8)
    with pytest.raises(StyleBlendError, match=r"decoder_widths has blocks \[4, 16\]: give \[4, 8, 16\]"):
        Decoder(16, {4: 8, 16: 8})
    with pytest.raises(StyleBlendError, match=r"pathway_resolutions \[64\] are no decoder blocks"):
        Decoder(16, {4: 8, 8: 8, 16: 8}, (2,), 8, (64,))
    with pytest.raises(StyleBlendError, match=r"pathway_resolutions is \[8\] but feature_sides is empty"):
        Decoder(16, {4: 8, 8: 8, 16: 8}, pathway_resolutions=(8,))
    with pytest.raises(StyleBlendError, match="resolution is 8: it must be a power of two, at least 16"):
        Decoder(16, {4: 8, 8: 8})
    with pytest.raises(StyleBlendError, match="n_styles is 2"):
        Encoder(32, 2, 16, (1, 1, 1, 1), (8, 8, 8, 8), 8, 8)
    with pytest.raises(StyleBlendError, match=r"encoder_blocks is \[0, 1, 1\]: give 4"):
        Encoder(32, 8, 16, (0, 1, 1), (8, 8, 8, 8), 8, 8)
    with pytest.raises(StyleBlendError, match="stem_stride is 3: choose 1 or 2"):
        Encoder(32, 8, 16, (1, 1, 1, 1), (8, 8, 8, 8), 8, 8, stem_stride=3)
    with pytest.raises(StyleBlendError, match="blending_heads is 3: it must divide style_dim 16"):
        Blending(8, 16, 1, 3)
    with pytest.raises(StyleBlendError, match="discriminator_scales is 3: .* of 32 px at most 2"):
        Discriminator(32, 4, 3)
