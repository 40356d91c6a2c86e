"""The starter: a whole model for photographs that git holds, to be used as it is or fine-tuned.

Its folder is a model folder as model.save writes it, with half the digits (fp16), the discriminator, and a card of what
it learned from. It holds no mesh, which comes by its name from the catalogue (MESH).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from styleblend.config.model import Model, sizes_of
from styleblend.errors import StyleBlendError
from styleblend.model import Discriminator, Swapper, build_discriminator
from styleblend.model.swapper import DESCRIPTION_FILE, WEIGHTS_FILE, load, save
from styleblend.system.files import sha256, whole_folder

STARTER = Path("data/pretrained/faces")
"""Where git holds it."""

MESH = "mediapipe_face_mesh"
"""What a starter with the prior `warp` sees faces with, by its name in the catalogue."""

DISCRIMINATOR_FILE, CARD_FILE = "discriminator.safetensors", "card.json"
LIMIT_BYTES = 60_000_000
"""git keeps every version of a file for ever."""

STATED = ("licence", "commercial", "consequence", "not_verified")
"""What a card must say of the model's terms, as an entry of the catalogue does."""

_REMEDY = "restore it with `git checkout {0}`, or make one of your own by the stage pretrain_faces"


@dataclass(frozen=True)
class Starter:
    """A starter that was read: in eval mode, on the CPU, float32; `card` is what it learned from and its terms."""

    swapper: Swapper
    discriminator: Discriminator
    model: Model
    card: dict[str, Any]


def write_starter(
    folder: Path, swapper: Swapper, discriminator: Discriminator, model: Model, card: Mapping[str, Any]
) -> None:
    """Write a starter; nothing is left where it is refused.

    Args:
        model: the sizes that both networks were built with.
        card: data, networks and figures, for people, and the keys of STATED.
    Raises:
        StyleBlendError: a weight is not finite in fp16, the card does not state its terms, or it would be over 60 MB.
    """
    _expect_terms(card, "the card of a starter")
    _expect_halves(swapper, discriminator)
    with whole_folder(folder) as partial:
        save(swapper, model, partial, dtype=torch.float16)
        judge = {name: value.detach().cpu().half().contiguous() for name, value in discriminator.state_dict().items()}
        save_file(judge, partial / DISCRIMINATOR_FILE)
        (partial / CARD_FILE).write_text(json.dumps(dict(card), indent=1) + "\n")
        _expect_size(partial, "a smaller section model")


def is_there(folder: Path = STARTER) -> bool:
    """Whether the folder holds a starter; until one was made, git holds a card that says so."""
    return (folder / DESCRIPTION_FILE).is_file()


def read_starter(folder: Path = STARTER) -> Starter:
    """The starter of a folder.

    Raises:
        StyleBlendError: a file is missing, damaged or too large, or it is of another template.
    """
    card, model = read_card(folder), sizes(folder)
    swapper, discriminator = load(folder), build_discriminator(model)
    fill_discriminator(discriminator, folder)
    return Starter(swapper, discriminator.eval(), model, card)


def read_card(folder: Path = STARTER) -> dict[str, Any]:
    """What the starter learned from, and its terms.

    Raises:
        StyleBlendError: there is no starter, or its files are too large, or its card is damaged.
    """
    if not is_there(folder):
        raise StyleBlendError(f"{folder} holds no starter: {_REMEDY.format(folder)}")
    _expect_size(folder, _REMEDY.format(folder))
    card = _parsed(folder / CARD_FILE)
    _expect_terms(card, str(folder / CARD_FILE))
    return card


def sizes(folder: Path = STARTER) -> Model:
    """The section `model` of a starter.

    Raises:
        StyleBlendError: model.json is missing or damaged.
    """
    try:
        return sizes_of(_parsed(folder / DESCRIPTION_FILE)["model"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise StyleBlendError(
            f"{folder / DESCRIPTION_FILE} has no sizes ({reason}): {_REMEDY.format(folder)}"
        ) from None


def fill(swapper: Swapper, model: Model, folder: Path) -> None:
    """Let a new swapper begin as the starter: E, the SBM, D with its pathway, and the prior's encoder.

    Args:
        model: the sizes that `swapper` was built with.
    Raises:
        StyleBlendError: the starter is missing or damaged, or has other sizes; names the first that differs.
    """
    has = sizes(folder)
    for key in Model.model_fields:
        if (one := getattr(has, key)) != (wanted := getattr(model, key)):
            raise StyleBlendError(
                f"train_encoder.encoder_start is 'starter', but the starter has model.{key} {one} and params.yaml"
                f" {wanted}: set it alike, as `styleblend preset faces` does"
            )
    swapper.load_state_dict(load(folder).state_dict())


def fill_discriminator(discriminator: Discriminator, folder: Path) -> None:
    """Let a new discriminator begin as the starter's.

    Raises:
        StyleBlendError: its file is missing or damaged, or of other sizes.
    """
    file = folder / DISCRIMINATOR_FILE
    try:
        discriminator.load_state_dict(load_file(file), strict=True)
    except FileNotFoundError:
        raise StyleBlendError(f"{file} is missing: {_REMEDY.format(folder)}") from None
    except (SafetensorError, RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())[:300]
        raise StyleBlendError(f"{file} is damaged ({reason}): {_REMEDY.format(folder)}") from None


def collect_starter(folder: Path, out: Path) -> dict[str, Any]:
    """Copy a checked starter to `out`; returns its entry of networks.json.

    Raises:
        StyleBlendError: see read_starter.
    """
    card = read_starter(folder).card
    shutil.copytree(folder, out)
    return {
        "file": out.name,
        "name": folder.name,
        "format": "starter",
        "sha256": sha256(out / WEIGHTS_FILE),
        **{key: card[key] for key in STATED},
        "origin": f"made by this project, see {folder / CARD_FILE}",
    }


def _parsed(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no JSON"
        raise StyleBlendError(f"{file} cannot be read ({reason}): {_REMEDY.format(file.parent)}") from None
    if not isinstance(content, dict):
        raise StyleBlendError(f"{file} holds {type(content).__name__} and no object: {_REMEDY.format(file.parent)}")
    return content


def _expect_terms(card: Mapping[str, Any], where: str) -> None:
    if missing := [key for key in STATED if key not in card]:
        raise StyleBlendError(f"{where} does not state {', '.join(missing)}: add what the strictest of its parts says")


def _expect_halves(*networks: nn.Module) -> None:
    for network in networks:
        values: dict[str, Tensor] = network.state_dict()
        for name, value in values.items():
            if not bool(torch.isfinite(value.half()).all()):
                largest = float(value.abs().max())
                raise StyleBlendError(f"{name} is not finite in fp16 (largest {largest:g}): train it again, or longer")


def _expect_size(folder: Path, remedy: str) -> None:
    size = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
    if size > LIMIT_BYTES:
        limit = f"a starter has {LIMIT_BYTES // 10**6} MB at most"
        raise StyleBlendError(f"{folder} has {size / 1e6:.1f} MB, {limit}: {remedy}")
