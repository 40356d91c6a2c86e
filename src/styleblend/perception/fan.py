"""FAN, the landmark network of face-alignment, on our aligned faces: a fixed crop, the network, a soft-argmax.

Gradients flow through all three. A. Bulat and G. Tzimiropoulos, How far are we from solving the 2D & 3D face
alignment problem?, 2017. The layers are the library's own, its public interface takes no gradients.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from styleblend.errors import StyleBlendError
from styleblend.faces.mean_box import MEAN_BOX, Box
from styleblend.faces.pixels import beside
from styleblend.perception.layers import expect_square, resized
from styleblend.weights.formats.torch_file import kind_of, read_torch

if TYPE_CHECKING:
    from face_alignment.models.fan import FAN

SIDE_PX = 256
"""Side of what FAN reads; its maps have a quarter of it."""


def _placed(box: Box) -> tuple[int, int, int]:
    """Side, left and top, in pixels of FAN's view, of the aligned picture with this box.

    The library's rule for a detected face: it sees a square of side 200 * (width + height) / 195, whose centre lies
    0.12 of the height above the box's.
    """
    side = 200 * (box.width + box.height) / 195
    left, top = box.x - side / 2, box.y - 0.12 * box.height - side / 2
    return round(SIDE_PX / side), round(-left * SIDE_PX / side), round(-top * SIDE_PX / side)


# Around the picture FAN sees black, as the library fills what lies beyond one.
_FACE_PX, _LEFT_PX, _TOP_PX = _placed(MEAN_BOX)

# Power to which maps are raised before their mean place is taken. With 1 a noise of 0.01 pulls a peak 10 px of 64 to
# the middle, and the edge pushes it inwards by up to 1.8 px. With 8 it is within 0.4 px of the argmax with that noise,
# within 0.8 px at the edge, and moves as smoothly as the peak, where a softmax as clean jumps from cell to cell.
_POWER = 8

_MOST_MODULES = 4
_REMEDY = "give 2DFAN4-11f355bf06.pth.tar of face-alignment"


def fan_crop(images: Tensor) -> Tensor:
    """FFHQ-aligned faces [N, 3, S, S] in [-1, 1], of any side, as FAN reads them: [N, 3, 256, 256] in [0, 1].

    Raises:
        StyleBlendError: the pictures are not square.
    """
    expect_square(images)
    right, bottom = SIDE_PX - _LEFT_PX - _FACE_PX, SIDE_PX - _TOP_PX - _FACE_PX
    return F.pad((resized(images, _FACE_PX) + 1) / 2, (_LEFT_PX, right, _TOP_PX, bottom))


def soft_argmax(heatmaps: Tensor) -> Tensor:
    """Differentiable places of the peaks of maps [N, K, H, W] -> [N, K, 2], x and y in [0, 1] of the map.

    The mean place of all cells, each with the power of what it has above the map's mean: neither the height of the
    peak nor a constant counts. A map that is the same everywhere gives its middle.
    """
    height, width = heatmaps.shape[2:]
    above = heatmaps - heatmaps.mean((2, 3), keepdim=True)
    tiny = torch.finfo(heatmaps.dtype).tiny ** 0.5
    share = above.clamp_min(0) / above.amax((2, 3), keepdim=True).clamp_min(tiny)
    # The small addend, about 1e-32 after the power, is all that a constant map has.
    weight = (share + 1e-4) ** _POWER
    weight = weight / weight.sum((2, 3), keepdim=True)
    x = (torch.arange(width, device=heatmaps.device, dtype=heatmaps.dtype) + 0.5) / width
    y = (torch.arange(height, device=heatmaps.device, dtype=heatmaps.dtype) + 0.5) / height
    return torch.stack([(weight.sum(2) * x).sum(2), (weight.sum(3) * y).sum(2)], dim=2)


@torch.no_grad()
def hard_argmax(heatmaps: Tensor) -> Tensor:
    """The library's places of the peaks of maps [N, K, H, W] -> [N, K, 2], x and y in [0, 1] of the map.

    The middle of the highest cell, moved by a quarter of a cell towards the higher neighbour in x and in y unless the
    cell is at the edge. No gradient.
    """
    height, width = heatmaps.shape[2:]
    flat = heatmaps.flatten(2)
    best = flat.argmax(2, keepdim=True)
    x, y = best % width, best // width
    inside = (x > 0) & (x < width - 1) & (y > 0) & (y < height - 1)

    def slope(step: int) -> Tensor:
        before, after = ((best + way).clamp(0, flat.shape[2] - 1) for way in (-step, step))
        return (flat.gather(2, after) - flat.gather(2, before)).sign() * inside / 4

    return torch.cat([(x + 0.5 + slope(1)) / width, (y + 0.5 + slope(width)) / height], dim=2)


class FanLandmarks(nn.Module):
    """Aligned faces to 68 points: what LandmarkNetwork does, with FAN inside. Frozen, always in eval mode.

    Args:
        name: names the network in reports. network: pictures [N, 3, 256, 256] in [0, 1] to a list of maps
            [N, 68, 64, 64], one of each hourglass, of which the last counts.
    """

    def __init__(self, name: str, network: nn.Module) -> None:
        super().__init__()
        self.name = name
        self.network = network
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> FanLandmarks:
        """Stays in eval mode, whatever the module around it does."""
        return super().train(False)

    def heatmaps(self, images: Tensor) -> Tensor:
        """[N, 3, S, S] in [-1, 1] -> maps [N, 68, 64, 64] of the view that `fan_crop` gives."""
        out: Tensor = self.network(fan_crop(images))[-1]
        return out

    def forward(self, images: Tensor) -> Tensor:
        """[N, 3, S, S] in [-1, 1] -> points [N, 68, 2], x and y in [0, 1] of the picture; differentiable."""
        return _in_picture(soft_argmax(self.heatmaps(images)))

    def argmax(self, images: Tensor) -> Tensor:
        """The same points as the library takes them from the maps, without a gradient."""
        return _in_picture(hard_argmax(self.heatmaps(images)))


def _in_picture(points: Tensor) -> Tensor:
    """From [0, 1] of FAN's view to [0, 1] of the picture."""
    return (points * SIDE_PX - beside((float(_LEFT_PX), float(_TOP_PX)), points)) / _FACE_PX


