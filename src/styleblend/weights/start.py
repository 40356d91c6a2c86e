"""What training begins with: the pretrained decoder, and an encoder that starts from one of three things."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from styleblend.config.model import Model
from styleblend.errors import StyleBlendError
from styleblend.model import Encoder, Swapper
from styleblend.model.decoder import NEW_PARTS
from styleblend.model.face_body import DlibBody
from styleblend.weights import frozen, starter
from styleblend.weights.formats import dlib_resnet
from styleblend.weights.formats.ir_se50 import load_body
from styleblend.weights.formats.stylegan import load_stylegan

if TYPE_CHECKING:
    from styleblend.config.training import EncoderStart


def start(swapper: Swapper, model: Model, networks: Path, encoder_start: EncoderStart) -> None:
    """Put what is pretrained into a new swapper; its blending, finer maps and the decoder's pathway stay new.

    The decoder is the StyleGAN that networks.json names, or else the small one; either draws as before, for the
    pathway begins at zero. The encoder gives codes as differences from that decoder's mean code and starts as
    config.Training.encoder_start says. Of a starter it is everything, for it was trained already.

    Args:
        model: the sizes that `swapper` was built with. networks: folder of the stage `pretrained`.

    Raises:
        StyleBlendError: a file is missing, damaged or made for other sizes, or this start needs another decoder.
    """
    if encoder_start == "starter":
        starter.fill(swapper, model, networks / "starter")
        return
    stylegan = frozen.foreign(networks, "decoder")
    inversion = networks / "encoder.safetensors"
    if stylegan is None:
        fill(swapper.decoder, networks / "decoder.safetensors", new=NEW_PARTS)
    elif encoder_start == "pretrained":
        raise StyleBlendError(
            f"train_encoder.encoder_start is 'pretrained', which inverts the small decoder, but the decoder is"
            f" {frozen.foreign_name(networks, 'decoder')}: set it to 'body' or 'new'"
        )
    else:
        weights = load_stylegan(stylegan, model)
        _take(swapper.decoder, weights.decoder, stylegan, NEW_PARTS)
        swapper.encoder.mean_code.copy_(weights.mean_code)
    if encoder_start == "pretrained":
        if not inversion.is_file():
            missing = f"but {inversion} is missing: run `dvc repro pretrained`"
            raise StyleBlendError(f"train_encoder.encoder_start is 'pretrained', {missing}")
        fill(swapper.encoder, inversion, new=("fine.",))
        return
    if stylegan is None:
        swapper.encoder.mean_code.copy_(_mean_code(inversion, swapper.encoder))
    if encoder_start == "body":
        body = frozen.foreign(networks, "encoder_body")
        if body is None:
            raise StyleBlendError(
                f"train_encoder.encoder_start is 'body', but {networks} has no encoder_body: name one in the section"
                " pretrained, or set it to 'new'"
            )
        fill_body(swapper.encoder, body)


def fill_body(encoder: Encoder, file: Path) -> None:
    """Put a face network into the encoder's body; laterals, heads and mean code stay as they are.

    Raises:
        StyleBlendError: the file is missing or damaged, or holds another network than the body is.
    """
    if encoder.body == "dlib_resnet":
        fill_frozen(encoder.frozen_body, file)
    else:
        load_body(encoder, file)


def fill_frozen(body: DlibBody, path: Path) -> None:
    """Put the convolutions of dlib's file into the frozen body of an encoder.

    Raises:
        StyleBlendError: the file is missing or damaged, or the network is smaller or larger than dlib's own.
    """
    network = dlib_resnet.load(path)
    weights = {name: value for name, value in network.state_dict().items() if not name.startswith(("linear.", "means"))}
    found, own = ({name: value.shape for name, value in each.items()} for each in (weights, body.state_dict()))
    halves = [[block.halves for block in blocks] for blocks in (network.blocks, body.blocks)]
    if found != own or halves[0] != halves[1] or not torch.allclose(network.means, body.means):
        blocks = len(network.blocks)
        raise StyleBlendError(f"{path} has {blocks} blocks, other ones than dlib's own: get dlib_resnet again")
    body.load_state_dict(weights)


def fill(network: nn.Module, file: Path, new: tuple[str, ...]) -> None:
    """Load weights strictly; only names that begin with one of `new` may be missing.

    Raises:
        StyleBlendError: the file is missing or damaged, or its weights do not fit.
    """
    _take(network, _read(file), file, new)


def _read(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except FileNotFoundError:
        raise StyleBlendError(f"{file} is missing: run `dvc repro` for the stage that makes it") from None
    except (SafetensorError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise StyleBlendError(f"{file} is damaged ({reason}): run `dvc repro` for the stage that makes it") from None


def _take(network: nn.Module, weights: Mapping[str, Tensor], file: Path, new: tuple[str, ...]) -> None:
    misfit = f"{file} does not fit the section model of params.yaml"
    try:
        missing, unexpected = network.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise StyleBlendError(f"{misfit}: {' '.join(str(error).split())[:300]}") from None
    missing = [name for name in missing if not name.startswith(new)]
    if missing or unexpected:
        found = f"missing {missing[:3]}, unexpected {unexpected[:3]}"
        raise StyleBlendError(f"{misfit}: {found}; use the sizes that its network was made with")


def _mean_code(inversion: Path, encoder: Encoder) -> Tensor:
    """The small decoder's mean code, which its inversion's file holds, whatever else is in there."""
    code, wanted = _read(inversion).get("mean_code"), encoder.mean_code.shape
    if code is None or code.shape != wanted:
        found = "no mean_code" if code is None else f"a mean_code of {list(code.shape)}"
        needed = f"the section model of params.yaml needs {list(wanted)}"
        raise StyleBlendError(f"{inversion} has {found}, {needed}: use the sizes that its network was made with")
    return code
