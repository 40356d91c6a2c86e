"""TensorFlow.js layers models that come as JavaScript modules, as nsfwjs has them: read as data, never run.

One module exports an object with the layers and a list of weights, the others export the weights' bytes in base64. An
object literal differs from JSON in its keys without quotes, in `!0` and `!1`, and in numbers such as `.5`.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from styleblend.errors import StyleBlendError
from styleblend.weights.formats.tfjs_graph import decoded

_AGAIN = "get it again"
_ENDING = ".min.js"
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[A-Za-z_$][\w$]*|![01]|-?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|\S')
_WORDS = {"!0": "true", "!1": "false", "true": "true", "false": "false", "null": "null"}
_BYTES = re.compile(r'exports\s*=\s*"([A-Za-z0-9+/]*={0,2})"')


def read(path: Path) -> tuple[list[Mapping[str, Any]], dict[str, NDArray[Any]]]:
    """Layers, as Keras describes them, and weights of the modules in a zip file.

    Raises:
        StyleBlendError: it is missing, damaged or no such model.
    """
    try:
        with zipfile.ZipFile(path) as bundle:
            texts = {PurePosixPath(name).name: bundle.read(name).decode() for name in bundle.namelist()}
        model = _object(next(text for text in texts.values() if "modelTopology:" in text))
        layers = model["modelTopology"]["model_config"]["config"]["layers"]
        groups = model["weightsManifest"]
        raw = b"".join(_bytes(texts[f"{part}{_ENDING}"]) for group in groups for part in group["paths"])
        listed = [each for group in groups for each in group["weights"]]
        return layers, decoded(listed, raw, str(path))
    except StopIteration:
        raise StyleBlendError(f"{path} holds no layers model of TensorFlow.js: {_AGAIN}") from None
    except (OSError, zipfile.BadZipFile, zlib.error, binascii.Error, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise StyleBlendError(f"{path} is no layers model of TensorFlow.js ({reason}): {_AGAIN}") from None


def _object(text: str) -> dict[str, Any]:
    """The object literal that begins with modelTopology, as JSON reads it."""
    tokens = (_as_json(each) for each in _TOKEN.findall(text, text.index("{modelTopology:")))
    return json.JSONDecoder().raw_decode("".join(tokens))[0]


def _as_json(token: str) -> str:
    if token in _WORDS:
        return _WORDS[token]
    if re.match(r"-?\.\d", token):
        return token.replace(".", "0.", 1)
    return f'"{token}"' if re.match(r"[A-Za-z_$]", token) else token


def _bytes(text: str) -> bytes:
    found = _BYTES.search(text)
    if found is None:
        raise ValueError("a module exports no bytes in base64")
    return base64.b64decode(found[1], validate=True)


class LayersNetwork(nn.Module):
    """What leads from a model's input, a picture, to one of its layers. Frozen, differentiable.

    Args:
        path: names the file in messages. output: name of the layer whose value is wanted.
    Raises:
        StyleBlendError: there is no such layer, or one on the way is unknown, lacks weights or does not fit; names it.
    """

    def __init__(self, path: Path, output: str) -> None:
        super().__init__()
        layers, weights = read(path)
        self._steps: list[tuple[str, Callable[..., Tensor], tuple[str, ...], tuple[str, ...]]] = []
        self.side_px = 0
        for layer in layers:
            try:
                self._add(layer, weights)
            except (KeyError, TypeError, ValueError, IndexError) as error:
                kind = f"layer '{layer.get('name')}' ({layer.get('class_name')})"
                raise StyleBlendError(f"{path}: {kind} cannot be used: {str(error)[:160]}: {_AGAIN}") from None
            if layer["name"] == output:
                break
        else:
            raise StyleBlendError(f"{path} has no layer '{output}': it is another network")
        self.requires_grad_(False).eval()

    def _add(self, layer: Mapping[str, Any], weights: Mapping[str, NDArray[Any]]) -> None:
        kind, name, config = layer["class_name"], layer["name"], layer["config"]
        if kind == "InputLayer":
            _, height, width, channels = config["batch_input_shape"]
            if height != width or channels != 3 or self.side_px:
                raise ValueError(f"it reads {config['batch_input_shape']}, wanted one square picture")
            self.side_px, self._input = height, name
            return
        if kind not in LAYERS:
            raise ValueError(f"only {', '.join(sorted(LAYERS))} are known here")
        function, wanted = LAYERS[kind](config)
        own = []
        for part in wanted:
            value = torch.from_numpy(np.array(weights[f"{name}/{part}"], np.float32))
            if not value.isfinite().all():
                raise ValueError(f"its {part} holds values that are not finite")
            self.register_buffer(f"{name}_{part}", value, persistent=False)
            own.append(f"{name}_{part}")
        (inbound,) = layer["inbound_nodes"]
        reads = tuple(str(each[0]) for each in inbound)
        known = {self._input, *(step[0] for step in self._steps)}
        if unknown := [each for each in reads if each not in known]:
            raise ValueError(f"it reads {unknown}, which come after it")
        self._steps.append((name, function, reads, tuple(own)))

    def forward(self, images: Tensor) -> Tensor:
        """The output layer's value for pictures [N, 3, side_px, side_px]; maps are [N, C, H, W]."""
        values = {self._input: images}
        last = {read: place for place, (_, _, reads, _) in enumerate(self._steps) for read in reads}
        for place, (name, function, reads, own) in enumerate(self._steps):
            out = function(*(values[read] for read in reads), *(getattr(self, each) for each in own))
            for read in {read for read in reads if last[read] == place}:
                del values[read]
            values[name] = out
        return values[self._steps[-1][0]]


