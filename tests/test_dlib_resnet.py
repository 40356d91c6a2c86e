"""dlib's face network in torch: against loops in numpy on files of the same form, and against dlib on the real one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import dlib_files
from dlib_files import Net, integer, text
from styleblend.errors import StyleBlendError
from styleblend.faces.pixels import from_8bit
from styleblend.perception import identity
from styleblend.perception.identity import DlibFace
from styleblend.perception.layers import windowed
from styleblend.perception.similarity import similarity
from styleblend.weights.formats import dlib_resnet


def chips(count: int, side: int = dlib_files.SIDE_PX) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, side, side, 3), np.uint8)


def pictures(pixels: np.ndarray) -> Tensor:
    return from_8bit(torch.from_numpy(pixels).permute(0, 3, 1, 2))


@pytest.mark.parametrize("blocks", [(4,), (4, 6, 6, 9)])
def test_it_computes_what_the_file_says(tmp_path: Path, blocks: tuple[int, ...]) -> None:
    """For a batch as for each chip, with folded affine maps, halving blocks and zeros for channels that lack."""
    net = Net(blocks=blocks)
    found = dlib_resnet.load(dlib_files.write(net, tmp_path / "net.dat"))
    pixels = chips(3)
    wanted = np.stack([net.reference(each) for each in pixels])
    np.testing.assert_allclose(found(pictures(pixels)).numpy(), wanted, atol=2e-5 * np.abs(wanted).max())
    assert not found.training and not any(each.requires_grad for each in found.parameters())


def test_gradients_reach_the_aligned_face(tmp_path: Path) -> None:
    """The gradient of a distance is the change that a small step along it makes, at any side of the picture."""
    face = DlibFace("dlib", dlib_resnet.load(dlib_files.write(Net(), tmp_path / "net.dat"))).double()
    for side in (64, 90):
        images = torch.rand(2, 3, side, side, dtype=torch.float64) * 2 - 1
        images.requires_grad_()
        wanted = torch.randn(2, 5, dtype=torch.float64)
        (gradient,) = torch.autograd.grad(similarity(face(images), wanted, "distance").sum(), images)
        step = 1e-6 * torch.randn_like(gradient)
        with torch.no_grad():
            up, down = (similarity(face(images + way * step), wanted, "distance").sum() for way in (1, -1))
        assert float((up - down) / 2) == pytest.approx(float((gradient * step).sum()), rel=1e-3)


def test_a_run_compares_its_vectors_by_distance(tmp_path: Path) -> None:
    """networks.json names the file; vectors keep their length, features are means of maps."""
    dlib_files.write(Net(), tmp_path / "identity.dat")
    entry = {"identity": {"file": "identity.dat", "name": "dlib_resnet"}}
    (tmp_path / "networks.json").write_text(json.dumps(entry))
    face = identity.load(tmp_path, "identity")
    assert isinstance(face, DlibFace) and face.name == "dlib_resnet" and face.metric == "distance"
    images = torch.rand(3, 3, 128, 128) * 2 - 1
    vectors = face(images)
    assert vectors.shape == (3, 5) and face.features(images).shape == (3, 9)
    assert (vectors.norm(dim=1) - 1).abs().min() > 1e-3
    torch.testing.assert_close(vectors, face.body(windowed(images, face.window, dlib_files.SIDE_PX)))
    look = face.look(images)
    assert look.embedding.equal(vectors) and look.features.equal(face.features(images))
    assert [maps.shape[1] for maps in look.maps] == [4, 4, 6, 9] and look.maps[-1].mean((2, 3)).equal(look.features)
    whole = face.maps(images)
    assert [maps.shape[1] for maps in whole] == [4, 4, 6, 9]
    assert all(a.shape[2] > b.shape[2] for a, b in zip(whole, look.maps, strict=True))
    apart = similarity(vectors[:1], vectors[1:2], face.metric)
    torch.testing.assert_close(apart, 1 - (vectors[0] - vectors[1]).norm()[None] ** 2)


def test_the_window_is_the_chip(tmp_path: Path) -> None:
    """A mark at each of dlib's five points of a chip is seen there when it lies where aligned faces have the point."""
    chip = np.array([(46.87, 46.36), (103.99, 46.23), (74.16, 79.78), (50.21, 103.11), (102.13, 102.81)])
    aligned = np.array([(0.3756, 0.4739), (0.6244, 0.4743), (0.5014, 0.6197), (0.3912, 0.7331), (0.6094, 0.7330)])
    left, top, span = DlibFace.window
    seen = (aligned - (left, top)) / span * 150 - 0.5
    assert np.hypot(*(seen - chip).T).max() < 2.6


