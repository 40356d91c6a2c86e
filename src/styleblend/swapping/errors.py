"""Why a swap is refused, as types with fields.

The messages name the parameters of `swap_faces`. A front end with other names (options, fields of a form) writes its
own from `problem`, which names none of them, and from the fields.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from styleblend.errors import StyleBlendError
from styleblend.face_detector.detection import Detection
from styleblend.face_detector.finder import Refused

Role = Literal["source", "target", "target_like"]
"""Of a picture: it gives the identity, it is changed, or it shows whose face of the target is meant."""

_OTHER_REFERENCE = "give another picture of that person, or target_face=NUMBER"


class SwapError(StyleBlendError):
    """A picture cannot be swapped: it is unreadable, shows no face, or it is not clear which face is meant."""


class NoFace(SwapError):
    """No face was found in the picture of `role`, or none that can be used: `refused`, the largest first."""

    def __init__(self, role: Role, refused: Sequence[Refused] = ()) -> None:
        self.role, self.refused = role, tuple(refused)
        picture = "the picture of target_like" if role == "target_like" else f"the {role} picture"
        super().__init__(self.told(picture))

    def told(self, picture: str) -> str:
        """The message about a picture of that name."""
        if not self.refused:
            return f"no face found in {picture}: give one where the face is larger or clearer"
        return f"no usable face in {picture} ({self.refused[0]}): give one where the face is whole, larger or clearer"


class SeveralFaces(SwapError):
    """The picture of `role` has several `faces`, here from left to right, and none was chosen."""

    def __init__(self, role: Role, faces: Sequence[Detection]) -> None:
        self.role, self.faces = role, tuple(faces)
        places = ", ".join(f"{number}: {_place(face)}" for number, face in enumerate(faces))
        self.problem = f"which of the {len(faces)} faces in the {role} picture ({places})?"
        messages: dict[Role, str] = {
            "source": f"{self.problem} give source_face=NUMBER",
            "target": f"{self.problem} give target_face=NUMBER, target_like=PICTURE or all_faces=True",
            "target_like": f"the picture of target_like has {len(faces)} faces: give one with that person alone",
        }
        super().__init__(messages[role])


class FaceNumberOutOfRange(SwapError):
    """The picture of `role` has `count` faces, and none has the `number` that was given."""

    def __init__(self, role: Role, number: int, count: int) -> None:
        self.role, self.number, self.count = role, number, count
        has = "1 face, number 0" if count == 1 else f"{count} faces, counted from 0"
        self.problem = f"the {role} picture has {has}"
        super().__init__(f"{role}_face {number}: {self.problem}")


class NotAlike(SwapError):
    """No face of the target reaches the lowest likeness; `number` is the nearest one's, from the left."""

    def __init__(self, number: int, face: Detection, likeness: float, minimum: float) -> None:
        self.number, self.face, self.likeness, self.minimum = number, face, likeness, minimum
        nearest = f"nearest is {number}: {_place(face)}, likeness {likeness:.2f}, under swap.min_likeness {minimum}"
        self.problem = f"no face in the target picture is like the wanted person's ({nearest})"
        super().__init__(f"{self.problem}: {_OTHER_REFERENCE}")


class AmbiguousLikeness(SwapError):
    """Two faces of the target are about equally alike: `nearest` holds number, face and likeness of each."""

    def __init__(self, nearest: Sequence[tuple[int, Detection, float]], margin: float) -> None:
        self.nearest, self.margin = tuple(nearest), margin
        two = " and ".join(f"{number}: {_place(face)}, {likeness:.2f}" for number, face, likeness in nearest)
        found = f"{two}; swap.likeness_margin is {margin}"
        self.problem = f"two faces in the target picture are about equally like the wanted person's ({found})"
        super().__init__(f"{self.problem}: {_OTHER_REFERENCE}")


class ConflictingChoice(SwapError):
    """The target's face was chosen in more than one way; `given` names the parameters."""

    def __init__(self, given: Sequence[str]) -> None:
        self.given = tuple(given)
        super().__init__(f"{' and '.join(given)} exclude one another: give one of them")


class DetectorMissing(SwapError):
    """The face detector is not here and cannot be fetched; `problem` says why, and how to put it here."""

    def __init__(self, problem: str) -> None:
        self.problem = problem
        super().__init__(f"{problem}, or name it as detector, or use swap_aligned on aligned faces")


def _place(face: Detection) -> str:
    x, y, width, height = face.box
    return f"{width:.0f}x{height:.0f} px at x {x:.0f} y {y:.0f}"
