"""StyleGAN1 generators in the three formats, everything in them random, and what each draws.

The drawing follows the originals in plain tensor operations on the file's own tensors and shares nothing with the
package.
"""

from __future__ import annotations

import math
import pickle
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

Tensors = dict[str, Tensor]
LAYERS = 8


class Built(NamedTuple):
    """A generator as its format names it, with the tensors that draw in order."""

    tensors: Tensors
    layers: list[dict[str, Tensor]]
    rgb: tuple[Tensor, Tensor]
    dense: list[tuple[Tensor, Tensor]]


def random(*shape: int, scale: float = 1.0) -> Tensor:
    return torch.randn(*shape) * scale


def doubled(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


def blurred(x: Tensor) -> Tensor:
    """[1, 2, 1] along each axis, / 4, zeros outside."""
    x = functional.pad(x, (1, 1, 1, 1))
    x = (x[:, :, :-2] + 2 * x[:, :, 1:-1] + x[:, :, 2:]) / 4
    return (x[..., :-2] + 2 * x[..., 1:-1] + x[..., 2:]) / 4


def four_shifted(weight: Tensor, *dims: int) -> Tensor:
    """Sum of a kernel's copies shifted by no or one pixel along two axes."""
    for dim in dims:
        zeros = torch.zeros_like(weight.narrow(dim, 0, 1))
        weight = torch.cat([weight, zeros], dim) + torch.cat([zeros, weight], dim)
    return weight


def normalised(x: Tensor, eps: float) -> Tensor:
    x = x - x.mean((2, 3), keepdim=True)
    return x / (x.square().mean((2, 3), keepdim=True) + eps).sqrt()


def lrelu(x: Tensor) -> Tensor:
    return torch.maximum(x, 0.2 * x)


def channels(vector: Tensor) -> Tensor:
    return vector.reshape(1, -1, 1, 1)


def latents_mapped(z: Tensor, dense: Sequence[tuple[Tensor, Tensor]], rate: float) -> Tensor:
    """The mapping network of torch formats: weights [O, I], scaled by sqrt(2 / I) and the learning rate."""
    x = z / (z.square().mean(1, keepdim=True) + 1e-8).sqrt()
    for weight, bias in dense:
        x = lrelu(x @ weight.T * math.sqrt(2 / weight.shape[1]) * rate + bias * rate)
    return x


# --- the original network: lernapparat and genforce in torch's order of axes, NVIDIA in TensorFlow's


def lernapparat(widths: dict[int, int], dim: int) -> Built:
    tensors: Tensors = {}
    dense = []
    for k in range(LAYERS):
        dense.append((random(dim, dim, scale=100), random(dim, scale=30)))
        tensors[f"g_mapping.dense{k}.weight"], tensors[f"g_mapping.dense{k}.bias"] = dense[-1]
    layers = []
    for k, (side, inputs, outputs) in enumerate(sides(widths)):
        block = f"g_synthesis.blocks.{side}x{side}"
        if k == 0:
            weight, bias = f"{block}.const", f"{block}.bias"
        else:
            conv = f"{block}.conv" if side == 4 else f"{block}.conv0_up" if k % 2 == 0 else f"{block}.conv1"
            weight, bias = f"{conv}.weight", f"{conv}.bias"
            if k % 2 == 0:
                tensors[f"{conv}.intermediate.kernel"] = kernel()[None, None]
        epilogue = f"{block}.epi{k % 2 + 1}"
        names = {
            "weight": weight,
            "bias": bias,
            "noise": f"{epilogue}.top_epi.noise.weight",
            "style_weight": f"{epilogue}.style_mod.lin.weight",
            "style_bias": f"{epilogue}.style_mod.lin.bias",
        }
        layers.append(add_layer(tensors, names, k, inputs, outputs, dim))
    rgb = random(3, layers[-1]["bias"].shape[0], 1, 1), random(3)
    tensors["g_synthesis.torgb.weight"], tensors["g_synthesis.torgb.bias"] = rgb
    return Built(tensors, layers, rgb, dense)


def genforce(widths: dict[int, int], dim: int) -> Built:
    tensors: Tensors = {"truncation.w_avg": random(dim), "synthesis.lod": torch.zeros(())}
    dense = []
    for k in range(LAYERS):
        dense.append((random(dim, dim, scale=100), random(dim, scale=30)))
        tensors[f"mapping.dense{k}.weight"], tensors[f"mapping.dense{k}.bias"] = dense[-1]
    layers = []
    for k, (side, inputs, outputs) in enumerate(sides(widths)):
        own = f"synthesis.layer{k}"
        names = {
            "weight": f"{own}.weight" if k else f"{own}.const",
            "bias": f"{own}.bias",
            "noise": f"{own}.apply_noise.weight",
            "style_weight": f"{own}.style.weight",
            "style_bias": f"{own}.style.bias",
        }
        layers.append(add_layer(tensors, names, k, inputs, outputs, dim))
        tensors[f"{own}.apply_noise.noise"] = random(1, 1, side, side)
        if k >= 2 and k % 2 == 0:
            tensors[f"{own}.blur.kernel"] = kernel().repeat(outputs, 1, 1, 1)
        if k % 2:
            rgb = random(3, outputs, 1, 1), random(3)
            tensors[f"synthesis.output{k // 2}.weight"], tensors[f"synthesis.output{k // 2}.bias"] = rgb
    return Built(tensors, layers, rgb, dense)


def nvidia(widths: dict[int, int], dim: int) -> Built:
    """Names as "part/variable"; kernels [H, W, I, O], matrices [I, O]."""
    tensors: Tensors = {"lod": torch.zeros(()), "synthesis/lod": torch.zeros(()), "dlatent_avg": random(dim)}
    dense = []
    for k in range(LAYERS):
        dense.append((random(dim, dim, scale=100), random(dim, scale=30)))
        tensors[f"mapping/Dense{k}/weight"], tensors[f"mapping/Dense{k}/bias"] = dense[-1]
    layers = []
    top = max(widths)
    for k, (side, inputs, outputs) in enumerate(sides(widths)):
        conv = ("Conv1" if k % 2 else "Conv0_up") if side > 4 else ("Conv" if k else "Const")
        own = f"synthesis/{side}x{side}/{conv}"
        names = {
            "weight": f"{own}/weight" if k else f"{own}/const",
            "bias": f"{own}/bias",
            "noise": f"{own}/Noise/weight",
            "style_weight": f"{own}/StyleMod/weight",
            "style_bias": f"{own}/StyleMod/bias",
        }
        layers.append(add_layer(tensors, names, k, inputs, outputs, dim, tensorflow=True))
        tensors[f"synthesis/noise{k}"] = random(1, 1, side, side)
        if k % 2:
            rgb = random(1, 1, outputs, 3), random(3)
            level = f"synthesis/ToRGB_lod{int(math.log2(top // side))}"
            tensors[f"{level}/weight"], tensors[f"{level}/bias"] = rgb
    return Built(tensors, layers, rgb, dense)


def sides(widths: dict[int, int]) -> list[tuple[int, int, int]]:
    """Side, input and output channels of each layer; the first has no inputs."""
    found, inputs = [], 0
    for side in sorted(widths):
        for _ in range(2):
            found.append((side, inputs, widths[side]))
            inputs = widths[side]
    return found


def kernel() -> Tensor:
    return torch.tensor([[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]]) / 16


def add_layer(
    tensors: Tensors, names: dict[str, str], k: int, inputs: int, outputs: int, dim: int, tensorflow: bool = False
) -> dict[str, Tensor]:
    if k == 0:
        weight = random(1, outputs, 4, 4)
    else:
        weight = random(3, 3, inputs, outputs) if tensorflow else random(outputs, inputs, 3, 3)
    layer = {
        "weight": weight,
        "bias": random(outputs),
        "noise": random(outputs),
        "style_weight": random(dim, 2 * outputs) if tensorflow else random(2 * outputs, dim),
        "style_bias": random(2 * outputs),
    }
    tensors |= {names[role]: tensor for role, tensor in layer.items()}
    return layer


def original_picture(
    built: Built, codes: Tensor, noise: Sequence[Tensor], tensorflow: bool = False, eps: float = 1e-8
) -> Tensor:
    """Karras et al. 2019: convolution, blur, noise, bias, leaky ReLU, instance norm, style; fused from 128 px."""
    x = torch.zeros(0)
    for k, layer in enumerate(built.layers):
        weight = layer["weight"]
        if k == 0:
            x = weight.repeat(len(codes), 1, 1, 1)
        else:
            fan_in = (weight[..., 0] if tensorflow else weight[0]).numel()
            weight = weight * math.sqrt(2) / math.sqrt(fan_in)
            up = k % 2 == 0
            if up and 2 * x.shape[-1] >= 128:
                x = (tensorflow_fused if tensorflow else torch_fused)(x, weight)
            else:
                plain = weight.permute(3, 2, 0, 1) if tensorflow else weight
                x = functional.conv2d(doubled(x) if up else x, plain, padding=1)
            x = blurred(x) if up else x
        x = lrelu(x + noise[k] * channels(layer["noise"]) + channels(layer["bias"]))
        matrix = layer["style_weight"] if tensorflow else layer["style_weight"].T
        style = (codes[:, k] @ matrix / math.sqrt(codes.shape[2]) + layer["style_bias"])[:, :, None, None]
        half = x.shape[1]
        x = normalised(x, eps) * (style[:, :half] + 1) + style[:, half:]
    weight, bias = built.rgb
    plain = weight.permute(3, 2, 0, 1) if tensorflow else weight
    return functional.conv2d(x, plain / math.sqrt(plain.shape[1])) + channels(bias)


def torch_fused(x: Tensor, weight: Tensor) -> Tensor:
    return functional.conv_transpose2d(x, four_shifted(weight.transpose(0, 1), 2, 3), stride=2, padding=1)


def tensorflow_fused(x: Tensor, weight: Tensor) -> Tensor:
    """conv2d_transpose is the gradient of a convolution of stride 2 with respect to its input."""
    size = (x.shape[0], weight.shape[3], 2 * x.shape[2], 2 * x.shape[3])
    forward = four_shifted(weight, 0, 1).permute(2, 3, 0, 1)
    return torch.nn.grad.conv2d_input(size, forward, x, stride=2, padding=1)


# --- files


def write_nvidia(path: Path, tensors: Tensors, protocol: int = 4, **arguments: Any) -> None:
    """(G, D, Gs) as training saved them, by a stand-in of dnnlib's class with its pickled state."""

    class Network:
        def __init__(self, state: dict[str, Any]) -> None:
            self.state = state

        def __getstate__(self) -> dict[str, Any]:
            return self.state

    Network.__module__, Network.__qualname__ = "dnnlib.tflib.network", "Network"
    modules = {name: types.ModuleType(name) for name in ("dnnlib", "dnnlib.tflib", "dnnlib.tflib.network")}
    modules["dnnlib.tflib.network"].Network = Network  # type: ignore[attr-defined]

    def network(prefix: str, **parts: Any) -> Network:
        own = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        if not prefix:
            own = {name: value for name, value in own.items() if name.split("/")[0] not in parts}
        # TensorFlow hands a variable without axes over as a numpy scalar.
        arrays = [(name, value.numpy() if value.ndim else np.float32(value.item())) for name, value in own.items()]
        return Network({
            "version": 3,
            "name": prefix.strip("/") or "Gs",
            "static_kwargs": {"num_channels": 3, "resolution": 1024, **arguments},
            "components": parts,
            "build_module_src": "raise SystemExit('this source was run')",
            "build_func_name": "G_style",
            "variables": arrays,
        })  # fmt: skip

    averaged = network("", mapping=network("mapping/"), synthesis=network("synthesis/"))
    other = Network({"version": 3, "static_kwargs": {}, "components": {}, "variables": [("lod", np.float32(0))]})
    with pytest.MonkeyPatch.context() as patch:
        for name, module in modules.items():
            patch.setitem(sys.modules, name, module)
        content = pickle.dumps((other, other, averaged), protocol)
    if protocol == 3:
        # As numpy 1 wrote it; protocol 3 has no lengths that would have to be changed too.
        content = content.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
    path.write_bytes(content)
