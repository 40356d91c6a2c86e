"""weights.formats.arcface_onnx: insightface's recognition graphs as torch modules, judged by onnxruntime."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import arcface_files as files
from styleblend.errors import StyleBlendError
from styleblend.weights.formats import arcface_onnx
from styleblend.weights.formats.onnx_graph import GraphError


def embeddings(path: Path, faces: torch.Tensor) -> torch.Tensor:
    """What onnxruntime computes."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: faces.numpy()})[0])


def faces_of(seed: int, count: int = 3) -> torch.Tensor:
    return torch.rand(count, 3, 112, 112, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def changed(edit: Callable[[onnx.GraphProto], object], path: Path) -> Path:
    """A small IResNet's file after a change of its graph."""
    model = files.iresnet()
    edit(model.graph)
    return files.write(model, path)


@pytest.mark.parametrize(("blocks", "seed"), [((1, 2, 1, 1), 0), ((2, 1, 3, 2), 1)])
def test_an_iresnet_agrees_with_onnxruntime(blocks: tuple[int, ...], seed: int, tmp_path: Path) -> None:
    """Any depth, all weights random: the same embeddings to 1e-4, each face's own; the blocks are counted."""
    path = files.write(files.iresnet(blocks=blocks, seed=seed), tmp_path / "r.onnx")
    body, faces = arcface_onnx.load(path), faces_of(seed)
    torch.testing.assert_close(body(faces), embeddings(path, faces), atol=1e-4, rtol=0)
    torch.testing.assert_close(body(faces[1:2]), body(faces)[1:2], atol=1e-5, rtol=0)
    assert body.architecture == "IResNet-" + "-".join(map(str, blocks)) and body.embedding == 16
    assert body.maps(faces).shape == (3, 8, 7, 7)


@pytest.mark.parametrize(
    ("blocks", "flatten"), [((1, 2, 1, 1), "constant"), ((2, 1, 2, 1), "shape"), ((1, 1, 2, 2), "flatten")]
)
def test_a_mobilefacenet_agrees_with_onnxruntime(blocks: tuple[int, ...], flatten: str, tmp_path: Path) -> None:
    """Both forms of its first stage and the three of its view to vectors give onnxruntime's embeddings."""
    path = files.write(files.mobilefacenet(blocks, flatten), tmp_path / "mbf.onnx")
    body, faces = arcface_onnx.load(path), faces_of(2)
    torch.testing.assert_close(body(faces), embeddings(path, faces), atol=1e-4, rtol=0)
    assert body.architecture == "MobileFaceNet-" + "-".join(map(str, blocks))


def test_a_view_that_was_exported_for_one_face_serves_a_batch(tmp_path: Path) -> None:
    """Published mobile files reshape to [1, -1], which only onnxruntime's batches of one survive."""
    model = files.mobilefacenet()
    (reshape,) = (node for node in model.graph.node if node.op_type == "Reshape")
    (shape,) = (each for each in model.graph.initializer if each.name == reshape.input[1])
    shape.CopyFrom(numpy_helper.from_array(np.array([1, -1]), shape.name))
    path = files.write(model, tmp_path / "mbf.onnx")
    faces = faces_of(3)
    wanted = torch.cat([embeddings(path, faces[k : k + 1]) for k in range(3)])
    torch.testing.assert_close(arcface_onnx.load(path)(faces), wanted, atol=1e-4, rtol=0)


def test_shared_and_inline_constants_are_resolved(tmp_path: Path) -> None:
    """Equal weights that the exporter stored once and copied, and weights in Constant nodes, are found."""
    model = files.iresnet()
    first = next(node for node in model.graph.node if node.op_type == "BatchNormalization")
    (scale,) = (each for each in model.graph.initializer if each.name == first.input[1])
    model.graph.node.insert(0, helper.make_node("Constant", [], ["inline"], value=scale))
    model.graph.node.insert(1, helper.make_node("Identity", ["inline"], ["copied"]))
    first.input[1] = "copied"
    model.graph.initializer.remove(scale)
    path = files.write(model, tmp_path / "r.onnx")
    faces = faces_of(4)
    torch.testing.assert_close(arcface_onnx.load(path)(faces), embeddings(path, faces), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("blocks", "nodes", "stored"), [((3, 4, 14, 3), 130, 237), ((3, 13, 30, 3), 255, 462)], ids=["r50", "r100"]
)
def test_the_published_depths_have_the_published_counts(
    blocks: tuple[int, ...], nodes: int, stored: int, tmp_path: Path
) -> None:
    """The test's own files have as many nodes and arrays as w600k_r50 and glintr100, and load at that depth."""
    model = files.iresnet(blocks=blocks)
    assert (len(model.graph.node), len(model.graph.initializer)) == (nodes, stored)
    body = arcface_onnx.load(files.write(model, tmp_path / "r.onnx"))
    assert body.architecture == "IResNet-" + "-".join(map(str, blocks))


@pytest.mark.slow
def test_the_real_r50_agrees_with_onnxruntime(tmp_path: Path) -> None:
    """At the published sizes: 25,088 values before the linear layer, 512 after it, the same to 1e-4."""
    model = files.iresnet((64, 64, 128, 256, 512), (3, 4, 14, 3), 512)
    path = files.write(model, tmp_path / "w600k_r50.onnx")
    body, faces = arcface_onnx.load(path), faces_of(5, 2)
    assert body.head[1].weight.shape == (512, 25088)
    found, wanted = body(faces), embeddings(path, faces)
    assert wanted.std() > 0.3
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)


