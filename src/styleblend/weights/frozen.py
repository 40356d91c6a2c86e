"""The frozen networks of a run's folder, by their roles.

Small ones of this project are a safetensors file with a card beside it, loaded here, strictly. For those that others
made, networks.json gives the file and the name of a role; the reader of the format loads it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from styleblend.errors import StyleBlendError

if TYPE_CHECKING:
    from torch import nn

NETWORKS = "networks.json"
"""In a folder of networks: what each is."""
RESTORE = "restore it from git with `git checkout data/pretrained/small`, then run `dvc repro pretrained`"

Network = TypeVar("Network", bound="nn.Module")


def read_card(folder: Path, role: str) -> dict[str, Any]:
    """The card of a network, whose weights lie beside it: name, architecture, recipe, data, measured accuracy.

    Raises:
        StyleBlendError: the card or the weights are missing, or the card is unreadable.
    """
    card, weights = folder / f"{role}.json", folder / f"{role}.safetensors"
    if not card.is_file():
        raise StyleBlendError(f"{card.name} is missing in {folder}: {RESTORE}")
    content = _read(card, "describes no network", RESTORE)
    if not weights.is_file():
        raise StyleBlendError(f"{weights.name} is missing in {folder}: {RESTORE}")
    return content


def listed(folder: Path) -> dict[str, Any]:
    """What networks.json of a run says: role to file, name, licence and so on, as the stage `pretrained` wrote it.

    Raises:
        StyleBlendError: it is missing or damaged.
    """
    return _read(folder / NETWORKS, "names no networks", "run `dvc repro pretrained` again")


def _read(file: Path, lack: str, remedy: str) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text())
    except OSError as error:
        raise StyleBlendError(f"{file} cannot be read ({error.strerror}): {remedy}") from None
    except ValueError as error:
        raise StyleBlendError(f"{file} is not valid JSON ({error}): {remedy}") from None
    if not isinstance(content, dict):
        raise StyleBlendError(f"{file} {lack}: {remedy}")
    return content


def foreign(folder: Path, role: str) -> Path | None:
    """The file of a network that others made, as networks.json names it; None for one of this project, with a card.

    Raises:
        StyleBlendError: networks.json is damaged, or the file that it names is missing.
    """
    entry = _entry(folder, role)
    if not entry or entry["file"] == f"{role}.safetensors":
        return None
    file = folder / str(entry["file"])
    if not file.is_file():
        raise StyleBlendError(f"network '{role}' is missing: no {file}; run `dvc repro pretrained` again")
    return file


def files_of(folder: Path, role: str) -> list[Path]:
    """What a network is loaded from: the file that networks.json names, else those that are named after the role.

    Raises:
        StyleBlendError: as `foreign`.
    """
    file = foreign(folder, role)
    return sorted(folder.glob(f"{role}.*")) if file is None else [file]


def foreign_name(folder: Path, role: str) -> str:
    """What a network that others made is called in reports: its name in networks.json, or that of its file."""
    entry = _entry(folder, role)
    return str(entry.get("name") or entry["file"])


def _entry(folder: Path, role: str) -> dict[str, Any]:
    """What networks.json says of a role; empty where it says nothing."""
    entry: Any = listed(folder).get(role, {}) if (folder / NETWORKS).is_file() else {}
    if not isinstance(entry, dict) or (entry and not entry.get("file")):
        file = folder / NETWORKS
        raise StyleBlendError(f"{file} names no file for network '{role}': run `dvc repro pretrained` again")
    return entry


def load(folder: Path, role: str, build: Callable[..., Network]) -> Network:
    """Build a network from its card's architecture and load its weights strictly, frozen and in eval mode.

    Raises:
        StyleBlendError: a file is missing or damaged, or does not fit the architecture.
    """
    # Whoever reads cards alone does without torch, which takes seconds to import.
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    card = read_card(folder, role)
    network = build(**card["architecture"])
    try:
        network.load_state_dict(load_file(folder / f"{role}.safetensors"), strict=True)
    except (SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise StyleBlendError(f"{folder / role}.safetensors does not hold network '{role}': {reason}") from None
    return network.eval().requires_grad_(False)
