"""The generator G: encoder, blending and decoder, and how they are built, saved and loaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from styleblend.config.model import Model, sizes_of
from styleblend.errors import StyleBlendError
from styleblend.faces.pixels import grey
from styleblend.faces.template import TEMPLATE, expect_template
from styleblend.model.blending import Blending
from styleblend.model.decoder import Decoder, Noise
from styleblend.model.discriminator import Discriminator
from styleblend.model.encoder import Encoder, Encoding
from styleblend.model.layers import expect_shape
from styleblend.model.prior import WARPED_CHANNELS, PriorEncoder, prior_picture

WEIGHTS_FILE = "swapper.safetensors"
DESCRIPTION_FILE = "model.json"


class Swapper(nn.Module):
    """G(I_s, I_t): the source's identity with the target's pose, expression, light and background.

    Attributes:
        bend: of a model with a prior, makes `warped` of source and target where it is not given; its loader sets it.

    Raises:
        StyleBlendError: the three parts do not fit each other; says where.
    """

    def __init__(
        self,
        encoder: Encoder,
        blending: Blending,
        decoder: Decoder,
        prior: PriorEncoder | None = None,
        prior_colour: float = 1,
    ) -> None:
        super().__init__()
        self._prior_colour = prior_colour
        codes = {
            "encoder": (encoder.n_styles, encoder.style_dim),
            "blending": (blending.n_styles, blending.style_dim),
            "decoder": (decoder.n_styles, decoder.style_dim),
        }
        if len(set(codes.values())) > 1:
            shown = ", ".join(f"{name} {styles} x {dim}" for name, (styles, dim) in codes.items())
            raise StyleBlendError(f"codes differ: {shown}; give all three the same n_styles and style_dim")
        if decoder.pathway and decoder.feature_shapes != encoder.feature_shapes:
            differ = f"takes maps {decoder.feature_shapes}, the encoder gives {encoder.feature_shapes}"
            raise StyleBlendError(f"the decoder's pathway {differ}: set feature_sides and feature_width to these")
        self.encoder, self.blending, self.decoder, self.prior = encoder, blending, decoder, prior
        self.bend: Callable[[Tensor, Tensor], Tensor] | None = None

    def forward(
        self, source: Tensor, target: Tensor, noise: Noise | None = None, warped: Tensor | None = None
    ) -> Tensor:
        """Swapped pictures [N, 3, R, R], about [-1, 1], from source and target [N, 3, input_px, input_px].

        `noise` as Decoder.make_noise gives it; None is none, and then nothing reaches the noise weights, which
        DistributedDataParallel would take for unused parameters in the stage that trains the decoder.
        `warped`: [N, 4, input_px, input_px], the source bent onto the target (faces.warp), for a model with a prior;
        None is what `bend` gives.

        Raises:
            StyleBlendError: a shape does not fit; names it.
        """
        side = self.encoder.input_px
        expect_shape("source", source, None, 3, side, side)
        expect_shape("target", target, source.shape[0], 3, side, side)
        if warped is None and self.prior is not None and self.bend is not None:
            warped = self.bend(source, target)
        encoding = self.encoder(target)
        codes = self.blending(self.encoder(source).codes, encoding.codes)
        return self.draw(codes, encoding, target, noise, warped)[0]

    def draw(
        self, codes: Tensor, of_target: Encoding, target: Tensor, noise: Noise | None, warped: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """The swapped pictures of blended codes, and the mask's logits [N, 1, R, R], None where the model has none.

        Args:
            of_target: what E gave for `target`.
        """
        features = of_target.features
        side = self.decoder.resolutions[-1]
        if self.prior is not None:
            if warped is None:
                raise StyleBlendError("a model with the prior 'warp' needs the warped source: give it, or set `bend`")
            expect_shape("warped", warped, target.shape[0], WARPED_CHANNELS, *target.shape[2:])
            features = tuple(a + b for a, b in zip(features, self.prior(target, warped), strict=True))
        drawn, logits = self.decoder.draw(codes, features, noise)
        if warped is not None and self.prior is not None:
            if self._prior_colour < 1:
                # Without colours of its own D cannot please a network by one that no face has.
                light = grey(drawn)
                drawn = light + self._prior_colour * (drawn - light)
            drawn = drawn + prior_picture(target, warped, side)
        if logits is None:
            return drawn, None
        there = target if target.shape[-1] == side else resized(target, side)
        mask = torch.sigmoid(logits)
        return mask * drawn + (1 - mask) * there, logits


def resized(target: Tensor, side: int) -> Tensor:
    """The target's pixels at the decoder's side, [N, 3, side, side]."""
    shrinks = target.shape[-1] > side
    return F.interpolate(target, size=(side, side), mode="bicubic", align_corners=False, antialias=shrinks)


def build_encoder(model: Model) -> Encoder:
    """E with new weights."""
    return Encoder(
        input_px=model.input_px,
        n_styles=model.n_styles,
        style_dim=model.style_dim,
        blocks=model.encoder_blocks,
        widths=model.encoder_widths,
        pyramid_width=model.pyramid_width,
        head_width=model.head_width,
        stem_stride=model.stem_stride,
        body=model.encoder_body,
        fine_levels=model.fine_levels,
    )


def build_decoder(model: Model) -> Decoder:
    """D with its pathway, with new weights."""
    return Decoder(
        style_dim=model.style_dim,
        widths=model.decoder_widths,
        feature_sides=[side for _, side, _ in model.feature_shapes],
        feature_width=[width for width, _, _ in model.feature_shapes],
        pathway_resolutions=model.pathway_resolutions,
        mask=model.join == "mask",
    )


def build_discriminator(model: Model) -> Discriminator:
    """V with new weights. It sees pictures of the data set's side, whatever D draws."""
    return Discriminator(model.input_px, model.discriminator_width, model.discriminator_scales)


