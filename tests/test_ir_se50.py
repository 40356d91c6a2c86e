"""weights.formats.ir_se50: a face network's weights as the encoder's body, judged by an independent forward pass."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import tiny_training as tiny
from ir_se50_files import REAL_BLOCKS, REAL_WIDTHS, SMALL_BLOCKS, SMALL_WIDTHS, State, face_network
from styleblend import model
from styleblend.config.model import Model
from styleblend.errors import StyleBlendError
from styleblend.model.encoder import Encoder
from styleblend.weights.formats.ir_se50 import load_body


def after_each_block(state: State, blocks: tuple[int, ...], images: Tensor) -> list[Tensor]:
    """The face network's forward pass, written out: what each of its blocks gives."""

    def norm(name: str, x: Tensor) -> Tensor:
        mean, variance, weight, bias = (
            state[f"{name}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) * (variance + 1e-5).rsqrt() * weight + bias

    def prelu(name: str, x: Tensor) -> Tensor:
        return torch.where(x > 0, x, x * state[f"{name}.weight"][:, None, None])

    x = prelu("input_layer.2", norm("input_layer.1", F.conv2d(images, state["input_layer.0.weight"], padding=1)))
    firsts = {sum(blocks[:stage]) for stage in range(4)}
    given = []
    for number in range(sum(blocks)):
        name, stride = f"body.{number}", 2 if number in firsts else 1
        y = F.conv2d(norm(f"{name}.res_layer.0", x), state[f"{name}.res_layer.1.weight"], padding=1)
        y = prelu(f"{name}.res_layer.2", y)
        y = F.conv2d(y, state[f"{name}.res_layer.3.weight"], padding=1, stride=stride)
        y = norm(f"{name}.res_layer.4", y)
        gate = F.conv2d(y.mean((2, 3), keepdim=True), state[f"{name}.res_layer.5.fc1.weight"]).clamp(min=0)
        y = y / (1 + (-F.conv2d(gate, state[f"{name}.res_layer.5.fc2.weight"])).exp())
        kept = x[:, :, ::stride, ::stride]
        if f"{name}.shortcut_layer.0.weight" in state:
            kept = norm(f"{name}.shortcut_layer.1", F.conv2d(kept, state[f"{name}.shortcut_layer.0.weight"]))
        x = y + kept
        given.append(x)
    return given


def small_encoder(seed: int = 1) -> Encoder:
    torch.manual_seed(seed)
    return Encoder(32, 8, 16, SMALL_BLOCKS, SMALL_WIDTHS, 8, 8, body="ir_se50")


def written(state: object, path: Path, legacy: bool = False) -> Path:
    torch.save(state, path, _use_new_zipfile_serialization=not legacy)
    return path


def test_the_file_has_the_published_keys_and_values() -> None:
    """397 keys and 43,824,118 values, of which the body of the paper's encoder takes all but the output layer's."""
    state = face_network(REAL_BLOCKS, REAL_WIDTHS, device="meta")
    assert len(state) == 397 and sum(value.numel() for value in state.values()) == 43_824_118
    with torch.device("meta"):
        encoder = Encoder(256, 18, 512, REAL_BLOCKS, REAL_WIDTHS, 512, 512, body="ir_se50")
    body = [value for name, value in encoder.state_dict().items() if name.startswith(("stem.", "stages."))]
    wanted = {
        name: value
        for name, value in state.items()
        if not name.startswith("output_layer.") and not name.endswith("num_batches_tracked")
    }
    assert len(body) == len(wanted) and sum(map(torch.numel, body)) == sum(map(torch.numel, wanted.values()))


@pytest.mark.parametrize("legacy", [False, True])
def test_the_taps_are_the_face_networks(legacy: bool, tmp_path: Path) -> None:
    """Each stage gives what the file's network gives after the stage's last block, in either of torch's formats."""
    state = face_network(SMALL_BLOCKS, SMALL_WIDTHS)
    encoder = small_encoder()
    load_body(encoder, written(state, tmp_path / "model_ir_se50.pth", legacy))
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    given = after_each_block(state, SMALL_BLOCKS, images)
    for tap, last in zip(encoder.taps(images), (1, 2, 5, 7), strict=True):
        torch.testing.assert_close(tap, given[last], atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_the_real_layout_gives_the_published_taps(tmp_path: Path) -> None:
    """Blocks 6, 20 and 23 at 256 px: 128 channels at 64 px, 256 at 32 and 512 at 16, which the pyramid reads."""
    state = face_network(REAL_BLOCKS, REAL_WIDTHS)
    encoder = Encoder(256, 3, 16, REAL_BLOCKS, REAL_WIDTHS, 8, 8, body="ir_se50")
    load_body(encoder, written(state, tmp_path / "model_ir_se50.pth"))
    images = torch.rand(1, 3, 256, 256) * 2 - 1
    with torch.no_grad():
        given = after_each_block(state, REAL_BLOCKS, images)
        _, *taps = encoder.taps(images)
    assert [tuple(tap.shape[1:]) for tap in taps] == [(128, 64, 64), (256, 32, 32), (512, 16, 16)]
    for tap, last in zip(taps, (6, 20, 23), strict=True):
        torch.testing.assert_close(tap, given[last], atol=1e-4 * float(given[last].std()), rtol=1e-3)


def test_only_the_body_changes(tmp_path: Path) -> None:
    """Laterals, heads and the mean code are no part of the file and keep their values."""
    encoder = small_encoder()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    load_body(encoder, written(face_network(SMALL_BLOCKS, SMALL_WIDTHS), tmp_path / "body.pth"))
    same = {name for name, value in encoder.state_dict().items() if torch.equal(value, before[name])}
    assert same == {name for name in before if not name.startswith(("stem.", "stages."))}


def test_an_encoding_does_not_depend_on_its_batch_and_its_statistics_stay(tmp_path: Path) -> None:
    """In training mode too: alone or among others the codes are the same, and a step moves no mean or variance."""
    encoder = small_encoder()
    load_body(encoder, written(face_network(SMALL_BLOCKS, SMALL_WIDTHS), tmp_path / "body.pth"))
    encoder = encoder.double().train()
    images = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    together = encoder(images)
    torch.testing.assert_close(together.codes[1:2], encoder(images[1:2]).codes)
    buffers = {name: value.clone() for name, value in encoder.named_buffers()}
    together.codes.square().mean().backward()
    torch.optim.SGD(encoder.parameters(), 0.1).step()
    assert all(torch.equal(value, buffers[name]) for name, value in encoder.named_buffers())
    assert all(p.grad is not None for name, p in encoder.named_parameters() if name.startswith(("stem.", "stages.")))


def test_bfloat16_follows_float32() -> None:
    """Under autocast the body gives nearly the same codes."""
    encoder = small_encoder()
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = encoder(images).codes.float()
    with torch.no_grad():
        wanted = encoder(images).codes
    assert (found - wanted).abs().mean() < 0.1 * wanted.std()


def test_other_files_are_refused_with_the_first_difference(tmp_path: Path) -> None:
    """A weight that is missing, too many, of another shape or not finite is named; nothing is loaded by half."""
    encoder, path = small_encoder(), tmp_path / "model_ir_se50.pth"
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    state = face_network(SMALL_BLOCKS, SMALL_WIDTHS)

    def refuse(state: object, message: str) -> None:
        with pytest.raises(StyleBlendError, match=message) as caught:
            load_body(encoder, written(state, path))
        assert "\n" not in str(caught.value) and "model_ir_se50.pth" in str(caught.value)

    without = {name: value for name, value in state.items() if name != "body.3.res_layer.4.weight"}
    refuse(without, r"missing 1 \['body.3.res_layer.4.weight'\], unexpected 0")
    refuse(state | {"body.8.res_layer.0.weight": torch.zeros(64)}, r"unexpected 1 \['body.8.res_layer.0.weight'\]")
    refuse(face_network(SMALL_BLOCKS, (16, 32, 32, 128)), r"body.6.res_layer.1.weight of \[128, 32, 3, 3\]")
    refuse(
        state | {"body.0.res_layer.2.weight": torch.full((16,), torch.nan)}, "body.0.res_layer.2.weight that are not"
    )
    refuse({"state_dict": state}, "holds dict, no state dict")
    refuse([1, 2], "holds list, no state dict")
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


class Trap:
    """Unpickled with code allowed, it would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


def test_broken_and_malicious_files_run_nothing(tmp_path: Path) -> None:
    """A missing or cut file, a web page and a pickle that would run code are each one line."""
    encoder, path = small_encoder(), tmp_path / "model_ir_se50.pth"
    with pytest.raises(StyleBlendError, match="is missing"):
        load_body(encoder, path)
    whole = written(face_network(SMALL_BLOCKS, SMALL_WIDTHS), path).read_bytes()
    for content in (b"", b"<html>Not found</html>", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(StyleBlendError, match="holds no plain weights") as caught:
            load_body(encoder, path)
        assert "\n" not in str(caught.value)
    with pytest.raises(StyleBlendError, match="holds no plain weights"):
        load_body(encoder, written({"input_layer.0.weight": Trap(tmp_path / "trapped")}, path))
    assert not (tmp_path / "trapped").exists()


def test_another_body_cannot_hold_the_file(tmp_path: Path) -> None:
    """The project's own body has group norms: it is told apart before the file is read."""
    encoder = model.build_encoder(tiny.MODEL)
    with pytest.raises(StyleBlendError, match="'se_resnet' cannot hold .* set model.encoder_body to ir_se50"):
        load_body(encoder, tmp_path / "model_ir_se50.pth")
    with pytest.raises(
        StyleBlendError, match="encoder_body is 'resnet': choose 'se_resnet' or 'ir_se50' or 'dlib_resnet'"
    ):
        Encoder(32, 8, 16, SMALL_BLOCKS, SMALL_WIDTHS, 8, 8, body="resnet")


def test_the_configuration_chooses_the_body_with_its_sizes() -> None:
    """`encoder_body: ir_se50` builds that body, and other sizes than the file's are refused with both."""
    sizes = {"encoder_blocks": REAL_BLOCKS, "encoder_widths": REAL_WIDTHS, "stem_stride": 1, "encoder_body": "ir_se50"}
    chosen = Model.model_validate(tiny.MODEL.model_dump() | sizes)
    with torch.device("meta"):
        assert model.build_encoder(chosen).body == "ir_se50"
    with pytest.raises(ValueError, match=r"stem_stride 1, got \[1, 1, 1, 1\], \[8, 8, 8, 16\] and 2"):
        Model.model_validate(tiny.MODEL.model_dump() | {"encoder_body": "ir_se50"})
