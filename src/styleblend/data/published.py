"""FFHQ and CelebA-HQ as published: which files are faces, whose, under which licence, with which landmarks.

Nothing is downloaded here: both sets are given on terms that a person accepts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from styleblend.config.sources import CelebaHqSource, FfhqSource
from styleblend.data import licences
from styleblend.errors import StyleBlendError

FFHQ_LICENCE = "CC BY-NC-SA 4.0 as a whole; each picture has a licence of its own"
FFHQ_TERMS = "the set as a whole is CC BY-NC-SA 4.0; not to be used to develop or improve face recognition"
CELEBA_LICENCE = "CelebA agreement"
CELEBA_TERMS = "non-commercial research, no further copying or publishing of any portion"

Published = FfhqSource | CelebaHqSource

NUMBERED = re.compile(r"(?:img)?(\d+)\.(?:png|jpe?g|webp)", re.IGNORECASE)
FFHQ_JSON = "ffhq-dataset-v2.json"
CELEBA_MAPPING = "CelebA-HQ-to-CelebA-mapping.txt"
CELEBA_IDENTITIES = "identity_CelebA.txt"
FFHQ_FOLDERS = {"aligned": "images1024x1024", "in_the_wild": "in-the-wild-images", "resized": "thumbnails128x128"}
CELEBA_FOLDER = "CelebA-HQ-img"
NEEDED = re.compile(f"{NUMBERED.pattern}|{re.escape(CELEBA_MAPPING)}", re.IGNORECASE)
"""Names of the files of an archive that are read; CelebAMask-HQ.zip has half a million others."""
_FFHQ_SIDE_PX = 1024.0


@dataclass(frozen=True)
class Listed:
    """One picture of a data set: where it is below the source's folder, and what its authors say of it.

    landmarks: 68 points as x0, y0, x1, ..., in units of the picture's own pixels if `side_px` is None, else in those
    of a picture of that side; md5: of the file, where it is published
    """

    relative: Path
    person: str | None = None
    licence: str | None = None
    terms: str | None = None
    author: str | None = None
    url: str | None = None
    md5: str | None = None
    landmarks: tuple[float, ...] | None = field(default=None, repr=False)
    side_px: float | None = None


def companions(kind: Literal["ffhq", "celeba_hq"], place: Path) -> dict[str, Path]:
    """Settings of a source whose files lie, under their published names, beside a folder or archive or in it."""
    if kind == "ffhq":
        return _beside(place, {"metadata": FFHQ_JSON})
    found = _beside(place, {"mapping": CELEBA_MAPPING, "identities": CELEBA_IDENTITIES})
    return found if "identities" in found else {}


def _beside(place: Path, names: dict[str, str]) -> dict[str, Path]:
    folders = (place.parent, place)
    found = {key: [folder / name for folder in folders if (folder / name).is_file()] for key, name in names.items()}
    return {key: files[0] for key, files in found.items() if files}


def pictures_folder(source: Published, root: Path) -> Path:
    """The folder of the source's pictures, by its published name in `root` or one level deeper; else `root` itself.

    Raises:
        StyleBlendError: there are several of that name, or none at all.
    """
    if not root.is_dir():
        raise StyleBlendError(f"{root} is no folder: set the path of source '{source.name}' to the data set")
    name = SETS[source.kind].folder(source)
    found = [path for pattern in (name, f"*/{name}") for path in sorted(root.glob(pattern)) if path.is_dir()]
    if root.name != name and len(found) > 1:
        shown = " and ".join(str(path.relative_to(root)) for path in found[:2])
        raise StyleBlendError(f"{source.origin} has several folders {name}, {shown}: name one of them")
    return root if root.name == name or not found else found[0]


def numbered(folder: Path, origin: str) -> dict[int, Path]:
    """Pictures below `folder` whose names are numbers (`00012.png`, `7.jpg`, `img00000007.png`), by number.

    Args:
        origin: what a user calls the place, for messages.
    Raises:
        StyleBlendError: there is none, or two have the same number.
    """
    found: dict[int, Path] = {}
    for file in sorted(folder.rglob("*")):
        match = NUMBERED.fullmatch(file.name)
        if match is None or not file.is_file():
            continue
        number, relative = int(match[1]), file.relative_to(folder)
        if number in found:
            raise StyleBlendError(
                f"{origin} has two pictures with number {number}, {found[number]} and {relative}: name the folder of "
                "one resolution, or an archive of it alone"
            )
        found[number] = relative
    if not found:
        raise StyleBlendError(
            f"{origin} holds no picture whose name is a number: name the folder with 00000.png or so, or its archive"
        )
    return found


def ffhq(source: FfhqSource, folder: Path) -> list[Listed]:
    """The pictures of FFHQ below `folder`, aligned or in the wild, ordered by number.

    With ffhq-dataset-v2.json each has its own licence, author, page, checksum and landmarks; without it the licence
    is that of the whole set, and a detector has to find the landmarks.

    Raises:
        StyleBlendError: pictures are missing, the JSON is not that of FFHQ or does not know a picture, or no picture
            has a permissive licence where those alone are wanted.
    """
    pictures = numbered(folder, source.origin)
    if source.metadata is None:
        if source.licences == "permissive":
            raise StyleBlendError(
                f"source '{source.name}': licences 'permissive' needs metadata, the path of {FFHQ_JSON}, "
                "for only that tells the licence of a picture"
            )
        return [Listed(path, licence=FFHQ_LICENCE, terms=FFHQ_TERMS) for _, path in sorted(pictures.items())]
    known = _ffhq_metadata(source.metadata)
    unknown = [number for number in sorted(pictures) if str(number) not in known]
    if unknown:
        raise StyleBlendError(
            f"{source.metadata} does not know picture {unknown[0]} of {source.origin} (and {len(unknown) - 1} more): "
            "give the JSON that belongs to these pictures"
        )
    listed = []
    for number, path in sorted(pictures.items()):
        entry = known[str(number)]
        licence = entry["metadata"]["license"]
        if source.licences == "permissive" and licences.forbids(licence):
            continue
        shown = entry["in_the_wild" if source.form == "in_the_wild" else "image"]
        listed.append(
            Listed(
                path,
                licence=licence,
                terms=FFHQ_TERMS,
                author=entry["metadata"]["author"],
                url=entry["metadata"]["photo_url"],
                md5=shown["file_md5"] if source.form != "resized" else None,
                landmarks=tuple(float(value) for point in shown["face_landmarks"] for value in point),
                side_px=_FFHQ_SIDE_PX if source.form == "resized" else None,
            )
        )
    if not listed:
        raise StyleBlendError(f"none of the {len(pictures)} pictures of {source.origin} has a permissive licence")
    return listed


def _ffhq_metadata(file: Path) -> dict[str, Any]:
    try:
        known: dict[str, Any] = json.loads(file.read_text())
        first = next(iter(known.values()))
        for part, keys in (("metadata", ("license", "author", "photo_url")), ("image", ("file_md5", "face_landmarks"))):
            missing = [key for key in keys if key not in first[part]]
            if missing:
                raise KeyError(f"{part}.{missing[0]}")
    except OSError as error:
        raise StyleBlendError(f"{file} cannot be read ({error.strerror}): name ffhq-dataset-v2.json") from None
    except (ValueError, StopIteration, AttributeError, TypeError, KeyError) as error:
        raise StyleBlendError(f"{file} is not FFHQ's JSON ({error}): name ffhq-dataset-v2.json") from None
    return known


def celeba_hq(source: CelebaHqSource, folder: Path) -> list[Listed]:
    """The pictures of CelebA-HQ below `folder`, ordered by number, with the person of each where identities are given.

    A mapping that is not named is looked for where it is published: beside the folder of the pictures.

    Raises:
        StyleBlendError: pictures or files are missing, or do not fit together.
    """
    pictures = numbered(folder, source.origin)
    persons = _celeba_persons(source, folder, sorted(pictures)) if source.identities else {}
    return [
        Listed(path, person=persons.get(number), licence=CELEBA_LICENCE, terms=CELEBA_TERMS)
        for number, path in sorted(pictures.items())
    ]


def _celeba_persons(source: CelebaHqSource, folder: Path, numbers: list[int]) -> dict[int, str]:
    assert source.identities is not None
    mapping = source.mapping or _beside(folder, {"mapping": CELEBA_MAPPING}).get("mapping")
    if mapping is None:
        raise StyleBlendError(
            f"source '{source.name}' has identities, but {source.origin} comes without {CELEBA_MAPPING}: name that "
            "file in mapping, or set identities to null"
        )
    original = {int(row[0]): row[2] for row in _rows(mapping, columns=3, header=True)}
    person = {row[0]: row[1] for row in _rows(source.identities, columns=2, header=False)}
    persons = {}
    for number in numbers:
        file = original.get(number - source.numbered_from)
        if file is None:
            raise StyleBlendError(
                f"{mapping} has no line for picture {number} of {source.origin}: give the mapping of the whole "
                f"set, or numbered_from 1 if the first picture is 00001 (it is {source.numbered_from})"
            )
        if file not in person:
            raise StyleBlendError(f"{source.identities} has no line for {file}: give CelebA's identity_CelebA.txt")
        persons[number] = f"celeba-{person[file]}"
    return persons


def _rows(file: Path, columns: int, header: bool) -> list[list[str]]:
    try:
        lines = file.read_text().splitlines()
    except OSError as error:
        raise StyleBlendError(f"{file} cannot be read ({error.strerror}): name the file, or set it to null") from None
    rows = [line.split() for line in lines[int(header) :] if line.strip()]
    wrong = [row for row in rows if len(row) != columns or not row[0].removesuffix(".jpg").isdigit()]
    if wrong or not rows:
        shown = f"'{' '.join(wrong[0])}'" if wrong else "no line"
        raise StyleBlendError(f"{file} has {shown} where {columns} columns are expected: give the file as published")
    return rows


@dataclass(frozen=True)
class PublishedSet:
    """How a data set is read: its pictures, the name of their folder, and what its authors state of the whole."""

    pictures: Callable[[Any, Path], list[Listed]]
    folder: Callable[[Any], str]
    licence: str
    terms: str


# By the `kind` of a source. The functions are looked up when they are called.
SETS = {
    "ffhq": PublishedSet(
        lambda source, folder: ffhq(source, folder), lambda source: FFHQ_FOLDERS[source.form], FFHQ_LICENCE, FFHQ_TERMS
    ),
    "celeba_hq": PublishedSet(
        lambda source, folder: celeba_hq(source, folder), lambda source: CELEBA_FOLDER, CELEBA_LICENCE, CELEBA_TERMS
    ),
}