def build(model: Model) -> Swapper:
    """G with new weights from the section `model` of params.yaml."""
    sizes = (model.blending_layers, model.blending_heads, model.blending_weights)
    blending = Blending(model.n_styles, model.style_dim, *sizes)
    # In this order, on which new weights depend.
    encoder, decoder = build_encoder(model), build_decoder(model)
    prior = None
    if model.prior == "warp":
        prior = PriorEncoder(model.input_px, model.feature_shapes, model.prior_width)
        # What is drawn is added to the prior's picture, which is the better start.
        nn.init.zeros_(decoder.to_rgb.weight)
    return Swapper(encoder, blending, decoder, prior, model.prior_colour)


def save(swapper: Swapper, model: Model, folder: Path, *, dtype: torch.dtype = torch.float32, **facts: Any) -> None:
    """Write swapper.safetensors and model.json into an existing folder.

    model.json holds the sizes as `model`, the template and the side of its faces as `alignment`, and the facts.

    Args:
        dtype: of the stored weights; `load` gives float32 again.
    """
    state = {name: value.detach().cpu().to(dtype).contiguous() for name, value in swapper.state_dict().items()}
    save_file(state, folder / WEIGHTS_FILE)
    alignment = TEMPLATE.identity() | {"size_px": model.input_px}
    description = {"model": model.model_dump(mode="json"), "alignment": alignment, **facts}
    (folder / DESCRIPTION_FILE).write_text(json.dumps(description, indent=1) + "\n")


def load(folder: Path) -> Swapper:
    """The swapper of a folder that `save` wrote, in this version or an earlier one, in eval mode, on the CPU.

    Raises:
        StyleBlendError: a file is missing or damaged, or the weights do not fit the sizes in model.json.
        TemplateError: the model was trained on faces aligned by another template than this code's.
    """
    try:
        description = json.loads((folder / DESCRIPTION_FILE).read_text())
        sizes = sizes_of(description["model"])
        expect_template(description.get("alignment"), f"the model in {folder}")
        swapper = build(sizes)
        state = load_file(folder / WEIGHTS_FILE)
        if (pace := description["model"].get("blending_pace", 1)) != 1:
            _multiply_exponents(state, pace, sizes.style_dim)
        swapper.load_state_dict(state, strict=True)
    except FileNotFoundError as error:
        raise StyleBlendError(f"{folder} is no model folder: {error.filename or WEIGHTS_FILE} is missing") from None
    except (AttributeError, KeyError, TypeError, ValueError, SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise StyleBlendError(f"{folder} holds no usable model ({reason}): train or fetch it again") from None
    return swapper.eval()


def _multiply_exponents(state: dict[str, Tensor], pace: float, style_dim: int) -> None:
    """Earlier versions stored the bias of Eq. 2 divided by `pace` and the exponents' maps by a smaller factor."""
    maps = max(1.0, pace / style_dim**0.5)
    for name, factor in (("bias", pace), ("exponent_s.weight", maps), ("exponent_t.weight", maps)):
        state[f"blending.{name}"] *= factor
