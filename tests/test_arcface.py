"""ArcFace of perception.identity: the crop to ArcFace's template, the network behind it, and who may judge."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

import arcface_files as files
from styleblend.errors import StyleBlendError
from styleblend.face_detector.detection import Yunet
from styleblend.faces.alignment import quad_from_landmarks, to_aligned
from styleblend.perception.identity import ArcFace, IdentityNetwork, Looks, load_arcface
from styleblend.training import losses
from styleblend.weights.run_folder import require_another_judge

template_crop = ArcFace("crop", torch.nn.Identity()).crop  # type: ignore[arg-type]

# Where ArcFace's crops have the eyes, the nose and the mouth's corners, in pixels of 112 from the first one's centre.
TEMPLATE_PX = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)

Points = NDArray[np.float64]


def ramps(side: int) -> Tensor:
    """A picture of its own coordinates: x and y from 0 at one edge to 1 at the other, and their product."""
    line = (torch.arange(side, dtype=torch.float64) + 0.5) / side
    y, x = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([x, y, x * y])[None]


def window() -> tuple[Points, float]:
    """Corner and side of the crop in shares of the picture, as the crop of a ramp shows them."""
    shown = template_crop(ramps(256))[0].numpy()
    step = (shown[0, :, -1] - shown[0, :, 0]).mean() / 111
    corner = np.array([shown[0, 0, 0], shown[1, 0, 0]]) - step / 2
    return corner, 112 * step


def in_template_px(aligned: Points) -> Points:
    """Where points of an aligned face, [..., 2] in [0, 1], come to lie in the crop, as TEMPLATE_PX counts."""
    corner, span = window()
    return (aligned - corner) / span * 112 - 0.5


def best_similarity(aligned: Points) -> tuple[Points, float]:
    """The upright window that brings points [N, 5, 2] nearest to the template in the least squares."""
    wanted = TEMPLATE_PX + 0.5
    a, b = aligned - aligned.mean((0, 1)), wanted - wanted.mean(0)
    scale = (a * b).sum() / (a * a).sum()
    shift = wanted.mean(0) - scale * aligned.mean((0, 1))
    return -shift / scale, 112 / scale


def mean_error_px(points: Points) -> float:
    return float(np.linalg.norm(points - TEMPLATE_PX, axis=-1).mean())


def test_the_window_is_what_the_template_has_in_an_aligned_face() -> None:
    """FFHQ's rule on the template's own five points: they end 1.3 px of 112 from the template, and the window that
    suits this one mean face best has its edges within 2 % of ours."""
    aligned = to_aligned(TEMPLATE_PX, quad_from_landmarks(TEMPLATE_PX))
    assert mean_error_px(in_template_px(aligned)) == pytest.approx(1.32, abs=0.02)
    corner, span = best_similarity(aligned[None])
    ours, side = window()
    assert np.abs(ours - corner).max() < 0.02 and np.abs(ours + side - corner - span).max() < 0.02


@pytest.mark.photos
def test_the_window_suits_photographs(photos: Path, yunet_file: Path) -> None:
    """Points that a detector finds in 60 real faces end 3.1 px from the template on average, within a tenth of what
    the best window for just these faces reaches; the crop of the small networks is 10 px off."""
    detector = Yunet(yunet_file)
    fives = [detector.detect(Image.open(path).convert("RGB"))[0].five_px for path in photos.glob("*/*.jpg")]
    aligned = np.stack([to_aligned(five, quad_from_landmarks(five)) for five in fives])
    corner, span = best_similarity(aligned)
    found, best = mean_error_px(in_template_px(aligned)), mean_error_px((aligned - corner) / span * 112 - 0.5)
    assert found == pytest.approx(3.07, abs=0.15) and found < 1.1 * best
    assert mean_error_px((aligned - (1 / 8, 3 / 16)) / 0.75 * 112 - 0.5) > 8


@pytest.mark.parametrize("side", [64, 256])
def test_the_crop_is_the_warp_of_a_similarity(side: int) -> None:
    """At the sides that are sampled at once it equals OpenCV's bilinear warp by the same window."""
    image = np.random.default_rng(0).uniform(-1, 1, (side, side, 3)).astype(np.float32)
    image = cv2.GaussianBlur(image, (0, 0), side / 64)
    corner, span = window()
    scale = 112 / (span * side)
    shift = (0.5 - corner * side) * scale - 0.5
    warped = cv2.warpAffine(image, np.array([[scale, 0, shift[0]], [0, scale, shift[1]]]), (112, 112))
    found = template_crop(torch.from_numpy(image).permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()
    # OpenCV rounds places to 1/32 of a pixel.
    assert np.abs(found - warped).max() < 0.03 and np.abs(found - warped).mean() < 0.003


@pytest.mark.parametrize("side", [50, 64, 300, 1024])
def test_the_crop_shows_the_same_window_at_any_side(side: int) -> None:
    """A picture of 50 or of 1024 px shows the same places."""
    shown = template_crop(ramps(side)), template_crop(ramps(256))
    torch.testing.assert_close(*shown, atol=1e-3, rtol=0)


def test_large_pictures_do_not_alias() -> None:
    """Stripes of one pixel at 1024 px come out grey, not as a pattern of skipped pixels."""
    stripes = torch.ones(1, 3, 1024, 1024)
    stripes[..., ::2] = -1
    assert template_crop(stripes).abs().max() < 0.02


def test_pixels_of_the_window_get_gradients() -> None:
    """Every pixel that the template shows is pulled at, and none outside it."""
    images = torch.zeros(1, 3, 128, 128, requires_grad=True)
    template_crop(images).square().sum().backward()
    assert images.grad is not None and not images.grad.any()
    template_crop(images).sum().backward()
    corner, span = window()
    (left, top), (right, bottom) = (128 * corner).round().astype(int), (128 * (corner + span)).round().astype(int)
    pulled = images.grad[0, 0] > 0
    assert pulled[top + 1 : bottom - 1, left + 1 : right - 1].all()
    pulled[top - 1 : bottom + 1, left - 1 : right + 1] = False
    assert not pulled.any()


def test_wrong_pictures_are_named() -> None:
    """A picture that is not square, or no batch, is refused with its shape."""
    with pytest.raises(StyleBlendError, match=r"\(1, 3, 64, 32\): expected"):
        template_crop(torch.zeros(1, 3, 64, 32))
    with pytest.raises(StyleBlendError, match=r"\(3, 64, 64\): expected"):
        template_crop(torch.zeros(3, 64, 64))


@pytest.fixture
def network(tmp_path: Path) -> ArcFace:
    return load_arcface(files.write(files.iresnet(), tmp_path / "w600k_small.onnx"))


def test_arcface_does_what_an_identity_network_does(network: ArcFace) -> None:
    """Unit vectors, their raw form and spatial features of faces of any side, named after the file."""
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    vectors = network(images)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(2))
    torch.testing.assert_close(vectors, F.normalize(network.body(template_crop(images)), dim=1))
    assert network.name == "w600k_small" and network.features(images).shape == (2, 8)
    assert network(F.interpolate(images, size=256)).shape == (2, 16)


