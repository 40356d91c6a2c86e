"""Graph models of TensorFlow.js, of the form of faceres and MobileFace with fewer layers, and what they compute."""

from __future__ import annotations

import base64
import json
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]


@dataclass
class Graph:
    """Nodes and weights; `dtype` is how floats are stored: float32, or quantised as float16 or uint8."""

    dtype: str = "float32"
    nodes: list[dict[str, Any]] = field(default_factory=list)
    listed: list[dict[str, Any]] = field(default_factory=list)
    raw: bytes = b""
    weights: dict[str, Values] = field(default_factory=dict)

    def placeholder(self, side: int) -> str:
        shape = {"dim": [{"size": str(each)} for each in (-1, side, side, 3)]}
        return self._add("input", "Placeholder", [], {"shape": {"shape": shape}})

    def constant(self, name: str, values: Any) -> str:
        """A constant, of which `weights` has what is left of it after its quantisation."""
        values = np.asarray(values)
        about: dict[str, Any] = {"name": name, "shape": list(values.shape), "dtype": "float32"}
        if values.dtype.kind == "i":
            about["dtype"], stored = "int32", values.astype("<i4")
        elif self.dtype == "float16":
            about["quantization"] = {"dtype": "float16", "original_dtype": "float32"}
            stored = values.astype("<f2")
        elif self.dtype == "uint8" and values.size > 1:
            low, scale = float(values.min()), float(np.ptp(values)) / 255
            about["quantization"] = {"dtype": "uint8", "min": low, "scale": scale, "original_dtype": "float32"}
            stored = np.rint((values - low) / scale).astype(np.uint8)
        else:
            stored = values.astype("<f4")
        self.weights[name] = stored.astype(np.float64)
        if "scale" in about.get("quantization", {}):
            self.weights[name] = self.weights[name] * about["quantization"]["scale"] + about["quantization"]["min"]
        self.listed.append(about)
        self.raw += stored.tobytes()
        return self._add(name, "Const", [], {})

    def node(self, name: str, op: str, *inputs: str, **attributes: Any) -> str:
        """An operation; strides, padding and so on as attributes."""
        kinds: dict[str, Any] = {}
        for key, value in attributes.items():
            if isinstance(value, str):
                kinds[key] = {"s": base64.b64encode(value.encode()).decode()}
            elif isinstance(value, bool):
                kinds[key] = {"b": value}
            else:
                kinds[key] = {"list": {"i": [str(each) for each in value]}}
        return self._add(name, op, list(inputs), kinds)

    def _add(self, name: str, op: str, inputs: list[str], attributes: dict[str, Any]) -> str:
        self.nodes.append({"name": name, "op": op, "input": inputs, "attr": attributes})
        return name

    def write(self, path: Path, **members: bytes) -> Path:
        """The zip with the model; `members` replace or add files in it."""
        model = {"format": "graph-model", "modelTopology": {"node": self.nodes}}
        model["weightsManifest"] = [{"paths": ["net.bin"], "weights": self.listed}]
        with zipfile.ZipFile(path, "w") as bundle:
            for name, content in {"net.json": json.dumps(model).encode(), "net.bin": self.raw, **members}.items():
                bundle.writestr(name, content)
        return path


def _spread(stride: int, padding: str) -> dict[str, Any]:
    strides = (1, stride, stride, 1)
    return {"strides": strides, "padding": padding, "data_format": "NHWC", "dilations": (1, 1, 1, 1)}


def faceres(side: int = 224, dtype: str = "float16", seed: int = 0) -> Graph:
    """Two convolutions around a depthwise one, strides 4, 2 and 1 with padding SAME, ReLU6, mean of all places."""
    random = np.random.default_rng(seed)
    graph = Graph(dtype)
    last = graph.placeholder(side)
    for name, op, shape, stride in (
        ("conv1", "Conv2D", (3, 3, 3, 4), 4), ("dw", "DepthwiseConv2dNative", (3, 3, 4, 2), 2),
        ("pw", "Conv2D", (1, 1, 8, 6), 1),
    ):  # fmt: skip
        kernel = graph.constant(f"{name}/kernel", random.normal(size=shape) / (100 if name == "conv1" else 2))
        last = graph.node(name, op, last, kernel, **_spread(stride, "SAME"))
        width = shape[2] * shape[3] if "Depth" in op else shape[3]
        last = graph.node(f"{name}/mul", "Mul", last, graph.constant(f"{name}/scale", random.uniform(0.5, 2, width)))
        last = graph.node(f"{name}/add", "Add", last, graph.constant(f"{name}/shift", random.normal(size=width)))
        last = graph.node(f"{name}/relu", "Relu", last)
        last = graph.node(f"{name}/min", "Minimum", last, graph.constant(f"{name}/six", np.float32(6)))
        last = graph.node(f"{name}/max", "Maximum", last, graph.constant(f"{name}/zero", np.float32(0)))
    last = graph.node("global_pooling/Mean", "Mean", last, graph.constant("axes", np.array([1, 2])), keep_dims=False)
    graph.node("age", "Softmax", last)
    return graph