_Layer = tuple[Callable[..., Tensor], tuple[str, ...]]
"""A function of the inputs and of the weights that it names, in this order."""


def _expect(config: Mapping[str, Any], **wanted: Any) -> None:
    for key, value in wanted.items():
        if config.get(key, value) != value:
            raise ValueError(f"its {key} is {config[key]}, wanted {value}")


def _around(config: Mapping[str, Any], size: list[int], strides: list[int]) -> tuple[int, int]:
    """Padding of both sides; where TensorFlow's is uneven it is refused."""
    if config["padding"] == "valid":
        return 0, 0
    if config["padding"] != "same" or strides != [1, 1] or any(side % 2 == 0 for side in size):
        raise ValueError(f"padding {config['padding']} with strides {strides} and size {size} is not known")
    return size[0] // 2, size[1] // 2


def _convolution(config: Mapping[str, Any]) -> _Layer:
    _expect(config, activation="linear", use_bias=False, dilation_rate=[1, 1], data_format="channels_last")
    strides = config["strides"]
    around = _around(config, config["kernel_size"], strides)
    return lambda x, kernel: F.conv2d(x, kernel.permute(3, 2, 0, 1), None, strides, around), ("kernel",)


def _norm(config: Mapping[str, Any]) -> _Layer:
    _expect(config, axis=3, center=True, scale=False)
    epsilon = config["epsilon"]
    return (
        lambda x, beta, mean, variance: F.batch_norm(x, mean, variance, None, beta, eps=epsilon),
        ("beta", "moving_mean", "moving_variance"),
    )


def _activation(config: Mapping[str, Any]) -> _Layer:
    _expect(config, activation="relu")
    return torch.relu, ()


def _concatenation(config: Mapping[str, Any]) -> _Layer:
    _expect(config, axis=3)
    return lambda *parts: torch.cat(parts, dim=1), ()


def _pooling(function: Callable[..., Tensor], **options: Any) -> Callable[[Mapping[str, Any]], _Layer]:
    def layer(config: Mapping[str, Any]) -> _Layer:
        _expect(config, data_format="channels_last")
        size, strides = config["pool_size"], config["strides"]
        around = _around(config, size, strides)
        return lambda x: function(x, size, strides, around, **options), ()

    return layer


def _flat(config: Mapping[str, Any]) -> _Layer:
    def flatten(x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1).flatten(1)  # in the order of the file's layout

    return flatten, ()


LAYERS: dict[str, Callable[[Mapping[str, Any]], _Layer]] = {
    "Activation": _activation,
    "AveragePooling2D": _pooling(F.avg_pool2d, count_include_pad=False),
    "BatchNormalization": _norm,
    "Concatenate": _concatenation,
    "Conv2D": _convolution,
    "Flatten": _flat,
    "MaxPooling2D": _pooling(F.max_pool2d),
}
"""Layers that are known, by Keras's name."""
