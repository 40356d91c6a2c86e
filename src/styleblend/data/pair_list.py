"""Written lists of (source, target) pairs, as benchmarks publish them, and where each pair's swapped picture lies.

| Ending | Form |
|---|---|
| `.csv` | columns `source`, `target`; also `swapped`, `source_person`, `target_person` |
| `.txt` | a pair a line: source, target and perhaps the swapped picture, with blanks between; `#` begins a comment |
| `.json` | FaceForensics++: `[["000", "003"], ...]`, each a swap in both directions, pictures in folders of frames |

Pictures are named relative to one folder, swapped ones relative to the folder of each method. Where a list names no
swapped picture, it is SOURCE_TARGET with any usual ending, from both names without folder and ending.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from styleblend.errors import StyleBlendError

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
_SHOWN = 3
_COLUMNS = ("source", "target", "swapped", "source_person", "target_person")


@dataclass(frozen=True)
class ListedPair:
    """One pair: names of pictures as the list has them.

    swapped: without an ending where the list names none. Persons are the pictures' own names where it says none: then
    each picture shows another person.
    """

    source: str
    target: str
    swapped: str
    source_person: str
    target_person: str


def read_pair_list(file: Path, pictures: Path, frames: int = 10) -> list[ListedPair]:
    """The pairs of a list, in its order.

    Args:
        pictures: folder of the pictures that it names.
        frames: of each sequence in a FaceForensics list, evenly spaced.
    Raises:
        StyleBlendError: the file is missing, empty or of another form, or a pair or a swapped name stands there twice.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise StyleBlendError(f"{file} is missing: name a list of pairs (.csv, .txt or .json)") from None
    except (OSError, UnicodeDecodeError) as error:
        raise StyleBlendError(f"{file} cannot be read as text ({error}): give a list of pairs") from None
    readers = {
        ".csv": _of_csv,
        ".txt": _of_lines,
        ".json": lambda text, file: _of_sequences(text, file, pictures, frames),
    }
    if file.suffix.lower() not in readers:
        raise StyleBlendError(f"{file} ends in '{file.suffix}': give a list of pairs as {', '.join(readers)}")
    pairs = list(readers[file.suffix.lower()](text, file))
    if not pairs:
        raise StyleBlendError(f"{file} holds no pair: give a source and a target in every row")
    _refuse_repeats(file, "pair", [f"{pair.source}, {pair.target}" for pair in pairs], "leave one out")
    _refuse_repeats(file, "swapped picture", [pair.swapped for pair in pairs], "name each in a column 'swapped'")
    return pairs