def load(path: Path) -> FanLandmarks:
    """FAN with the weights of face-alignment's file, named after its number of hourglasses.

    Raises:
        StyleBlendError: as of `read`.
    """
    network = read(path)
    return FanLandmarks(f"FAN-{network.num_modules}", network)


def read(path: Path) -> FAN:
    """The library's network with the weights of a file, a state dict; `num_modules`, its hourglasses, is the file's.

    Raises:
        StyleBlendError: the file is missing, damaged, would run code, or holds another network; names the first
            weights that are missing, too many, of another shape or not finite.
    """
    # Here and not above, for it brings numba and scikit-image, which a run without FAN need not load.
    from face_alignment.models.fan import FAN

    found = _state(path)
    modules = sum(f"l{number}.weight" in found for number in range(_MOST_MODULES)) or _MOST_MODULES
    with torch.device("meta"):
        # On meta, for random weights would be made in vain, and move the state of torch's random numbers.
        network = FAN(modules)
    wanted = network.state_dict()
    # Counters of training batches, which files of old versions of torch have not and which nothing reads.
    counters = {name: torch.zeros((), dtype=torch.long) for name in wanted if name.endswith(".num_batches_tracked")}
    missing = [name for name in wanted if name not in found and name not in counters]
    unexpected = [name for name in found if name not in wanted]
    if missing or unexpected:
        raise StyleBlendError(
            f"{path} does not hold FAN: missing {len(missing)} {missing[:3]}, unexpected {len(unexpected)} "
            f"{unexpected[:3]}; {_REMEDY}"
        )
    for name, value in found.items():
        if value.shape != wanted[name].shape:
            raise StyleBlendError(
                f"{path} has {name} of {list(value.shape)}, FAN's is {list(wanted[name].shape)}; {_REMEDY}"
            )
        if not value.isfinite().all():
            raise StyleBlendError(f"{path} has values in {name} that are not finite: get it again")
    weights = {name: found[name].float() for name in wanted if name not in counters}
    network.load_state_dict(weights | counters, assign=True)
    return network


def _state(path: Path) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise StyleBlendError(f"{path} is missing: {_REMEDY}")
    if kind_of(path) != "torch":
        raise StyleBlendError(f"{path} is a plain pickle, no torch file: it was not read; {_REMEDY}")
    content = read_torch(path)
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise StyleBlendError(f"{path} holds {type(content).__name__}, no state dict: {_REMEDY}")
    return content
