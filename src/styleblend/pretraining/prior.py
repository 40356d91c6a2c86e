"""A decoder that draws faces and the encoder that inverts it, learned from rendered faces whose factors are known.

It stands where a production run loads a StyleGAN and the encoder of a face network, which take weeks of GPU time. The
factors of every picture are known, so the mapping starts from them, and an hour of a CPU is enough for soft faces.

The identity factors are mapped to the first half of the channels of W+ and all others to the second half, because an
extended latent space whose directions do not mix is what the paper takes from StyleGAN (section 2.1). The blending
module has to learn which channels to take from whom.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from styleblend.config.model import Model
from styleblend.faces.pixels import from_8bit
from styleblend.faces.regions import face_region
from styleblend.model.decoder import Decoder
from styleblend.model.encoder import Encoder
from styleblend.model.layers import EqualLinear
from styleblend.model.swapper import build_decoder, build_encoder
from styleblend.perception.attributes import POSE_SCALE_DEG, AttributeNetwork
from styleblend.perception.identity import IdentityNetwork
from styleblend.pretraining.data import Faces
from styleblend.pretraining.loop import learn
from styleblend.synthetic.factors import IDENTITY
from styleblend.training import losses

_BESIDE_FACE = 0.2
"""Weight of pixels beside the face: in a swap they come through the pathway of target features."""


class Mapping(nn.Module):
    """Factors [N, identity + others] to codes [N, n_styles, style_dim], identity in the first half of the channels."""

    def __init__(self, identity: int, others: int, n_styles: int, style_dim: int, hidden: int = 256) -> None:
        super().__init__()
        self.counts = (identity, others)
        self.n_styles = n_styles

        def branch(inputs: int) -> nn.Sequential:
            return nn.Sequential(
                EqualLinear(inputs, hidden, math.sqrt(2)), nn.LeakyReLU(0.2),
                EqualLinear(hidden, hidden, math.sqrt(2)), nn.LeakyReLU(0.2),
                EqualLinear(hidden, n_styles * style_dim // 2),
            )  # fmt: skip

        self.identity, self.others = branch(identity), branch(others)

    def forward(self, factors: Tensor) -> Tensor:
        who, rest = factors.split(self.counts, dim=1)
        shape = (len(factors), self.n_styles, -1)
        return torch.cat([self.identity(who).reshape(shape), self.others(rest).reshape(shape)], dim=2)


class Generator(nn.Module):
    """Mapping and decoder: what draws a face from its factors."""

    def __init__(self, decoder: Decoder, identity: int, others: int) -> None:
        super().__init__()
        self.decoder = decoder
        self.mapping = Mapping(identity, others, decoder.n_styles, decoder.style_dim)

    def forward(self, factors: Tensor) -> Tensor:
        drawn: Tensor = self.decoder(self.mapping(factors))
        return drawn


class Judges(NamedTuple):
    """Frozen networks that look at what is drawn."""

    identity: IdentityNetwork
    attributes: AttributeNetwork


def drawing_loss(drawn: Tensor, images: Tensor, landmarks: Tensor, judges: Judges, maps: float = 0) -> Tensor:
    """How far drawn pictures [N, 3, S, S] are from the true ones: pixels and edges, mostly of the face; person; pose.

    Squared errors alone blur eyes and mouths, and without the pose term turned heads come late.

    Args:
        maps: weight of the identity network's maps, see losses.perceptual_maps.
    """
    weight = _BESIDE_FACE + (1 - _BESIDE_FACE) * face_region(landmarks, images.shape[-1], soften_px=1.0)
    error = weight * (drawn - images)
    edges = (error[..., 1:] - error[..., :-1]).abs().mean() + (error[..., 1:, :] - error[..., :-1, :]).abs().mean()
    with torch.no_grad():
        wanted, (wanted_pose, wanted_expression) = judges.identity.look(images), judges.attributes(images)
    seen = judges.identity.look(drawn)
    person = 1 - functional.cosine_similarity(seen.embedding, wanted.embedding).mean()
    pose, expression = judges.attributes(drawn)
    posed = functional.mse_loss(pose, wanted_pose) / POSE_SCALE_DEG**2
    posed = posed + 0.25 * functional.mse_loss(expression, wanted_expression)
    total = 2 * error.abs().mean() + 4 * error.square().mean() + 2 * edges + person + posed
    if maps:
        all_answered = torch.ones(len(images), device=images.device)
        total = total + maps * losses.perceptual_maps(seen.maps, wanted.maps, all_answered)
    return total


class Inverter(nn.Module):
    """Encoder and frozen generator, joined through the style codes alone: the pathway of target features stays out."""

    def __init__(self, encoder: Encoder, generator: Generator) -> None:
        super().__init__()
        self.encoder = encoder
        self._frozen = (generator.eval().requires_grad_(False),)  # in a tuple, so that it is not among what learns

    @property
    def generator(self) -> Generator:
        return self._frozen[0]

    @torch.no_grad()
    def centre(self, factors: Tensor) -> None:
        """Set the encoder's mean code, and the scale in which errors of a channel are counted."""
        codes = torch.cat([self.generator.mapping(chunk) for chunk in factors.split(1000)])
        self.encoder.mean_code.copy_(codes.mean(0))
        self.register_buffer("spread", codes.std(0).clamp_min(1e-3), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        drawn: Tensor = self.generator.decoder(self.encoder(images).codes)
        return drawn

    def code_loss(self, codes: Tensor, factors: Tensor) -> Tensor:
        """Mean squared error of codes [N, n_styles, style_dim], in standard deviations of each channel."""
        with torch.no_grad():
            wanted = self.generator.mapping(factors)
        return ((codes - wanted) / self.spread).square().mean()


def train_decoder(model: Model, judges: Judges, learned_from: Faces, steps: int, state: Path, seed: int) -> Generator:
    """A decoder that draws rendered faces, with the mapping from factors to style codes (W+)."""
    torch.manual_seed(seed)
    decoder = build_decoder(model.model_copy(update={"pathway_resolutions": ()}))
    learner = Generator(decoder, len(IDENTITY), learned_from.factors.shape[1] - len(IDENTITY))

    def loss_of(images: Tensor, rows: Tensor) -> Tensor:
        return drawing_loss(learner(learned_from.factors[rows]), images, learned_from.landmarks[rows], judges)

    learn("decoder", learner, loss_of, learned_from, steps, 16, 4e-2, state, seed, as_they_are=True, momentum=False)
    return learner


def train_inverter(
    model: Model,
    generator: Generator,
    judges: Judges,
    learned_from: Faces,
    steps: tuple[int, int],
    state: Path,
    seed: int,
) -> Inverter:
    """The encoder that finds the style codes of a face for a decoder that is done.

    Args:
        steps: first with the codes' error alone, which is quick, then with what is drawn from them, too
    """
    torch.manual_seed(seed)
    learner = Inverter(build_encoder(model), generator)
    learner.centre(learned_from.factors)

    def codes_of(images: Tensor, rows: Tensor) -> Tensor:
        return learner.code_loss(learner.encoder(images).codes, learned_from.factors[rows])

    def loss_of(images: Tensor, rows: Tensor) -> Tensor:
        codes = learner.encoder(images).codes
        drawn = drawing_loss(generator.decoder(codes), images, learned_from.landmarks[rows], judges)
        return learner.code_loss(codes, learned_from.factors[rows]) + drawn

    learn("encoder_codes", learner.encoder, codes_of, learned_from, steps[0], 32, 2e-3, state, seed, as_they_are=True)
    learn("encoder", learner.encoder, loss_of, learned_from, steps[1], 16, 1e-3, state, seed + 1, as_they_are=True)
    return learner


@torch.no_grad()
def drawing_accuracy(draw_: Callable[[Tensor, Tensor], Tensor], judges: Judges, test: Faces) -> dict[str, float]:
    """How well pictures drawn by `draw_(images, factors)` show the test faces.

    Returns:
        psnr_db of the whole picture in [-1, 1], identity_cosine of the training network, pose_error_deg (mean of the
        three angles' absolute differences as the attribute network sees them)
    """
    values: dict[str, list[Tensor]] = {"psnr_db": [], "identity_cosine": [], "pose_error_deg": []}
    for pixels, factors in zip(test.images.split(200), test.factors.split(200), strict=True):
        images = from_8bit(pixels)
        drawn = draw_(images, factors).clamp(-1, 1)
        values["psnr_db"].append(10 * torch.log10(4 / (drawn - images).square().mean((1, 2, 3))))
        values["identity_cosine"].append((judges.identity(drawn) * judges.identity(images)).sum(1))
        values["pose_error_deg"].append((judges.attributes(drawn)[0] - judges.attributes(images)[0]).abs().mean(1))
    return {name: torch.cat(parts).mean().item() for name, parts in values.items()}
