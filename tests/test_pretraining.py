"""The recipe of the small networks: what is drawn, what is learned from it, and that it can be run again."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch

import tiny_project
from styleblend.config.pretrained import Pretrained
from styleblend.config.pretraining import Pretrain
from styleblend.faces.pixels import from_8bit
from styleblend.model import build_decoder, build_discriminator, build_encoder
from styleblend.model.decoder import Decoder
from styleblend.model.discriminator import Discriminator
from styleblend.model.encoder import Encoder
from styleblend.perception import attributes, identity, landmarks
from styleblend.pretraining import data, prior, recipe, sharpening
from styleblend.synthetic.factors import IDENTITY, Factors
from styleblend.system.files import sha256

MODEL = tiny_project.MODEL.model_copy(
    update={"resolution": 64, "input_px": 64, "decoder_widths": {4: 8, 8: 8, 16: 8, 32: 8, 64: 8}}
)
RECIPE = Pretrain(
    identities=20, judge_identities=20, test_identities=100, pictures_per_identity=2, identity_steps=2,
    judge_steps=2, geometry_steps=2, landmarks_3d_steps=2, profile_identities=10,
    attributes_judge_steps=2, decoder_steps=3, encoder_code_steps=2, encoder_steps=2, sharpen_steps=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> data.Faces:
    """A few aligned faces whose looks and frames are strangers'."""
    return data.faces(tmp_path_factory.mktemp("faces"), 7, 6, 2)


@pytest.fixture
def judges() -> prior.Judges:
    """Untrained networks in the places of the trained ones."""
    torch.manual_seed(0)
    networks = (
        identity.IdentityNetwork(**recipe.ARCHITECTURES["identity"]),
        attributes.AttributeNetwork(**recipe.ARCHITECTURES["attributes"]),
    )
    return prior.Judges(*(network.eval().requires_grad_(False) for network in networks))


def test_framing_tells_shift_zoom_and_turn() -> None:
    """A crop against itself is zeros; a moved, larger, turned one gives back what was done to it."""
    square = torch.tensor([[[0.2, 0.2], [0.2, 0.6], [0.6, 0.6], [0.6, 0.2]]])
    assert data.framing(square, square).abs().max() < 1e-6
    angle = torch.tensor(0.1)
    turn = torch.stack([torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])])
    centre = square.mean(1, keepdim=True)
    moved = (square - centre) @ turn.T * 1.2 + centre + torch.tensor([0.04, -0.02])
    want = 10 * torch.tensor([[0.1, -0.05, torch.log(torch.tensor(1.2)), 0.1]])
    torch.testing.assert_close(data.framing(moved, square), want)


def test_factors_say_the_same_of_a_picture_whoever_is_framed(faces: data.Faces) -> None:
    """Two pictures of a person share its identity factors, and the frame is told without the identity."""
    assert faces.identity[0].equal(faces.identity[1]) and not faces.identity[0].equal(faces.identity[2])
    drawn, quads = data.draw(7, 6, 2, 0, 12, own_looks=False)
    other = Factors(drawn.identity.flip(0), drawn.looks, drawn.attributes)
    rest = slice(len(IDENTITY), None)
    assert data.everything(other, quads)[:, rest].equal(data.everything(drawn, quads)[:, rest])


def test_identity_has_channels_of_its_own() -> None:
    """Another identity moves the first half of the channels alone, other attributes the second half alone."""
    torch.manual_seed(0)
    mapping = prior.Mapping(5, 7, n_styles=4, style_dim=6, hidden=16)
    factors = torch.randn(2, 12)
    who, rest = factors.clone(), factors.clone()
    who[:, :5] += 1
    rest[:, 5:] += 1
    codes = mapping(factors)
    assert mapping(who)[..., 3:].equal(codes[..., 3:]) and not mapping(who)[..., :3].equal(codes[..., :3])
    assert mapping(rest)[..., :3].equal(codes[..., :3]) and not mapping(rest)[..., 3:].equal(codes[..., 3:])


def test_drawing_loss_is_zero_for_the_picture_itself(faces: data.Faces, judges: prior.Judges) -> None:
    """It is zero there and grows with the error; a spot in the face costs more than the same spot beside it."""
    images, points = from_8bit(faces.images[:4]), faces.landmarks[:4]
    assert prior.drawing_loss(images, images, points, judges) < 1e-5
    spotted = []
    for y, x in ((32, 32), (2, 2)):
        one = images.clone()
        one[..., y - 2 : y + 2, x - 2 : x + 2] = -images[..., y - 2 : y + 2, x - 2 : x + 2].sign()
        spotted.append(prior.drawing_loss(one, images, points, judges))
    assert spotted[0] > spotted[1] > 1e-3


