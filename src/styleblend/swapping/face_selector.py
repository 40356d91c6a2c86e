"""Which of a photograph's faces are swapped: one by its place from the left, the one like a reference, or all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from styleblend.config.product import Swap
from styleblend.face_detector.detection import Detection
from styleblend.face_detector.finder import Found
from styleblend.faces.alignment import align_face
from styleblend.faces.pixels import from_8bit
from styleblend.perception.identity import FaceNetwork
from styleblend.perception.similarity import similarity
from styleblend.swapping.errors import AmbiguousLikeness, FaceNumberOutOfRange, NoFace, NotAlike, Role, SeveralFaces

FaceSelector = Callable[[Image.Image, Sequence[Detection]], list[Detection]]
"""Takes an RGB photograph and its faces from left to right, at least one; returns the chosen ones."""


def left_to_right(found: Found, role: Role) -> list[Detection]:
    """The faces of the picture of `role` in the order in which people count them.

    Raises:
        NoFace: there is none that can be used.
    """
    if not found.faces:
        raise NoFace(role, found.refused)
    return sorted(found.faces, key=lambda face: face.box[0])


def single_face(role: Role) -> FaceSelector:
    """Select the only face; several raise SeveralFaces."""

    def select(photograph: Image.Image, faces: Sequence[Detection]) -> list[Detection]:
        if len(faces) > 1:
            raise SeveralFaces(role, faces)
        return list(faces)

    return select


def face_number(role: Role, number: int) -> FaceSelector:
    """Select by place, counted from the left, from 0; a number that no face has raises FaceNumberOutOfRange."""

    def select(photograph: Image.Image, faces: Sequence[Detection]) -> list[Detection]:
        if not 0 <= number < len(faces):
            raise FaceNumberOutOfRange(role, number, len(faces))
        return [faces[number]]

    return select


def every_face(photograph: Image.Image, faces: Sequence[Detection]) -> list[Detection]:
    """Select all."""
    return list(faces)


@dataclass(frozen=True)
class ReferenceSelector:
    """Selects the face of the person that a reference shows, by the network's similarity of the embeddings [D]."""

    reference: torch.Tensor
    network: FaceNetwork
    limits: Swap

    @classmethod
    def from_picture(
        cls, photograph: Image.Image, found: Found, network: FaceNetwork, limits: Swap
    ) -> ReferenceSelector:
        """Take the one face of an RGB photograph as reference.

        Raises:
            NoFace, SeveralFaces: it has none, or several.
        """
        face = single_face("target_like")(photograph, left_to_right(found, "target_like"))[0]
        return cls(_embedding(photograph, face, network), network, limits)

    def __call__(self, photograph: Image.Image, faces: Sequence[Detection]) -> list[Detection]:
        """Return the one face that is like the reference.

        Raises:
            NotAlike, AmbiguousLikeness: none is near enough, or two are about equally near.
        """
        metric, seen = self.network.metric, [_embedding(photograph, face, self.network) for face in faces]
        likeness = [float(similarity(self.reference, each, metric, dim=0)) for each in seen]
        order = np.argsort(likeness)[::-1].tolist()
        best = order[0]
        if likeness[best] < self.limits.min_likeness:
            raise NotAlike(best, faces[best], likeness[best], self.limits.min_likeness)
        if len(order) > 1 and likeness[best] - likeness[order[1]] < self.limits.likeness_margin:
            nearest = [(number, faces[number], likeness[number]) for number in order[:2]]
            raise AmbiguousLikeness(nearest, self.limits.likeness_margin)
        return [faces[best]]


@torch.inference_mode()
def _embedding(photograph: Image.Image, face: Detection, network: FaceNetwork) -> torch.Tensor:
    pixels = np.array(align_face(photograph, face.points_px, network.side_px).picture)
    embedding: torch.Tensor = network(from_8bit(torch.from_numpy(pixels).permute(2, 0, 1)[None]))[0]
    return embedding
