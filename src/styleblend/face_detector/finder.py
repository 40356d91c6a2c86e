"""Faces whose points can be believed: each is looked at in several turns, and the rest is refused with a reason.

A detector puts upright points on a face that is turned, and is nearly as sure of them. Where the same place is turned
until the face is upright, it is surer still: so the turn in which a place looks most like a face is the face's. Its
points must then fit together and lie in the picture, and the mesh of the run's landmark network, where it has one, must
see a face there, with the same points.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image

from styleblend.config.base import Finder
from styleblend.face_detector import geometry, looks
from styleblend.face_detector.detection import Detection, Detector, largest_first, same_face
from styleblend.face_detector.geometry import between_deg, roll_rad
from styleblend.face_detector.looks import Copies
from styleblend.face_detector.second_opinion import contradiction

if TYPE_CHECKING:
    from styleblend.perception.mesh import FaceMesh

UPRIGHT_DEG = 25.0
"""A face turned by no more has points that are as good as an upright one's."""
CONTRADICTING_DEG = 60.0
CLEAR = 0.01
"""By how much a face's turn must score higher than the turns that contradict it."""

BORDER = 0.3
"""What lies between a point and the border at least, as a fraction of the distance from the eyes to the mouth.

A detector guesses points that the border cuts off, close to it. The chin is more than twice as far from the mouth.
"""
SURE_SCORE: dict[Finder, float] = {"yunet": 0.92, "mediapipe": 0.88, "face_alignment": 0.0}
"""More than the detector gives to a face that it sees in a wrong turn; insightface's was not measured.

S3FD is as sure of a face in any turn, so that its scores say nothing of turns: its plain points are believed.
"""

Problem = Literal["turned", "cut by the border", "too small", "not a face"]


@dataclass(frozen=True)
class Refused:
    """What a detector took for a face, and why it is not used: the word, and what was seen."""

    face: Detection
    problem: Problem
    seen: str

    def __str__(self) -> str:
        x, y, width, height = self.face.box
        return f"{self.problem}: {self.seen} ({width:.0f}x{height:.0f} px at x {x:.0f} y {y:.0f})"


@dataclass(frozen=True)
class Found:
    """The faces of a picture, and what was refused, the largest first."""

    faces: list[Detection]
    refused: list[Refused]

    @property
    def problem(self) -> str | None:
        """Why there is no face, by the largest that was refused; None where nothing was taken for one."""
        return str(self.refused[0]) if self.refused else None


