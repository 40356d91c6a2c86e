"""Faces as the world shows them to a detector that was made for plain ones: covered, carved, drawn, from the side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from styleblend.face_detector.detection import five_of
from styleblend.faces.pixels import to_8bit
from styleblend.synthetic import factors, renderer

YAW = next(number for number, (name, *_) in enumerate(factors.ATTRIBUTES) if name == "yaw_deg")
_YAW_DEG = factors.ATTRIBUTES[YAW][2]


@dataclass(frozen=True)
class Face:
    """A picture with one face. five [5,2]: eyes, nose and corners of the mouth, in pixels. landmarks: x0, y0, x1, ...
    of 68, where they are known."""

    image: Image.Image
    five: NDArray[np.float64]
    landmarks: list[float] | None = None

    def at(self, across: float, down: float) -> tuple[float, float]:
        """A place: from between the eyes, in distances between the eyes and from the eyes to the mouth."""
        eyes, mouth = self.five[:2].mean(0), self.five[3:].mean(0)
        x, y = eyes + across * (self.five[1] - self.five[0]) + down * (mouth - eyes)
        return float(x), float(y)

    @property
    def eye_distance(self) -> float:
        """In pixels."""
        return float(np.hypot(*(self.five[1] - self.five[0])))


def rendered(size_px: int = 96, yaw_deg: float | None = None, person: int = 1) -> Face:
    """A rendered face; yaw_deg: how far it is turned aside, also further than the renderer's own people are."""
    drawn = factors.sample(3, [person], [0])
    if yaw_deg is not None:
        drawn.attributes[:, YAW] = yaw_deg / _YAW_DEG
    render = renderer.render(drawn, size_px, supersample=1)
    picture = Image.fromarray(to_8bit(render.images[0]).permute(1, 2, 0).contiguous().numpy())
    points = render.landmarks_px[0].to(torch.float64)
    return Face(picture, five_of(points.numpy()), points.flatten().tolist())


def sunglasses(face: Face, random: np.random.Generator) -> Image.Image:
    """Two dark glasses and their frame over the eyes."""
    image, colour = face.image.copy(), tuple(int(value) for value in random.integers(0, 50, 3))
    draw, radius = ImageDraw.Draw(image), 0.42 * face.eye_distance
    for eye in face.five[:2]:
        draw.ellipse((*(eye - radius), *(eye + radius)), fill=colour)
    draw.line([face.at(-1.1, 0), face.at(1.1, 0)], fill=colour, width=max(1, round(0.12 * face.eye_distance)))
    return image


def mask(face: Face, random: np.random.Generator) -> Image.Image:
    """A mask of one colour from the nose to below the chin."""
    image = face.image.copy()
    colour = ((225, 235, 240), (110, 160, 200), (25, 25, 28))[random.integers(3)]
    corners = ((-1.0, 0.4), (0, 0.25), (1.0, 0.4), (0.85, 1.4), (0.3, 1.85), (-0.3, 1.85), (-0.85, 1.4))
    ImageDraw.Draw(image).polygon([face.at(*corner) for corner in corners], fill=colour)
    return image


def statue(face: Face, random: np.random.Generator) -> Image.Image:
    """Grey stone with a grain, and eyes without irises."""
    grey = np.asarray(face.image.convert("L").filter(ImageFilter.MedianFilter(5)), np.float64)
    grain = cv2.GaussianBlur(random.normal(0, 25, grey.shape), (0, 0), 0.8)
    stone = Image.fromarray(np.clip(150 + 0.7 * (grey - grey.mean()) + grain, 0, 255).astype(np.uint8)).convert("RGB")
    draw, radius = ImageDraw.Draw(stone), 0.16 * face.eye_distance
    for eye in face.five[:2]:
        draw.ellipse((*(eye - radius), *(eye + radius)), fill=(170, 170, 170), outline=(90, 90, 90))
    return stone


def cartoon(face: Face, random: np.random.Generator) -> Image.Image:
    """A few flat colours with black lines between them."""
    smooth = cv2.medianBlur(np.asarray(face.image.convert("RGB")), 7)
    levels = int(random.integers(3, 6))
    flat = np.round(smooth / 255 * levels) / levels * 255
    lines = cv2.dilate(cv2.Canny(smooth, 40, 100), np.ones((2, 2), np.uint8)) > 0
    return Image.fromarray(np.where(lines[..., None], 0, flat).astype(np.uint8))


Look = Callable[[Face, np.random.Generator], Image.Image]
LOOKS: dict[str, Look] = {"sunglasses": sunglasses, "mask": mask, "statue": statue, "cartoon": cartoon}
PROFILE = "profile"
"""Rendered, whatever face there is: no picture shows a face from another side."""
PROFILE_DEG = (-85.0, -65.0, 65.0, 85.0)
