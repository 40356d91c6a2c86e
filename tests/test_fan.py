"""perception.fan: the crop, the two readings of the maps, and the loading of files as face-alignment publishes them.

No file of the published weights is here: files of its exact form are made, with random weights (fan_files.py).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import face_alignment
import numpy as np
import pandas as pd
import pytest
import torch
from face_alignment import utils as library
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

import fan_files as files
import tiny_training as tiny
from styleblend import model
from styleblend.config.data import Perceive
from styleblend.config.training import LossWeights
from styleblend.data import perceived
from styleblend.errors import StyleBlendError
from styleblend.face_detector.detection import Yunet
from styleblend.faces.alignment import align_face
from styleblend.faces.mean_box import MEAN_BOX
from styleblend.perception import fan, landmarks
from styleblend.perception.fan import FanLandmarks, fan_crop, hard_argmax, soft_argmax
from styleblend.synthetic import factors, renderer
from styleblend.training.generated import Perception
from styleblend.training.steps import choose_what_learns, generator_terms
from torchscript_files import Metric, scripted

CELLS = 64
# Width of the bells that FAN learned to draw: 7 cells at a quarter of them.
FAN_SIGMA = 1.75


@pytest.fixture(scope="module")
def small_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with one hourglass in place of four."""
    return files.write(files.network(1), tmp_path_factory.mktemp("fan") / "one.pth.tar")


@pytest.fixture(scope="module")
def small(small_file: Path) -> FanLandmarks:
    return fan.load(small_file)


def faces(count: int, side: int) -> Tensor:
    """Rendered faces, [count, 3, side, side] in [-1, 1]."""
    return renderer.render(factors.sample(3, list(range(count)), [0] * count), side, 1).images


def bells(centres: Tensor, sigma: float, height: float = 1.0) -> Tensor:
    """Maps [1, M, 64, 64] of bells around `centres` [M, 2] in cells, where the first cell's middle is at 0.5."""
    line = torch.arange(CELLS, dtype=centres.dtype) + 0.5
    x, y = (torch.exp(-(((line - centres[:, axis, None]) / sigma) ** 2) / 2) for axis in (0, 1))
    return height * (y[:, :, None] * x[:, None, :])[None]


