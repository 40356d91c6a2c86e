"""Baselines on pictures small enough to know what must come out."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import tiny_project
from styleblend.errors import StyleBlendError
from styleblend.evaluation import baselines, protocol

SIDE = 48


@pytest.fixture
def points() -> np.ndarray:
    """68 points on two rings around the middle, in pixels."""
    angle = np.linspace(0, 2 * np.pi, 68, endpoint=False)
    radius = np.where(np.arange(68) % 2, 14.0, 7.0)
    return (24 + radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)).astype(np.float32)


@pytest.fixture
def picture() -> np.ndarray:
    """A smooth picture with different colours everywhere."""
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    waves = [128 + 80 * np.sin(x / 7), 128 + 80 * np.cos(y / 9), 128 + 60 * np.sin((x + y) / 11)]
    return np.stack(waves, axis=-1).round().astype(np.uint8)


def test_warp_onto_itself_changes_nothing(picture: np.ndarray, points: np.ndarray) -> None:
    """Source and target alike: the warp is the identity and the blend has nothing to do."""
    swapped = baselines.warp_blend_one(picture, picture, points, points)
    assert np.abs(swapped.astype(int) - picture).max() <= 2


def test_warp_moves_the_face_to_the_target(picture: np.ndarray, points: np.ndarray) -> None:
    """A face that is shifted in the source stands at the target's place; outside the hull is the target."""
    shifted = np.roll(picture, (3, -2), axis=(0, 1))
    swapped = baselines.warp_blend_one(shifted, picture, points + np.float32([-2, 3]), points)
    assert np.abs(swapped[15:33, 15:33].astype(int) - picture[15:33, 15:33]).max() <= 3
    outside = np.hypot(*(np.mgrid[0:SIDE, 0:SIDE] - 24)) > 17
    # OpenCV's solver works on the mask's frame and may round by one level.
    assert np.abs(swapped[outside].astype(int) - picture[outside]).max() <= 1


def test_blend_takes_detail_from_the_source_and_light_from_the_target(points: np.ndarray) -> None:
    """Poisson blending: a mole of a dark source stands in a light target at the target's brightness."""
    source, target = np.full((SIDE, SIDE, 3), 60, np.uint8), np.full((SIDE, SIDE, 3), 180, np.uint8)
    cv2.circle(source, (24, 24), 2, (20, 20, 20), -1)
    swapped = baselines.warp_blend_one(source, target, points, points).astype(int)
    assert swapped[24, 24, 0] < 160
    assert abs(swapped[24, 15, 0] - 180) < 12


@pytest.mark.parametrize("case", ["one point", "line", "outside", "tiny"])
def test_impossible_landmarks_still_give_a_picture(picture: np.ndarray, points: np.ndarray, case: str) -> None:
    """Points that span no area, or lie outside, leave a finite picture of the right size, unchanged far away."""
    bad = {
        "one point": np.full((68, 2), 24, np.float32),
        "line": np.stack([np.arange(68), np.arange(68)], axis=1).astype(np.float32) / 2,
        "outside": points + 500,
        "tiny": 24 + (points - 24) / 20,
    }[case]
    swapped = baselines.warp_blend_one(picture[::-1].copy(), picture, points, bad)
    assert swapped.shape == picture.shape and swapped.dtype == np.uint8
    assert np.array_equal(swapped[0], picture[0])


def test_landmarks_beyond_the_edge_are_blended_within_the_picture(picture: np.ndarray, points: np.ndarray) -> None:
    """A face that leaves the picture is swapped as far as it is seen."""
    swapped = baselines.warp_blend_one(picture[::-1].copy(), picture, points, points + np.float32([20, 0]))
    assert not np.array_equal(swapped, picture) and np.array_equal(swapped[:, :10], picture[:, :10])


def test_half_mask_takes_half_of_the_channels_from_each(tmp_path: Path) -> None:
    """Drawn from the source's first and the target's second half of every style element; only the small decoder, with
    its own encoder, keeps identity there."""
    tiny_project.make(tmp_path)
    networks = tmp_path / "data/networks"
    untrained = baselines.untrained_mixing(tiny_project.MODEL, networks, 0)
    source, target = torch.rand(2, 2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    rows = torch.arange(2)
    pairs = protocol.read_pairs(tmp_path / "data/splits", tmp_path / "data/faces", tmp_path / "data/perceived.parquet")
    batch = protocol.Batch(pairs, rows, rows, source, target, rows)
    with torch.no_grad():
        codes = untrained.encoder(target).codes.clone()
        codes[:, :, : tiny_project.MODEL.style_dim // 2] = untrained.encoder(source).codes[
            :, :, : tiny_project.MODEL.style_dim // 2
        ]
        torch.testing.assert_close(baselines.half_mask(untrained, batch), untrained.decoder(codes))
    assert baselines.keeps_identity_apart(networks, "pretrained")
    assert not baselines.keeps_identity_apart(networks, "new")
    (networks / "stylegan.pth").write_bytes(b"")
    (networks / "networks.json").write_text('{"decoder": {"file": "stylegan.pth", "name": "a StyleGAN"}}')
    assert not baselines.keeps_identity_apart(networks, "pretrained")
    assert "half_mask" not in baselines.methods(untrained)


def test_untrained_mixing_is_seeded_and_keeps_the_pretrained_parts(tmp_path: Path) -> None:
    """The blending depends on the seed alone, encoder and decoder are the pretrained files; global state is
    left.
    """
    tiny_project.make(tmp_path)
    networks = tmp_path / "data/networks"
    before = torch.random.get_rng_state()
    first, again, other = (baselines.untrained_mixing(tiny_project.MODEL, networks, seed) for seed in (1, 1, 2))
    assert torch.random.get_rng_state().equal(before)
    pictures = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        assert first(pictures, pictures.flip(0)).equal(again(pictures, pictures.flip(0)))
        assert not first.blending(*[first.encoder(p).codes for p in (pictures, pictures.flip(0))]).equal(
            other.blending(*[other.encoder(p).codes for p in (pictures, pictures.flip(0))])
        )
    for name, value in load_file(networks / "encoder.safetensors").items():
        assert first.encoder.state_dict()[name].equal(value)


def test_pretrained_files_must_fit(tmp_path: Path) -> None:
    """A decoder without a pathway is accepted; one without a layer, or no file, is an error that names the
    file.
    """
    tiny_project.make(tmp_path)
    networks = tmp_path / "data/networks"
    weights = load_file(networks / "decoder.safetensors")
    plain = {name: value for name, value in weights.items() if "pathway" not in name}
    assert len(plain) < len(weights)
    save_file(plain, networks / "decoder.safetensors")
    baselines.untrained_mixing(tiny_project.MODEL, networks, 0)
    del plain["constant"]
    save_file(plain, networks / "decoder.safetensors")
    with pytest.raises(StyleBlendError, match="decoder.safetensors does not fit .*constant"):
        baselines.untrained_mixing(tiny_project.MODEL, networks, 0)
    save_file(weights, networks / "decoder.safetensors")
    (networks / "encoder.safetensors").unlink()
    with pytest.raises(StyleBlendError, match="'pretrained', but .*encoder.safetensors is missing"):
        baselines.untrained_mixing(tiny_project.MODEL, networks, 0)
