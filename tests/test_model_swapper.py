"""Saving and loading of the whole model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

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


def write_as_before(folder: Path, variant: str = "nvidia") -> model.Swapper:
    """A model folder of earlier versions, which divided what the exponents of Eq. 2 learn by a factor."""
    torch.manual_seed(0)
    swapper = model.build(tiny.MODEL)
    torch.nn.init.normal_(swapper.blending.bias)
    model.save(swapper, tiny.MODEL, folder)
    facts = json.loads((folder / "model.json").read_text())
    facts["model"] |= {"blending_pace": 50.0, "decoder_variant": variant}
    (folder / "model.json").write_text(json.dumps(facts))
    state = load_file(folder / "swapper.safetensors")
    for name, factor in (("bias", 50), ("exponent_s.weight", 12.5), ("exponent_t.weight", 12.5)):
        state[f"blending.{name}"] /= factor
    save_file(state, folder / "swapper.safetensors")
    return swapper.eval()


def test_a_model_of_an_earlier_version_draws_the_same_picture(tmp_path: Path) -> None:
    """Its exponents are multiplied by the factor that they were stored divided by."""
    swapper = write_as_before(tmp_path)
    again = model.load(tmp_path)
    for name, value in swapper.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, rtol=1e-6, atol=0)
    source, target = torch.rand(2, 1, 3, 32, 32)
    torch.testing.assert_close(again(source, target), swapper(source, target), rtol=0, atol=1e-5)


def test_a_decoder_of_another_variant_is_refused(tmp_path: Path) -> None:
    """Earlier versions could draw with other layers than NVIDIA's."""
    write_as_before(tmp_path, "rosinality")
    with pytest.raises(StyleBlendError, match="its decoder_variant is 'rosinality'.*train or fetch it again") as caught:
        model.load(tmp_path)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)
