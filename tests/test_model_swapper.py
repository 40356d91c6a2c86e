"""Saving and loading of the whole model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import tiny_training as tiny
from styleblend import model
from styleblend.errors import StyleBlendError


def test_a_saved_swapper_draws_the_same_picture(tmp_path: Path) -> None:
    """Load gives back every weight and the facts; the loaded module is in eval mode."""
    swapper = model.build(tiny.MODEL)
    model.save(swapper, tiny.MODEL, tmp_path, stage="train_encoder", step=7)
    again = model.load(tmp_path)
    source, target = torch.rand(2, 1, 3, 32, 32)
    assert torch.equal(again(source, target), swapper(source, target)) and not again.training
    facts = json.loads((tmp_path / "model.json").read_text())
    assert facts["stage"] == "train_encoder" and facts["step"] == 7


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "model.json").unlink(), "is no model folder"),
        (lambda folder: (folder / "swapper.safetensors").unlink(), "is no model folder"),
        (lambda folder: (folder / "swapper.safetensors").write_bytes(b"broken"), "holds no usable model"),
        (lambda folder: (folder / "model.json").write_text("{}"), "holds no usable model"),
    ],
)
def test_a_damaged_model_folder_is_one_clear_line(tmp_path: Path, damage, message: str) -> None:
    """A missing or broken file is named, without a traceback's worth of text."""
    model.save(model.build(tiny.MODEL), tiny.MODEL, tmp_path)
    damage(tmp_path)
    with pytest.raises(StyleBlendError, match=message) as caught:
        model.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_weights_of_other_sizes_are_refused(tmp_path: Path) -> None:
    """Loading is strict: model.json and weights must agree."""
    model.save(model.build(tiny.MODEL), tiny.MODEL.model_copy(update={"pyramid_width": 16}), tmp_path)
    with pytest.raises(StyleBlendError, match="holds no usable model"):
        model.load(tmp_path)
