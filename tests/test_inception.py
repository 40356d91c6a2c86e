"""evaluation.inception: the loading of a TorchScript network, on self-made ones of the published interface."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from styleblend.errors import StyleBlendError
from styleblend.evaluation import inception
from styleblend.system.files import sha256
from torchscript_files import Metric, scripted


class Plain(nn.Module):
    """A network of another interface."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean([2, 3])


class Blind(Metric):
    """Gives the same features for every picture."""

    def forward(
        self, img: Tensor, return_features: bool = False, use_fp16: bool = False, no_output_bias: bool = False
    ) -> Tensor:
        return torch.ones([img.shape[0], 2048])


class Small(Metric):
    """Takes pictures of 299 px alone."""

    def forward(
        self, img: Tensor, return_features: bool = False, use_fp16: bool = False, no_output_bias: bool = False
    ) -> Tensor:
        return self.features(img.to(torch.float32)[:, 0].reshape(-1, 299 * 299)[:, :16])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return scripted(Metric(), tmp_path / "inception-2015-12-05.pt")


def test_pictures_of_any_side_become_2048_features(path: Path) -> None:
    """What the network gives for 8-bit pictures, for each by itself, as float32 and without gradients."""
    network = inception.load(path, sha256(path))
    for side in (64, 256, 299):
        pixels = torch.randint(256, (3, 3, side, side), dtype=torch.uint8)
        found = network.features((pixels.float() / 127.5 - 1).requires_grad_())
        assert found.shape == (3, 2048) and found.dtype == torch.float32 and not found.requires_grad
        with torch.no_grad():
            torch.testing.assert_close(found, Metric().eval()(pixels, return_features=True))
    assert network.name == "inception-2015-12-05"


def test_nothing_is_run_without_its_hash(path: Path) -> None:
    """No hash, half a hash and the hash of another file are refused before the program is read."""
    for stated in ("", "abc", sha256(path)[:-1]):
        with pytest.raises(StyleBlendError, match="state its 64 hex digits"):
            inception.load(path, stated)
    stated = sha256(path)
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(StyleBlendError, match=f"has sha256 {sha256(path)}, wanted {stated}: it is not run"):
        inception.load(path, stated)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Plain(), r"computes forward\(x\), wanted forward\(img, return_features, ...\)"),
        (Metric(1000), r"gives \[2, 1000\] for two pictures of 75 px, wanted finite \[2, 2048\]"),
        (Metric(batch_norm=True), "does not look at each picture by itself"),
        (Blind(), "does not look at each picture by itself"),
        (Small(), "cannot see pictures of 75 px"),
    ],
    ids=["interface", "features", "batch statistics", "constant", "one side"],
)
def test_another_network_is_refused(network: nn.Module, message: str, tmp_path: Path) -> None:
    """A program that makes something else of pictures is found out by a trial, in one line."""
    path = scripted(network, tmp_path / "other.pt")
    with pytest.raises(StyleBlendError, match=message) as caught:
        inception.load(path, sha256(path))
    assert "\n" not in str(caught.value)


def test_files_that_are_no_torchscript_are_one_line(tmp_path: Path) -> None:
    """A missing file, a web page and a file of weights alone."""
    path = tmp_path / "inception.pt"
    with pytest.raises(StyleBlendError, match="is missing"):
        inception.load(path, "0" * 64)
    path.write_text("<html>Not found</html>")
    with pytest.raises(StyleBlendError, match="is no TorchScript") as page:
        inception.load(path, sha256(path))
    torch.save({"weight": torch.zeros(2)}, path)
    with pytest.raises(StyleBlendError, match="is no TorchScript") as weights:
        inception.load(path, sha256(path))
    assert "\n" not in str(page.value) + str(weights.value)
