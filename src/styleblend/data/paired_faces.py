"""Pictures of a pair list as the evaluation reads a split: aligned faces, what networks see in them, and the swaps.

Sources and targets are aligned by their own faces, the largest of each picture; a swapped picture is cut out where its
target's face is, so a swap that moves the face is measured as one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from PIL import Image

from styleblend.config.data import MAX_PIXELS, Perceive
from styleblend.data import perceived
from styleblend.data.pair_list import ListedPair, named
from styleblend.errors import StyleBlendError
from styleblend.face_detector import finder
from styleblend.face_detector.detection import Detector
from styleblend.faces.alignment import AlignmentError, Points, align_face, crop
from styleblend.faces.pictures import UnusablePicture, open_picture

_ORIENTATION = 0x0112


@dataclass(frozen=True)
class Cutting:
    """How faces are cut out.

    pictures: folder of sources and targets. size_px: side of the faces.
    detector: None where pictures are aligned faces already.
    """

    pictures: Path
    size_px: int
    detector: Detector | None
    max_pixels: int = MAX_PIXELS


def require_sizes(pairs: Sequence[ListedPair], swaps: Mapping[str, Sequence[Path]], cutting: Cutting) -> None:
    """Refuse swapped pictures of another size than their targets, by the files' heads, before anything is decoded.

    Raises:
        StyleBlendError: names some and counts all.
    """
    for method, files in swaps.items():
        wrong = []
        for pair, file in zip(pairs, files, strict=True):
            own, wanted = _size(file), _size(cutting.pictures / pair.target)
            if own != wanted:
                wrong.append(f"{file.name} {own[0]}x{own[1]} for {wanted[0]}x{wanted[1]}")
        if wrong:
            raise StyleBlendError(
                f"swaps '{method}': {len(wrong)} of {len(files)} pictures have not the size of their targets: "
                f"{named(wrong)}; a swapped picture is the target's with another face, so give it at that size"
            )


def write(
    pairs: Sequence[ListedPair], swaps: Mapping[str, Sequence[Path]], cutting: Cutting, networks: Path, out: Path,
    device: str = "cpu",
) -> dict[str, list[Path]]:  # fmt: skip
    """Write faces/, perceived.parquet and splits/ below `out`, as the stages do for the split `test`.

    A face's id is the name of its picture.

    Args:
        swaps: method to its swapped pictures, in the order of the pairs. networks: the run's frozen ones.
    Returns:
        method to the files of its aligned swaps, in the order of the pairs.
    Raises:
        StyleBlendError: pictures cannot be read or show no face; names some and counts all.
    """
    images = out / "faces/images"
    images.mkdir(parents=True)
    persons = {pair.source: pair.source_person for pair in pairs} | {pair.target: pair.target_person for pair in pairs}
    quads: dict[str, Points | None] = {}
    refused: list[str] = []
    for number, name in enumerate(persons):
        try:
            face, quads[name] = _cut(cutting, cutting.pictures / name)
            face.save(images / f"{number}.png")
        except (UnusablePicture, AlignmentError) as reason:
            refused.append(f"{name} ({' '.join(str(reason).split())})")
    if refused:
        raise StyleBlendError(
            f"{len(refused)} of {len(persons)} pictures give no face: {named(refused)}; leave their pairs out of the "
            "list, or say --aligned where all pictures are aligned faces"
        )
    cut = {
        method: [
            _cut_swap(cutting, file, quads[pair.target], out / "swaps" / method / f"{number}.png")
            for number, (pair, file) in enumerate(zip(pairs, files, strict=True))
        ]
        for method, files in swaps.items()
    }
    rows = [
        {"face_id": name, "path": f"images/{number}.png", "source": "pairs", "render_seed": None}
        for number, name in enumerate(persons)
    ]
    pd.DataFrame(rows).to_parquet(out / "faces/manifest.parquet", index=False)
    perceived.perceive_faces(
        out / "faces", perceived.load_networks(networks, device), out / "perceived.parquet", Perceive(), device
    )
    (out / "splits").mkdir()
    members = pd.DataFrame({"face_id": list(persons), "person": list(persons.values())})
    members.to_parquet(out / "splits/test.parquet", index=False)
    listed = pd.DataFrame({"source_id": [p.source for p in pairs], "target_id": [p.target for p in pairs]})
    listed.to_parquet(out / "splits/test_pairs.parquet", index=False)
    return cut


def _cut(cutting: Cutting, file: Path) -> tuple[Image.Image, Points | None]:
    """The face of a picture, and its quad; None where the whole picture is the face."""
    image = open_picture(file, cutting.max_pixels).opaque()
    if cutting.detector is None:
        return _whole(image, cutting.size_px), None
    found = finder.find(cutting.detector, image)
    if not found.faces:
        raise UnusablePicture(found.problem or "no face found")
    aligned = align_face(image, found.faces[0].points_px, cutting.size_px)
    return aligned.picture, aligned.quad


def _whole(image: Image.Image, size_px: int) -> Image.Image:
    if image.width != image.height:
        raise UnusablePicture(f"{image.width}x{image.height} is not square, as aligned faces are")
    return image if image.width == size_px else image.resize((size_px, size_px), Image.Resampling.LANCZOS)


def _cut_swap(cutting: Cutting, file: Path, quad: Points | None, out: Path) -> Path:
    try:
        image = open_picture(file, cutting.max_pixels).opaque()
    except UnusablePicture as reason:
        raise StyleBlendError(f"swapped picture {file}: {reason}; make it again") from None
    face = _whole(image, cutting.size_px) if quad is None else crop(image, quad, cutting.size_px)
    out.parent.mkdir(parents=True, exist_ok=True)
    face.save(out)
    return out


def _size(file: Path) -> tuple[int, int]:
    """Width and height of the upright picture."""
    try:
        with Image.open(file) as image:
            turned = image.getexif().get(_ORIENTATION, 1) >= 5
            return (image.height, image.width) if turned else image.size
    except (OSError, SyntaxError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise StyleBlendError(f"{file} cannot be read as a picture ({reason}): make it again") from None
