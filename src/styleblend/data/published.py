"""FFHQ and CelebA-HQ as their authors publish them: which files are faces, whose, under which licence, with which
landmarks.

Nothing is downloaded here: both sets are given on terms that a person accepts. Their folders are read as they are.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from styleblend.config import CelebaHqSource, FfhqSource
from styleblend.errors import StyleBlendError

FFHQ_LICENCE = "CC BY-NC-SA 4.0 as a whole; each picture has a licence of its own"
FFHQ_TERMS = "not to be used to develop or improve face recognition"
CELEBA_LICENCE = "CelebA agreement"
CELEBA_TERMS = "non-commercial research, no further copying or publishing of any portion"

NUMBERED = re.compile(r"(?:img)?(\d+)\.(?:png|jpe?g|webp)", re.IGNORECASE)
NON_COMMERCIAL = re.compile(r"non-?commercial|\bnc\b", re.IGNORECASE)
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


def numbered(folder: Path) -> dict[int, Path]:
    """Pictures below `folder` whose names are numbers (`00012.png`, `7.jpg`, `img00000007.png`), by number.

    Raises:
        StyleBlendError: there is none, or two have the same number.
    """
    if not folder.is_dir():
        raise StyleBlendError(f"{folder} is no folder: set the path of the source to the one with the data set")
    found: dict[int, Path] = {}
    for file in sorted(folder.rglob("*")):
        match = NUMBERED.fullmatch(file.name)
        if match is None or not file.is_file():
            continue
        number, relative = int(match[1]), file.relative_to(folder)
        if number in found:
            raise StyleBlendError(
                f"{folder} has two pictures with number {number}, {found[number]} and {relative}: name the folder of "
                "one resolution"
            )
        found[number] = relative
    if not found:
        raise StyleBlendError(f"{folder} holds no picture whose name is a number: name the folder with 00000.png or so")
    return found


def ffhq(source: FfhqSource) -> list[Listed]:
    """The pictures of FFHQ, aligned or in the wild, ordered by number.

    With ffhq-dataset-v2.json each has its own licence, author, page, checksum and landmarks; without it the licence
    is that of the whole set, and a detector has to find the landmarks.

    Raises:
        StyleBlendError: pictures are missing, the JSON is not that of FFHQ or does not know a picture, or no picture
            has a permissive licence where those alone are wanted.
    """
    pictures = numbered(source.path)
    if source.metadata is None:
        if source.licences == "permissive":
            raise StyleBlendError(
                f"source '{source.name}': licences 'permissive' needs metadata, the path of ffhq-dataset-v2.json, "
                "for only that tells the licence of a picture"
            )
        return [Listed(path, licence=FFHQ_LICENCE, terms=FFHQ_TERMS) for _, path in sorted(pictures.items())]
    known = _ffhq_metadata(source.metadata)
    unknown = [number for number in sorted(pictures) if str(number) not in known]
    if unknown:
        raise StyleBlendError(
            f"{source.metadata} does not know picture {unknown[0]} of {source.path} (and {len(unknown) - 1} more): "
            "give the JSON that belongs to these pictures"
        )
    listed = []
    for number, path in sorted(pictures.items()):
        entry = known[str(number)]
        licence = entry["metadata"]["license"]
        if source.licences == "permissive" and NON_COMMERCIAL.search(licence):
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
        raise StyleBlendError(f"none of the {len(pictures)} pictures of {source.path} has a permissive licence")
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


def celeba_hq(source: CelebaHqSource) -> list[Listed]:
    """The pictures of CelebA-HQ, ordered by number, with the person of each where mapping and identities are given.

    Raises:
        StyleBlendError: pictures or files are missing, or do not fit together.
    """
    pictures = numbered(source.path)
    persons = _celeba_persons(source, sorted(pictures)) if source.mapping and source.identities else {}
    return [
        Listed(path, person=persons.get(number), licence=CELEBA_LICENCE, terms=CELEBA_TERMS)
        for number, path in sorted(pictures.items())
    ]


def _celeba_persons(source: CelebaHqSource, numbers: list[int]) -> dict[int, str]:
    assert source.mapping is not None and source.identities is not None
    original = {int(row[0]): row[2] for row in _rows(source.mapping, columns=3, header=True)}
    person = {row[0]: row[1] for row in _rows(source.identities, columns=2, header=False)}
    persons = {}
    for number in numbers:
        file = original.get(number - source.numbered_from)
        if file is None:
            raise StyleBlendError(
                f"{source.mapping} has no line for picture {number} of {source.path}: give the mapping of the whole "
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
