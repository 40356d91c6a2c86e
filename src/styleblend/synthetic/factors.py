"""What a rendered face is made of, in three kinds of factors, each number uniform or near-normal in [-1, 1].

- identity: shape of the head and its features, iris colour, marks. It is what a face swap moves.
- looks: bound to a person, yet in a swap they stay the target's (skin tone, hair, beard).
- attributes: new in every picture (pose, expression, light, background, glasses, clothes).

The tables below give each factor its name and the physical range that -1 and 1 stand for. Lengths are in head
units: half the height of the head is 1; x grows to the right of the picture, y upwards, z towards the camera.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Table = tuple[tuple[str, float, float], ...]

MOLES = 4

IDENTITY: Table = (
    # Skull and jaw: factors on the width of the head at a height, shifts in head units.
    ("face_width", 0.86, 1.12), ("forehead_height", -0.14, 0.16), ("temple_width", -0.10, 0.08),
    ("cheekbone_width", -0.08, 0.12), ("jaw_width", -0.22, 0.16), ("chin_width", -0.35, 0.45),
    ("chin_length", -0.14, 0.22), ("chin_depth", -0.08, 0.16), ("cheek_fullness", -0.10, 0.10),
    ("forehead_slope", -0.06, 0.16), ("brow_ridge", -0.02, 0.10),
    # Nose.
    ("nose_length", -0.09, 0.12), ("nose_width", 0.085, 0.20), ("nose_bridge", 0.02, 0.20),
    ("nose_tip", 0.08, 0.30), ("nose_tip_width", 0.07, 0.15), ("nostril_flare", 0.0, 0.09),
    # Eyes.
    ("eye_spacing", 0.235, 0.355), ("eye_height", -0.05, 0.09), ("eye_width", 0.105, 0.175),
    ("eye_opening", 0.045, 0.105), ("eye_tilt", -0.24, 0.24), ("eye_depth", -0.02, 0.12),
    ("iris_radius", 0.062, 0.082),
    # Brows.
    ("brow_height", 0.14, 0.27), ("brow_thickness", 0.018, 0.075), ("brow_length", 0.13, 0.23),
    ("brow_arch", -0.02, 0.10), ("brow_tilt", -0.09, 0.09), ("brow_gap", -0.05, 0.06),
    # Mouth and ears.
    ("mouth_height", -0.60, -0.47), ("mouth_width", 0.16, 0.31), ("upper_lip", 0.025, 0.090),
    ("lower_lip", 0.030, 0.110), ("mouth_corner", -0.05, 0.05), ("ear_size", 0.70, 1.45), ("ear_angle", 0.1, 0.9),
    # Iris: a way through brown, hazel, green, blue, grey; and its lightness.
    ("iris_hue", 0.0, 1.0), ("iris_lightness", 0.55, 1.25),
    # Marks. A radius or strength below zero means that the person has none.
    *(entry for k in range(MOLES) for entry in (
        (f"mole{k}_x", -0.55, 0.55), (f"mole{k}_y", -0.85, 0.50), (f"mole{k}_radius", -0.045, 0.060))),
    ("freckles", -1.0, 1.0), ("freckles_phase_x", 0.0, 6.28), ("freckles_phase_y", 0.0, 6.28),
    ("scar", -1.5, 1.0), ("scar_x", -0.5, 0.5), ("scar_y", -0.8, 0.4), ("scar_angle", 0.0, 3.14),
    ("forehead_lines", -1.0, 1.0), ("nasolabial_lines", -0.8, 1.0), ("eye_bags", -0.8, 1.0),
)  # fmt: skip

LOOKS: Table = (
    ("skin_depth", 0.0, 1.0), ("skin_warmth", -0.06, 0.06), ("skin_redness", -0.04, 0.06),
    ("lip_redness", 0.05, 0.45), ("hair_depth", 0.0, 1.0), ("hair_redness", 0.0, 1.0), ("hair_grey", -1.6, 0.9),
    ("hair_length", -1.2, 1.3), ("hair_volume", 0.05, 0.24), ("hairline", 0.66, 1.00), ("fringe", -0.9, 0.35),
    ("parting", -0.6, 0.6), ("hair_waves", 0.0, 0.05), ("beard", -1.6, 1.0), ("beard_extent", 0.0, 1.0),
)  # fmt: skip

EXPRESSION = ("jaw_open", "smile", "brow_raise", "blink_left", "blink_right", "gaze_x", "gaze_y")

ATTRIBUTES: Table = (
    ("yaw_deg", -45.0, 45.0), ("pitch_deg", -20.0, 20.0), ("roll_deg", -18.0, 18.0), ("shift_x", -0.12, 0.12),
    ("shift_y", -0.12, 0.12), ("zoom", 0.88, 1.12), ("jaw_open", 0.0, 1.0), ("smile", -0.6, 1.0),
    ("brow_raise", -0.7, 1.0), ("blink_left", 0.0, 1.0), ("blink_right", 0.0, 1.0), ("gaze_x", -1.0, 1.0),
    ("gaze_y", -1.0, 1.0), ("light_yaw_deg", -70.0, 70.0), ("light_pitch_deg", -20.0, 65.0),
    ("light", 0.45, 0.90), ("ambient", 0.40, 0.62), ("light_warmth", -0.10, 0.10),
    *((f"background{k}_{c}", 0.05, 0.95) for k in (0, 1) for c in "rgb"),
    ("background_angle", 0.0, 6.28), ("background_waves", 1.0, 9.0), ("background_phase", 0.0, 6.28),
    ("background_contrast", -0.3, 0.3), ("glasses", -3.0, 1.0), ("glasses_size", 0.85, 1.2),
    ("glasses_roundness", 0.0, 1.0), ("glasses_depth", 0.0, 0.8),
    *((f"clothes_{c}", 0.05, 0.9) for c in "rgb"),
)  # fmt: skip

# Factors that crowd around the middle of their range, as poses and expressions do; the others are uniform.
_NORMAL = {"yaw_deg", "pitch_deg", "roll_deg", "shift_x", "shift_y", "zoom", "gaze_x", "gaze_y"}


@dataclass(frozen=True)
class Factors:
    """Factors of N pictures, in [-1, 1]: identity [N, I], looks [N, L], attributes [N, A]."""

    identity: Tensor
    looks: Tensor
    attributes: Tensor

    def __len__(self) -> int:
        return len(self.identity)

    def __getitem__(self, rows: slice | Sequence[int] | Tensor) -> Factors:
        return Factors(self.identity[rows], self.looks[rows], self.attributes[rows])

    def physical(self) -> dict[str, Tensor]:
        """Each factor by name, in its physical unit, as a column [N, 1]."""
        values: dict[str, Tensor] = {}
        for table, block in ((IDENTITY, self.identity), (LOOKS, self.looks), (ATTRIBUTES, self.attributes)):
            for column, (name, low, high) in enumerate(table):
                values[name] = low + (high - low) * (block[:, column : column + 1] + 1) / 2
        return values

    def yaw_pitch_roll_deg(self) -> Tensor:
        """Pose in the photograph [N, 3] in degrees: yaw towards its right, pitch upwards, roll clockwise."""
        return self._named("yaw_deg", "pitch_deg", "roll_deg")

    def expression(self) -> Tensor:
        """Expression [N, 7] in the order of EXPRESSION."""
        return self._named(*EXPRESSION)

    def _named(self, *names: str) -> Tensor:
        values = self.physical()
        return torch.cat([values[name] for name in names], dim=1)


def sample(seed: int, persons: Sequence[int], pictures: Sequence[int], even_yaw_deg: float | None = None) -> Factors:
    """Factors of picture `pictures[i]` of person `persons[i]`.

    Each row is a pure function of (seed, person, picture): it does not depend on what else is sampled, nor on
    who samples it. Identity and looks depend on (seed, person) alone.

    Args:
        even_yaw_deg: draw yaw evenly from minus to plus this many degrees; the factor then leaves [-1, 1] where
            the angle leaves the usual range. None: most faces look ahead, as in photographs.
    """
    if len(persons) != len(pictures):
        raise ValueError(f"{len(persons)} persons and {len(pictures)} pictures: give one picture number a person")
    identity: list[np.ndarray] = []
    looks: list[np.ndarray] = []
    attributes: list[np.ndarray] = []
    for person, picture in zip(persons, pictures, strict=True):
        random = np.random.default_rng([seed, person, 0])
        for rows, table in ((identity, IDENTITY), (looks, LOOKS)):
            rows.append(random.uniform(-1, 1, len(table)).astype(np.float32))
        attributes.append(_attributes(np.random.default_rng([seed, person, 1, picture])))
        if even_yaw_deg is not None:
            (name, _, usual), *_ = ATTRIBUTES
            assert name == "yaw_deg"
            attributes[-1][0] = np.random.default_rng([seed, person, 2, picture]).uniform(-1, 1) * even_yaw_deg / usual
    return Factors(_stack(identity, IDENTITY), _stack(looks, LOOKS), _stack(attributes, ATTRIBUTES))


def swap(source: Factors, target: Factors) -> Factors:
    """The true swap: identity of `source`, everything else of `target`."""
    return Factors(source.identity, target.looks, target.attributes)


def joined(*parts: Factors) -> Factors:
    """The rows of all parts, in order."""
    blocks = ("identity", "looks", "attributes")
    return Factors(*(torch.cat([getattr(part, block) for part in parts]) for block in blocks))


def _stack(rows: list[np.ndarray], table: Table) -> Tensor:
    return torch.from_numpy(np.stack(rows) if rows else np.zeros((0, len(table)), dtype=np.float32))


def _attributes(random: np.random.Generator) -> np.ndarray:
    values = random.uniform(-1, 1, len(ATTRIBUTES)).astype(np.float32)
    normal = np.clip(random.normal(0, 0.42, len(ATTRIBUTES)), -1, 1).astype(np.float32)
    index = {name: column for column, (name, _, _) in enumerate(ATTRIBUTES)}
    for name in _NORMAL:
        values[index[name]] = normal[index[name]]
    # Mouths are closed and eyes open in most pictures; a wink is rarer than a blink of both.
    values[index["jaw_open"]] = max(-1.0, 2 * random.uniform() - 1.0) if random.uniform() < 0.6 else -1.0
    both = random.uniform() ** 3
    values[index["blink_left"]] = values[index["blink_right"]] = 2 * both - 1
    if random.uniform() < 0.15:
        values[index["blink_left" if random.uniform() < 0.5 else "blink_right"]] = 2 * random.uniform() - 1
    return values