def test_inverter_leaves_the_decoder_as_it_is(faces: data.Faces, judges: prior.Judges, tmp_path: Path) -> None:
    """Learning to invert moves the encoder alone, from the mean of the codes, and no other networks are stored."""
    torch.manual_seed(0)
    decoder = build_decoder(MODEL.model_copy(update={"pathway_resolutions": ()}))
    generator = prior.Generator(decoder, len(IDENTITY), faces.factors.shape[1] - len(IDENTITY))
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    inverter = prior.train_inverter(MODEL, generator, judges, faces, (1, 1), tmp_path, seed=3)
    assert all(value.equal(before[name]) for name, value in generator.state_dict().items())
    assert {name.split(".")[0] for name in inverter.state_dict()} == {"encoder"}
    assert inverter.encoder.mean_code.equal(generator.mapping(faces.factors).mean(0))
    torch.manual_seed(3)
    assert not inverter.encoder.stem[0].weight.equal(build_encoder(MODEL).stem[0].weight)


def test_sharpening_moves_all_three_and_goes_on(
    faces: data.Faces, judges: prior.Judges, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Encoder, decoder and discriminator learn; what was interrupted ends as what was not, bit for bit."""
    plain = MODEL.model_copy(update={"pathway_resolutions": ()})
    monkeypatch.setattr(sharpening, "_WARM_UP", 1)

    def begun() -> tuple[Encoder, Decoder]:
        torch.manual_seed(0)
        return build_encoder(plain), build_decoder(plain)

    def run(steps: int, state: Path) -> sharpening.Sharpened:
        state.mkdir(exist_ok=True)
        return sharpening.sharpen(plain, *begun(), judges, faces, steps, state, seed=4)

    def weights(networks: Iterable[torch.nn.Module]) -> list[torch.Tensor]:
        return [value for network in networks for value in network.state_dict().values()]

    whole = run(3, tmp_path / "whole")
    torch.manual_seed(4)
    first = (*begun(), build_discriminator(plain))
    for before, after in zip(first, whole, strict=True):
        assert not all(a.equal(b) for a, b in zip(weights([before]), weights([after]), strict=True))
    monkeypatch.setattr(sharpening, "_SAVE_EVERY", 2)
    cut = torch.nn.Module.requires_grad_
    calls = []

    def interrupted(network: torch.nn.Module, *args: bool) -> torch.nn.Module:
        calls.append(isinstance(network, Discriminator) and args == (False,))
        if sum(calls) == 2:
            raise KeyboardInterrupt
        return cut(network, *args)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(torch.nn.Module, "requires_grad_", interrupted)
        run(3, tmp_path / "cut")
    assert torch.load(tmp_path / "cut/sharpened.pt", weights_only=True)["step"] == 2
    again = run(3, tmp_path / "cut")
    assert all(a.equal(b) for a, b in zip(weights(whole), weights(again), strict=True))
    assert 0 <= sharpening.told_apart(again, faces) <= 1


def test_recipe_gives_what_a_run_loads_and_gives_it_again(tmp_path: Path) -> None:
    """All networks with cards whose checksums hold; a second run, and one after an interruption, write the same."""
    written = []
    for attempt in range(2):
        out = tmp_path / f"out{attempt}"
        out.mkdir()
        measured = recipe.pretrain(RECIPE, MODEL, tmp_path / "state", out)
        made = Pretrained(discriminator="small").small()
        assert set(measured) == set(made)
        cards = {role: json.loads((out / f"{role}.json").read_text()) for role in made}
        assert all(card["sha256"] == sha256(out / f"{role}.safetensors") for role, card in cards.items())
        assert all(card["accuracy"] == measured[role] for role, card in cards.items())
        written.append({role: card["sha256"] for role, card in cards.items()})
        for role in ("attributes.json", "attributes_judge.json"):
            assert 0 < json.loads((out / role).read_text())["accuracy"]["yaw_error_deg"] < 180
        # As if the last part had been cut off before its first checkpoint.
        (tmp_path / "state/sharpened.pt").unlink()
    assert written[0] == written[1]
    assert identity.load(out, "identity").projection.out_features == 128
    assert identity.load(out, "identity_judge").projection.out_features == 96
    assert attributes.load(out, "attributes_judge") and landmarks.load(out)