@pytest.mark.parametrize("kind", ["arcface", "plain", "residual"])
def test_one_look_is_what_separate_passes_give(network: ArcFace, kind: str) -> None:
    """Embedding, features and maps of one pass are those of forward, `features` and the trunk; each side once, halved;
    the maps of a whole picture see what the crop leaves out."""
    torch.manual_seed(0)
    blocks = [1, 2] if kind == "residual" else []
    seer = network if kind == "arcface" else IdentityNetwork("any", kind, [8, 16], blocks, 8, 32).eval()
    assert isinstance(seer, Looks)
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        embedding, features, maps = seer.look(images)
        torch.testing.assert_close(embedding, seer(images))
        torch.testing.assert_close(features, seer.features(images))
        torch.testing.assert_close(features, maps[-1].mean((2, 3)))
        sides = [level.shape[-1] for level in maps]
        assert len(set(sides)) == len(sides) > 1 and sides == sorted(sides, reverse=True)
        corner = images.clone()
        corner[..., :4, :4] = 1
        torch.testing.assert_close(seer.look(corner).maps[-1], maps[-1])
        assert (seer.maps(corner)[0] - seer.maps(images)[0]).abs().max() > 1e-3


def test_an_identity_loss_moves_a_picture_towards_a_person(network: ArcFace) -> None:
    """Steps down the gradient of Eq. 8 through crop and network bring a picture's embedding to another's."""
    generator = torch.Generator().manual_seed(1)
    images, other = (torch.rand(1, 3, 64, 64, generator=generator) * 2 - 1 for _ in range(2))
    wanted = network(other).detach()
    images.requires_grad_()
    before = losses.identity(network(images), wanted)
    for _ in range(20):
        (slope,) = torch.autograd.grad(losses.identity(network(images), wanted), images)
        images = (images - 0.5 * slope / slope.norm()).detach().requires_grad_()
    assert losses.identity(network(images), wanted) < 0.5 * before


def test_the_same_file_cannot_train_and_judge() -> None:
    """Equal hashes are refused unless somebody asked for them; entries without a hash cannot be compared."""
    one, other = {"sha256": "ab" * 32, "file": "identity.onnx"}, {"sha256": "cd" * 32, "file": "judge.onnx"}
    require_another_judge(one, other)
    require_another_judge(one, one, same_allowed=True)
    with pytest.raises(StyleBlendError, match=f"the same network .sha256 {'ab' * 32}.*pretrained.same_judge"):
        require_another_judge(one, {"sha256": "AB" * 32, "file": "copy.onnx"})
    with pytest.raises(StyleBlendError, match="'identity_judge' has no sha256"):
        require_another_judge(one, {"file": "judge.onnx"}, same_allowed=True)
