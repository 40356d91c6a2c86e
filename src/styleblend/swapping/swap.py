"""Swap faces in photographs: find a face, align it, run the model, paste the result back."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from styleblend.config.params import Config, load_params
from styleblend.face_detector import finder
from styleblend.face_detector.detection import Detector
from styleblend.faces.alignment import align_face
from styleblend.faces.pictures import Picture, UnusablePicture, as_picture, open_picture
from styleblend.faces.pixels import to_8bit
from styleblend.faces.resize import square_tensor
from styleblend.model import Swapper
from styleblend.swapping import face_selector
from styleblend.swapping.errors import ConflictingChoice, SwapError
from styleblend.swapping.face_selector import FaceSelector, ReferenceSelector
from styleblend.swapping.loaders import find_detector, find_identity, find_model
from styleblend.swapping.paste_back import match_colour, paste

Photograph = str | Path | Image.Image | Picture
CancelCheck = Callable[[], None]
"""Called before each step that takes long (finding faces, swapping one); what it raises ends the work."""


@dataclass(frozen=True)
class FaceSwapper:
    """A source's aligned face with the model (in eval mode) and detector that put it into any number of targets."""

    face: Image.Image
    model: Swapper
    detector: Detector
    cancel_check: CancelCheck = lambda: None

    @classmethod
    def from_source(
        cls,
        source: Picture,
        model: Swapper,
        detector: Detector,
        select: FaceSelector | None = None,
        cancel_check: CancelCheck = lambda: None,
    ) -> FaceSwapper:
        """Find and align the source's face; None as `select` takes the only one.

        Raises:
            SwapError: no face, or it is not clear which is meant.
        """
        cancel_check()
        photograph = source.opaque()
        faces = face_selector.left_to_right(finder.find(detector, photograph), "source")
        face = (select or face_selector.single_face("source"))(photograph, faces)[0]
        aligned = align_face(photograph, face.points_px, model.encoder.input_px)
        return cls(aligned.picture, model, detector, cancel_check)

    def swap_into(self, target: Picture, select: FaceSelector | None = None) -> Image.Image:
        """Put the source's identity into the selected faces (None: the only one); other pixels stay the target's.

        Returns:
            RGB of the target's size, or RGBA with its transparency, and with its colour profile.
        Raises:
            SwapError: no face, or it is not clear which is meant.
        """
        self.cancel_check()
        photograph = target.opaque()
        faces = face_selector.left_to_right(finder.find(self.detector, photograph), "target")
        result = target.rgb
        for face in (select or face_selector.single_face("target"))(photograph, faces):
            self.cancel_check()
            aligned = align_face(photograph, face.points_px, self.model.encoder.input_px)
            swapped = match_colour(swap_aligned(self.face, aligned.picture, self.model), aligned.picture)
            if target.grey:
                swapped = swapped.convert("L").convert("RGB")
            result = paste(swapped, result, aligned.quad)
        return target.with_colours(result)


def swap_faces(
    source: Photograph,
    target: Photograph,
    *,
    model: Swapper | Path | str | None = None,
    detector: Detector | Path | None = None,
    source_face: int | None = None,
    target_face: int | None = None,
    target_like: Photograph | None = None,
    all_faces: bool = False,
    settings: Config | Path = Path("params.yaml"),
) -> Image.Image:
    """Put the source's identity into the target's face.

    Args:
        source, target, target_like: files or pictures of any common kind and size; they are turned upright first.
        model: a loaded one, a folder, an alias or number of the registry, or "starter"; None is the champion, else
            the candidate, else the starter.
        detector: a loaded one, or a file for the kind that align.detector names (else MediaPipe's or YuNet's); None
            is the run's own, or MediaPipe's is fetched once.
        source_face, target_face: which face, counted from the left, from 0; needed where there are several.
        target_like: a picture of the person whose face in the target is meant.
        all_faces: every face of the target.
        settings: of the project, or their file.
    Returns:
        a picture of the target's size and colours, RGB or RGBA; outside the swapped face every pixel is the
        target's. It has no marks yet: write it with `styleblend.provenance.save_picture`.
    Raises:
        StyleBlendError: a picture, the model or the detector cannot be used, no face was found, or it is not clear
            which face is meant. `styleblend.swapping.errors` has the types and their fields.
    """
    cfg = settings if isinstance(settings, Config) else load_params(settings)
    limit = cfg.align.max_pixels
    pictures = [_as_picture(each, limit) for each in (source, target)]
    if detector is None or isinstance(detector, Path):
        detector = find_detector(cfg, detector)
    reference = None if target_like is None else _as_picture(target_like, limit)
    of_target = target_selector(cfg, detector, target_face, reference, all_faces)
    if model is None or isinstance(model, (str, Path)):
        model, _ = find_model(cfg, None if model is None else str(model))
    of_source = None if source_face is None else face_selector.face_number("source", source_face)
    return FaceSwapper.from_source(pictures[0], model, detector, of_source).swap_into(pictures[1], of_target)


def target_selector(
    cfg: Config, detector: Detector, number: int | None, reference: Picture | None, every: bool
) -> FaceSelector:
    """Make the selector of the target's faces; without any choice the target must have one face.

    Raises:
        ConflictingChoice: more than one choice was made.
        NoFace, SeveralFaces: `reference` does not show one face.
    """
    choices = {"target_face": number is not None, "target_like": reference is not None, "all_faces": every}
    if sum(choices.values()) > 1:
        raise ConflictingChoice([name for name, given in choices.items() if given])
    if every:
        return face_selector.every_face
    if number is not None:
        return face_selector.face_number("target", number)
    if reference is not None:
        photograph = reference.opaque()
        return ReferenceSelector.from_picture(photograph, finder.find(detector, photograph), find_identity(), cfg.swap)
    return face_selector.single_face("target")


@torch.inference_mode()
def swap_aligned(source: Image.Image, target: Image.Image, model: Swapper) -> Image.Image:
    """Run the model on two aligned RGB faces of any size; returns its whole RGB picture, at its own resolution."""
    side, device = model.encoder.input_px, next(model.parameters()).device
    drawn = model(*(square_tensor(face, side).to(device) for face in (source, target)))
    return Image.fromarray(to_8bit(drawn[0]).permute(1, 2, 0).cpu().contiguous().numpy())


def read_picture(path: Path, max_pixels: int) -> Picture:
    """Read an upright picture of any common format and mode.

    Raises:
        SwapError: the file is missing, no picture, or too large.
    """
    # Those of pathlib raise an error at a name that is too long.
    if not os.path.isfile(path):
        what = "is a folder" if os.path.isdir(path) else "is no file" if os.path.exists(path) else "does not exist"
        raise SwapError(f"{path} {what}: name a picture file")
    try:
        return open_picture(path, max_pixels)
    except UnusablePicture as reason:
        raise SwapError(f"{path}: {reason}; give another picture") from None


def _as_picture(given: Photograph, max_pixels: int) -> Picture:
    if isinstance(given, Picture):
        return given
    if isinstance(given, Image.Image):
        try:
            return as_picture(given, max_pixels)
        except UnusablePicture as reason:
            raise SwapError(f"a picture: {reason}; give another") from None
    return read_picture(Path(given), max_pixels)
