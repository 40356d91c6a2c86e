"""evaluation.nsfw_inception and weights.formats.tfjs_layers: models in JavaScript, read without running anything."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import layers_files as files
from styleblend.config.catalogue import Entry
from styleblend.errors import StyleBlendError
from styleblend.evaluation import nsfw_inception
from styleblend.evaluation.judges import Judges
from styleblend.weights import content
from styleblend.weights.formats import tfjs_layers
from styleblend.weights.formats.tfjs_layers import LayersNetwork


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return files.write(tmp_path_factory.mktemp("layers") / "nsfwjs_inception.zip")


def test_features_are_those_of_a_reference(path: Path) -> None:
    """A batch of pictures in 8 bits, each as loops over places in float64 compute it, from weights of 8 bits."""
    network = nsfw_inception.load(path, "nsfwjs_inception")
    pixels = np.random.default_rng(3).integers(0, 256, (3, files.SIDE_PX, files.SIDE_PX, 3))
    images = torch.from_numpy(pixels / 127.5 - 1).float().permute(0, 3, 1, 2).requires_grad_()
    found = network.features(images)
    assert found.shape == (3, 2048) and found.dtype == torch.float32 and not found.requires_grad
    wanted = [files.features(each / 255) for each in pixels]
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-4, atol=1e-4)
    assert network.features(torch.zeros(2, 3, 50, 50)).shape == (2, 2048), "pictures of any side"


def test_it_never_gives_the_fid(path: Path) -> None:
    """The distance bears the network's name."""
    network = nsfw_inception.load(path, "nsfwjs_inception")
    judges = Judges(network, network, network)  # type: ignore[arg-type]
    assert judges.frechet_name == "frechet_nsfwjs_inception"


def test_object_literals_are_read_as_a_script_engine_reads_them(path: Path) -> None:
    """Layers come back as they were written, whatever the minifier made of keys, truth values and numbers."""
    layers, weights = tfjs_layers.read(path)
    assert layers == files.small()
    _, _, wanted = files.weights()
    for name, values in wanted.items():
        np.testing.assert_allclose(weights[name], values, atol=1e-6)


def changed(place: int, **config: Any) -> list[dict[str, Any]]:
    layers = files.small(8)
    layers[place]["config"] |= config
    return layers


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([*files.small(8)[:4], files.layer("GaussianNoise", "g", ["a1"])], "'g' .GaussianNoise. .* only Activation, "),
        (changed(1, activation="relu"), "'c1' .Conv2D. cannot be used: its activation is relu, wanted linear"),
        (changed(1, padding="same"), r"'c1'.* padding same with strides \[2, 2\]"),
        (changed(3, activation="tanh"), "'a1'.* its activation is tanh, wanted relu"),
        ([files.small(8)[0], *files.small(8)[2:]], r"'n1'.* it reads \['c1'\], which come after it"),
        (files.small(8)[:5], "has no layer 'flatten_1': it is another network"),
        ([{**each, "name": "c9"} if each["name"] == "c1" else each for each in files.small(8)], "'c9'.*'c9/kernel'"),
    ],
)  # fmt: skip
def test_other_models_are_refused_by_their_first_layer(
    layers: list[dict[str, Any]], message: str, tmp_path: Path
) -> None:
    """Unknown layers and options, lost weights and wrong wiring: one line with the layer's name."""
    with pytest.raises(StyleBlendError, match=message) as refused:
        LayersNetwork(files.write(tmp_path / "x.zip", layers, 8), "flatten_1")
    assert "\n" not in str(refused.value) and "x.zip" in str(refused.value)


def test_damaged_files_are_one_line(tmp_path: Path) -> None:
    """Missing, no zip, without a model, with half of its bytes, or with other features than 2048."""
    (tmp_path / "page.zip").write_text("<html>")
    with zipfile.ZipFile(tmp_path / "empty.zip", "w") as bundle:
        bundle.writestr("model.min.js", "!function(){}")
    with zipfile.ZipFile(tmp_path / "torn.zip", "w") as bundle:
        bundle.writestr("model.min.js", files.module(files.literal({"modelTopology": {}})[:-2]))
    wrong = {
        "is no layers model of TensorFlow.js .*No such file": tmp_path / "none.zip",
        "is no layers model of TensorFlow.js .*zip": tmp_path / "page.zip",
        "holds no layers model of TensorFlow.js": tmp_path / "empty.zip",
        "torn.zip is no layers model": tmp_path / "torn.zip",
        "ends within weights 'dense_1/kernel'": files.write(tmp_path / "half.zip", cut=30),
        r"gives \[1, 8\] for a picture, wanted \[1, 2048\]": files.write(tmp_path / "narrow.zip", width=8),
    }
    for message, file in wrong.items():
        with pytest.raises(StyleBlendError, match=message) as refused:
            nsfw_inception.load(file)
        assert "\n" not in str(refused.value) and file.name in str(refused.value)


def test_content_is_checked_before_a_file_gets_its_name(path: Path, tmp_path: Path) -> None:
    """By its format: what its reader refuses, the store refuses."""
    about = {"roles": ("inception",), "licence": "x", "commercial": True, "consequence": "x"}
    entry = Entry(name="n", file="n.zip", format="tfjs_layers", **about)
    content.expect(path, entry)
    (tmp_path / "n.zip").write_bytes(path.read_bytes()[:-40])
    with pytest.raises(StyleBlendError, match="n.zip is no layers model"):
        content.expect(tmp_path / "n.zip", entry)
