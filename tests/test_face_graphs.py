"""Graph models of TensorFlow.js in torch: against TensorFlow's definitions in numpy, and against TensorFlow.js."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from graph_files import Graph, faceres, mobileface, reference
from styleblend.errors import StyleBlendError
from styleblend.faces.pixels import from_8bit
from styleblend.perception import identity
from styleblend.perception.identity import GraphFace
from styleblend.weights.formats import face_graphs, tfjs_graph
from styleblend.weights.formats.face_graphs import FORMS

MEANS = (103.939, 116.779, 123.68)


def pixels(count: int, side: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, side, side, 3), np.uint8)


def faces(levels: np.ndarray) -> torch.Tensor:
    return from_8bit(torch.from_numpy(levels).permute(0, 3, 1, 2))


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
@pytest.mark.parametrize("side", [224, 223])
def test_a_graph_computes_what_tensorflow_defines(tmp_path: Path, dtype: str, side: int) -> None:
    """For a batch, with padding SAME at even and odd sides, depthwise multiples, and quantised weights."""
    graph = faceres(side, dtype)
    network = tfjs_graph.load(graph.write(tmp_path / "net.zip"), "global_pooling/Mean")
    levels = pixels(2, side).astype(np.float64)
    found = network(torch.from_numpy(levels).permute(0, 3, 1, 2).float()).numpy()
    wanted = reference(graph, levels, "global_pooling/Mean")
    assert network.side_px == side and wanted.std() > 0.1
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_faceres_reads_blue_first_without_the_means(tmp_path: Path) -> None:
    """What goes in is RGB in [-1, 1]; what the graph sees is BGR minus the means."""
    graph = faceres()
    levels = pixels(2, 224)
    found = face_graphs.load(graph.write(tmp_path / "net.zip"))(faces(levels)).numpy()
    wanted = reference(graph, levels[..., ::-1] - np.array(MEANS), FORMS["faceres"].output)
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_mobileface_flattens_places_as_tensorflow_does(tmp_path: Path) -> None:
    """A batch is as good as its pictures one by one, and the matrix meets rows in the order of TensorFlow's layout."""
    graph = mobileface()
    network = face_graphs.load(graph.write(tmp_path / "net.zip"))
    levels = pixels(3, 112)
    wanted = reference(graph, levels.astype(np.float64), FORMS["mobileface"].output)
    found = network(faces(levels)).numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(network(faces(levels[1:2])).numpy(), wanted[1:2], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(
        network.maps(faces(levels)).permute(0, 2, 3, 1).numpy(), reference(graph, levels * 1.0, "sum"), atol=1e-4
    )


@pytest.mark.parametrize("kind", ["faceres", "mobileface"])
def test_a_run_takes_it_as_a_judge_with_gradients(tmp_path: Path, kind: str) -> None:
    """networks.json names the file; unit vectors at any side, features are means of maps, gradients reach the face."""
    (faceres() if kind == "faceres" else mobileface()).write(tmp_path / "identity_judge.zip")
    entry = {"identity_judge": {"file": "identity_judge.zip", "name": kind}}
    (tmp_path / "networks.json").write_text(json.dumps(entry))
    face = identity.load(tmp_path, "identity_judge")
    assert isinstance(face, GraphFace) and face.name == kind and face.metric == "cosine"
    for side in (64, 300):
        images = (torch.rand(2, 3, side, side) * 2 - 1).requires_grad_()
        vectors = face(images)
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(2))
        (gradient,) = torch.autograd.grad((vectors * torch.rand_like(vectors)).sum(), images)
        assert gradient.isfinite().all() and gradient.flatten(1).any(1).all()
    assert face.features(images).shape == (2, 6 if kind == "faceres" else 4)
    look, whole = face.look(images), face.maps(images)
    assert look.embedding.equal(face(images)) and look.features.equal(face.features(images))
    sides = [maps.shape[2] for maps in look.maps]
    assert sides == sorted(set(sides), reverse=True) and max(sides) < face.body.form.side_px
    assert [(len(a), a.shape[1]) for a in whole] == [(len(b), b.shape[1]) for b in look.maps]
    assert all(a.shape[2] > b.shape[2] for a, b in zip(whole, look.maps, strict=True))
    assert not any(each.requires_grad for each in face.parameters())


