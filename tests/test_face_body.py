"""The frozen body of the encoder: dlib's face network at the encoder's taps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import dlib_files
from styleblend import model
from styleblend.config.model import DLIB_WIDTHS, Model
from styleblend.errors import StyleBlendError
from styleblend.model.face_body import PICTURE_PX, DlibBody
from styleblend.perception.identity import DlibFace
from styleblend.training.steps import choose_what_learns
from styleblend.weights.formats import dlib_resnet
from styleblend.weights.start import fill_body, fill_frozen
from tiny_model import MODEL, SIDE_PX

SIZES: dict[str, Any] = {"encoder_body": "dlib_resnet", "encoder_blocks": (1, 3, 4, 7), "encoder_widths": DLIB_WIDTHS}


def test_taps_are_the_face_network_s_maps(tmp_path: Path) -> None:
    """They are what the identity network of the same file sees in the whole picture, at the sides of E's taps."""
    file = dlib_files.write_full(tmp_path / "net.dat")
    body = DlibBody()
    fill_frozen(body, file)
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    face = DlibFace("dlib", dlib_resnet.load(file))
    assert face.whole(images).shape[-1] == PICTURE_PX
    maps = face.maps(images)
    assert [each.shape[-1] for each in maps] == [110, 54, 27, 13, 6, 3]
    taps = body(images)
    assert [tuple(tap.shape[1:]) for tap in taps] == [
        (w, s, s) for w, s in zip(DLIB_WIDTHS, (32, 16, 8, 4), strict=True)
    ]
    joined = (*taps[:3], *taps[3].split((128, 256, 256), dim=1))
    for found, each in zip(joined, maps, strict=True):
        side = found.shape[-1]
        wanted = F.interpolate(
            each, (side, side), mode="bilinear", align_corners=False, antialias=each.shape[-1] > side
        )
        torch.testing.assert_close(found, wanted)


def test_it_never_learns_and_travels_with_the_model(tmp_path: Path) -> None:
    """No stage trains it, gradients go through it to the picture, and a saved model brings it along."""
    sizes = Model.model_validate(MODEL.model_dump() | SIZES)
    swapper = model.build(sizes)
    fill_body(swapper.encoder, dlib_files.write_full(tmp_path / "net.dat"))
    for stage in ("pretrain", "train_encoder"):
        learning = {id(parameter) for parameter in choose_what_learns(swapper, stage)}  # type: ignore[arg-type]
        names = {name for name, parameter in swapper.encoder.named_parameters() if id(parameter) in learning}
        assert names and not any(name.startswith("frozen_body") for name in names)
    source, target = (torch.rand(1, 3, SIDE_PX, SIDE_PX) * 2 - 1 for _ in range(2))
    source.requires_grad_()
    swapper.encoder(source).codes.sum().backward()
    assert source.grad is not None and source.grad.abs().sum() > 0
    model.save(swapper, sizes, tmp_path)
    again = model.load(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(again(source, target), swapper.eval()(source, target))


def test_another_network_or_other_sizes_are_refused(tmp_path: Path) -> None:
    """In one line each: a smaller network of the same form, and sizes of the settings that are not the body's."""
    with pytest.raises(StyleBlendError, match=r"net\.dat has 4 blocks, other ones than dlib's own") as caught:
        fill_frozen(DlibBody(), dlib_files.write(dlib_files.Net(), tmp_path / "net.dat"))
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"'dlib_resnet' has encoder_blocks \[1, 3, 4, 7\].* got \[1, 1, 1, 1\]"):
        Model.model_validate(MODEL.model_dump() | {"encoder_body": "dlib_resnet"})