def named(problems: Sequence[str]) -> str:
    """The first few of a list of names, and how many more there are."""
    more = len(problems) - _SHOWN
    return ", ".join(problems[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def require_pictures(file: Path, pairs: Iterable[ListedPair], pictures: Path) -> None:
    """Refuse a list that names pictures that are not there.

    Raises:
        StyleBlendError: names some and counts all.
    """
    names = sorted({name for pair in pairs for name in (pair.source, pair.target)})
    missing = [name for name in names if not (pictures / name).is_file()]
    if missing:
        raise StyleBlendError(
            f"{file} names {len(missing)} of {len(names)} pictures that are not in {pictures}: {named(missing)}; put "
            "them there, or name their folder with --pictures"
        )


def swapped_files(method: str, pairs: Sequence[ListedPair], folder: Path) -> list[Path]:
    """The swapped picture of every pair in a method's folder.

    Raises:
        StyleBlendError: the folder is missing or has gaps; names some and counts all.
    """
    if not folder.is_dir():
        raise StyleBlendError(f"swaps '{method}': {folder} is no folder; name the one with its swapped pictures")
    found = [_swapped_file(folder, pair.swapped) for pair in pairs]
    missing = [pair.swapped for pair, file in zip(pairs, found, strict=True) if file is None]
    if missing:
        raise StyleBlendError(
            f"swaps '{method}': {len(missing)} of {len(pairs)} swapped pictures are not in {folder}: {named(missing)}; "
            "make them, or leave their pairs out of the list, for all methods are measured on the same pairs"
        )
    return [file for file in found if file is not None]


def _swapped_file(folder: Path, name: str) -> Path | None:
    candidates = [folder / name, *(folder / f"{name}{ending}" for ending in ENDINGS)]
    return next((file for file in candidates if file.is_file()), None)


def _pair(source: str, target: str, swapped: str = "", source_person: str = "", target_person: str = "") -> ListedPair:
    name = swapped or f"{Path(source).stem}_{Path(target).stem}"
    return ListedPair(source, target, name, source_person or source, target_person or target)


def _of_csv(text: str, file: Path) -> Iterator[ListedPair]:
    reader = csv.DictReader(text.splitlines(), skipinitialspace=True)
    heads = reader.fieldnames or []
    if not {"source", "target"} <= set(heads):
        raise StyleBlendError(
            f"{file} has the columns {', '.join(heads) or 'none'}: name two of them source and target"
        )
    for row in reader:
        values = [(row.get(column) or "").strip() for column in _COLUMNS]
        if not (values[0] and values[1]):
            raise StyleBlendError(f"{file}, line {reader.line_num}, lacks a source or a target: give both")
        yield _pair(*values)


def _of_lines(text: str, file: Path) -> Iterator[ListedPair]:
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.partition("#")[0].split()
        if not words or (number == 1 and words[:2] == ["source", "target"]):
            continue
        if not 2 <= len(words) <= 3:
            raise StyleBlendError(
                f"{file}, line {number}, has {len(words)} words: give source, target and perhaps swapped"
            )
        yield _pair(*words)


def _of_sequences(text: str, file: Path, pictures: Path, frames: int) -> Iterator[ListedPair]:
    """FaceForensics++: the swap of [a, b] is a_b, target a with the face of b, and b_a; frames go by their names."""
    try:
        listed = json.loads(text)
    except ValueError as error:
        raise StyleBlendError(f"{file} is not valid JSON ({error}): give pairs of sequences") from None
    ok = isinstance(listed, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in listed)
    if not ok:
        raise StyleBlendError(f'{file} holds no pairs of sequences: give [["000", "003"], ...] as FaceForensics++ does')
    for first, second in listed:
        for target, source in ((str(first), str(second)), (str(second), str(first))):
            of_target, of_source = (_frames(pictures, name, frames) for name in (target, source))
            for number, frame in enumerate(of_target):
                # The k-th of a sequence's frames gets its face from the k-th of the other's.
                face = of_source[min(number, len(of_source) - 1)]
                inside = Path(frame).relative_to(target).with_suffix("") if "/" in frame else Path()
                yield ListedPair(face, frame, str(Path(f"{target}_{source}") / inside), source, target)


def _frames(pictures: Path, sequence: str, frames: int) -> list[str]:
    """Names of a sequence's evenly spaced frames, or of its one picture."""
    files = sorted(file for file in (pictures / sequence).glob("*") if file.suffix.lower() in ENDINGS)
    if not files:
        single = [f"{sequence}{ending}" for ending in ENDINGS if (pictures / f"{sequence}{ending}").is_file()]
        if not single:
            raise StyleBlendError(
                f"sequence '{sequence}' has no frames in {pictures}: put them into {pictures / sequence}"
            )
        return single[:1]
    chosen = np.linspace(0, len(files) - 1, min(frames, len(files))).round().astype(int)
    return [files[k].relative_to(pictures).as_posix() for k in chosen]


def _refuse_repeats(file: Path, what: str, names: Sequence[str], remedy: str) -> None:
    seen: set[str] = set()
    repeated = [name for name in names if name in seen or seen.add(name)]  # type: ignore[func-returns-value]
    if repeated:
        raise StyleBlendError(f"{file} has the {what} '{repeated[0]}' twice ({len(repeated)} repeats): {remedy}")