def changed(change: Callable[[Graph], object]) -> Graph:
    graph = faceres()
    change(graph)
    return graph


def _node(graph: Graph, name: str) -> dict:
    return next(node for node in graph.nodes if node["name"] == name)


WRONG: list[tuple[Callable[[Graph], object], str]] = [
    (lambda graph: _node(graph, "pw").update(op="Conv3D"), "node 'pw' is a Conv3D, which is not known here"),
    (lambda graph: graph.nodes.remove(_node(graph, "pw/scale")), "weights without a node: ['pw/scale']"),
    (lambda graph: graph.nodes.append({"name": "lost", "op": "Const"}), "constants without weights, or"),
    (lambda graph: graph.listed.append(graph.listed[0]), "has weights 'conv1/kernel' of type float16, or twice"),
    (lambda graph: setattr(graph, "raw", graph.raw + b"12"), "has 2 bytes that belong to no weights"),
    (lambda graph: setattr(graph, "raw", graph.raw[:100]), "ends within weights 'conv1/kernel' of [3, 3, 3, 4]"),
    (lambda graph: graph.listed[0].update(shape=[3, 3, 4, 3]), "node 'conv1' (Conv2D) does not fit"),
    (lambda graph: _node(graph, "conv1").update(input=["pw", "conv1/kernel"]), "depends on itself"),
    (lambda graph: graph.nodes.remove(_node(graph, "global_pooling/Mean")), "no face recognition network that is"),
    (lambda graph: _node(graph, "conv1/mul").update(input=["conv1", "gone"]), "has no node 'gone'"),
]


@pytest.mark.parametrize(("change", "message"), WRONG)
def test_another_graph_is_refused_in_one_line(tmp_path: Path, change: Callable[[Graph], object], message: str) -> None:
    """Unknown operations, weights that are left, lack or do not fit: by the name of the node or weights."""
    path = changed(change).write(tmp_path / "net.zip")
    with pytest.raises(StyleBlendError) as error:
        face_graphs.load(path)
    assert message in str(error.value) and str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "members", [{"net.json": b"{"}, {"net.json": b"[]"}, {"net.json": b"{}"}, {"other.json": b"{}"}]
)
def test_what_is_no_graph_model_is_refused(tmp_path: Path, members: dict[str, bytes]) -> None:
    """A damaged list of nodes, none, and two of them."""
    path = tmp_path / "net.zip"
    import zipfile

    with zipfile.ZipFile(path, "w") as bundle:
        for name, content in {"net.json": b"{}", "net.bin": b"", **members}.items():
            bundle.writestr(name, content)
    with pytest.raises(StyleBlendError, match="no graph model|holds 2 JSON files") as error:
        face_graphs.load(path)
    assert "\n" not in str(error.value)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(StyleBlendError, match="is no graph model"):
        face_graphs.load(path)


@pytest.mark.parametrize("kind", ["faceres", "mobileface"])
def test_the_real_file_gives_what_tensorflow_js_gives(fetched: Callable[[str], Path], kind: str) -> None:
    """One picture of noise, whose four largest values and length TensorFlow.js 4.22 computed on its CPU backend."""
    network = face_graphs.load(fetched(kind))
    assert network.kind == kind
    found = network(faces(pixels(1, network.form.side_px)))[0]
    largest, length = TFJS[kind]
    assert found.topk(4).indices.tolist() == list(largest)
    np.testing.assert_allclose(found[list(largest)].numpy(), list(largest.values()), atol=1e-5 * length)
    assert float(found.norm()) == pytest.approx(length, rel=1e-5)


TFJS: dict[str, tuple[dict[int, float], float]] = {
    "faceres": ({7: 1.87832, 917: 1.39602, 584: 0.88136, 845: 0.34433}, 2.55315),
    "mobileface": ({175: 13.12557, 15: 12.80806, 245: 12.16826, 252: 11.77983}, 77.44714),
}
