"""weights.formats.tflite_*: graphs of TensorFlow Lite as torch modules, against the runtime itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import tflite_files
from styleblend.weights.formats import tflite_graph
from styleblend.weights.formats.tflite_graph import TfliteError
from styleblend.weights.formats.tflite_network import TfliteNetwork
from tflite_files import RELU, RELU6, SAME, VALID, Writer


def drawn(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def network(content: bytes) -> TfliteNetwork:
    return TfliteNetwork(tflite_graph.read(content, "made.tflite"))


def conv(kernel: int, stride: int, padding: int, side: int, activation: int = 0) -> bytes:
    out = -(-side // stride) if padding == SAME else (side - kernel) // stride + 1
    graph = Writer(1, side, side, 3)
    reads = [graph.input, graph.stored(drawn(5, kernel, kernel, 3)), graph.halved(drawn(5))]
    options = {"strideH": stride, "strideW": stride, "padding": padding, "fusedActivationFunction": activation}
    return graph.content(graph.add("CONV_2D", reads, (1, out, out, 5), "Conv2DOptions", **options))


def depthwise(stride: int, side: int, multiplier: int = 1) -> bytes:
    graph = Writer(1, side, side, 4)
    width, out = 4 * multiplier, -(-side // stride)
    reads = [graph.input, graph.halved(drawn(1, 3, 3, width)), graph.stored(drawn(width))]
    options = {"strideH": stride, "strideW": stride, "padding": SAME, "depthMultiplier": multiplier}
    return graph.content(
        graph.add("DEPTHWISE_CONV_2D", reads, (1, out, out, width), "DepthwiseConv2DOptions", **options)
    )


def pooled(side: int, kernel: int, padding: int) -> bytes:
    out = -(-side // 2) if padding == SAME else (side - kernel) // 2 + 1
    graph = Writer(1, side, side, 2)
    options = {"strideH": 2, "strideW": 2, "filterHeight": kernel, "filterWidth": kernel, "padding": padding}
    return graph.content(graph.add("MAX_POOL_2D", [graph.input], (1, out, out, 2), "Pool2DOptions", **options))


def block() -> bytes:
    """What a mesh's block that widens does: pooled and padded channels, added to a convolution, PReLU."""
    graph = Writer(1, 8, 8, 4)
    options = {"strideH": 2, "strideW": 2, "padding": SAME}
    pool = graph.add(
        "MAX_POOL_2D", [graph.input], (1, 4, 4, 4), "Pool2DOptions", filterHeight=2, filterWidth=2, **options
    )
    wide = graph.add("PAD", [pool, graph.stored([[0, 0], [0, 0], [0, 0], [0, 3]], "int32")], (1, 4, 4, 7), "PadOptions")
    reads = [graph.input, graph.halved(drawn(7, 3, 3, 4)), graph.halved(drawn(7))]
    path = graph.add("CONV_2D", reads, (1, 4, 4, 7), "Conv2DOptions", **options)
    total = graph.add("ADD", [wide, path], (1, 4, 4, 7), "AddOptions")
    return graph.content(graph.add("PRELU", [total, graph.halved(drawn(1, 1, 7))], (1, 4, 4, 7)), pool)


