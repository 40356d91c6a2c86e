"""Files in the forms of insightface's packs, whose networks find what a test plants in the picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import ArrayLike, NDArray
from onnx import TensorProto, helper, numpy_helper

import arcface_files

STRIDES = (8, 16, 32)
FIRES_AT = 32
"""The stride at which the detector sees red; its other levels see nothing."""
SCORE = 0.8
BOX = (1.0, 1.5, 2.0, 2.5)
"""Distances from the centre of the red cell to the left, top, right and bottom of the box, in strides."""
FIVE = ((-0.5, -0.5), (0.75, -0.5), (0.25, 0.125), (-0.25, 0.75), (0.5, 0.75))
"""The five points relative to the centre of the red cell, in strides."""
FULLY_RED = 255 / 128
"""What red minus green is in a red picture, as insightface normalises it."""


def scrfd(
    points: bool = True, side_px: int | None = None, batched: bool = False, read: int = TensorProto.FLOAT
) -> onnx.ModelProto:
    """An SCRFD of one convolution a head: a cell of 32 x 32 px that is all red is a face with a score of SCORE.

    Two anchors a cell, of which the second never fires; heads are convolved, transposed and flattened as in the
    published files.

    Args:
        points: with five points (9 outputs) or without (6). side_px: fixed input, or any. batched: outputs of three
            axes. read: bytes as input normalise pictures inside the graph.
    """
    nodes, stored = [], []
    x = "input.1"
    if read == TensorProto.UINT8:
        stored += [_array("middle", np.array(127.5, np.float32)), _array("span", np.array(128, np.float32))]
        nodes += [
            helper.make_node("Cast", [x], ["float"], to=TensorProto.FLOAT),
            helper.make_node("Sub", ["float", "middle"], ["centred"]),
            helper.make_node("Div", ["centred", "span"], ["normal"]),
        ]
        x = "normal"
    outputs = []
    for head, width in (("score", 1), ("bbox", 4), ("kps", 10))[: 3 if points else 2]:
        for stride in STRIDES:
            kernel = stride if head == "score" else 1
            weight = np.zeros((2 * width, 3, kernel, kernel), np.float32)
            bias = np.zeros(2 * width, np.float32)
            if head == "score":
                # 20 for each unit of redness under a full cell's.
                weight[0, 0], weight[0, 1] = 20 / stride**2, -20 / stride**2
                bias[:] = -100
                if stride == FIRES_AT:
                    bias[0] = np.log(SCORE / (1 - SCORE)) - 20 * FULLY_RED
            else:
                bias[:width] = BOX if head == "bbox" else np.array(FIVE).flatten()
            name = f"{head}_{stride}"
            shape = [1, -1, width] if batched else [-1, width]
            stored += [
                _array(f"{name}_w", weight), _array(f"{name}_b", bias), _array(f"{name}_s", np.array(shape)),
            ]  # fmt: skip
            nodes += [
                helper.make_node(
                    "Conv", [x, f"{name}_w", f"{name}_b"], [f"{name}_c"], strides=[stride] * 2,
                    kernel_shape=[kernel] * 2,
                ),
                helper.make_node("Transpose", [f"{name}_c"], [f"{name}_t"], perm=[0, 2, 3, 1]),
                helper.make_node("Reshape", [f"{name}_t", f"{name}_s"], [f"{name}_r"]),
                helper.make_node("Sigmoid" if head == "score" else "Identity", [f"{name}_r"], [name]),
            ]  # fmt: skip
            rows = ["rows"] if side_px is None else [2 * (side_px // stride) ** 2]
            outputs.append(
                helper.make_tensor_value_info(name, TensorProto.FLOAT, [*([1] if batched else []), *rows, width])
            )
    sides = ["height", "width"] if side_px is None else [side_px, side_px]
    return _model(nodes, stored, [1, 3, *sides], outputs, read)


def landmark_3d68(points: ArrayLike, moved: ArrayLike | None = None) -> onnx.ModelProto:
    """A 3d68 network that gives `points` for any picture, plus `moved` times the mean of the picture's red.

    Args:
        points, moved: [68, 3] in the network's coordinates: x and y in [-1, 1] of its 192 px, z in the same unit. The
            last 68 of 1,103 points are the landmarks, as in 1k3d68.onnx.
    """
    return regression(192, _among_1103(points), None if moved is None else _among_1103(moved))


def regression(side_px: int, values: ArrayLike, moved: ArrayLike | None = None) -> onnx.ModelProto:
    """A network of one picture [side, side] to numbers: 2d106det.onnx (212) and genderage.onnx (3) are such."""
    given = np.asarray(values, np.float32).flatten()
    weight = np.zeros((3, len(given)), np.float32)
    if moved is not None:
        weight[0] = np.asarray(moved).flatten()
    nodes = [
        helper.make_node("GlobalAveragePool", ["data"], ["means"]),
        helper.make_node("Flatten", ["means"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w", "b"], ["fc1"]),
    ]
    output = helper.make_tensor_value_info("fc1", TensorProto.FLOAT, ["None", len(given)])
    stored = [_array("w", weight), _array("b", given)]
    return _model(nodes, stored, ["None", 3, side_px, side_px], [output], name="data")


def write_pack(folder: Path, points: ArrayLike) -> Path:
    """A folder as buffalo_l: detection, recognition, landmarks in two and three dimensions, gender and age."""
    folder.mkdir(parents=True)
    arcface_files.write(scrfd(), folder / "det_10g.onnx")
    arcface_files.write(arcface_files.iresnet(), folder / "w600k_r50.onnx")
    arcface_files.write(landmark_3d68(points), folder / "1k3d68.onnx")
    arcface_files.write(regression(192, np.zeros(212)), folder / "2d106det.onnx")
    arcface_files.write(regression(96, [0.0, 1.0, 0.3]), folder / "genderage.onnx")
    return folder


def _among_1103(points: ArrayLike) -> NDArray[np.float32]:
    values = np.zeros((1103, 3), np.float32)
    values[-68:] = points
    return values


def _array(name: str, values: NDArray[np.generic]) -> TensorProto:
    return numpy_helper.from_array(values, name)


def _model(
    nodes: list[onnx.NodeProto],
    stored: list[TensorProto],
    shape: list[int | str],
    outputs: list[onnx.ValueInfoProto],
    read: int = TensorProto.FLOAT,
    name: str = "input.1",
) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "planted", [helper.make_tensor_value_info(name, read, shape)], outputs, stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
