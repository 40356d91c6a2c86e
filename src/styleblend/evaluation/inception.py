"""Inception features for the FID, from the TorchScript file that StyleGAN's metrics use (inception-2015-12-05.pt).

It is the network of the first FID's authors with its resizing inside, so figures can be compared with published
ones, and it needs no package beside torch. TorchScript is a program, not data: loading it runs what its author
wrote, so nothing is loaded whose SHA-256 was not stated beforehand.
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from styleblend.errors import StyleBlendError
from styleblend.faces.pixels import to_8bit
from styleblend.system.files import sha256 as sha256_of

FEATURES = 2048
_SIDES_PX = (75, 299)


class Inception(nn.Module):
    """Pictures of any side to the 2048 features of the last pooling."""

    def __init__(self, script: torch.jit.ScriptModule, name: str) -> None:
        super().__init__()
        self.name = name
        self.script = script

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """[N, 3, S, S] in [-1, 1] -> float32 [N, 2048]. Pictures are rounded to 8 bits, as files hold them.

        Raises:
            StyleBlendError: a picture is not finite.
        """
        out: Tensor = self.script(to_8bit(images), return_features=True)
        return out.float()


def load(path: Path, sha256: str, device: str = "cpu") -> Inception:
    """The network of a TorchScript file, after a trial on two sides.

    Args:
        sha256: what the file must have, 64 hex digits, from the parameters or from the catalogue, which states one
            for every TorchScript; never what the file was found to have.

    Raises:
        StyleBlendError: the file is missing or another one, which is found out before anything of it is run; or it
            is no TorchScript, or does not turn pictures into 2048 features.
    """
    if not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise StyleBlendError(
            f"the sha256 of {path.name} is '{sha256}': state its 64 hex digits, for TorchScript is a program and only "
            "a known one is run"
        )
    if not path.is_file():
        raise StyleBlendError(f"{path} is missing: get inception-2015-12-05.pt of StyleGAN's metrics")
    found = sha256_of(path)
    if found != sha256.lower():
        raise StyleBlendError(f"{path} has sha256 {found}, wanted {sha256.lower()}: it is not run; get it again")
    try:
        with warnings.catch_warnings():
            # torch calls TorchScript deprecated; the published file comes in no other format.
            warnings.filterwarnings("ignore", "`torch.jit.load` is deprecated", DeprecationWarning)
            script = torch.jit.load(path, map_location=device)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:120]
        raise StyleBlendError(f"{path} is no TorchScript ({reason}): get inception-2015-12-05.pt") from None
    arguments = [argument.name for argument in script.forward.schema.arguments[1:]]
    if "return_features" not in arguments:
        raise StyleBlendError(
            f"{path} computes forward({', '.join(arguments)}), wanted forward(img, return_features, ...): get the file "
            "of StyleGAN's metrics"
        )
    network = Inception(script, path.stem)
    _try_out(network, path, device)
    return network


def _try_out(network: Inception, path: Path, device: str) -> None:
    """Refuse a network whose features have another shape, depend on neighbours or ignore the picture."""
    for side in _SIDES_PX:
        images = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(side)).to(device) * 2 - 1
        images[1] /= 4
        try:
            found, alone = network.features(images), network.features(images[:1])
        except RuntimeError as error:
            reason = " ".join(str(error).split())[-200:]
            raise StyleBlendError(f"{path} cannot see pictures of {side} px ({reason})") from None
        if found.shape != (2, FEATURES) or not found.isfinite().all():
            got, wanted = list(found.shape), f"finite [2, {FEATURES}]"
            raise StyleBlendError(f"{path} gives {got} for two pictures of {side} px, wanted {wanted}")
        scale = found.abs().mean()
        if (found[0] - alone[0]).abs().max() > 1e-2 * scale or (found[0] - found[1]).abs().max() < 1e-3 * scale:
            raise StyleBlendError(f"{path} does not look at each picture by itself: get the network in its eval mode")
