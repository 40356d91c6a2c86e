"""State dicts with the keys of model_ir_se50.pth, with random weights of any width and depth."""

from __future__ import annotations

import torch
from torch import Tensor

REAL_BLOCKS, REAL_WIDTHS = (3, 4, 14, 3), (64, 128, 256, 512)
SMALL_BLOCKS, SMALL_WIDTHS = (2, 1, 3, 2), (16, 32, 32, 64)

State = dict[str, Tensor]


def face_network(blocks: tuple[int, ...], widths: tuple[int, ...], device: str = "cpu", seed: int = 0) -> State:
    """A state dict of the file's keys, everything random, counters of batches included."""
    generator = torch.Generator().manual_seed(seed)
    state: State = {}

    def draw(name: str, low: float, high: float, *shape: int) -> None:
        if device == "meta":
            state[name] = torch.empty(shape, device="meta")
        else:
            state[name] = torch.rand(shape, generator=generator) * (high - low) + low

    def convolution(name: str, outputs: int, inputs: int, kernel: int) -> None:
        bound = (3 / (inputs * kernel**2)) ** 0.5
        draw(f"{name}.weight", -bound, bound, outputs, inputs, kernel, kernel)

    def norm(name: str, channels: int) -> None:
        for part, low, high in (("weight", 0.5, 1.5), ("bias", -0.3, 0.3)):
            draw(f"{name}.{part}", low, high, channels)
        draw(f"{name}.running_mean", -0.3, 0.3, channels)
        draw(f"{name}.running_var", 0.5, 2, channels)
        state[f"{name}.num_batches_tracked"] = torch.tensor(12345, device=device)

    convolution("input_layer.0", widths[0], 3, 3)
    norm("input_layer.1", widths[0])
    draw("input_layer.2.weight", -0.3, 0.6, widths[0])
    number, inputs = 0, widths[0]
    for count, width in zip(blocks, widths, strict=True):
        for _ in range(count):
            name = f"body.{number}"
            if inputs != width:
                convolution(f"{name}.shortcut_layer.0", width, inputs, 1)
                norm(f"{name}.shortcut_layer.1", width)
            norm(f"{name}.res_layer.0", inputs)
            convolution(f"{name}.res_layer.1", width, inputs, 3)
            draw(f"{name}.res_layer.2.weight", -0.3, 0.6, width)
            convolution(f"{name}.res_layer.3", width, width, 3)
            norm(f"{name}.res_layer.4", width)
            convolution(f"{name}.res_layer.5.fc1", width // 16 if width >= 64 else 4, width, 1)
            convolution(f"{name}.res_layer.5.fc2", width, width // 16 if width >= 64 else 4, 1)
            number, inputs = number + 1, width
    norm("output_layer.0", inputs)
    draw("output_layer.3.weight", -0.01, 0.01, 512, inputs * 49)
    draw("output_layer.3.bias", -0.1, 0.1, 512)
    norm("output_layer.4", 512)
    return state