def mobileface(seed: int = 0) -> Graph:
    """Its own scaling, padding by a node, PReLU by four nodes, a residual, rows of all places, a matrix."""
    random = np.random.default_rng(seed)
    graph = Graph()
    last = graph.node("sub", "Sub", graph.placeholder(112), graph.constant("middle", np.float32([127.5])))
    last = graph.node("mul", "Mul", last, graph.constant("scale", np.float32([1 / 128])))
    border = graph.constant("borders", np.array([[0, 0], [1, 1], [1, 1], [0, 0]]))
    kernel = graph.constant("kernel", random.normal(size=(3, 3, 3, 4)))
    last = graph.node("conv", "Conv2D", graph.node("pad", "Pad", last, border), kernel, **_spread(8, "VALID"))
    zero = graph.constant("zero", np.float32(0))
    above, below = graph.node("above", "Maximum", zero, last), graph.node("below", "Minimum", zero, last)
    slope = graph.node("slope", "Mul", graph.constant("gamma", random.uniform(0, 1, 4)), below)
    last = graph.node("prelu", "AddV2", above, slope)
    kernel = graph.constant("dw/kernel", random.normal(size=(3, 3, 4, 1)))
    padded = graph.node("pad2", "Pad", last, border)
    inner = graph.node("dw", "DepthwiseConv2dNative", padded, kernel, **_spread(1, "VALID"))
    last = graph.node("sum", "AddV2", inner, last)
    last = graph.node("flat", "Reshape", last, graph.constant("shape", np.array([-1, 14 * 14 * 4])))
    matrix = graph.constant("matrix", random.normal(size=(14 * 14 * 4, 5)) / 28)
    last = graph.node("dense", "MatMul", last, matrix, transpose_a=False, transpose_b=False)
    graph.node("batchnorm0/add_1", "AddV2", last, graph.constant("shift", random.normal(size=5)))
    return graph


def reference(graph: Graph, pictures: Values, output: str) -> Values:
    """What TensorFlow's definitions give for pictures [N, S, S, 3] at a node: loops in float64, layout NHWC."""
    values: dict[str, Values] = {**graph.weights, "input": pictures}
    for node in graph.nodes:
        if node["op"] not in ("Const", "Placeholder", "Softmax"):
            values[node["name"]] = _value(node, [values[name] for name in node["input"]])
    return values[output]


def _value(node: dict[str, Any], inputs: list[Values]) -> Values:
    op, first, *others = node["op"], *inputs
    plain = {"Add": np.add, "AddV2": np.add, "Sub": np.subtract, "Mul": np.multiply}
    plain |= {"Minimum": np.minimum, "Maximum": np.maximum}
    if op in plain:
        return plain[op](first, others[0])
    if op == "Relu":
        return np.maximum(first, 0)
    if op == "Mean":
        return first.mean(tuple(others[0].astype(int)))
    if op == "Pad":
        return np.pad(first, others[0].astype(int))
    if op == "Reshape":
        return first.reshape(others[0].astype(int))
    if op == "MatMul":
        return first @ others[0]
    return _convolved(node, first, others[0])


def _convolved(node: dict[str, Any], maps: Values, kernel: Values) -> Values:
    stride, size = int(node["attr"]["strides"]["list"]["i"][1]), kernel.shape[0]
    if node["attr"]["padding"]["s"] == base64.b64encode(b"SAME").decode():
        out = -(-maps.shape[1] // stride)
        lack = max((out - 1) * stride + size - maps.shape[1], 0)
        maps = np.pad(maps, ((0, 0), *2 * ((lack // 2, lack - lack // 2),), (0, 0)))
    places = range(0, maps.shape[1] - size + 1, stride)
    rows = []
    for y in places:
        parts = [maps[:, y : y + size, x : x + size] for x in places]
        if node["op"] == "Conv2D":
            rows.append([np.einsum("nhwi,hwio->no", part, kernel) for part in parts])
        else:
            rows.append([np.einsum("nhwi,hwim->nim", part, kernel).reshape(len(part), -1) for part in parts])
    return np.array(rows).transpose(2, 0, 1, 3)
