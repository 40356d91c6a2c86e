"""Rendered faces in memory with their truth: the sets of pictures that the small networks learn from."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from styleblend.config.pretraining import Pretrain
from styleblend.faces.alignment import quad_from_landmarks
from styleblend.faces.pixels import to_8bit
from styleblend.synthetic.factors import IDENTITY, Factors, sample
from styleblend.synthetic.renderer import landmarks_3d, photograph_landmarks, pose_deg, render
from styleblend.system.files import whole_file

SIDE_PX = 64
CHUNK = 64
# Seeds of the renderer: the judges learn from other people than the training networks, and all are tested on others.
SEEDS = {"identity": 101, "judge": 202, "test": 303, "profile": 404, "profile_judge": 505, "profile_test": 606}
PROFILE_DEG = 60.0
"""Faces of the profile sets are seen from anywhere between this and its negative, evenly."""


@dataclass(frozen=True)
class Faces:
    """Aligned rendered faces in memory with their truth.

    images: [N, 3, 64, 64] uint8; person: [N]; factors: [N, F], identity first, then looks, attributes and framing;
    landmarks: [N, 68, 2] in [0, 1]; landmarks_3d: [N, 68, 3], see renderer.landmarks_3d; pose_deg: [N, 3] in the
    crop; expression: [N, 7]
    """

    images: Tensor
    person: Tensor
    factors: Tensor
    landmarks: Tensor
    landmarks_3d: Tensor
    pose_deg: Tensor
    expression: Tensor

    @property
    def identity(self) -> Tensor:
        """Identity factors [N, I]."""
        return self.factors[:, : len(IDENTITY)]


def draw(
    seed: int, persons: int, pictures: int, start: int, stop: int, own_looks: bool, even_yaw_deg: float | None = None
) -> tuple[Factors, Tensor]:
    """Factors and crop quads of rows start..stop of a set of `persons` x `pictures`.

    Unless `own_looks`, each picture takes its looks from a stranger, and half of the crops their place, as in a swap.
    """
    rows = np.arange(start, stop)
    own = sample(seed, (rows // pictures).tolist(), (rows % pictures).tolist(), even_yaw_deg)
    if own_looks:
        return own, _quads(own)
    random = np.random.default_rng([seed, start])
    stranger = sample(seed, random.integers(0, persons, len(rows)).tolist(), [0] * len(rows))
    drawn = Factors(own.identity, stranger.looks, own.attributes)
    framed_by = torch.from_numpy(random.random(len(rows)) < 0.5)[:, None]
    framed = Factors(torch.where(framed_by, stranger.identity, own.identity), stranger.looks, own.attributes)
    quads = _quads(framed)
    centre = quads.mean(1, keepdim=True)
    side = (quads[:, 3] - quads[:, 0]).norm(dim=1)[:, None, None]
    zoom = torch.from_numpy(random.uniform(0.95, 1.05, (len(rows), 1, 1))).float()
    shift = torch.from_numpy(random.uniform(-0.02, 0.02, (len(rows), 1, 2))).float()
    return drawn, centre + (quads - centre) * zoom + shift * side


def _quads(factors: Factors) -> Tensor:
    points = photograph_landmarks(factors).double().numpy()
    return torch.from_numpy(np.stack([quad_from_landmarks(face) for face in points])).float()


def framing(quads: Tensor, reference: Tensor) -> Tensor:
    """Where crops lie, as shift, zoom and turn against reference crops: [N, 4], each about [-1, 1].

    quads, reference: [N, 4, 2], corners top-left, bottom-left, bottom-right, top-right
    """
    right, reference_right = quads[:, 3] - quads[:, 0], reference[:, 3] - reference[:, 0]
    side, reference_side = right.norm(dim=1, keepdim=True), reference_right.norm(dim=1, keepdim=True)
    shift = (quads.mean(1) - reference.mean(1)) / reference_side
    turn = torch.atan2(right[:, 1], right[:, 0]) - torch.atan2(reference_right[:, 1], reference_right[:, 0])
    turn = torch.remainder(turn + math.pi, 2 * math.pi) - math.pi
    return 10 * torch.cat([shift, (side / reference_side).log(), turn[:, None]], dim=1)


def everything(drawn: Factors, quads: Tensor) -> Tensor:
    """All factors of the pictures [N, F]: identity, looks, attributes, and framing relative to the average face's."""
    average = Factors(torch.zeros_like(drawn.identity), drawn.looks, drawn.attributes)
    return torch.cat([drawn.identity, drawn.looks, drawn.attributes, framing(quads, _quads(average))], dim=1)