def swapped_layers(change: Callable[[list[bytes]], list[bytes]]) -> bytes:
    net = Net()
    return net.content(change(net.layers()))


WRONG: list[tuple[bytes, str]] = [
    (b"", "it ends at byte 0, within a record"),
    (b"PK\x03\x04" + bytes(50), "begins no integer"),
    (integer(1) + text("loss_binary_log_"), "it begins with 'loss_binary_log_', wanted 'loss_metric_2'"),
    (Net().content() + b"\x01", "it ends at byte"),
    (swapped_layers(lambda all_: [*all_[:2], text("sig_"), *all_[3:]]), "layer 2 is a 'sig_', known are con_4, "),
    (swapped_layers(lambda all_: all_[:1] + all_[2:]), "a relu comes where a affine is wanted"),
    (swapped_layers(lambda all_: all_[:-1]), "the end comes where a linear is wanted"),
    (swapped_layers(lambda all_: [*all_, text("relu_")]), "it ends with a linear layer of 9 to 5"),
    (swapped_layers(lambda all_: [*all_[:4], *Net(stem=6).layers()[4:]]), "to [4, 4, 3, 3] has 220 values"),
    (Net(seed=1).content().replace(np.float32(Net(seed=1).linear[0, 0]).tobytes(), b"\x00\x00\xc0\x7f"), "not finite"),
]


@pytest.mark.parametrize(("content", "message"), WRONG)
def test_another_file_is_refused_in_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    """Empty, of another kind, with more, fewer or other layers, or values that are none: with what was met."""
    path = tmp_path / "net.dat"
    path.write_bytes(content)
    with pytest.raises(StyleBlendError) as error:
        dlib_resnet.load(path)
    assert message in str(error.value) and str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_file_that_ends_anywhere_is_refused(tmp_path: Path) -> None:
    """Cut at any of 40 places: never a traceback, never a network."""
    content = Net().content()
    path = tmp_path / "net.dat"
    for end in np.linspace(1, len(content) - 1, 40).astype(int):
        path.write_bytes(content[:end])
        with pytest.raises(StyleBlendError, match="is not dlib's face recognition network"):
            dlib_resnet.load(path)
    with pytest.raises(StyleBlendError, match="cannot be read"):
        dlib_resnet.load(tmp_path / "absent.dat")


def test_the_real_file_gives_what_dlib_gives(fetched: Callable[[str], Path]) -> None:
    """Two chips of noise, whose descriptors dlib 20.0.1 computed: its first four values and the length."""
    network = dlib_resnet.load(fetched("dlib_resnet"))
    assert sum(each.numel() for each in network.parameters()) == 5_607_488
    found = network(pictures(chips(2, 150))).numpy()
    wanted = np.float32(DLIB_VALUES)
    np.testing.assert_allclose(found[:, :4], wanted, atol=2e-6)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), DLIB_LENGTHS, atol=2e-6)


DLIB_VALUES = [[-0.0919343, 0.079186, 0.051006, -0.0357233], [-0.0916234, 0.1085656, 0.031291, -0.0248962]]
DLIB_LENGTHS = [1.2923906, 1.3521504]
