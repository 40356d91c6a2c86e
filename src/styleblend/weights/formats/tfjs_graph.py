"""TensorFlow.js graph models as torch modules: the graph is walked, and nothing of it is run as a program.

A graph model is a JSON file with the nodes and a list of weights, and files with the weights' bytes, which may be
quantised; here all of them lie in one zip. Nodes keep TensorFlow's meaning, pictures torch's layout [N, C, H, W].
"""

from __future__ import annotations

import base64
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from styleblend.errors import StyleBlendError

_TYPES = {"float32": "<f4", "int32": "<i4", "float16": "<f2", "uint8": "<u1", "uint16": "<u2"}
_AGAIN = "get it again"


@dataclass(frozen=True)
class Node:
    """One operation: its attributes are as in the file, inputs are names of nodes."""

    name: str
    op: str
    inputs: tuple[str, ...]
    attributes: Mapping[str, Any]

    def numbers(self, key: str) -> list[int]:
        """An attribute that is a list of integers."""
        return [int(each) for each in self.attributes.get(key, {}).get("list", {}).get("i", [])]

    def text(self, key: str) -> str:
        """An attribute that is a string; the format writes it in base64."""
        return base64.b64decode(self.attributes.get(key, {}).get("s", "")).decode()

    def flag(self, key: str) -> bool:
        """An attribute that is true or false."""
        return bool(self.attributes.get(key, {}).get("b", False))


