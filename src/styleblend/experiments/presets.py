"""Presets: files of overrides that change params.yaml as a whole, checked before anything is written.

Presets do not pile up: each starts from the settings that params.yaml had before the first one, which are kept as
params.yaml.bak.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml

from styleblend.config.merge import is_section, merged
from styleblend.config.params import load_params, parse_params
from styleblend.data import published
from styleblend.errors import StyleBlendError
from styleblend.system.files import whole_file

MISSING = "(not set)"
NONE = "none"
"""Name that takes a preset back."""
MARK = "# Written by `styleblend preset"

RENAMED = {"photos": "faces"}
"""Presets of earlier versions, and those that took their places."""

Published = Literal["ffhq", "celeba_hq"]


class PresetError(StyleBlendError):
    """There is no such preset, or an option does not fit it."""


def names(folder: Path) -> list[str]:
    """Presets that there are."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def expect_one_of(name: str, choices: Sequence[str]) -> None:
    """Refuse an unknown preset with a PresetError that lists the choices."""
    if name not in choices and name in RENAMED:
        raise PresetError(f"the preset '{name}' is '{RENAMED[name]}' now: `styleblend preset {RENAMED[name]}`")
    if name not in choices:
        raise PresetError(f"there is no preset '{name}': choose from {', '.join(choices)}")


def base_of(params: Path) -> Path:
    """The file with the settings that params.yaml had before any preset."""
    backup = _backup(params)
    return backup if MARK in params.read_text() and backup.is_file() else params


def _backup(params: Path) -> Path:
    return params.with_name(f"{params.name}.bak")


def changes(old: Any, new: Any, where: str = "") -> Iterator[str]:
    """One line a changed value: `section.key: old -> new`."""
    if is_section(old) and is_section(new):
        for key in dict.fromkeys((*old, *new)):
            yield from changes(old.get(key, MISSING), new.get(key, MISSING), f"{where}.{key}" if where else key)
    elif old != new:
        yield f"{where}: {_short(old)} -> {_short(new)}"


def apply(
    name: str,
    params: Path,
    presets: Path,
    *,
    folder: Path | None = None,
    label: str | None = None,
    mirror: Path | None = None,
    licence: str | None = None,
    terms: str | None = None,
    ffhq: Path | None = None,
    celeba_hq: Path | None = None,
) -> list[str]:
    """Write the preset's values into params.yaml; its settings without any preset are kept as params.yaml.bak.

    Args:
        name: of presets/<name>.yaml, or `none` to go back to params.yaml.bak.
        folder, label, licence, terms: of the preset's one folder of photographs; see config.sources.FolderSource.
        mirror: folder with pretrained files, for a machine without internet.
        ffhq, celeba_hq: folder or archive of that data set; what is published with it and lies beside it, as FFHQ's
            JSON, is named, too.
    Returns:
        one line a change; none if everything was so already, and then nothing is written.
    Raises:
        StyleBlendError: unknown preset, an option that does not fit, or a result that is not valid.
    """
    expect_one_of(name, (*names(presets), NONE))
    # Checked first, so that a mistake of the user's own is reported against params.yaml and not the preset.
    load_params(params)
    text, backup, base = params.read_text(), _backup(params), base_of(params)
    old, original = yaml.safe_load(text), yaml.safe_load(base.read_text())
    if name == NONE:
        if base == params:
            raise PresetError(f"{params} has no preset, or {backup} is gone: there is nothing to take back")
        os.replace(backup, params)
        return list(changes(old, original))

    overrides = yaml.safe_load((presets / f"{name}.yaml").read_text())
    project = params.absolute().parent
    if licence is not None:
        _only_folder_source(name, overrides)["licence"] = licence
    if terms is not None:
        _only_folder_source(name, overrides)["terms"] = terms
    if label is not None:
        _only_folder_source(name, overrides)["label"] = label
    if folder is not None:
        place = _folder(folder, "--folder", project)
        _only_folder_source(name, overrides)["path"] = overrides["download"]["origin"] = place
    sets: dict[Published, Path | None] = {"ffhq": ffhq, "celeba_hq": celeba_hq}
    given = {kind: place for kind, place in sets.items() if place is not None}
    if given:
        _lay_down(name, overrides, given, project)
    if mirror is not None:
        overrides.setdefault("pretrained", {})["mirror"] = _folder(mirror, "--mirror", project)
    new = merged(original, overrides)
    parse_params(new, f"{params} with preset {name}", params.parent)
    lines = list(changes(old, new))
    if lines:
        if base == params:
            shutil.copyfile(params, backup)
        header = [line for line in text.splitlines() if line.startswith("#") and not line.startswith(MARK)][:1]
        body = yaml.safe_dump(new, sort_keys=False, default_flow_style=None, allow_unicode=True, width=110)
        with whole_file(params) as partial:
            partial.write_text("\n".join([*header, f"{MARK} {name}`; params.yaml.bak is without it.", body]))
    return lines


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else yaml.safe_dump(value, default_flow_style=True, width=10**6)
    text = text.removesuffix("\n...\n").strip()
    return text if len(text) <= 90 else f"{text[:87]}..."


def _lay_down(name: str, overrides: dict[str, Any], given: Mapping[Published, Path], project: Path) -> None:
    """Name the places of published data sets, and as their origin the folder that holds all of them."""
    sources = overrides.get("download", {}).get("sources", [])
    for kind, place in given.items():
        option = f"--{kind.replace('_', '-')}"
        fitting = [source for source in sources if source["kind"] == kind]
        if len(fitting) != 1:
            raise PresetError(f"preset {name} has {len(fitting)} sources of kind {kind}, so {option} does not fit")
        if not place.exists():
            raise PresetError(f"{option} {place} does not exist: name the folder of the data set, or its archive")
        files = {"path": place, **published.companions(kind, place)}
        fitting[0].update({key: _within(file, project) for key, file in files.items()})
    keys = ("path", "metadata", "mapping", "identities")
    places = [str(project / source[key]) for source in sources for key in keys if source.get(key) is not None]
    origin = Path(os.path.commonpath(places))
    if project.is_relative_to(origin):
        raise PresetError(
            f"DVC would have to watch all of {origin}, which holds {' and '.join(places)}: lay the data sets down in "
            "one folder of their own, or name both"
        )
    overrides["download"]["origin"] = _within(origin, project)


def _only_folder_source(name: str, overrides: dict[str, Any]) -> dict[str, Any]:
    sources = overrides.get("download", {}).get("sources", [])
    folders: list[dict[str, Any]] = [source for source in sources if source["kind"] == "folder"]
    if len(folders) != 1:
        raise PresetError(
            f"preset {name} has {len(folders)} folders of photographs, so --folder, --label, --licence and "
            "--terms do not fit: edit download.sources of params.yaml afterwards"
        )
    return folders[0]


def _folder(path: Path, option: str, project: Path) -> str:
    """An existing folder, as it stands in params.yaml."""
    if not path.is_dir():
        raise PresetError(f"{option} {path} {'is no folder' if path.exists() else 'does not exist'}: name a folder")
    return _within(path, project)


def _within(path: Path, project: Path) -> str:
    """As it stands in params.yaml: relative inside the project, absolute outside, as DVC reads either."""
    path = Path(os.path.abspath(path))
    return str(path.relative_to(project) if path.is_relative_to(project) else path)
