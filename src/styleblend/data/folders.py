"""Which pictures lie in the folders that the settings name; without pandas, for commands that only count them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from styleblend.config.sources import Download
from styleblend.errors import StyleBlendError

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}


def present(cfg: Download, project: Path = Path()) -> Iterator[str]:
    """One line a folder or archive of photographs that the settings name: what is there.

    Raises:
        StyleBlendError: one is missing, or a folder without a picture.
    """
    for place in cfg.places:
        found = project / place
        if found.is_file():
            yield f"{place}: an archive of {found.stat().st_size / 1e6:.1f} MB"
        else:
            yield f"{place}: {len(list_pictures(found))} pictures"


def list_pictures(folder: Path) -> list[Path]:
    """Pictures at any depth below `folder`, as sorted relative paths; hidden files and folders do not count.

    Raises:
        StyleBlendError: the folder is missing, is a file, or holds no picture.
    """
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "does not exist"
        raise StyleBlendError(f"{folder} {what}: set download.sources path to a folder with photographs")
    found = pictures_below(folder)
    if not found:
        kinds = ", ".join(sorted(suffix[1:] for suffix in SUFFIXES))
        raise StyleBlendError(f"{folder} and its sub-folders hold no picture ({kinds}): put photographs there")
    return found


def pictures_below(folder: Path) -> list[Path]:
    """Paths, relative to `folder` and sorted, of the picture files in it and below it; hidden ones are left out."""
    found: list[Path] = []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [
            (Path(place) / name).relative_to(folder)
            for name in names
            if Path(name).suffix.lower() in SUFFIXES and not name.startswith(".")
        ]
    return sorted(found)