def test_the_module_is_frozen_in_eval_mode_and_hands_gradients_on(tmp_path: Path) -> None:
    """Nothing in it learns, train() leaves its batch norms alone, and every pixel gets a gradient."""
    body = arcface_onnx.load(files.write(files.iresnet(), tmp_path / "r.onnx"))
    assert not [parameter for parameter in body.parameters() if parameter.requires_grad]
    assert not any(module.training for module in torch.nn.Sequential(body).train()[0].modules())
    faces = faces_of(6).requires_grad_()
    body(faces).square().sum().backward()
    assert faces.grad is not None and (faces.grad.abs().amax(1) > 0).all()


def first(graph: onnx.GraphProto, operator: str) -> onnx.NodeProto:
    return next(node for node in graph.node if node.op_type == operator)


def test_another_operator_is_named_with_its_place(tmp_path: Path) -> None:
    """The first node that differs is the one that the message names, though later ones differ too."""

    def relu(graph: onnx.GraphProto) -> None:
        for node in list(graph.node)[4::6]:
            node.op_type = "Relu"

    wanted = r"r\.onnx is no ArcFace network \(IResNet\): node 5 of \d+ \(Relu 'PRelu_4'\) differs: expected PRelu"
    with pytest.raises(GraphError, match=wanted):
        arcface_onnx.load(changed(relu, tmp_path / "r.onnx"))


def _rewire(graph: onnx.GraphProto) -> None:
    graph.node[3].input[0] = graph.node[1].output[0]


def _stretch(graph: onnx.GraphProto) -> None:
    next(each for each in graph.node[3].attribute if each.name == "dilations").ints[:] = [2, 2]


def _unfold(graph: onnx.GraphProto) -> None:
    norm = onnx.NodeProto()
    norm.CopyFrom(graph.node[2])
    norm.input[0], norm.output[0] = graph.node[0].output[0], "unfolded"
    graph.node[1].input[0] = "unfolded"
    graph.node.insert(1, norm)


def _spoil(graph: onnx.GraphProto) -> None:
    name = graph.node[0].input[2]
    (bias,) = (each for each in graph.initializer if each.name == name)
    bias.CopyFrom(numpy_helper.from_array(np.full(4, np.nan, np.float32), name))


def _halve(graph: onnx.GraphProto) -> None:
    name = graph.node[0].input[2]
    (bias,) = (each for each in graph.initializer if each.name == name)
    bias.CopyFrom(numpy_helper.from_array(np.zeros(4, np.float16), name))


def _lose(graph: onnx.GraphProto) -> None:
    (bias,) = (each for each in graph.initializer if each.name == graph.node[0].input[2])
    bias.data_location = TensorProto.EXTERNAL


def _append(graph: onnx.GraphProto) -> None:
    graph.node.append(helper.make_node("Relu", [graph.node[-1].output[0]], ["after"]))