@dataclass(frozen=True)
class FaceFinder:
    """Finds faces at any turn, with points that were checked. It is a detector, too.

    detector: finds upright faces.
    mesh: the second opinion, where there is one.
    sure_score: of the detector, reached by upright faces alone; those are not looked at again. 1: by annotations alone.
    min_face_px: longer side of the smallest face that is accepted.
    """

    detector: Detector
    mesh: FaceMesh | None = None
    sure_score: float = 1.0
    min_face_px: int = 0

    def detect(self, image: Image.Image) -> list[Detection]:
        """Faces of an RGB picture, the largest first; none gives an empty list."""
        return self.find(image).faces

    def find(self, image: Image.Image) -> Found:
        """Faces of an RGB picture of any size and turn, and what was refused."""
        copies = Copies(image)
        faces, refused = self._settled(copies, self.detector.detect(image), [])
        if not self.sure_score:
            return Found(largest_first(faces), sorted(refused, key=lambda each: -each.face.side_px))
        # Who turned one face turned the whole picture: others are seen in the same turn.
        quarters = {round(roll_rad(face.five_px) / (np.pi / 2)) % 4 for face in faces} - {0} if faces else {1, 2, 3}
        for turn in sorted(quarters):
            more, others = self._settled(copies, looks.whole(self.detector, image, turn), faces)
            faces += more
            refused += [each for each in others if not _is_among(each.face, [known.face for known in refused])]
        left = [each for each in refused if not _is_among(each.face, faces)]
        return Found(largest_first(faces), sorted(left, key=lambda each: -each.face.side_px))

    def _settled(
        self, copies: Copies, seen: Sequence[Detection], known: Sequence[Detection]
    ) -> tuple[list[Detection], list[Refused]]:
        """Faces that are not known yet, each in its own turn, and those that are refused."""
        faces: list[Detection] = []
        refused: list[Refused] = []
        for face in seen:
            if _is_among(face, known):
                continue
            settled = self._settle(copies, face)
            if isinstance(settled, Refused):
                refused.append(settled)
            elif not _is_among(settled, [*known, *faces]):
                faces.append(settled)
        return faces, refused

    def _settle(self, copies: Copies, face: Detection) -> Detection | Refused:
        if face.side_px < self.min_face_px:
            least = f"under align.min_face_px {self.min_face_px}"
            return Refused(face, "too small", f"its longer side is {face.side_px:.0f} px, {least}")
        if not self.sure_score and not _is_plain(face):
            # Scores that say nothing of turns cannot settle which is right, and each look costs as much as the first.
            why = geometry.misfit(face.five_px)
            seen = "this detector's scores do not tell in which turn a face is upright"
            return Refused(face, "not a face", why) if why else Refused(face, "turned", seen)
        if face.score < self.sure_score or not _is_plain(face):
            settled = self._in_its_turn(copies, face)
            if isinstance(settled, Refused):
                return settled
            face = settled
        # Annotations are no guess.
        margin = BORDER if face.score < 1 else 0.0
        if count := geometry.cut_off(face.five_px, copies.image.size, margin):
            seen = f"{count} of the points of eyes, nose and mouth {'lies' if count == 1 else 'lie'}"
            seen += " outside or at its edge"
            return Refused(face, "cut by the border", seen)
        if (why := contradiction(self.mesh, copies, face, of_points=True)) is not None:
            return Refused(face, "not a face", why)
        return face

    def _in_its_turn(self, copies: Copies, face: Detection) -> Detection | Refused:
        """The face as it looks in the turn in which it looks most like one; as it is, where that is its own."""
        around = looks.closer(self.detector, copies, [(face, eighth * np.pi / 4) for eighth in range(8)])
        seen = [each for each in around if each is not None]
        if not seen:
            why = geometry.misfit(face.five_px) or "the detector does not see it again when it looks closer"
            return Refused(face, "not a face", why)
        # A view around wrong points may cut a face, so that turns are compared by views around what each showed.
        turns = [(each, roll_rad(each.five_px)) for each in _one_a_turn(seen)]
        upright = looks.closer(self.detector, copies, turns)
        refined = [each for each in upright if each is not None]
        best = max(refined, key=lambda look: look.score, default=None)
        if best is None or not _wins(best, [*seen, *refined]):
            return Refused(face, "turned", "in several turns it looks like a face, in none clearly")
        return face if _is_plain(face) and _turn_between(face, best) <= UPRIGHT_DEG else best


def find(detector: Detector, image: Image.Image) -> Found:
    """The checked faces of an RGB picture, by a FaceFinder or by a detector that is made one."""
    finder = detector if isinstance(detector, FaceFinder) else FaceFinder(detector)
    return finder.find(image)


def confirmed(mesh: FaceMesh | None, image: Image.Image, faces: Sequence[Detection]) -> Found:
    """Those of the annotated faces of an RGB picture in which the mesh sees a face, too; without a mesh, all."""
    copies = Copies(image)
    kept: list[Detection] = []
    refused: list[Refused] = []
    for face in faces:
        why = contradiction(mesh, copies, face, of_points=False)
        if why is None:
            kept.append(face)
        else:
            refused.append(Refused(face, "not a face", why))
    return Found(kept, refused)


def _is_plain(face: Detection) -> bool:
    """Whether the points can be a face's, nearly upright."""
    return geometry.misfit(face.five_px) is None and abs(np.degrees(roll_rad(face.five_px))) <= UPRIGHT_DEG


def _turn_between(one: Detection, other: Detection) -> float:
    return between_deg(roll_rad(one.five_px), roll_rad(other.five_px))


def _one_a_turn(seen: Sequence[Detection]) -> list[Detection]:
    """The surest look of each turn that was seen, those within 45 degrees of a surer one left out."""
    kept: list[Detection] = []
    for each in sorted(seen, key=lambda look: -look.score):
        if all(_turn_between(each, other) > 45 for other in kept):
            kept.append(each)
    return kept


def _wins(face: Detection, seen: Sequence[Detection]) -> bool:
    """Whether a face in its turn scores clearly higher than the looks that contradict it."""
    against = (each.score for each in seen if _turn_between(each, face) > CONTRADICTING_DEG)
    return face.score >= max(against, default=0.0) + CLEAR


def _is_among(face: Detection, others: Iterable[Detection]) -> bool:
    return any(same_face(face, other) for other in others)
