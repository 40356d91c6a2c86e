"""Which pictures lie in a folder, and what else is passed over; without pandas, for commands that only count them."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from styleblend.config.sources import Download
from styleblend.errors import StyleBlendError, shown
from styleblend.faces.picture_kinds import endings, unread_kind

_NAMED = 3
"""Files that a line of text names before it only counts."""


@dataclass(frozen=True)
class PassedOver:
    """A file or folder that is not read: where it is below the folder, why, and what to count it as.

    is_picture: whether it is, or may hold, a picture that somebody would miss.
    """

    relative: Path
    reason: str
    group: str
    is_picture: bool


@dataclass(frozen=True)
class Found:
    """What lies in a folder and below it, each sorted by path; all paths are relative to the folder.

    links: linked folders that were followed. hidden: files and folders whose names begin with a dot; they are only
    counted.
    """

    pictures: tuple[Path, ...]
    passed_over: tuple[PassedOver, ...] = ()
    links: tuple[Path, ...] = ()
    hidden: int = 0

    def lines(self, watched: bool = True) -> Iterator[str]:
        """What a person should know of what was passed over, a line each; none where all was read.

        Args:
            watched: the folder is one of a run's, at which DVC looks for changes.
        """
        missed = [each for each in self.passed_over if each.is_picture]
        if missed:
            names = _some([each.relative for each in missed])
            yield f"{len(missed)} passed over that may be pictures ({_counted(missed)}), as {names}"
        if others := [each for each in self.passed_over if not each.is_picture]:
            yield f"{len(others)} passed over that are no pictures by their endings ({_counted(others)})"
        if self.hidden:
            yield f"{self.hidden} hidden files or folders passed over"
        if self.links and watched:
            yield (
                f"{len(self.links)} linked folders are read ({_some(self.links)}), but `dvc repro` does not notice when"
                " pictures in them change: run `dvc repro -f download` then"
            )


def _counted(passed_over: Iterable[PassedOver]) -> str:
    counts = Counter(each.group for each in passed_over)
    ordered = sorted(counts.items(), key=lambda each: (-each[1], each[0]))
    rest = sum(count for _, count in ordered[8:])
    return ", ".join([*(f"{count} {shown(group)}" for group, count in ordered[:8]), *([f"{rest} others"] * bool(rest))])


def _some(paths: Sequence[Path]) -> str:
    named = ", ".join(shown(path) for path in paths[:_NAMED])
    return f"{named} and {len(paths) - _NAMED} more" if len(paths) > _NAMED else named


def present(cfg: Download, project: Path = Path()) -> Iterator[str]:
    """Lines on each folder or archive of photographs that the settings name: what is there, and what is passed over.

    Raises:
        StyleBlendError: one is missing, or a folder without a picture, or with names that DVC cannot watch.
    """
    for place in cfg.places:
        found = project / place
        if os.path.isfile(found):
            yield f"{shown(place)}: an archive of {found.stat().st_size / 1e6:.1f} MB"
            continue
        there = list_folder(found)
        yield f"{shown(place)}: {len(there.pictures)} pictures"
        yield from (f"{shown(place)}: {line}" for line in there.lines())
        expect_watchable(found)


def list_folder(folder: Path) -> Found:
    """What lies in `folder` at any depth; hidden files and folders are only counted.

    Raises:
        StyleBlendError: the folder is missing, is a file, or holds no picture.
    """
    if not os.path.isdir(folder):
        what = "is a file, not a folder" if os.path.exists(folder) else "does not exist"
        raise StyleBlendError(f"{folder} {what}: set download.sources path to a folder with photographs")
    found = look_below(folder)
    if not found.pictures:
        raise StyleBlendError(f"{no_picture(folder, found)}: put photographs there")
    return found


def list_pictures(folder: Path) -> list[Path]:
    """The pictures of `list_folder`, which says what it raises."""
    return list(list_folder(folder).pictures)


def no_picture(folder: Path, found: Found) -> str:
    """That a folder holds no picture, with the endings that would be read and what there is instead."""
    kinds = ", ".join(sorted(ending[1:] for ending in endings()))
    instead = "".join(f"; {line}" for line in found.lines())
    return f"{folder} and its sub-folders hold no picture ({kinds}){instead}"


def expect_watchable(folder: Path) -> None:
    """DVC, which watches folders of photographs, reads names as UTF-8 alone, and ends the run at any other.

    Raises:
        StyleBlendError: there are such names.
    """
    odd: list[Path] = []
    # As DVC looks: hidden files count, linked folders are not followed.
    for place, folders, names in os.walk(folder):
        odd += [Path(place, name).relative_to(folder) for name in (*folders, *names) if not _is_utf8(name)]
    if odd:
        raise StyleBlendError(
            f"{folder} has {len(odd)} names that are not UTF-8, which DVC cannot watch ({_some(sorted(odd))}): rename"
            " them, as `convmv -r -f latin1 -t utf8 --notest` does, or pack the folder into a tar file and name that"
        )


def _is_utf8(name: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in name)


def look_below(folder: Path) -> Found:
    """Everything in `folder` and below it; linked folders are followed, each folder once."""
    pictures: list[Path] = []
    passed_over: list[PassedOver] = []
    followed: list[Path] = []
    hidden = 0
    root = Path(os.path.realpath(folder))
    # A link to a folder around this one would take in what nobody has named.
    around = {_identity(parent) for parent in root.parents}
    seen: set[tuple[int, int] | None] = set()
    linked = [Path()]
    while linked:
        # Real folders come before linked ones: a picture that can be reached both ways has its real path.
        top = linked.pop(0)
        identity = _identity(folder / top)
        if identity in seen or identity in around:
            what = "is read already" if identity in seen else "holds the one that is read"
            passed_over.append(PassedOver(top, f"a link to a folder that {what}", "links in a circle", False))
            continue
        if top != Path():
            followed.append(top)

        def unreadable(error: OSError) -> None:
            relative = Path(os.path.relpath(error.filename, folder))
            reason = f"the folder cannot be read ({error.strerror})"
            passed_over.append(PassedOver(relative, reason, "unreadable folders", True))

        below: list[Path] = []
        for place, folders, names in os.walk(folder / top, onerror=unreadable):
            here = Path(place).relative_to(folder)
            if (identity := _identity(Path(place))) in seen:
                folders.clear()
                continue
            seen.add(identity)
            hidden += sum(name.startswith(".") for name in (*folders, *names))
            visible = sorted(name for name in folders if not name.startswith("."))
            below += [here / name for name in visible if os.path.islink(Path(place, name))]
            folders[:] = [name for name in visible if not os.path.islink(Path(place, name))]
            for name in names:
                if name.startswith("."):
                    continue
                refused = _refused(Path(place, name), here / name)
                if refused is None:
                    pictures.append(here / name)
                else:
                    passed_over.append(refused)
        linked += sorted(below)
    return Found(
        tuple(sorted(pictures)),
        tuple(sorted(passed_over, key=lambda each: each.relative)),
        tuple(sorted(followed)),
        hidden,
    )


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        facts = folder.stat()
    except OSError:
        return None
    return facts.st_dev, facts.st_ino


def _refused(file: Path, relative: Path) -> PassedOver | None:
    """Why a file is not read; None: it is one to be read."""
    ending = file.suffix.lower()
    is_read, kind = ending in endings(), unread_kind(ending)
    is_picture = is_read or kind is not None
    try:
        mode = file.stat().st_mode
    except OSError as error:
        if file.is_symlink():
            return PassedOver(relative, "a link that leads nowhere", "broken links", is_picture)
        return PassedOver(relative, f"cannot be read ({error.strerror})", "unreadable", is_picture)
    # Reading a pipe or a device may never end.
    if not stat.S_ISREG(mode):
        return PassedOver(relative, "a pipe, socket or device, not a file", "pipes or devices", is_picture)
    if is_read:
        return None
    if kind is not None:
        reason = f"{kind} ({ending}) is not read: save it as JPEG or PNG"
        return PassedOver(relative, reason, ending, True)
    reason = f"the ending '{ending}' is no picture's" if ending else "it has no ending that says it is a picture"
    return PassedOver(relative, f"{reason}: rename it if it is one", ending or "without an ending", False)
