"""Recognition files in the graph form of insightface's, with random weights of any width and depth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

SIDE_PX = 112


class Graph:
    """Writes nodes in order; every tensor has a number for its name, as exporters give it."""

    def __init__(self, seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.stored: list[TensorProto] = []
        self._names = 0

    def name(self) -> str:
        self._names += 1
        return str(self._names)

    def store(self, array: NDArray[Any]) -> str:
        name = self.name()
        self.stored.append(numpy_helper.from_array(array, name))
        return name

    def node(self, operator: str, inputs: list[str], **attributes: Any) -> str:
        output = self.name()
        self.nodes.append(
            helper.make_node(operator, inputs, [output], name=f"{operator}_{len(self.nodes)}", **attributes)
        )
        return output

    def uniform(self, low: float, high: float, *shape: int) -> NDArray[np.float32]:
        return self.random.uniform(low, high, shape).astype(np.float32)

    def normal(self, scale: float, *shape: int) -> NDArray[np.float32]:
        return (scale * self.random.standard_normal(shape, dtype=np.float32)).astype(np.float32)

    def conv(self, x: str, inputs: int, outputs: int, kernel: int, stride: int = 1, **options: float) -> str:
        """A convolution into which a random batch norm is folded.

        `gain` multiplies its output: blocks of less than one keep the sum over many of them near one, as the
        norms of a trained network do.
        """
        groups, padding = int(options.get("groups", 1)), int(options.get("padding", kernel // 2))
        each = inputs // groups
        weight = self.normal((each * kernel**2) ** -0.5, outputs, each, kernel, kernel)
        scale = (
            options.get("gain", 1)
            * self.uniform(0.6, 1.2, outputs)
            / np.sqrt(self.uniform(0.5, 1.5, outputs) + np.float32(1e-5))
        )
        bias = self.normal(0.2, outputs) - self.normal(0.2, outputs) * scale
        return self.node(
            "Conv",
            [
                x,
                self.store(weight * scale[:, None, None, None].astype(np.float32)),
                self.store(bias.astype(np.float32)),
            ],
            dilations=[1, 1],
            group=groups,
            kernel_shape=[kernel, kernel],
            pads=[padding] * 4,
            strides=[stride, stride],
        )

    def prelu(self, x: str, channels: int) -> str:
        return self.node("PRelu", [x, self.store(self.uniform(-0.3, 0.6, channels, 1, 1))])

    def norm(self, x: str, channels: int) -> str:
        stored = [
            self.uniform(0.5, 1.5, channels),
            self.normal(0.3, channels),
            self.normal(0.3, channels),
            self.uniform(0.5, 2, channels),
        ]
        return self.node(
            "BatchNormalization", [x, *(self.store(array) for array in stored)], epsilon=1e-5, momentum=0.9
        )

    def model(self, output: str, embedding: int, side: int = SIDE_PX) -> onnx.ModelProto:
        read = helper.make_tensor_value_info("input.1", TensorProto.FLOAT, ["None", 3, side, side])
        given = helper.make_tensor_value_info(output, TensorProto.FLOAT, ["None", embedding])
        graph = helper.make_graph(self.nodes, "torch-jit-export", [read], [given], self.stored)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6)


def iresnet(
    widths: tuple[int, ...] = (4, 4, 6, 8, 8),
    blocks: tuple[int, ...] = (1, 2, 1, 1),
    embedding: int = 16,
    seed: int = 0,
) -> onnx.ModelProto:
    """An IResNet as w600k_r50.onnx and glintr100.onnx hold it; `widths` are of the stem and of the four stages."""
    graph = Graph(seed)
    channels = widths[0]
    x = graph.prelu(graph.conv("input.1", 3, channels, 3), channels)
    for width, count in zip(widths[1:], blocks, strict=True):
        for block in range(count):
            stride = 2 if block == 0 else 1
            y = graph.prelu(graph.conv(graph.norm(x, channels), channels, width, 3), width)
            y = graph.conv(y, width, width, 3, stride, gain=0.3)
            kept = graph.conv(x, channels, width, 1, 2) if block == 0 else x
            x = graph.node("Add", [y, kept])
            channels = width
    x = graph.node("Flatten", [graph.norm(x, channels)], axis=1)
    size = channels * (SIDE_PX // 16) ** 2
    weights = [graph.store(graph.normal(size**-0.5, embedding, size)), graph.store(graph.normal(0.3, embedding))]
    x = graph.node("Gemm", [x, *weights], alpha=1.0, beta=1.0, transB=1)
    return graph.model(graph.norm(x, embedding), embedding)


def mobilefacenet(
    blocks: tuple[int, ...] = (1, 2, 1, 1), flatten: str = "constant", embedding: int = 16, seed: int = 0
) -> onnx.ModelProto:
    """A MobileFaceNet as w600k_mbf.onnx holds it, narrower.

    Args:
        blocks: residual blocks a stage; 1 in the first is a single depthwise convolution in their place.
        flatten: how the view to vectors was exported: "constant", "shape" or "flatten".
    """
    graph = Graph(seed)

    def conv_prelu(x: str, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> str:
        return graph.prelu(graph.conv(x, inputs, outputs, kernel, stride, groups=groups), outputs)

    def depthwise(x: str, inputs: int, outputs: int, hidden: int, stride: int) -> str:
        x = conv_prelu(conv_prelu(x, inputs, hidden, 1), hidden, hidden, 3, stride, hidden)
        return graph.conv(x, hidden, outputs, 1)

    def residuals(x: str, channels: int, hidden: int, count: int) -> str:
        for _ in range(count):
            x = graph.node("Add", [x, depthwise(x, channels, channels, hidden, 1)])
        return x

    x = conv_prelu("input.1", 3, 8, 3, 2)
    x = conv_prelu(x, 8, 8, 3, groups=4) if blocks[0] == 1 else residuals(x, 8, 8, blocks[0])
    x = residuals(depthwise(x, 8, 8, 8, 2), 8, 8, blocks[1])
    x = residuals(depthwise(x, 8, 12, 16, 2), 12, 16, blocks[2])
    x = residuals(depthwise(x, 12, 12, 32, 2), 12, 16, blocks[3])
    x = conv_prelu(x, 12, 20, 1)
    x = graph.conv(x, 20, 20, SIDE_PX // 16, groups=20, padding=0)
    if flatten == "flatten":
        x = graph.node("Flatten", [x], axis=1)
    elif flatten == "constant":
        # Batches of one alone, as the published export has it.
        x = graph.node("Reshape", [x, graph.store(np.array([-1, 20]))])
    else:
        shape = graph.node("Shape", [x])
        batch = graph.node("Gather", [shape, graph.store(np.array(0))], axis=0)
        listed = graph.node("Unsqueeze", [batch], axes=[0])
        rest = graph.node("Constant", [], value=numpy_helper.from_array(np.array([-1])))
        x = graph.node("Reshape", [x, graph.node("Concat", [listed, rest], axis=0)])
    x = graph.node("MatMul", [x, graph.store(graph.normal(0.3, 20, embedding))])
    return graph.model(graph.norm(x, embedding), embedding)


def write(model: onnx.ModelProto, path: Path) -> Path:
    path.write_bytes(model.SerializeToString())
    return path
