"""How a small network learns: AdamW with a one-cycle rate on augmented pictures, resumable after an interruption."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from styleblend.faces.pixels import from_8bit
from styleblend.pretraining.data import Faces
from styleblend.system.files import whole_file


def augmented(pixels: Tensor, random: torch.Generator) -> Tensor:
    """Bytes [N, 3, S, S] as pictures in [-1, 1] with another exposure, tint and sharpness."""
    n = len(pixels)
    images = from_8bit(pixels)
    exposure, tint, shift = (torch.rand(n, channels, 1, 1, generator=random) - 0.5 for channels in (1, 3, 1))
    images = ((images + 1) * (1 + 0.30 * exposure + 0.30 * tint) - 1 + 0.2 * shift).clamp(-1, 1)
    # What is looked at later was resampled once or drawn by a decoder, so it is softer than a fresh render.
    blurred = functional.avg_pool2d(functional.pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1)
    return torch.lerp(images, blurred, torch.rand(n, 1, 1, 1, generator=random))


def learn(
    name: str,
    network: nn.Module,
    loss_of: Callable[[Tensor, Tensor], Tensor],
    faces_of: Faces,
    steps: int,
    batch_size: int,
    learning_rate: float,
    state: Path,
    seed: int,
    as_they_are: bool = False,
    momentum: bool = True,
) -> None:
    """Minimise `loss_of(pictures, rows)` with AdamW and a one-cycle rate; continues after an interruption.

    Args:
        network: everything that learns. The batch of a step is a pure function of (seed, step).
        as_they_are: pictures are not augmented. momentum: without it, betas are StyleGAN's (0, 0.99).
    """
    optimizer = torch.optim.AdamW(
        network.parameters(),
        learning_rate,
        betas=(0.9, 0.999) if momentum else (0.0, 0.99),
        weight_decay=1e-4 if momentum else 0,
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, learning_rate, total_steps=steps + 1, pct_start=0.1 if momentum else 0.02, cycle_momentum=momentum
    )
    parts: dict[str, Any] = {"network": network, "optimizer": optimizer, "schedule": schedule}
    checkpoint = state / f"{name}.pt"
    first = 0
    if checkpoint.exists():
        stored = torch.load(checkpoint, weights_only=True)
        for key, part in parts.items():
            part.load_state_dict(stored[key])
        first = stored["step"]
    network.train()
    started = time.monotonic()
    for step in range(first, steps):
        random = torch.Generator().manual_seed(seed * 1_000_003 + step)
        rows = torch.randint(len(faces_of.images), (batch_size,), generator=random)
        pixels = faces_of.images[rows]
        loss = loss_of(from_8bit(pixels) if as_they_are else augmented(pixels, random), rows)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        if (step + 1) % 200 == 0 or step + 1 == steps:
            pace = (time.monotonic() - started) / (step + 1 - first)
            print(f"{name}: step {step + 1} of {steps}, loss {loss.item():.4f}, {pace:.3f} s a step", flush=True)
            with whole_file(checkpoint) as partial:
                torch.save({key: part.state_dict() for key, part in parts.items()} | {"step": step + 1}, partial)
    network.eval()
