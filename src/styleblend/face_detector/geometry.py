"""Whether five points can be those of a face, how they are turned, and whether they lie in the picture."""

from __future__ import annotations

import numpy as np

from styleblend.faces.alignment import Points

# Bounds that faces from frontal to profile stay well inside of.
LONGEST_FACE = 4.0
FLATTEST_FACE = 0.45
CROOKED_DEG = 30.0
MOUTH = (0.25, 2.2)
NOSE_DOWN = (0.1, 1.0)
NOSE_ASIDE = 0.9


def roll_rad(five: Points) -> float:
    """How far the face of five points [5,2] is turned clockwise, in radians from -pi to pi.

    From the line between the eyes and that from the eyes to the mouth, as the alignment takes it.
    """
    to_eye, to_mouth = five[1] - five[0], five[3:].mean(0) - five[:2].mean(0)
    across = to_eye + (to_mouth[1], -to_mouth[0])
    return float(np.arctan2(across[1], across[0]))


def between_deg(one_rad: float, other_rad: float) -> float:
    """The angle between two directions, in degrees from 0 to 180."""
    return abs(float(np.degrees(np.angle(np.exp(1j * (one_rad - other_rad))))))


def misfit(five: Points) -> str | None:
    """Why five points [5,2] are no face's, whatever its turn; None where they can be.

    The eyes must lie beside one another above the mouth, the mouth's corners likewise and about parallel, the nose
    between, at distances that faces have. In profile the eyes' distance may be a quarter of that to the mouth.
    """
    if not np.isfinite(five).all():
        return "a point is not a number"
    eyes, mouth = five[:2].mean(0), five[3:].mean(0)
    to_eye, to_corner, down = five[1] - five[0], five[4] - five[3], mouth - eyes
    apart, wide, high = (float(np.hypot(*each)) for each in (to_eye, to_corner, down))
    if min(apart, wide, high) < 1e-6:
        return "points fall together"
    angle = roll_rad(five)
    right = np.array([np.cos(angle), np.sin(angle)])
    lower = np.array([-right[1], right[0]])
    if to_eye @ right <= 0 or to_corner @ right <= 0:
        return "an eye or a corner of the mouth is on the other's side"
    if down @ lower <= 0:
        return "the mouth lies above the eyes"
    if not FLATTEST_FACE <= high / apart <= LONGEST_FACE:
        return f"the mouth lies {high / apart:.1f} times the distance between the eyes below them"
    if not MOUTH[0] <= wide / apart <= MOUTH[1]:
        return f"the mouth is {wide / apart:.1f} times as wide as the distance between the eyes"
    crooked = between_deg(float(np.arctan2(*to_eye[::-1])), float(np.arctan2(*to_corner[::-1])))
    if crooked > CROOKED_DEG:
        return f"eyes and mouth are turned {crooked:.0f} degrees against one another"
    nose = five[2] - eyes
    if not NOSE_DOWN[0] <= (nose @ down) / (high * high) <= NOSE_DOWN[1]:
        return "the nose does not lie between eyes and mouth"
    if abs(nose @ np.array([-down[1], down[0]])) > NOSE_ASIDE * high * high:
        return "the nose lies beside the face"
    return None


def cut_off(five: Points, size: tuple[int, int], margin: float) -> int:
    """How many of five points [5,2] lie outside of a picture of a size (width, height), or too near to its border.

    Args:
        margin: what must lie between a point and the border, as a fraction of the distance from the eyes to the mouth.
    """
    inwards = margin * float(np.hypot(*(five[3:].mean(0) - five[:2].mean(0)))) - 0.5
    return int(((five < inwards) | (five > np.array(size) - 1 - inwards)).any(axis=1).sum())
