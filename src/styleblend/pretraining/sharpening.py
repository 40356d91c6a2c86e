"""The prior learns on against a discriminator, as a StyleGAN does: regression alone draws the mean of all that fits.

Decoder and encoder learn together, so that codes and what is drawn from them stay each other's inverse. Codes are held
near those of the regression, in which identity has channels of its own (pretraining.prior). The discriminator is kept,
too: a training that begins with the prior begins with one that knows real faces.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from styleblend.config.model import Model
from styleblend.faces.pixels import from_8bit
from styleblend.faces.regions import face_region
from styleblend.model.decoder import Decoder
from styleblend.model.discriminator import Discriminator
from styleblend.model.encoder import Encoder
from styleblend.model.swapper import build_discriminator
from styleblend.pretraining.data import Faces
from styleblend.pretraining.prior import Judges, drawing_loss
from styleblend.system.files import whole_file
from styleblend.training import losses

_BATCH = 16
_ENCODER_RATE, _DECODER_RATE, _DISCRIMINATOR_RATE = 5e-4, 1.5e-2, 5e-4
_WARM_UP = 100
"""Steps in which rates rise, and before which the discriminator does not judge."""
_ADVERSARIAL, _MAPS, _CODES = 0.3, 1.5, 0.3
_LEFT_OF_AVERAGE = 0.995
_SAVE_EVERY = 200


class Sharpened(NamedTuple):
    """Averaged weights of encoder and decoder, and the discriminator as it is at the end."""

    encoder: Encoder
    decoder: Decoder
    discriminator: Discriminator


def sharpen(
    model: Model,
    encoder: Encoder,
    decoder: Decoder,
    judges: Judges,
    learned_from: Faces,
    steps: int,
    state: Path,
    seed: int,
) -> Sharpened:
    """Train on from a decoder and the encoder that inverts it; continues after an interruption.

    What is judged is the face alone, in the picture's own surroundings: in a swap these come from the target.
    """
    torch.manual_seed(seed)
    discriminator = build_discriminator(model)
    learner = nn.ModuleList([encoder, decoder]).requires_grad_(True)
    average, fixed = copy.deepcopy(learner).requires_grad_(False), copy.deepcopy(encoder).requires_grad_(False)
    spread = _spread(fixed, learned_from)
    rates = {encoder: _ENCODER_RATE, decoder: _DECODER_RATE}
    groups = [{"params": list(part.parameters()), "lr": rate} for part, rate in rates.items()]
    optimizer = torch.optim.Adam(groups, betas=(0.0, 0.99))
    judging = torch.optim.Adam(discriminator.parameters(), _DISCRIMINATOR_RATE, betas=(0.5, 0.99))
    parts: dict[str, Any] = {
        "learner": learner,
        "average": average,
        "discriminator": discriminator,
        "optimizer": optimizer,
        "judging": judging,
    }
    checkpoint, first = state / "sharpened.pt", 0
    if checkpoint.exists():
        stored = torch.load(checkpoint, weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(stored[name])
        first = stored["step"]

    for step in range(first, steps):
        # Rates rise, stay, and fall to nothing in the second half.
        left = min(1.0, (step + 1) / _WARM_UP, 2 * (1 - step / steps))
        for group, rate in zip(optimizer.param_groups, rates.values(), strict=True):
            group["lr"] = rate * left
        random = torch.Generator().manual_seed(seed * 1_000_003 + step)
        rows = torch.randint(len(learned_from.images), (_BATCH,), generator=random)
        images, landmarks = from_8bit(learned_from.images[rows]), learned_from.landmarks[rows]

        # Encoder and decoder.
        codes = encoder(images).codes
        drawn = decoder(codes)
        shown = _in_place(drawn, images, landmarks)
        with torch.no_grad():
            near = fixed(images).codes
        loss = drawing_loss(drawn, images, landmarks, judges, maps=_MAPS)
        loss = loss + _CODES * ((codes - near) / spread).square().mean()
        if step >= _WARM_UP:
            discriminator.requires_grad_(False)
            loss = loss + _ADVERSARIAL * losses.adversarial(discriminator(shown))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(learner.parameters(), 20.0)
        optimizer.step()

        # Discriminator.
        discriminator.requires_grad_(True)
        judged = losses.discriminator_hinge(discriminator(images), discriminator(shown.detach()))
        judging.zero_grad(set_to_none=True)
        judged.backward()
        judging.step()

        with torch.no_grad():
            for mean, value in zip(average.parameters(), learner.parameters(), strict=True):
                mean.lerp_(value, 1 - _LEFT_OF_AVERAGE)
        if (step + 1) % _SAVE_EVERY == 0 or step + 1 == steps:
            values = f"loss {loss.item():.4f}, discriminator {judged.item():.4f}"
            print(f"sharpened: step {step + 1} of {steps}, {values}", flush=True)
            with whole_file(checkpoint) as partial:
                torch.save({name: part.state_dict() for name, part in parts.items()} | {"step": step + 1}, partial)
    averaged_encoder, averaged_decoder = average.eval()
    assert isinstance(averaged_encoder, Encoder) and isinstance(averaged_decoder, Decoder)
    return Sharpened(averaged_encoder, averaged_decoder, discriminator.eval())


def _in_place(drawn: Tensor, images: Tensor, landmarks: Tensor) -> Tensor:
    """The drawn faces [N, 3, S, S] in the surroundings of the pictures."""
    face = face_region(landmarks, images.shape[-1], soften_px=1.0)
    return face * drawn + (1 - face) * images


@torch.no_grad()
def _spread(encoder: Encoder, learned_from: Faces) -> Tensor:
    """Standard deviation of each channel of the codes [n_styles, style_dim]."""
    some = learned_from.images[:2048].split(64)
    return torch.cat([encoder(from_8bit(pixels)).codes for pixels in some]).std(0).clamp_min(1e-3)


@torch.no_grad()
def told_apart(last: Sharpened, test: Faces) -> float:
    """Share of the test faces whose picture the discriminator finds more real than the same face as it is drawn."""
    right = []
    for pixels, landmarks in zip(test.images.split(200), test.landmarks.split(200), strict=True):
        images = from_8bit(pixels)
        shown = _in_place(last.decoder(last.encoder(images).codes), images, landmarks)
        real, drawn = (sum(scores.mean((1, 2, 3)) for scores in last.discriminator(each)) for each in (images, shown))
        right.append(real > drawn)
    return torch.cat(right).float().mean().item()