def faces(
    cache: Path, seed: int, persons: int, pictures: int, own_looks: bool = False, even_yaw_deg: float | None = None
) -> Faces:
    """Render a set of `persons` x `pictures`; pictures that an earlier, interrupted call rendered are read."""
    cache.mkdir(parents=True, exist_ok=True)
    total = persons * pictures
    images, truths = [], []
    started = time.monotonic()
    for start in range(0, total, CHUNK):
        stop = min(start + CHUNK, total)
        drawn, quads = draw(seed, persons, pictures, start, stop, own_looks, even_yaw_deg)
        kind = ("-own" if own_looks else "") + (f"-{even_yaw_deg:g}deg" if even_yaw_deg else "")
        file = cache / f"{seed}-{persons}x{pictures}{kind}-{start}.npz"
        if not file.exists():
            made = render(drawn, SIDE_PX, 2, quads)
            pixels = to_8bit(made.images).numpy()
            with whole_file(file) as partial:
                np.savez(partial, images=pixels, landmarks=((made.landmarks_px + 0.5) / SIDE_PX).numpy())
        with np.load(file) as stored:
            images.append(torch.from_numpy(stored["images"]))
            truths.append(
                {
                    "factors": everything(drawn, quads),
                    "landmarks": torch.from_numpy(stored["landmarks"]),
                    "landmarks_3d": landmarks_3d(drawn, quads),
                    "pose_deg": pose_deg(drawn, quads),
                    "expression": drawn.expression(),
                }
            )
        if start // CHUNK % 20 == 0:
            print(f"faces of seed {seed}: {stop} of {total}, {time.monotonic() - started:.0f} s", flush=True)
    return Faces(
        torch.cat(images),
        torch.arange(total) // pictures,
        **{name: torch.cat([truth[name] for truth in truths]) for name in truths[0]},
    )


def joined(*parts: Faces) -> Faces:
    """The faces of several sets; persons of different sets stay different."""
    first = torch.tensor([0, *(int(part.person.max()) + 1 for part in parts)]).cumsum(0)
    together = {field.name: torch.cat([getattr(part, field.name) for part in parts]) for field in fields(Faces)}
    together["person"] = torch.cat([part.person + shift for part, shift in zip(parts, first, strict=False)])
    return Faces(**together)


class People(NamedTuple):
    """The sets of faces of a recipe. The `_own` ones wear their own looks; profile sets are seen from the side, too."""

    learned: Faces
    judged: Faces
    test: Faces
    test_own: Faces
    profile: Faces
    profile_judged: Faces
    profile_test_own: Faces


def people(cfg: Pretrain, cache: Path) -> People:
    """Render every set, or read what is rendered."""

    number = cfg.pictures_per_identity
    return People(
        faces(cache, SEEDS["identity"], cfg.identities, number),
        faces(cache, SEEDS["judge"], cfg.judge_identities, number),
        faces(cache, SEEDS["test"], cfg.test_identities, number),
        faces(cache, SEEDS["test"], cfg.test_identities, number, own_looks=True),
        faces(cache, SEEDS["profile"], cfg.profile_identities, number, even_yaw_deg=PROFILE_DEG),
        faces(cache, SEEDS["profile_judge"], cfg.profile_identities, number, even_yaw_deg=PROFILE_DEG),
        faces(cache, SEEDS["profile_test"], cfg.test_identities, number, own_looks=True, even_yaw_deg=PROFILE_DEG),
    )