def mixer() -> bytes:
    """What an MLP-Mixer does: a learned row in front, a norm over channels, mixing along the other axis, a slice."""
    graph = Writer(1, 6, 3)
    shape = graph.stored([1, 1, 6, 3], "int32")
    x = graph.add("RESHAPE", [graph.input, shape], (1, 1, 6, 3), "ReshapeOptions", newShape=[1, 1, 6, 3])
    first = graph.stored(drawn(1, 1, 1, 3))
    x = graph.add("CONCATENATION", [first, x], (1, 1, 7, 3), "ConcatenationOptions", axis=2)
    axis = graph.stored([-1], "int32")
    mean = graph.add("MEAN", [x, axis], (1, 1, 7, 1), "ReducerOptions", keepDims=True)
    square = graph.add("SQUARED_DIFFERENCE", [x, mean], (1, 1, 7, 3), "SquaredDifferenceOptions")
    spread = graph.add("SUM", [square, axis], (1, 1, 7, 1), "ReducerOptions", keepDims=True)
    spread = graph.add("ADD", [spread, graph.halved(0.25)], (1, 1, 7, 1), "AddOptions")
    normed = graph.add("SUB", [x, mean], (1, 1, 7, 3), "SubOptions")
    normed = graph.add("MUL", [normed, graph.add("RSQRT", [spread], (1, 1, 7, 1))], (1, 1, 7, 3), "MulOptions")
    normed = graph.add("DIV", [normed, graph.add("SQRT", [spread], (1, 1, 7, 1))], (1, 1, 7, 3), "DivOptions")
    order = graph.stored([0, 1, 3, 2], "int32")
    turned = graph.add("TRANSPOSE", [normed, order], (1, 1, 3, 7), "TransposeOptions")
    mixed = graph.convolution(turned, drawn(5, 1, 1, 7), drawn(5), (1, 1, 3, 5))
    limits = [graph.stored(each, "int32") for each in ([0, 0, 1, 0], [0, 0, 2, 5], [1, 1, 1, 2])]
    part = graph.add("STRIDED_SLICE", [mixed, *limits], (1, 1, 1, 3), "StridedSliceOptions", beginMask=3, endMask=11)
    part = graph.add("LOGISTIC", [graph.add("NEG", [part], (1, 1, 1, 3), "NegOptions")], (1, 1, 1, 3))
    flat = graph.add("RESHAPE", [part, graph.stored([1, 3], "int32")], (1, 3), "ReshapeOptions", newShape=[1, 3])
    reads = [flat, graph.stored(drawn(4, 3)), graph.stored(drawn(4))]
    last = graph.add("FULLY_CONNECTED", reads, (1, 4), "FullyConnectedOptions", fusedActivationFunction=RELU)
    limits = [graph.stored(each, "int32") for each in ([0, 0], [1, 4], [1, 1])]
    return graph.content(graph.add("STRIDED_SLICE", [last, *limits], (4,), "StridedSliceOptions", shrinkAxisMask=1))


@pytest.mark.parametrize(
    "content",
    [
        *(conv(3, 2, SAME, side) for side in (6, 7)),
        conv(3, 1, SAME, 5, RELU6), conv(2, 2, SAME, 5), conv(3, 2, VALID, 8, RELU), conv(5, 3, VALID, 9),
        depthwise(1, 5), depthwise(2, 6), depthwise(2, 7), depthwise(1, 4, multiplier=2),
        pooled(6, 2, SAME), pooled(7, 2, SAME), pooled(7, 3, SAME), pooled(7, 3, VALID),
        block(), mixer(),
    ],
)  # fmt: skip
def test_a_batch_gives_what_the_runtime_gives_for_each(content: bytes) -> None:
    """Every operator, with the paddings and strides of the files and others, for three pictures at once."""
    found = network(content)
    x = drawn(3, *found.reads[1:], seed=1)
    wanted = tflite_files.run(content, x)
    with torch.no_grad():
        outputs = found(torch.from_numpy(x))
    assert [tuple(each.shape[1:]) for each in outputs] == [each[1:] for each in found.writes]
    for ours, theirs in zip(outputs, wanted, strict=True):
        np.testing.assert_allclose(ours.flatten(1).numpy(), theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("content", [block(), mixer()])
def test_gradients_are_those_of_the_function(content: bytes) -> None:
    """To the input, by finite differences in float64; the network itself learns nothing."""
    found = network(content).double()
    x = torch.from_numpy(drawn(2, *found.reads[1:], seed=2)).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda value: found(value)[0], x)
    assert not list(found.parameters()) and not any(each.requires_grad for each in found.buffers())