def read(path: Path) -> tuple[list[Node], dict[str, NDArray[Any]]]:
    """Nodes and weights of the graph model in a zip file.

    Raises:
        StyleBlendError: it is missing, damaged or no graph model, or weights and constants do not go together.
    """
    try:
        with zipfile.ZipFile(path) as bundle:
            names = [name for name in bundle.namelist() if name.endswith(".json")]
            if len(names) != 1:
                raise StyleBlendError(f"{path} holds {len(names)} JSON files, a graph model has one: {_AGAIN}")
            model = json.loads(bundle.read(names[0]))
            nodes = [_node(each) for each in model["modelTopology"]["node"]]
            raw = b"".join(bundle.read(file) for group in model["weightsManifest"] for file in group["paths"])
            listed = [each for group in model["weightsManifest"] for each in group["weights"]]
    except (OSError, zipfile.BadZipFile, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StyleBlendError(f"{path} is no graph model of TensorFlow.js ({error}): {_AGAIN}") from None
    weights = decoded(listed, raw, str(path))
    constants = {node.name for node in nodes if node.op == "Const"}
    if lost := sorted(constants ^ set(weights)):
        raise StyleBlendError(f"{path} has constants without weights, or weights without a node: {lost[:3]}: {_AGAIN}")
    return nodes, weights


def _node(stored: Mapping[str, Any]) -> Node:
    inputs = tuple(str(name).removesuffix(":0") for name in stored.get("input", ()))
    return Node(str(stored["name"]), str(stored["op"]), inputs, stored.get("attr", {}))


def decoded(listed: Sequence[Mapping[str, Any]], raw: bytes, origin: str) -> dict[str, NDArray[Any]]:
    """The weights of a manifest from their bytes in its order; quantised ones (float16, uint8, uint16) as float32.

    Raises:
        StyleBlendError: a type or quantisation is unknown, a name comes twice, or bytes are missing or left.
    """
    weights: dict[str, NDArray[Any]] = {}
    place = 0
    for each in listed:
        name, stored = str(each["name"]), each.get("quantization") or {"dtype": each["dtype"]}
        if stored["dtype"] not in _TYPES or name in weights:
            raise StyleBlendError(f"{origin} has weights '{name}' of type {stored['dtype']}, or twice: {_AGAIN}")
        kind, count = np.dtype(_TYPES[stored["dtype"]]), int(np.prod(each["shape"], dtype=np.int64))
        if place + count * kind.itemsize > len(raw):
            raise StyleBlendError(f"{origin} ends within weights '{name}' of {list(each['shape'])}: {_AGAIN}")
        values = np.frombuffer(raw, kind, count, place).reshape(each["shape"])
        place += count * kind.itemsize
        if "scale" in stored:
            values = values.astype(np.float32) * np.float32(stored["scale"]) + np.float32(stored["min"])
        weights[name] = values.astype(np.int64 if kind.kind == "i" else np.float32)
    if place != len(raw):
        raise StyleBlendError(f"{origin} has {len(raw) - place} bytes that belong to no weights: {_AGAIN}")
    return weights


class TfjsGraph(nn.Module):
    """What leads from a graph's only placeholder, a picture, to one of its nodes. Frozen, differentiable.

    Args:
        path: names the file in messages. output: name of the node whose value is wanted.

    Raises:
        StyleBlendError: there is no such node, or an operation on the way is unknown or does not fit; names it.
    """

    def __init__(self, path: Path, nodes: Sequence[Node], weights: Mapping[str, NDArray[Any]], output: str) -> None:
        super().__init__()
        self.output = output
        self.nodes = _leading_to({node.name: node for node in nodes}, output, path)
        self.shapes: dict[str, list[int]] = {}
        self._buffers_of: dict[str, str] = {}
        # Axes, borders and shapes stay in memory that can be read at once, wherever the network is moved to.
        self._integers: dict[str, Tensor] = {}
        kernels = {node.inputs[1]: _LAYOUTS[node.op] for node in self.nodes if node.op in _LAYOUTS and node.inputs[1:]}
        for node in self.nodes:
            if node.op == "Const":
                value = torch.from_numpy(weights[node.name].copy())
                value = kernels[node.name](value) if node.name in kernels and value.ndim == 4 else value
                if not value.isfinite().all():
                    raise StyleBlendError(f"{path} has values in '{node.name}' that are not finite: {_AGAIN}")
                if not value.is_floating_point():
                    self._integers[node.name] = value
                    continue
                self._buffers_of[node.name] = f"constant_{len(self._buffers_of)}"
                self.register_buffer(self._buffers_of[node.name], value)
        self._input, self.side_px = _picture([node for node in self.nodes if node.op == "Placeholder"], path)
        self._expect_fit(path)

    def _expect_fit(self, path: Path) -> None:
        """One pass over an empty picture, so that what does not fit is found when the file is read."""
        values = {self._input: torch.zeros(1, 3, self.side_px, self.side_px)}
        for node in self.nodes:
            try:
                self._compute(node, values)
            except (RuntimeError, ValueError, IndexError) as error:
                reason = " ".join(str(error).split())[:200]
                raise StyleBlendError(f"{path}: node '{node.name}' ({node.op}) does not fit: {reason}") from None
        self.shapes = {name: list(value.shape) for name, value in values.items()}

    def _compute(self, node: Node, values: dict[str, Tensor]) -> None:
        if node.op == "Const":
            integers = self._integers.get(node.name)
            values[node.name] = integers if integers is not None else getattr(self, self._buffers_of[node.name])
        elif node.op != "Placeholder":
            values[node.name] = OPERATIONS[node.op](node, *(values[name] for name in node.inputs))

    def values(self, images: Tensor, *names: str) -> list[Tensor]:
        """The values of some nodes on the way for pictures [N, 3, S, S]; maps are [N, C, H, W]."""
        # On one thread of a CPU this order of the values takes torch half the time.
        values = {self._input: images.contiguous(memory_format=torch.channels_last)}
        for node in self.nodes:
            self._compute(node, values)
        return [values[name] for name in names]

    def forward(self, images: Tensor) -> Tensor:
        """The output's value for pictures [N, 3, S, S]."""
        return self.values(images, self.output)[0]

    def last_maps(self) -> str:
        """Name of the last node before the output whose value is maps."""
        return next(node.name for node in reversed(self.nodes) if len(self.shapes[node.name]) == 4 and node.inputs)


def _leading_to(nodes: Mapping[str, Node], output: str, path: Path) -> list[Node]:
    """The nodes that a node depends on, and itself, each after its inputs."""
    order: dict[str, Node] = {}
    waiting = [output]
    while waiting:
        name = waiting[-1]
        if name not in nodes:
            raise StyleBlendError(f"{path} has no node '{name}': it is another network")
        node = nodes[name]
        if node.op not in OPERATIONS and node.op not in ("Const", "Placeholder"):
            known = ", ".join(sorted(OPERATIONS))
            raise StyleBlendError(f"{path}: node '{name}' is a {node.op}, which is not known here, but {known}")
        missing = [each for each in node.inputs if each not in order]
        if len(waiting) > len(nodes):
            raise StyleBlendError(f"{path}: node '{name}' depends on itself: {_AGAIN}")
        if missing:
            waiting += missing
        else:
            order[name] = node
            waiting = [each for each in waiting[:-1] if each not in order]
    return list(order.values())


def _picture(places: Sequence[Node], path: Path) -> tuple[str, int]:
    if len(places) != 1:
        raise StyleBlendError(f"{path} has {len(places)} inputs: one picture is expected")
    shape = places[0].attributes.get("shape", {}).get("shape", {}).get("dim", [])
    sides = [int(each.get("size", -1)) for each in shape]
    if len(sides) != 4 or sides[1] != sides[2] or sides[3] != 3 or sides[1] < 1:
        raise StyleBlendError(f"{path} reads an input of {sides}: [-1, S, S, 3], a square picture, is expected")
    return places[0].name, sides[1]


def _placed(node: Node, maps: Tensor, kernel: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """Maps with the border that TensorFlow's padding gives them, and the strides."""
    padding, strides = node.text("padding"), node.numbers("strides")
    if node.text("data_format") != "NHWC" or set(node.numbers("dilations")) - {1} or len(strides) != 4:
        raise ValueError("only layout NHWC without dilations is known")
    if padding not in ("SAME", "VALID"):
        raise ValueError(f"padding {padding} is not known")
    border = [0, 0, 0, 0]
    if padding == "SAME":
        for axis, place in ((2, 2), (3, 0)):
            size, step = maps.shape[axis], strides[axis - 1]
            lack = max((-(-size // step) - 1) * step + kernel.shape[axis] - size, 0)
            border[place : place + 2] = lack // 2, lack - lack // 2
    return F.pad(maps, border), (strides[1], strides[2])


def _convolution(node: Node, maps: Tensor, kernel: Tensor) -> Tensor:
    maps, strides = _placed(node, maps, kernel)
    return F.conv2d(maps, kernel, stride=strides)


def _depthwise(node: Node, maps: Tensor, kernel: Tensor) -> Tensor:
    maps, strides = _placed(node, maps, kernel)
    return F.conv2d(maps, kernel, stride=strides, groups=maps.shape[1])


# Kernels are brought into torch's layout once: with a view of another one torch takes a slow path at each call.
_LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "Conv2D": lambda kernel: kernel.permute(3, 2, 0, 1).contiguous(),
    "DepthwiseConv2dNative": lambda kernel: kernel.permute(2, 3, 0, 1).flatten(0, 1)[:, None].contiguous(),
}


def _elementwise(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    def run(node: Node, a: Tensor, b: Tensor) -> Tensor:
        if {a.ndim, b.ndim} == {4, 1}:  # a value for each channel
            a, b = (each.reshape(1, -1, 1, 1) if each.ndim == 1 else each for each in (a, b))
        return function(a, b)

    return run


def _mean(node: Node, maps: Tensor, axes: Tensor) -> Tensor:
    if maps.ndim != 4 or axes.flatten().tolist() != [1, 2]:
        raise ValueError(f"a mean of axes {axes.tolist()} is not known, but that of a map's places")
    return maps.mean((2, 3), keepdim=node.flag("keep_dims"))


def _pad(node: Node, maps: Tensor, borders: Tensor) -> Tensor:
    batch, rows, columns, channels = borders.tolist()
    if any((*batch, *channels)):
        raise ValueError(f"padding of {borders.tolist()} is not known, but that of a map's places")
    return F.pad(maps, (*columns, *rows))


def _reshape(node: Node, maps: Tensor, shape: Tensor) -> Tensor:
    # A literal batch of one would join pictures.
    if maps.ndim != 4 or len(shape) != 2 or int(shape[1]) != maps[0].numel():
        raise ValueError(f"maps of {list(maps.shape)} as {shape.tolist()} are not known, but a row a picture")
    return maps.permute(0, 2, 3, 1).flatten(1)


def _matrix(node: Node, rows: Tensor, matrix: Tensor) -> Tensor:
    if node.flag("transpose_a") or node.flag("transpose_b"):
        raise ValueError("transposed factors are not known")
    return rows @ matrix


OPERATIONS: dict[str, Callable[..., Tensor]] = {
    "Conv2D": _convolution,
    "DepthwiseConv2dNative": _depthwise,
    "Add": _elementwise(torch.add),
    "AddV2": _elementwise(torch.add),
    "Sub": _elementwise(torch.sub),
    "Mul": _elementwise(torch.mul),
    "Minimum": _elementwise(torch.minimum),
    "Maximum": _elementwise(torch.maximum),
    "Relu": lambda node, x: F.relu(x),
    "Mean": _mean,
    "Pad": _pad,
    "Reshape": _reshape,
    "MatMul": _matrix,
}
"""TensorFlow's operations that are known, by name."""


def load(path: Path, output: str) -> TfjsGraph:
    """The part of a graph model that leads to a node, frozen.

    Raises:
        StyleBlendError: the file is missing or damaged, or holds another network.
    """
    nodes, weights = read(path)
    return TfjsGraph(path, nodes, weights, output).eval()
