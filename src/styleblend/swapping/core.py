"""From photographs to a photograph: one source's face, put into the faces of a target."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from styleblend.config.params import Config, load_params
from styleblend.face_detector.detection import Detector
from styleblend.faces.alignment import align_face
from styleblend.faces.pictures import Picture, UnusablePicture, as_picture, open_picture
from styleblend.faces.pixels import from_8bit, to_8bit
from styleblend.model import Swapper
from styleblend.swapping.face_selector import (
    Choose,
    Likeness,
    SwapError,
    every_face,
    from_left,
    numbered,
    the_only_face,
)
from styleblend.swapping.loaders import find_detector, find_identity, find_model
from styleblend.swapping.paste_back import match_colour, paste

Photograph = str | Path | Image.Image | Picture


@dataclass(frozen=True)
class Swapping:
    """A source's face, ready to be put into any number of targets. `face` is aligned, `model` in eval mode.

    `go_on` is called before each step that takes long (finding faces, a face): what it raises ends the work.
    """

    face: Image.Image
    model: Swapper
    detector: Detector
    go_on: Callable[[], None] = lambda: None

    @classmethod
    def of(
        cls,
        source: Picture,
        model: Swapper,
        detector: Detector,
        choose: Choose | None = None,
        go_on: Callable[[], None] = lambda: None,
    ) -> Swapping:
        """Find the source's face; `choose` is needed where there are several.

        Raises:
            SwapError: no face, or it is not clear which is meant.
        """
        go_on()
        photograph = source.opaque()
        faces = from_left(detector.detect(photograph), "the source picture")
        chosen = (choose or the_only_face("source"))(photograph, faces)[0]
        return cls(align_face(photograph, chosen.points_px, model.encoder.input_px).picture, model, detector, go_on)

    def into(self, target: Picture, choose: Choose | None = None) -> Image.Image:
        """The target with the source's identity in the chosen faces; in every other pixel it is the target.

        Returns:
            RGB of the target's size, or RGBA with its transparency, and with its colour profile.
        Raises:
            SwapError: no face, or it is not clear which is meant.
        """
        self.go_on()
        photograph = target.opaque()
        faces = from_left(self.detector.detect(photograph), "the target picture")
        result = target.rgb
        for face in (choose or the_only_face("target"))(photograph, faces):
            self.go_on()
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
    """The target photograph with the source's identity in its face.

    Args:
        source, target, target_like: files or pictures of any common kind and size, turned upright first.
        model: a loaded one, a folder, or an alias or number of the registry; None is the champion.
        detector: a loaded one, or the file of the kind that align.detector names (else YuNet's); None is the run's
            own, or YuNet is fetched once.
        source_face, target_face: which face, counted from the left, from 0; needed where there are several.
        target_like: a picture of the person whose face in the target is meant.
        all_faces: every face of the target.
        settings: of the project, or their file.
    Returns:
        a picture of the target's size and colours, RGB or RGBA; outside the swapped face every pixel is the
        target's. It bears no marks yet: write it with `styleblend.provenance.save_picture`.
    Raises:
        StyleBlendError: a picture, the model or the detector cannot be used, no face was found, or it is not clear
            which face is meant; the message says what to do.
    """
    cfg = settings if isinstance(settings, Config) else load_params(settings)
    limit = cfg.align.max_pixels
    pictures = [_as_picture(each, limit) for each in (source, target)]
    if detector is None or isinstance(detector, Path):
        detector = find_detector(cfg, detector)
    likeness_to = None if target_like is None else _as_picture(target_like, limit)
    into = choose_target(cfg, detector, number=target_face, like=likeness_to, every=all_faces)
    if model is None or isinstance(model, (str, Path)):
        model, _ = find_model(cfg.tracking, None if model is None else str(model))
    out_of = None if source_face is None else numbered("source", source_face)
    return Swapping.of(pictures[0], model, detector, out_of).into(pictures[1], into)


def choose_target(cfg: Config, detector: Detector, *, number: int | None, like: Picture | None, every: bool) -> Choose:
    """How the face of a target is chosen, by the one way that was given; without any it must be the only one.

    Raises:
        SwapError: two ways were given, or `like` does not show one face.
    """
    if (number is not None) + (like is not None) + every > 1:
        raise SwapError("--target-face, --target-like and --all-faces exclude one another: give one of them")
    if every:
        return every_face
    if number is not None:
        return numbered("target", number)
    if like is not None:
        photograph = like.opaque()
        return Likeness.to(photograph, detector.detect(photograph), find_identity(), cfg.swap)
    return the_only_face("target")


@torch.inference_mode()
def swap_aligned(source: Image.Image, target: Image.Image, model: Swapper) -> Image.Image:
    """The whole picture that the model draws, at its own resolution, from two aligned RGB faces of any size."""
    side = model.encoder.input_px
    device = next(model.parameters()).device
    source_face, target_face = (
        from_8bit(torch.from_numpy(np.array(face.resize((side, side), Image.Resampling.LANCZOS)))).to(device)
        for face in (source, target)
    )
    drawn = model(source_face.permute(2, 0, 1)[None], target_face.permute(2, 0, 1)[None])
    return Image.fromarray(to_8bit(drawn[0]).permute(1, 2, 0).cpu().contiguous().numpy())


def read_picture(path: Path, max_pixels: int) -> Picture:
    """An upright picture of any common format and mode.

    Raises:
        SwapError: the file is missing, no picture, or too large.
    """
    if not path.is_file():
        raise SwapError(f"{path} {'is a folder' if path.is_dir() else 'does not exist'}: name a picture file")
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
