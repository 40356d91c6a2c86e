"""The starter: a swapper for photographs with its discriminator, in half precision, and the card of what it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from styleblend.config.model import Model
from styleblend.faces.template import TEMPLATE
from styleblend.model import Swapper
from styleblend.model.discriminator import Discriminator
from styleblend.model.swapper import DESCRIPTION_FILE, WEIGHTS_FILE
from styleblend.system.files import whole_folder

DISCRIMINATOR_FILE = "discriminator.safetensors"
CARD_FILE = "card.json"


def write_starter(
    folder: Path, swapper: Swapper, discriminator: Discriminator, model: Model, card: dict[str, Any]
) -> None:
    """Write the whole folder or nothing: weights in half precision, model.json and card.json."""
    with whole_folder(folder) as partial:
        save_file(_halved(swapper), partial / WEIGHTS_FILE)
        save_file(_halved(discriminator), partial / DISCRIMINATOR_FILE)
        alignment = TEMPLATE.identity() | {"size_px": model.input_px}
        description = {"model": model.model_dump(mode="json"), "alignment": alignment}
        (partial / DESCRIPTION_FILE).write_text(json.dumps(description, indent=1) + "\n")
        (partial / CARD_FILE).write_text(json.dumps(card, indent=1) + "\n")


def _halved(network: nn.Module) -> dict[str, Tensor]:
    return {
        name: (value.to(torch.half) if value.is_floating_point() else value).detach().cpu().contiguous()
        for name, value in network.state_dict().items()
    }
