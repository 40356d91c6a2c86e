"""Weight files as face-alignment publishes them for FAN: the library's own network with everything random."""

from __future__ import annotations

from pathlib import Path

import torch
from face_alignment.models.fan import FAN
from torch import Tensor, nn

PUBLISHED = "2DFAN4-11f355bf06.pth.tar"


def network(modules: int = 1, seed: int = 0) -> nn.Module:
    """The library's FAN in eval mode; statistics and scales of its norms are random too, not only its weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        fan: nn.Module = FAN(modules)
        for layer in fan.modules():
            if isinstance(layer, nn.BatchNorm2d):
                nn.init.uniform_(layer.weight, 0.5, 1.2)
                nn.init.normal_(layer.bias, 0, 0.1)
                nn.init.normal_(layer.running_mean, 0, 0.1)
                nn.init.uniform_(layer.running_var, 0.5, 1.5)
                layer.num_batches_tracked += 7
    return fan.eval()


def write(weights: nn.Module | dict[str, Tensor], path: Path, counters: bool = True, zipped: bool = True) -> Path:
    """Save a state dict as torch does; `counters`, `zipped`: as before torch 0.4 and 1.6 it was done without."""
    state = weights.state_dict() if isinstance(weights, nn.Module) else dict(weights)
    kept = {name: value for name, value in state.items() if counters or not name.endswith(".num_batches_tracked")}
    torch.save(kept, path, _use_new_zipfile_serialization=zipped)
    return path
