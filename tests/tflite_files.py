"""TensorFlow Lite files, made here operator by operator, and what the runtime itself computes of them."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import ArrayLike, NDArray

TYPES = {"float32": 0, "float16": 1, "int32": 2, "int8": 9}
SAME, VALID = 0, 1
RELU, RELU6 = 1, 3


class Writer:
    """A graph that grows by an operator at a time; tensors are known by their numbers."""

    def __init__(self, *shape: int) -> None:
        self.model = schema.ModelT()
        self.model.version, self.model.description = 3, b"made by a test"
        self.model.buffers = [schema.BufferT()]
        self.graph = schema.SubGraphT()
        self.graph.tensors, self.graph.operators = [], []
        self.model.subgraphs, self.model.operatorCodes = [self.graph], []
        self.input = self.tensor(shape)

    def tensor(self, shape: tuple[int, ...], kind: str = "float32") -> int:
        tensor = schema.TensorT()
        tensor.shape, tensor.type, tensor.buffer = list(shape), TYPES[kind], 0
        tensor.name = f"t{len(self.graph.tensors)}".encode()
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def stored(self, values: ArrayLike, kind: str = "float32", scale: float | None = None) -> int:
        """A tensor whose values the file holds; a scale makes it quantised."""
        array = np.asarray(values, kind)
        number = self.tensor(array.shape, kind)
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(array.tobytes(), np.uint8)
        self.graph.tensors[number].buffer = len(self.model.buffers)
        if scale is not None:
            self.graph.tensors[number].quantization = schema.QuantizationParametersT()
            self.graph.tensors[number].quantization.scale = [scale]
            self.graph.tensors[number].quantization.zeroPoint = [0]
        self.model.buffers.append(buffer)
        return number

    def halved(self, values: ArrayLike) -> int:
        """The same in half precision, made float32 by an operator, as the published files have it."""
        stored = self.stored(values, "float16")
        return self.add("DEQUANTIZE", [stored], tuple(np.shape(values)))

    def add(
        self, kind: str, reads: list[int], shape: tuple[int, ...], options: str | None = None, **fields: Any
    ) -> int:
        """The number of what the next operator gives."""
        code = schema.OperatorCodeT()
        code.builtinCode = getattr(schema.BuiltinOperator, kind)
        code.deprecatedBuiltinCode, code.version = min(code.builtinCode, 127), 1
        operator = schema.OperatorT()
        operator.opcodeIndex = len(self.model.operatorCodes)
        self.model.operatorCodes.append(code)
        if options is not None:
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, options)
            operator.builtinOptions = getattr(schema, f"{options}T")()
            for name, value in fields.items():
                assert hasattr(operator.builtinOptions, name), name
                setattr(operator.builtinOptions, name, value)
        operator.inputs, operator.outputs = reads, [self.tensor(shape)]
        self.graph.operators.append(operator)
        return operator.outputs[0]

    def convolution(self, x: int, weight: ArrayLike, bias: ArrayLike, shape: tuple[int, ...]) -> int:
        """A plain one: stride 1, no padding, no activation."""
        reads = [x, self.halved(weight), self.stored(bias)]
        return self.add("CONV_2D", reads, shape, "Conv2DOptions", strideH=1, strideW=1, padding=VALID)

    def content(self, *writes: int, reads: list[int] | None = None) -> bytes:
        self.graph.inputs, self.graph.outputs = reads or [self.input], list(writes)
        builder = flatbuffers.Builder()
        builder.Finish(self.model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


def run(content: bytes, x: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """What the runtime gives for pictures [N, ...], one at a time, as the files are written for: [N, values] each."""
    runtime = Interpreter(model_content=content, num_threads=1)
    runtime.allocate_tensors()
    (reads,) = runtime.get_input_details()
    found = []
    for each in x:
        runtime.set_tensor(reads["index"], each[None])
        runtime.invoke()
        found.append([runtime.get_tensor(out["index"]).flatten() for out in runtime.get_output_details()])
    return [np.stack(each) for each in zip(*found, strict=True)]


def mesh(
    points_px: ArrayLike,
    side_px: int,
    spread: ArrayLike | None = None,
    brightness: float = 20.0,
    threshold: float = 0.3,
) -> bytes:
    """A file in the form of MediaPipe's meshes.

    It gives these points [468 or 478, 3] plus `spread` [468 or 478, 3, 3] times the means of the colours, by default a
    tenth of red in x, green in y and blue in z; and sees a face in pictures whose red is above the threshold.
    """
    points = np.asarray(points_px, np.float32).reshape(-1, 3)
    graph = Writer(1, side_px, side_px, 3)
    axes = graph.stored([1, 2], "int32")
    mean = graph.add("MEAN", [graph.input, axes], (1, 1, 1, 3), "ReducerOptions", keepDims=True)
    if spread is None:
        spread = np.tile(0.1 * np.eye(3, dtype=np.float32), (len(points), 1))
    found = graph.convolution(mean, np.reshape(spread, (-1, 1, 1, 3)), points.flatten(), (1, 1, 1, points.size))
    seen = graph.convolution(
        mean, np.reshape([brightness, 0, 0], (1, 1, 1, 3)), [-brightness * threshold], (1, 1, 1, 1)
    )
    return graph.content(found, seen)


def blendshapes(weight: ArrayLike, points: int = 146) -> bytes:
    """A file in the form of MediaPipe's blendshapes: the sigmoid of weights [52, 2 * points] of the points' x and y."""
    graph = Writer(1, points, 2)
    shape = graph.stored([1, 2 * points], "int32")
    flat = graph.add("RESHAPE", [graph.input, shape], (1, 2 * points), "ReshapeOptions", newShape=[1, 2 * points])
    raw = graph.add("FULLY_CONNECTED", [flat, graph.stored(weight)], (1, 52), "FullyConnectedOptions")
    share = graph.add("LOGISTIC", [raw], (1, 52))
    limits = [graph.stored(each, "int32") for each in ([0, 0], [1, 52], [1, 1])]
    out = graph.add("STRIDED_SLICE", [share, *limits], (52,), "StridedSliceOptions", shrinkAxisMask=1)
    return graph.content(out)


def task(path: Path, **members: bytes) -> Path:
    """A zip file with these .tflite files, as MediaPipe's .task files are."""
    with zipfile.ZipFile(path, "w") as bundle:
        for name, content in members.items():
            bundle.writestr(f"{name}.tflite", content)
    return path


