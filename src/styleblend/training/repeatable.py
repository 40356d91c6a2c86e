"""A training whose steps give the same bits again on the same hardware, also on a GPU.

torch then takes kernels that add in a fixed order, and refuses what has none. Of those, this project differentiates
three, which get a form of their own here: means and filters that resize are matrices, sampling is a gather.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from styleblend.system import environment


@contextmanager
def repeatable(on: bool, devices: Sequence[str] = ("cuda",)) -> Iterator[None]:
    """Compute the block in fixed orders, if `on`; afterwards all is as before.

    cuBLAS reads its variable when the first matrix is multiplied on a GPU, so the block must come before that.

    Args:
        devices: kinds of device whose gradients have no fixed order in torch's own resizing and sampling.
    """
    if not on:
        yield
        return
    environment.apply(environment.REPEATABLE)
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn = torch.backends.cudnn
    chosen = cudnn.deterministic, cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        with _OwnForms(devices):
            yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        cudnn.deterministic, cudnn.benchmark = chosen


class _OwnForms(TorchFunctionMode):
    """Takes the form of OWN in place of a function of torch, where a gradient will be asked for on such a device."""

    def __init__(self, devices: Sequence[str]) -> None:
        super().__init__()
        self.devices = devices

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        own = _OWN.get(func)
        if own is not None and isinstance(args[0], Tensor) and self._matters(args[0]):
            found = own(*args, **given)
            if found is not None:
                return found
        return func(*args, **given)

    def _matters(self, images: Tensor) -> bool:
        return images.device.type in self.devices and images.requires_grad and torch.is_grad_enabled()


def _averaged(images: Tensor, output_size: int | Sequence[int]) -> Tensor:
    """adaptive_avg_pool2d of [N, C, H, W]."""
    size = (output_size, output_size) if isinstance(output_size, int) else tuple(output_size)
    return _by_matrices(images, size, "mean", False, False)


def _resized(
    images: Tensor,
    size: int | Sequence[int] | None = None,
    scale_factor: object = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Tensor | None:
    """interpolate of [N, C, H, W] to a size; None where torch itself has a fixed order, or refuses."""
    plain = mode == "bilinear" and not antialias
    if mode not in ("bilinear", "bicubic") or plain or size is None or images.ndim != 4:
        return None
    size = (size, size) if isinstance(size, int) else tuple(size)
    return _by_matrices(images, size, mode, bool(align_corners), antialias)


def _by_matrices(images: Tensor, size: Sequence[int], kind: str, align_corners: bool, antialias: bool) -> Tensor:
    """What is linear in rows and in columns is a matrix on either side."""
    rows, columns = (
        _matrix(kind, align_corners, antialias, have, want, images.device)
        for have, want in zip(images.shape[-2:], size, strict=True)
    )
    # autocast would round the weights of the filter.
    with torch.autocast(images.device.type, enabled=False):
        return (rows @ images.to(rows.dtype) @ columns.mT).to(images.dtype)


@lru_cache(maxsize=256)
def _matrix(kind: str, align_corners: bool, antialias: bool, have: int, want: int, device: torch.device) -> Tensor:
    """[want, have]: what the filter makes of unit vectors; the other axis keeps its length, and is left alone."""
    with torch.no_grad():
        units = torch.eye(have, dtype=torch.float64)[None, None]
        if kind == "mean":
            found = F.adaptive_avg_pool2d(units, (want, have))
        else:
            found = F.interpolate(units, (want, have), mode=kind, align_corners=align_corners, antialias=antialias)
        return found[0, 0].float().to(device)


def _sampled(
    images: Tensor, grid: Tensor, mode: str = "bilinear", padding_mode: str = "zeros", align_corners: bool | None = None
) -> Tensor | None:
    """grid_sample of [N, C, H, W] at [N, h, w, 2], bilinear, the border going on; None for its other kinds."""
    if mode != "bilinear" or padding_mode != "border" or align_corners:
        return None
    batch, channels, height, width = images.shape
    x = ((grid[..., 0] + 1) * width / 2 - 0.5).clamp(0, width - 1)
    y = ((grid[..., 1] + 1) * height / 2 - 0.5).clamp(0, height - 1)
    left, top = x.floor().long(), y.floor().long()
    right, below = (left + 1).clamp(max=width - 1), (top + 1).clamp(max=height - 1)
    flat = images.flatten(2)

    def at(row: Tensor, column: Tensor) -> Tensor:
        places = (row * width + column).flatten(1)[:, None].expand(batch, channels, -1)
        return flat.gather(2, places).unflatten(2, grid.shape[1:3])

    across, down = (x - left)[:, None].to(images.dtype), (y - top)[:, None].to(images.dtype)
    upper = (1 - across) * at(top, left) + across * at(top, right)
    lower = (1 - across) * at(below, left) + across * at(below, right)
    return (1 - down) * upper + down * lower


_OWN: dict[Callable[..., Any], Callable[..., Tensor | None]] = {
    F.adaptive_avg_pool2d: _averaged,
    F.interpolate: _resized,
    F.grid_sample: _sampled,
}
