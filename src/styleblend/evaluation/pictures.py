"""Measures of pictures by themselves: plain errors, fine detail, and how far they lie apart in a network's features.

Pictures are [N, 3, H, W] RGB in [-1, 1]; values are float64, one a picture.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from styleblend.faces.pixels import grey

_SIGMA_PX, _RADIUS_PX = 1.0, 3


def psnr_db(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal to noise ratio [N] in dB; the peak is the range of [-1, 1]. Infinite for equal pictures."""
    return 10 * torch.log10(4 / (a.double() - b.double()).square().mean((1, 2, 3)))


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity [N] (Wang et al. 2004, Eq. 13), mean over colours and places.

    Gaussian window of 11 pixels with a standard deviation of 1.5, K1 0.01, K2 0.03, range 2; only places
    where the whole window lies in the picture, which must have at least 11 pixels a side.
    """
    a, b = a.double(), b.double()
    line = _gaussian(5, 1.5, a.device)
    # Windows as matrices: convolutions in float64 take ten times as long.
    down, across = (_windows(line, side) for side in a.shape[2:])

    def local_mean(values: Tensor) -> Tensor:
        return down @ values @ across.T

    mean_a, mean_b = local_mean(a), local_mean(b)
    var_a, var_b = local_mean(a * a) - mean_a**2, local_mean(b * b) - mean_b**2
    covariance = local_mean(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    similarity = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    return (similarity / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))).mean((1, 2, 3))


def _gaussian(radius_px: int, sigma_px: float, device: torch.device) -> Tensor:
    """Weights [2 radius_px + 1] in float64, with the sum 1."""
    offsets = torch.arange(-radius_px, radius_px + 1, dtype=torch.float64, device=device)
    line = torch.exp(-offsets.square() / (2 * sigma_px**2))
    return line / line.sum()


def _mirrored(windows: Tensor, side: int) -> Tensor:
    """Weights [side, side + 2 r] of places that reach r beyond both edges, folded back: [side, side]."""
    reach = (windows.shape[1] - side) // 2
    places = torch.arange(-reach, side + reach, device=windows.device).abs()
    places = torch.where(places >= side, 2 * (side - 1) - places, places)
    return windows.new_zeros(len(windows), side).index_add(1, places, windows)


def _windows(line: Tensor, side: int) -> Tensor:
    """[side - len(line) + 1, side]: row k weighs the places k, k + 1, ... with `line`."""
    places = side - len(line) + 1
    if places < 1:
        raise ValueError(f"a side of {side} pixels is shorter than the window of {len(line)}")
    rows = torch.arange(places, device=line.device)[:, None]
    windows = line.new_zeros(places, side)
    return windows.scatter(1, rows + torch.arange(len(line), device=line.device), line.expand(places, -1))


def l1_outside(a: Tensor, b: Tensor, mask: Tensor) -> Tensor:
    """Mean absolute difference [N] outside a mask, in units of the [0, 1] range.

    Args:
        mask: [N, 1, H, W] in [0, 1]; 1 is left out. A mask that covers the whole picture gives 0.
    """
    weight = 1 - mask.double()
    difference = (a.double() - b.double()).abs().mean(1, keepdim=True) / 2
    return (difference * weight).sum((1, 2, 3)) / weight.sum((1, 2, 3)).clamp(min=1e-12)


def detail_energy(images: Tensor, region: Tensor) -> Tensor:
    """Mean squared fine detail [N] within a region: grey picture minus its Gaussian blur of 1 pixel.

    The filter passes half of the amplitude at a period of 5.3 pixels and little of what is coarser. It reads 3 pixels
    to each side, so places as near to the region's edge are left out: nothing beyond the region counts.

    Args:
        region: [N, 1, H, W], 1 inside; what touches the picture's edge needs no distance from it.
    Returns:
        0 where no place is left.
    """
    brightness = grey(images.double())
    line = _gaussian(_RADIUS_PX, _SIGMA_PX, images.device)
    # Mirrored at the edges, as reflecting the picture there would.
    down, across = (_mirrored(_windows(line, side + 2 * _RADIUS_PX), side) for side in brightness.shape[2:])
    blurred = down @ brightness @ across.T
    inner = 1 - F.max_pool2d(1 - region.float(), 2 * _RADIUS_PX + 1, stride=1, padding=_RADIUS_PX).double()
    return ((brightness - blurred).square() * inner).sum((1, 2, 3)) / inner.sum((1, 2, 3)).clamp(min=1)


def unit_vectors(maps: Sequence[Tensor]) -> list[Tensor]:
    """A network's maps [N, C, H, W] with the length 1 at every place."""
    return [F.normalize(level.float(), dim=1) for level in maps]


def feature_distance(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Mean squared distance [N] of unit feature vectors of one network, place by place, mean over its levels.

    Zhang et al. 2018 (LPIPS), Eq. 1, without the weights that they learned from people's judgements: so it is not
    LPIPS and its figures are comparable only within one network.

    Args:
        a, b: what unit_vectors makes of the maps of each level.
    Returns:
        0 for equal maps, up to 4.
    """
    levels = [(one - other).square().sum(1).double().mean((1, 2)) for one, other in zip(a, b, strict=True)]
    return torch.stack(levels).mean(0)


def joined(face_of: Tensor, outside_of: Tensor, mask: Tensor) -> Tensor:
    """`face_of` where mask [N, 1, H, W] is 1, `outside_of` elsewhere: what a network sees of the outside alone."""
    return face_of * mask + outside_of * (1 - mask)