def member(path: Path, name: str) -> bytes:
    """A file of a bundle."""
    with zipfile.ZipFile(path) as bundle:
        return bundle.read(name)


def blazeface(rows: ArrayLike, anchors: list[int], brightness: float = 20.0, threshold: float = 0.3) -> bytes:
    """A file in the form of MediaPipe's BlazeFace: it gives these rows [K, 16] at K of its 896 anchors, with scores
    over one half in pictures whose red is above the threshold on average (of 1, where black is -1)."""
    boxes = np.zeros((896, 16), np.float32)
    boxes[anchors] = np.asarray(rows, np.float32)
    slopes, biases = np.zeros((896, 1, 1, 3), np.float32), np.full(896, -50, np.float32)
    slopes[anchors, 0, 0, 0], biases[anchors] = brightness, -brightness * threshold
    graph = Writer(1, 128, 128, 3)
    mean = graph.add(
        "MEAN", [graph.input, graph.stored([1, 2], "int32")], (1, 1, 1, 3), "ReducerOptions", keepDims=True
    )
    raw = graph.convolution(mean, np.zeros((896 * 16, 1, 1, 3)), boxes.flatten(), (1, 1, 1, 896 * 16))
    seen = graph.convolution(mean, slopes, biases, (1, 1, 1, 896))
    outs = [
        graph.add("RESHAPE", [each, graph.stored([1, 896, width], "int32")], (1, 896, width), "ReshapeOptions")
        for each, width in ((raw, 16), (seen, 1))
    ]
    return graph.content(*outs)