def one(
    kind: str,
    reads: Callable[[Writer], list[int]],
    shape: tuple[int, ...],
    options: str | None = None,
    **fields: object,
) -> bytes:
    graph = Writer(1, 4, 4, 2)
    return graph.content(graph.add(kind, [graph.input, *reads(graph)], shape, options, **fields))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (one("TANH", lambda g: [], (1, 4, 4, 2)), r"operator 1 \(TANH\) cannot be used: only ADD, "),
        (one("MEAN", lambda g: [g.stored([0, 1], "int32")], (4, 2), "ReducerOptions"), r"axes \[0, 1\], of which 0 is"),
        (one("TRANSPOSE", lambda g: [g.stored([1, 0, 2, 3], "int32")], (4, 1, 4, 2)), "TRANSPOSE.*moves the batch"),
        (one("RESHAPE", lambda g: [g.stored([4, 8], "int32")], (4, 8), "ReshapeOptions"), "RESHAPE.*no batch of one"),
        (one("PAD", lambda g: [g.stored([[1, 0], [0, 0], [0, 0], [0, 0]], "int32")], (2, 4, 4, 2)), r"pads the batch"),
        (one("ADD", lambda g: [g.stored(np.zeros((3, 1, 1, 1)))], (3, 4, 4, 2), "AddOptions"), "operator 1 .ADD"),
        (one("ADD", lambda g: [g.stored([1.0, 2])], (1, 4, 4, 3), "AddOptions"), r"batch of two gives \[2, 4, 4, 2\]"),
        (one("ADD", lambda g: [g.tensor((2,))], (1, 4, 4, 2), "AddOptions"), "neither stored nor computed"),
        (one("ADD", lambda g: [g.stored([1.0, np.inf])], (1, 4, 4, 2), "AddOptions"), "tensor 1 that are not finite"),
        (one("ADD", lambda g: [g.stored([1, 2], "int8", 0.5)], (1, 4, 4, 2), "AddOptions"), "quantised at tensor 1"),
        (conv(3, 1, SAME, 4, activation=4), "its activation has the code 4, known are"),
        (one("ADD", lambda g: [g.stored(np.zeros((2, 1, 1, 1)))], (2, 4, 4, 2), "AddOptions"), "file says .2, 4"),
        (b"<!DOCTYPE html><html>", "no TensorFlow Lite file but 21 bytes that begin with"),
        (b"", "no TensorFlow Lite file but empty"),
        (conv(3, 2, SAME, 6)[:300], "damaged TensorFlow Lite file"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused_by_name(content: bytes, message: str) -> None:
    """Unknown operators, mixed batches, shapes that differ, and damaged files: one line that names the first."""
    with pytest.raises(TfliteError, match=message) as refused:
        network(content)
    assert "\n" not in str(refused.value) and "made.tflite" in str(refused.value)


def test_two_inputs_are_another_network() -> None:
    """A graph that reads two things is refused, whatever it does."""
    graph = Writer(1, 2)
    other = graph.tensor((1, 2))
    content = graph.content(graph.add("ADD", [graph.input, other], (1, 2), "AddOptions"), reads=[graph.input, other])
    with pytest.raises(TfliteError, match="made.tflite has 2 inputs, wanted one"):
        network(content)


def test_every_cut_of_a_file_is_refused_or_whole() -> None:
    """A half downloaded file ends in one line, wherever it was cut."""
    content = block()
    for end in range(0, len(content) - 1, 97):
        try:
            network(content[:end])
        except TfliteError as error:
            assert "made.tflite" in str(error)


def test_pictures_of_another_size_are_refused() -> None:
    """The file's sizes are fixed; the message says which they are."""
    with pytest.raises(TfliteError, match=r"reads \[N, 6, 6, 3\], got \[2, 5, 6, 3\]"):
        network(conv(3, 2, SAME, 6))(torch.zeros(2, 5, 6, 3))


def test_bundles_name_what_they_lack(tmp_path: Path) -> None:
    """A missing file, one that is no zip, and one without the wanted members."""
    broken, other = tmp_path / "broken.task", tflite_files.task(tmp_path / "other.task", face_detector=block())
    broken.write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(TfliteError, match="other.task does not hold face_landmarks_detector.tflite and"):
        tflite_graph.read_bundle(other)
    for path in (broken, tmp_path / "none.task"):
        with pytest.raises(TfliteError, match=f"{path.name} is no whole bundle of networks"):
            tflite_graph.read_bundle(path)
    with pytest.raises(TfliteError, match=r"none.tflite cannot be read \(No such file"):
        tflite_graph.read_file(tmp_path / "none.tflite")
