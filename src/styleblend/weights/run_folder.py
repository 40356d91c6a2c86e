"""The folder of a run's frozen networks: filled from the store and from this project's small networks."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from styleblend.config.catalogue import Entry
from styleblend.config.pretrained import ROLES, Pretrained
from styleblend.errors import StyleBlendError
from styleblend.system.files import sha256, whole_folder
from styleblend.weights.frozen import NETWORKS, RESTORE, read_card
from styleblend.weights.starter import STARTER, collect_starter
from styleblend.weights.store import Store, archives_of, package_of, store_of
from styleblend.weights.weight_files import obtain


def collect(
    small: Path, out: Path, cfg: Pretrained, store: Store | None = None, starter: Path = STARTER
) -> dict[str, dict[str, Any]]:
    """Fill `out` with every frozen network of a run, and networks.json with what each is.

    A network of the catalogue is named after its role, with the ending of its format; one of this project's is
    <role>.safetensors with its card beside it. networks.json maps a role to its file, name in the catalogue (or
    `small`), format, sha256, licence, whether that allows commercial use, its consequence, and origin. A starter is a
    folder of that name.

    Raises:
        StyleBlendError: a file is missing, its content is not what its card or the catalogue says, or one
            network would both train and judge.
    """
    store = store_of(cfg) if store is None else store
    with whole_folder(out) as partial:
        networks: dict[str, dict[str, Any]] = {}
        for role in ROLES:
            name = getattr(cfg, role)
            if name == "small":
                networks[role] = _copy_small(role, small, partial)
            elif name != "none":
                networks[role] = _copy_listed(role, store.catalogue.get(name), store, partial)
        if cfg.starter != "none":
            networks["starter"] = collect_starter(starter, partial / "starter")
        for role in ("identity", "identity_second"):
            if role in networks:
                require_another_judge(networks[role], networks["identity_judge"], cfg.same_judge, role)
        (partial / NETWORKS).write_text(json.dumps(networks, indent=2) + "\n")
    return networks


def require_another_judge(
    training: Mapping[str, Any], judge: Mapping[str, Any], same_allowed: bool = False, trains: str = "identity"
) -> None:
    """Refuse one and the same network for training and evaluation.

    A generator learns to please the network that it is trained against, also where that network errs, so its
    figures from that network are too good.

    Args:
        training, judge: entries of networks.json, or cards, of the roles `trains` and `identity_judge`.
        same_allowed: pretrained.same_judge of params.yaml.

    Raises:
        StyleBlendError: both have one sha256 and that is not allowed, or an entry has none.
    """
    hashes = []
    for role, entry in ((trains, training), ("identity_judge", judge)):
        hashes.append(str(entry.get("sha256") or "").lower())
        if not hashes[-1]:
            raise StyleBlendError(f"network '{role}' has no sha256 in its entry: run `dvc repro pretrained` again")
    if hashes[0] == hashes[1] and not same_allowed:
        raise StyleBlendError(
            f"{trains} and identity_judge are the same network (sha256 {hashes[0]}), so evaluation would flatter the "
            "model: choose another file for one of them, or set pretrained.same_judge to true"
        )


def _copy_listed(role: str, entry: Entry, store: Store, folder: Path) -> dict[str, Any]:
    name = f"{role}{entry.suffix}"
    shutil.copyfile(obtain(entry, store), folder / name)
    archives = [url for archive in archives_of(entry, store) for url in archive.urls]
    package = package_of(entry, store)
    places = (*entry.urls, *archives, *([] if package is None else [str(package)]), entry.page, entry.project)
    return {
        "file": name,
        "name": entry.name,
        "format": entry.format,
        "sha256": store.wanted(entry),
        **entry.model_dump(include={"licence", "commercial", "consequence", "not_verified"}),
        "origin": next((place for place in places if place), entry.file),
    }


def _copy_small(role: str, small: Path, folder: Path) -> dict[str, Any]:
    name = f"{role}.safetensors"
    card = read_card(small, role)
    found = sha256(small / name)
    if found != card.get("sha256"):
        raise StyleBlendError(
            f"{small / name} has sha256 {found}, its card says {card.get('sha256')}: one was changed; {RESTORE}"
        )
    shutil.copyfile(small / name, folder / name)
    shutil.copyfile(small / f"{role}.json", folder / f"{role}.json")
    return {
        "file": name,
        "name": "small",
        "format": "safetensors",
        "sha256": found,
        "licence": str(card.get("licence", "MIT")),
        "commercial": True,
        "consequence": "any use",
        "origin": "made by this project, see its card",
    }
