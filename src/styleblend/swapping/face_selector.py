"""Which of a photograph's faces are meant: by their place from the left, by likeness to a picture, or all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image

from styleblend.config.product import Swap
from styleblend.errors import StyleBlendError
from styleblend.face_detector.detection import Detection
from styleblend.faces.alignment import align_face
from styleblend.faces.pixels import from_8bit
from styleblend.perception.identity import FaceNetwork

Role = Literal["source", "target"]

Choose = Callable[[Image.Image, Sequence[Detection]], list[Detection]]
"""Takes an RGB photograph and its faces from left to right, at least one; gives those that are meant."""


class SwapError(StyleBlendError):
    """A picture cannot be swapped: unreadable, without a face, or it is not clear which face is meant."""


class SeveralFaces(SwapError):
    """A picture has several faces and nobody said which is meant. `faces` are they, from left to right."""

    def __init__(self, message: str, faces: Sequence[Detection]) -> None:
        super().__init__(message)
        self.faces = tuple(faces)


def from_left(found: Sequence[Detection], picture: str) -> list[Detection]:
    """The faces in the order in which people count them.

    Raises:
        SwapError: there is none; `picture` says in the message where.
    """
    if not found:
        raise SwapError(f"no face found in {picture}: give one where the face is larger or clearer")
    return sorted(found, key=lambda face: face.box[0])


def the_only_face(role: Role) -> Choose:
    """Chooses where there is nothing to choose; several faces are a question (SeveralFaces)."""
    ways = {
        "source": "give --source-face NUMBER",
        "target": "give --target-face NUMBER, --target-like PICTURE or --all-faces",
    }

    def choose(photograph: Image.Image, faces: Sequence[Detection]) -> list[Detection]:
        if len(faces) > 1:
            places = ", ".join(f"{number}: {_place(face)}" for number, face in enumerate(faces))
            raise SeveralFaces(f"which of the {len(faces)} faces in the {role} picture ({places})? {ways[role]}", faces)
        return list(faces)

    return choose


def numbered(role: Role, number: int) -> Choose:
    """Chooses by place, counted from the left, from 0."""

    def choose(photograph: Image.Image, faces: Sequence[Detection]) -> list[Detection]:
        if not 0 <= number < len(faces):
            has = "1 face, number 0" if len(faces) == 1 else f"{len(faces)} faces, counted from 0"
            raise SwapError(f"--{role}-face {number}: the {role} picture has {has}")
        return [faces[number]]

    return choose


def every_face(photograph: Image.Image, faces: Sequence[Detection]) -> list[Detection]:
    """Chooses all."""
    return list(faces)


@dataclass(frozen=True)
class Likeness:
    """Chooses the face that shows the same person as a wanted one, by cosine of their embeddings [D]."""

    wanted: torch.Tensor
    network: FaceNetwork
    limits: Swap

    @classmethod
    def to(cls, photograph: Image.Image, found: Sequence[Detection], network: FaceNetwork, limits: Swap) -> Likeness:
        """Likeness to the one face in an RGB photograph.

        Raises:
            SwapError: it has no face, or several.
        """
        faces = from_left(found, "the picture of --target-like")
        if len(faces) > 1:
            raise SwapError(f"the picture of --target-like has {len(faces)} faces: give one with that person alone")
        return cls(_embedding(photograph, faces[0], network), network, limits)

    def __call__(self, photograph: Image.Image, faces: Sequence[Detection]) -> list[Detection]:
        """The face that is meant, alone.

        Raises:
            SwapError: none is near enough, or two are about equally near.
        """
        alike = [float(self.wanted @ _embedding(photograph, face, self.network)) for face in faces]
        order = np.argsort(alike)[::-1].tolist()
        best = order[0]
        remedy = "give another picture of that person, or --target-face NUMBER"
        if alike[best] < self.limits.min_likeness:
            raise SwapError(
                f"no face in the target picture is like the one of --target-like (nearest is {best}: "
                f"{_place(faces[best])}, likeness {alike[best]:.2f}, under swap.min_likeness "
                f"{self.limits.min_likeness}): {remedy}"
            )
        if len(order) > 1 and alike[best] - alike[order[1]] < self.limits.likeness_margin:
            two = " and ".join(f"{number}: {_place(faces[number])}, {alike[number]:.2f}" for number in order[:2])
            raise SwapError(
                f"two faces in the target picture are about equally like the one of --target-like ({two}; "
                f"swap.likeness_margin is {self.limits.likeness_margin}): {remedy}"
            )
        return [faces[best]]


@torch.inference_mode()
def _embedding(photograph: Image.Image, face: Detection, network: FaceNetwork) -> torch.Tensor:
    pixels = np.array(align_face(photograph, face.points_px, network.side_px).picture)
    embedding: torch.Tensor = network(from_8bit(torch.from_numpy(pixels).permute(2, 0, 1)[None]))[0]
    return embedding


def _place(face: Detection) -> str:
    x, y, width, height = face.box
    return f"{width:.0f}x{height:.0f} px at x {x:.0f} y {y:.0f}"