def inside(count: int, margin: float) -> Tensor:
    return margin + (CELLS - 2 * margin) * torch.rand(count, 2, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("sigma", [1.0, FAN_SIGMA, 2.5])
@pytest.mark.parametrize("height", [0.1, 1.0])
def test_both_readings_agree_on_clean_peaks(sigma: float, height: float) -> None:
    """Within one cell of the 64 of a map, which are four pixels of 256, wherever the peak is: also at the edge."""
    centres = inside(600, 0)
    near_edge = centres.clone()
    near_edge[:200, 0], near_edge[200:400, 1] = near_edge[:200, 0] / 20, CELLS - near_edge[200:400, 1] / 20
    near_edge[400:] /= 20
    for places in (centres, near_edge):
        maps = bells(places, sigma, height)
        soft, hard = soft_argmax(maps)[0] * CELLS, hard_argmax(maps)[0] * CELLS
        assert (soft - hard).norm(dim=1).max() < 1
        assert (soft - places).norm(dim=1).max() < 1.05


def test_the_soft_reading_is_exact_away_from_the_edge() -> None:
    """A bell's centre is found to a hundredth of a cell, as the hard reading, with its quarters, cannot: it is 0.35
    off. So they agree within 0.4 cells, which are less than two pixels of 256."""
    places = inside(600, 8)
    maps = bells(places, FAN_SIGMA)
    soft, hard = soft_argmax(maps)[0] * CELLS, hard_argmax(maps)[0] * CELLS
    assert (soft - places).norm(dim=1).max() < 0.01
    assert 0.3 < (hard - places).norm(dim=1).max() < 0.36 and (soft - hard).norm(dim=1).max() < 0.4


@pytest.mark.parametrize(("noise", "offset"), [(0.01, 0.0), (0.03, 0.0), (0.0, 0.05), (0.01, -0.1)])
def test_the_background_does_not_pull(noise: float, offset: float) -> None:
    """Noise and an offset of thousands of cells leave a peak of 0.8 within a cell; a mean of what is positive, as
    first comes to mind, is pulled by several."""
    places = inside(300, 6)
    generator = torch.Generator().manual_seed(1)
    maps = bells(places, FAN_SIGMA, 0.8) + offset + noise * torch.randn(1, 300, CELLS, CELLS, generator=generator)
    found = soft_argmax(maps)[0] * CELLS
    assert (found - places).norm(dim=1).max() < 0.75
    assert (found - hard_argmax(maps)[0] * CELLS).norm(dim=1).max() < 1
    if offset >= 0:
        plain = maps.clamp_min(0) / maps.clamp_min(0).sum((2, 3), keepdim=True)
        line = torch.arange(CELLS) + 0.5
        means = torch.stack([(plain.sum(2) * line).sum(2), (plain.sum(3) * line).sum(2)], dim=2)[0]
        assert (means - places).norm(dim=1).mean() > 5


def test_the_soft_reading_is_the_sum_that_it_says() -> None:
    """On random maps, also of unequal sides, in float64 it equals loops over all cells."""
    maps = torch.randn(2, 3, 5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for picture in range(2):
        for number in range(3):
            cells = maps[picture, number].tolist()
            mean = sum(sum(row) for row in cells) / 35
            most = max(max(row) for row in cells) - mean
            total = x = y = 0.0
            for row in range(5):
                for column in range(7):
                    weight = (max(cells[row][column] - mean, 0) / most + 1e-4) ** 8
                    total, x, y = total + weight, x + weight * (column + 0.5) / 7, y + weight * (row + 0.5) / 5
            found = soft_argmax(maps)[picture, number].tolist()
            assert found == pytest.approx([x / total, y / total], abs=1e-12)


def test_the_soft_reading_depends_on_the_form_alone() -> None:
    """Another height and another offset of a map give the same place."""
    maps = torch.rand(1, 4, CELLS, CELLS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for factor in (1e-6, 1e6):
        torch.testing.assert_close(soft_argmax(factor * (maps - 3)), soft_argmax(maps), atol=1e-9, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_map_without_a_peak_gives_its_middle(dtype: torch.dtype) -> None:
    """Nothing is divided by zero where all cells are equal: the middle, with a gradient that is finite."""
    for value in (0.0, -1.0, 1e4):
        maps = torch.full((1, 2, CELLS, CELLS), value, dtype=dtype, requires_grad=True)
        places = soft_argmax(maps)
        torch.testing.assert_close(places, torch.full((1, 2, 2), 0.5, dtype=dtype))
        places.sum().backward()
        assert maps.grad is not None and maps.grad.isfinite().all()


def test_the_soft_reading_moves_as_the_peak_does() -> None:
    """Its slope with the peak's place is 1 within 2 % between cells and on them: a loss has no place where it rests."""
    places = (30 + torch.stack([torch.arange(20) / 20, torch.zeros(20)], dim=1)).double().requires_grad_()
    (slope,) = torch.autograd.grad(soft_argmax(bells(places, FAN_SIGMA))[..., 0].sum() * CELLS, places)
    assert (slope[:, 0] - 1).abs().max() < 0.02


def test_the_hard_reading_is_the_library_s() -> None:
    """On random maps, with peaks in the middle, at edges and in corners, and on constant ones, to the last bit."""
    maps = torch.randn(2, 68, CELLS, CELLS, generator=torch.Generator().manual_seed(0))
    maps[0, 0, 0, 0] = maps[0, 1, 0, 63] = maps[0, 2, 63, 0] = maps[0, 3, 63, 63] = maps[0, 4, 0, 30] = 9
    maps[0, 5, 30, 63] = maps[0, 6, 1, 1] = maps[0, 7, 62, 62] = 9
    maps[1, 0] = 1
    wanted, _, _ = library.get_preds_fromhm(maps.numpy())
    assert np.array_equal(hard_argmax(maps).numpy() * CELLS, wanted)


def window() -> tuple[NDArray[np.float64], float]:
    """Corner and side of what FAN sees, in shares of the picture, as the crop of a picture of coordinates shows."""
    line = (torch.arange(256, dtype=torch.float64) + 0.5) / 256
    y, x = torch.meshgrid(line, line, indexing="ij")
    shown = fan_crop(2 * torch.stack([x, y, x + 9])[None] - 1)[0]
    rows, columns = torch.nonzero(shown[2] > 5, as_tuple=True)
    first, last = (int(rows[0]), int(columns[0])), (int(rows[-1]), int(columns[-1]))
    step = float(shown[0, last[0], last[1]] - shown[0, first[0], first[1]]) / (last[1] - first[1])
    corner = [float(shown[axis, first[0], first[1]]) - step * (first[1 - axis] + 0.5) for axis in (0, 1)]
    return np.array(corner), 256 * step


def test_what_the_network_sees() -> None:
    """The picture fills 196 px of 256 and black the rest; its colours go from [-1, 1] to [0, 1]."""
    shown = fan_crop(torch.ones(1, 3, 64, 64))
    assert shown.shape == (1, 3, 256, 256) and set(shown.unique().tolist()) == {0.0, 1.0}
    assert shown.sum() == 3 * 196**2
    assert shown[0, 0, 38, 30] == 1 and shown[0, 0, 37, 30] == shown[0, 0, 38, 29] == 0
    assert not fan_crop(-torch.ones(1, 3, 64, 64)).any()
    stripes = torch.ones(1, 3, 1024, 1024)
    stripes[..., ::2] = -1
    assert (fan_crop(stripes)[..., 40:230, 32:222] - 0.5).abs().max() < 0.02


@pytest.mark.parametrize("side", [50, 196, 1024])
def test_the_same_places_are_seen_at_any_side(side: int) -> None:
    """Points do not depend on the side of the picture: a mark in it comes out where it is."""
    marks = torch.tensor([[0.3, 0.25], [0.5, 0.5], [0.71, 0.9]])
    line = (torch.arange(side) + 0.5) / side
    shown = [torch.exp(-((line - x) ** 2 + (line[:, None] - y) ** 2) / (2 * 0.03**2)) for x, y in marks.tolist()]
    pooled = nn.Sequential(nn.AvgPool2d(4))
    reader = FanLandmarks("reader", _Listed(pooled))
    found = reader(2 * torch.stack(shown)[None] - 1)
    assert (found - marks).abs().max() < 0.003
    assert (reader.argmax(2 * torch.stack(shown)[None] - 1) - marks).abs().max() < 0.01


class _Listed(nn.Module):
    """Hands a network's output over as FAN does, the last of a list; the first one counts for nothing."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> list[Tensor]:
        out = self.network(x)
        return [torch.zeros_like(out), out]


@pytest.mark.photos
def test_the_view_is_that_of_detected_faces(photos: Path, yunet_file: Path) -> None:
    """YuNet's boxes of aligned photographs, put through the library's rule for a face's box, give our view on
    average, within 2.5 % of the aligned side: half of what they differ from face to face, and they move by a percent
    or two with the sharpness of the picture."""
    detector = Yunet(yunet_file)
    views = []
    for path in sorted(photos.glob("celeba_hq/*.jpg")):
        photograph = Image.open(path).convert("RGB").resize((512, 512), Image.Resampling.BOX)
        aligned = align_face(photograph, detector.detect(photograph)[0].five_px, 512).picture
        x, y, w, h = np.array(detector.detect(aligned)[0].box) / 512
        side = 200 * (w + h) / 195
        views.append((x + w / 2 - side / 2, y + h / 2 - 0.12 * h - side / 2, side))
    corner, side = window()
    assert len(views) > 20
    assert np.abs(np.mean(views, axis=0) - (*corner, side)).max() < 0.025


def test_wrong_pictures_are_named() -> None:
    """A picture that is not square, or no batch, is refused with its shape."""
    for shape in ((1, 3, 64, 32), (3, 64, 64), (1, 1, 64, 64)):
        with pytest.raises(StyleBlendError, match=r"images have the shape \(.*\): expected \[N, 3, S, S\]"):
            fan_crop(torch.zeros(shape))


def test_points_are_those_of_the_library(tmp_path: Path) -> None:
    """face-alignment itself, with the same file of four hourglasses and the mean box, finds the same points within
    2 px of its 256, most within 1: it rounds its crop and its points to whole pixels.

    Random weights leave some maps with several peaks of about one height. There its rounding can decide for another,
    which in our map is as high but for a hundredth.
    """
    checkpoints = tmp_path / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    path = files.write(files.network(4), checkpoints / files.PUBLISHED)
    # Not by TORCH_HOME, which counts no more once somebody in this process has set the folder, as that detector does.
    before = torch.hub.get_dir()
    torch.hub.set_dir(str(tmp_path / "hub"))
    try:
        theirs = face_alignment.FaceAlignment(
            face_alignment.LandmarksType.TWO_D, device="cpu", flip_input=False, face_detector="folder", compile=False
        )
    finally:
        torch.hub.set_dir(before)
    ours = fan.load(path)
    assert ours.name == "FAN-4"
    side_px = 256
    images = faces(1, side_px).mul(127.5).add(127.5).round()
    corner, side = window()
    centre, half = np.array([MEAN_BOX.x, MEAN_BOX.y]), np.array([MEAN_BOX.width, MEAN_BOX.height]) / 2
    box = np.concatenate([centre - half, centre + half]) * side_px
    pixels = images[0].permute(1, 2, 0).byte().numpy()
    (found,) = theirs.get_landmarks_from_image(pixels, detected_faces=[box])
    wanted = (torch.from_numpy(found) + 0.5) / side_px
    with torch.no_grad():
        maps = ours.heatmaps(images / 127.5 - 1)
    off_px = (torch.from_numpy(corner) + side * hard_argmax(maps)[0] - wanted).norm(dim=1) * 256 / side
    assert (off_px < 2).float().mean() > 0.8 and off_px.median() < 1
    highest, lowest = maps.amax((2, 3))[0], maps.amin((2, 3))[0]
    around = nn.functional.max_pool2d(maps, 3, 1, 1)[0]
    cells = ((wanted - torch.from_numpy(corner)) / side * CELLS).long().clamp(0, CELLS - 1)
    there = around[torch.arange(68), cells[:, 1], cells[:, 0]]
    assert ((highest - there) / (highest - lowest) < 0.01).all()


@pytest.mark.parametrize(("counters", "zipped"), [(True, True), (False, False)])
def test_a_loaded_network_is_the_file_s(tmp_path: Path, counters: bool, zipped: bool) -> None:
    """Maps equal those of the library's network bit for bit, also of a file in the form of old versions of torch;
    nothing learns, nothing leaves eval mode, and loading draws no random number."""
    network = files.network(1)
    path = files.write(network, tmp_path / "file", counters, zipped)
    drawn = torch.get_rng_state()
    loaded = fan.load(path)
    assert torch.equal(drawn, torch.get_rng_state())
    images = faces(1, 64)
    with torch.no_grad():
        assert torch.equal(loaded.heatmaps(images), network(fan_crop(images))[-1])
    assert loaded.name == "FAN-1" and not any(parameter.requires_grad for parameter in loaded.parameters())
    nn.Sequential(loaded).train()
    assert not any(module.training for module in loaded.modules())
    assert not any(tensor.is_meta for tensor in loaded.state_dict().values())


def test_gradients_reach_the_picture(small: FanLandmarks) -> None:
    """They are finite, not zero anywhere in the picture, and are the slopes of the points."""
    image = faces(1, 64).requires_grad_()
    wish = torch.randn(1, 68, 2, generator=torch.Generator().manual_seed(0))
    (slope,) = torch.autograd.grad((small(image) * wish).sum(), image)
    assert slope.isfinite().all() and (slope.abs().amax(1) > 0).double().mean() > 0.99
    step = 0.01 * slope / slope.norm()
    with torch.no_grad():
        change = ((small(image + step) - small(image - step)) * wish).sum() / 0.02
    assert float(change) == pytest.approx(float(slope.norm()), rel=0.01)


def test_pictures_do_not_see_each_other(small: FanLandmarks) -> None:
    """A picture's points are the same alone and beside another."""
    images = faces(2, 64)
    with torch.no_grad():
        together = small(images)
        for number in range(2):
            torch.testing.assert_close(small(images[number : number + 1])[0], together[number], atol=1e-4, rtol=0)
    assert together.shape == (2, 68, 2) and (together[0] - together[1]).abs().max() > 0.01


class Opens:
    """Would write a file as soon as somebody unpickled it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return open, (str(self.path), "w")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: state.pop("m0.b1_4.conv1.weight"), r"missing 1 \['m0.b1_4.conv1.weight'\], unexpected 0 \[\]"),
        (lambda state: state.update(extra=torch.ones(1)), r"missing 0 \[\], unexpected 1 \['extra'\]"),
        (lambda state: state.pop("l0.weight"), r"does not hold FAN: missing \d+ \["),
        (lambda state: state.update({"l0.bias": torch.ones(98)}), r"has l0.bias of \[98\], FAN's is \[68\]"),
        (lambda state: state["bn1.running_var"].fill_(torch.nan), "values in bn1.running_var that are not finite"),
        (lambda state: state.update(epoch=3), "holds dict, no state dict"),
    ],
)
def test_another_network_is_refused(
    small_file: Path, tmp_path: Path, change: Callable[[dict[str, object]], object], words: str
) -> None:
    """A state dict that is not FAN's is named with the first weights that differ, in one line."""
    state = torch.load(small_file, weights_only=True)
    change(state)
    torch.save(state, tmp_path / "wrong.pth.tar")
    with pytest.raises(StyleBlendError, match=words) as error:
        fan.load(tmp_path / "wrong.pth.tar")
    assert "wrong.pth.tar" in str(error.value) and "\n" not in str(error.value)


def test_a_file_that_is_no_file_of_weights(small_file: Path, tmp_path: Path) -> None:
    """Missing, cut short, a web page, a plain pickle, a program: one line each, and nothing in it was run."""
    path = tmp_path / "fan.pth.tar"

    def refused(words: str) -> None:
        with pytest.raises(StyleBlendError, match=words) as error:
            fan.load(path)
        assert str(path) in str(error.value) and "\n" not in str(error.value)

    refused("is missing: give 2DFAN4-11f355bf06.pth.tar of face-alignment")
    path.write_bytes(small_file.read_bytes()[:100_000])
    refused("is a damaged torch file .*fetch it again")
    path.write_bytes(b"")
    refused("is empty")
    path.write_text("<!DOCTYPE html><html>404</html>")
    refused("is a web page")
    path.write_bytes(b"\x80\x04N.")
    refused("is a plain pickle, no torch file")
    for zipped in (True, False):
        torch.save({"l0.weight": Opens(tmp_path / "ran")}, path, _use_new_zipfile_serialization=zipped)
        refused("holds .*open, which is code and not weights: it was not run")
    scripted(Metric(8), path)
    refused("TorchScript")
    assert not (tmp_path / "ran").exists()


@pytest.fixture
def run_of_tiny_networks(tmp_path: Path, small_file: Path) -> dict[str, Path]:
    """A tiny training job whose landmark network is FAN, as the stage `pretrained` names it in networks.json."""
    inputs = tiny.write_inputs(tmp_path)
    networks = inputs["networks"]
    shutil.copyfile(small_file, networks / "landmarks.tar")
    for ending in ("json", "safetensors"):
        (networks / f"landmarks.{ending}").unlink()
        for role in ("identity", "attributes"):
            shutil.copyfile(networks / f"{role}.{ending}", networks / f"{role}_judge.{ending}")
    (networks / "networks.json").write_text(json.dumps({"landmarks": {"file": "landmarks.tar"}}))
    return inputs


def test_the_role_decides(run_of_tiny_networks: dict[str, Path], tmp_path: Path) -> None:
    """FAN where networks.json names a file of others, the network of the card elsewhere; a lost file is named."""
    networks = run_of_tiny_networks["networks"]
    assert isinstance(landmarks.load(networks), FanLandmarks)
    (networks / "landmarks.tar").unlink()
    with pytest.raises(StyleBlendError, match=r"network 'landmarks' is missing: no .*landmarks.tar"):
        landmarks.load(networks)
    tiny.write_networks(tmp_path / "small")
    assert isinstance(landmarks.load(tmp_path / "small"), landmarks.LandmarkNetwork)


def test_a_training_step_learns_through_it(run_of_tiny_networks: dict[str, Path]) -> None:
    """The landmark term alone, with FAN as its network, pulls at every parameter of the encoder, and FAN stays."""
    inputs = run_of_tiny_networks
    weights = {name: float(name == "landmarks") for name in LossWeights.model_fields}
    cfg = tiny.training(batch_size=2, loss=weights)
    batch = tiny.first_batch(inputs, cfg)
    torch.manual_seed(0)
    swapper, discriminator = model.build(tiny.MODEL), model.build_discriminator(tiny.MODEL)
    choose_what_learns(swapper, "train_encoder")
    seeing = landmarks.load(inputs["networks"])
    perception = Perception(**tiny.perception()._asdict() | {"landmarks": seeing})
    terms, _ = generator_terms(swapper, discriminator, perception, batch, cfg, 0)
    assert set(terms) == {"landmarks"} and terms["landmarks"] > 0
    terms["landmarks"].backward()
    for name, parameter in swapper.encoder.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name
    assert not any(parameter.grad is not None for parameter in seeing.parameters())


def test_the_stage_perceive_sees_with_it(run_of_tiny_networks: dict[str, Path], tmp_path: Path) -> None:
    """The stage's own loading and measuring write FAN's points of each face."""
    inputs = run_of_tiny_networks
    manifest = pd.read_parquet(inputs["faces"] / "manifest.parquet").head(2)
    manifest.to_parquet(inputs["faces"] / "manifest.parquet")
    networks = perceived.load_networks(inputs["networks"], "cpu")
    assert isinstance(networks.landmarks, FanLandmarks)
    seen = perceived.perceive_faces(inputs["faces"], networks, tmp_path / "out.parquet", Perceive(batch_size=2))
    points = np.stack(seen["landmarks"].to_list()).reshape(2, 68, 2)
    with Image.open(inputs["faces"] / manifest["path"][1]) as picture:
        image = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        assert points[1] == pytest.approx(networks.landmarks(image)[0].numpy(), abs=1e-3)
