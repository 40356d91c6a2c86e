"""The encoder's body from model_ir_se50.pth, the IR-SE50 face network that StyleGAN encoders start from.

The file is a state dict: input_layer.{0,1,2} (convolution, batch norm, PReLU), body.N.{res_layer,shortcut_layer}
with N from 0 to 23, and output_layer, which makes the face network's own embedding and has no place here.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from styleblend.errors import StyleBlendError
from styleblend.model.encoder import Encoder

_REMEDY = "get model_ir_se50.pth of IR-SE50, or start the encoder in another way"


def load_body(encoder: Encoder, path: Path) -> None:
    """Fill the encoder's body with the file's weights and statistics; laterals, heads and mean code stay as they are.

    Every weight of the body must be in the file, and the file may hold nothing else but its output layer.

    Raises:
        StyleBlendError: the encoder has another body, or the file is missing, damaged, would run code, or holds
            another network; names the first weights that are missing, too many or of another shape.
    """
    if encoder.body != "ir_se50":
        raise StyleBlendError(
            f"the encoder's body '{encoder.body}' cannot hold {path.name}, whose batch norms it has not: "
            "set model.encoder_body to ir_se50"
        )
    found = _read(path)
    own = encoder.state_dict()
    names = _names(encoder)
    missing = [file_name for file_name in names.values() if file_name not in found]
    # Counters of training batches: the statistics are fixed, so nothing reads them.
    known = {*names.values(), *(name for name in found if name.endswith(".num_batches_tracked"))}
    unexpected = [name for name in found if name not in known and not name.startswith("output_layer.")]
    if missing or unexpected:
        raise StyleBlendError(
            f"{path} does not hold the encoder's body: missing {len(missing)} {missing[:3]}, "
            f"unexpected {len(unexpected)} {unexpected[:3]}; {_REMEDY}"
        )
    body = {name: found[file_name] for name, file_name in names.items()}
    for name, value in body.items():
        has, wanted = list(value.shape), list(own[name].shape)
        if has != wanted:
            raise StyleBlendError(f"{path} has {names[name]} of {has}, the encoder's is {wanted}; {_REMEDY}")
        if not value.isfinite().all():
            raise StyleBlendError(f"{path} has values in {names[name]} that are not finite: get it again")
    encoder.load_state_dict(body, strict=False)


def _names(encoder: Encoder) -> dict[str, str]:
    """Names of the body's weights in the encoder, each with its name in the file."""
    names = {f"stem.{name}": f"input_layer.{name}" for name in encoder.stem.state_dict()}
    block = 0
    for number, stage in enumerate(encoder.stages):
        for place, each in enumerate(stage.children()):
            for name in each.state_dict():
                part, rest = name.split(".", 1)
                file_part = {"residual": "res_layer", "shortcut": "shortcut_layer"}[part]
                names[f"stages.{number}.{place}.{name}"] = f"body.{block}.{file_part}.{rest}"
            block += 1
    return names


def _read(path: Path) -> Mapping[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise StyleBlendError(f"{path} is missing: {_REMEDY}") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:120]
        raise StyleBlendError(f"{path} holds no plain weights ({reason}): {_REMEDY}") from None
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise StyleBlendError(f"{path} holds {type(content).__name__}, no state dict: {_REMEDY}")
    return content