def _cut(graph: onnx.GraphProto) -> None:
    del graph.node[-1]


def _centre(graph: onnx.GraphProto) -> None:
    graph.node[0].input[0] = "centred"
    graph.initializer.append(numpy_helper.from_array(np.full(1, 127.5, np.float32), "middle"))
    graph.node.insert(0, helper.make_node("Sub", ["input.1", "middle"], ["centred"], name="_minusscalar0"))


def _redirect(graph: onnx.GraphProto) -> None:
    graph.output[0].name = graph.node[-2].output[0]


def _grow(graph: onnx.GraphProto) -> None:
    graph.input[0].type.tensor_type.shape.dim[2].dim_value = 128


def _negate(graph: onnx.GraphProto) -> None:
    name = graph.node[2].input[4]
    (variance,) = (each for each in graph.initializer if each.name == name)
    variance.CopyFrom(numpy_helper.from_array(np.full(4, -1, np.float32), name))


def _train(graph: onnx.GraphProto) -> None:
    graph.node[2].attribute.append(helper.make_attribute("training_mode", 1))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (_rewire, r"node 4 of \d+ \(Conv 'Conv_3'\) differs: it reads \(5, .*\), expected \(10\)"),
        (_stretch, r"node 4 of \d+ \(Conv 'Conv_3'\) differs: its dilations is \[2, 2\], expected \[1, 1\]"),
        (_unfold, r"node 2 of \d+ \(BatchNormalization .*\) differs: expected PRelu"),
        (_spoil, r"node 1 of \d+ .* its input 3 holds values that are not finite"),
        (_halve, r"node 1 of \d+ .* its input 3 is float16 \[4\], expected float32 \[4\]"),
        (_lose, r"keeps its weights in another file"),
        (_append, r"node 36 of 36 \(Relu ''\) differs: expected the end of the graph"),
        (_cut, r"ends after 34 nodes, ArcFace network \(IResNet\) goes on with BatchNormalization"),
        (_centre, r"node 1 of 36 \(Sub '_minusscalar0'\) differs: expected Conv"),
        (_redirect, r"gives '\d+', ArcFace network \(IResNet\) gives its last node's"),
        (_grow, r"reads pictures \[0, 3, 128, 112\], ArcFace network reads \[any, 3, 112, 112\]"),
        (_negate, r"node 3 of \d+ .* its variances are negative"),
        (_train, r"node 3 of \d+ .* its training_mode is 1, expected 0"),
    ],
)
def test_a_graph_that_would_compute_something_else_is_refused(
    edit: Callable[[onnx.GraphProto], object], message: str, tmp_path: Path
) -> None:
    """Wiring, attributes, stored values, ends and the input are checked, not only operators; one line each."""
    with pytest.raises(StyleBlendError, match=message) as caught:
        arcface_onnx.load(changed(edit, tmp_path / "r.onnx"))
    assert "\n" not in str(caught.value)


def test_a_detector_is_no_recognition_network(yunet_file: Path) -> None:
    """A file of the same pack with another purpose is refused by its outputs or its first node."""
    with pytest.raises(GraphError, match="yunet"):
        arcface_onnx.load(yunet_file)


def test_broken_files_are_one_line(tmp_path: Path) -> None:
    """A missing or empty file, a web page under the name, and a file cut anywhere: a message, never a traceback."""
    path = tmp_path / "r.onnx"
    with pytest.raises(StyleBlendError, match="cannot be read"):
        arcface_onnx.load(path)
    path.write_text("<!DOCTYPE html><html><body>Not found</body></html>")
    with pytest.raises(StyleBlendError, match="is no ONNX file but a web page"):
        arcface_onnx.load(path)
    path.write_bytes(b"")
    with pytest.raises(StyleBlendError, match="holds no ONNX graph"):
        arcface_onnx.load(path)
    whole = files.iresnet().SerializeToString()
    for part in itertools.chain(range(1, 40), range(40, len(whole), len(whole) // 50)):
        path.write_bytes(whole[:part])
        with pytest.raises(StyleBlendError) as caught:
            arcface_onnx.load(path)
        assert "\n" not in str(caught.value)
