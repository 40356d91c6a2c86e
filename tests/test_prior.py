"""Models with finer maps, a mask that joins pixels and the warped source as a prior."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from torch import Tensor

import tiny_training as tiny
from mesh_faces import template, turned
from styleblend import model
from styleblend.config.model import Model
from styleblend.errors import StyleBlendError
from styleblend.evaluation import baselines, remarks
from styleblend.evaluation.protocol import Batch
from styleblend.faces import warp
from styleblend.faces.pixels import to_8bit
from styleblend.model.prior import PriorEncoder, prior_picture
from styleblend.perception.bending import Bender, load
from tiny_model import MODEL, SIDE_PX, randomised

JOINED = MODEL.model_copy(update={"fine_levels": 2, "join": "mask", "pathway_resolutions": (8, 16, 32)})
WARPED = JOINED.model_copy(update={"prior": "warp", "prior_width": 4})


def pictures(seed: int = 0, count: int = 2) -> Tensor:
    """Noise for faces."""
    return torch.rand(count, 3, SIDE_PX, SIDE_PX, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def bent(count: int = 2, seen: float = 1.0) -> Tensor:
    """A warped source that is seen alike everywhere."""
    return torch.cat([pictures(7, count), torch.full((count, 1, SIDE_PX, SIDE_PX), seen)], dim=1)


@torch.no_grad()
def test_a_mask_joins_drawn_pixels_and_the_targets() -> None:
    """Where the mask is 0 the picture is the target, bit for bit; where it is 1, it is what is drawn."""
    swapper = randomised(model.build(JOINED)).eval()
    source, target = pictures(), pictures(1)
    encoding = swapper.encoder(target)
    codes = swapper.blending(swapper.encoder(source).codes, encoding.codes)
    drawn = swapper.decoder(codes, encoding.features)
    swapper.decoder.to_mask.weight.zero_()
    for logit, wanted in ((-200.0, target), (200.0, drawn)):
        swapper.decoder.mask_bias.fill_(logit)
        assert torch.equal(swapper(source, target), wanted)
    swapper.decoder.mask_bias.fill_(0.0)
    assert torch.allclose(swapper(source, target), (target + drawn) / 2, atol=1e-6)


@torch.no_grad()
def test_a_target_is_brought_to_the_decoders_side() -> None:
    """A decoder that draws more pixels than the encoder reads joins them with an enlarged target."""
    sizes = Model.model_validate(
        JOINED.model_dump() | {"resolution": 64, "decoder_widths": {4: 8, 8: 8, 16: 8, 32: 8, 64: 8}}
    )
    swapper = model.build(sizes).eval()
    swapper.decoder.to_mask.weight.zero_()
    swapper.decoder.mask_bias.fill_(-200.0)
    flat = torch.full((1, 3, SIDE_PX, SIDE_PX), 0.25)
    joined = swapper(flat, flat)
    assert joined.shape == (1, 3, 64, 64) and torch.allclose(joined, torch.full_like(joined, 0.25), atol=1e-5)


@torch.no_grad()
def test_finer_maps_are_what_the_decoder_takes() -> None:
    """Two more maps, of half and of all of the side, with half the channels each time; the paper's three do not
    change."""
    torch.manual_seed(0)
    plain = model.build_encoder(MODEL)
    fine = model.build_encoder(JOINED)
    fine.load_state_dict(plain.state_dict(), strict=False)
    images = pictures()
    before, after = plain(images), fine(images)
    assert torch.equal(before.codes, after.codes)
    assert all(torch.equal(a, b) for a, b in zip(before.features, after.features, strict=False))
    assert [tuple(each.shape[1:]) for each in after.features[3:]] == [(4, 16, 16), (2, 32, 32)]
    assert JOINED.feature_shapes == [tuple(each.shape[1:]) for each in after.features]


@torch.no_grad()
def test_a_new_model_with_a_prior_draws_the_prior() -> None:
    """Before it has learned, the picture is the prior's where the mask lets it through: the best start there is."""
    sizes = WARPED.model_copy(update={"join": "none"})
    swapper = model.build(sizes).eval()
    warped = bent(seen=0.75)
    found = swapper(pictures(), pictures(1), None, warped)
    assert torch.allclose(found, 0.75 * warped[:, :3] + 0.25 * pictures(1), atol=1e-6)
    assert torch.equal(found, prior_picture(pictures(1), warped, SIDE_PX))


def test_what_is_not_seen_is_the_targets() -> None:
    """Nothing of the source counts: the prior is the target, at any side."""
    for side in (16, SIDE_PX, 64):
        found = prior_picture(torch.full((1, 3, SIDE_PX, SIDE_PX), -0.5), bent(1, seen=0.0), side)
        assert torch.allclose(found, torch.full((1, 3, side, side), -0.5), atol=1e-6)


def test_the_priors_maps_have_the_pyramids_shapes() -> None:
    """One map for each of the encoder's, coarse to fine, and each depends on both pictures."""
    encoder = PriorEncoder(SIDE_PX, WARPED.feature_shapes, 4)
    target, warped = pictures().requires_grad_(), bent().requires_grad_()
    maps = encoder(target, warped)
    assert [tuple(each.shape[1:]) for each in maps] == WARPED.feature_shapes
    for each in maps:
        gradients = torch.autograd.grad(each.sum(), (target, warped), retain_graph=True)
        assert all(gradient.abs().sum() > 0 for gradient in gradients)


def test_a_prior_needs_its_picture() -> None:
    """Neither a warped source nor who bends it: the message says both ways out. A wrong shape is named."""
    swapper = model.build(WARPED).eval()
    with pytest.raises(StyleBlendError, match="needs the warped source: give it, or set `bend`"):
        swapper(pictures(), pictures(1))
    with pytest.raises(StyleBlendError, match=r"warped has the shape \(2, 3, 32, 32\): expected \(2, 4, 32, 32\)"):
        swapper(pictures(), pictures(1), None, pictures())


@torch.no_grad()
def test_a_bender_bends_by_what_the_mesh_sees() -> None:
    """It gives what faces.warp makes of the pictures and the points of both, and a swapper uses it."""
    points = {0: template(), 1: turned(20)}
    seen = iter((0, 1, 0, 1))

    class Sees(torch.nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.from_numpy(points[next(seen)]).expand(len(images), -1, -1)

    source, target = pictures(0, 1), pictures(1, 1)
    bend = Bender(Sees())  # type: ignore[arg-type]
    pixels = [to_8bit(each[0]).permute(1, 2, 0).contiguous().numpy() for each in (source, target)]
    wanted = warp.prior(pixels[0], points[0], pixels[1], points[1])[None]
    assert torch.equal(bend(source, target), wanted)
    swapper = randomised(model.build(WARPED)).eval()
    swapper.bend = bend
    assert torch.equal(swapper(source, target), swapper(source, target, None, wanted))


def test_all_parts_survive_their_files(tmp_path: Path) -> None:
    """Saved and loaded, a model with every part swaps as before; without its mesh it is not ready, and says so."""
    swapper = randomised(model.build(WARPED)).eval()
    model.save(swapper, WARPED, tmp_path)
    with torch.no_grad():
        before, after = (each(pictures(), pictures(1), None, bent()) for each in (swapper, model.load(tmp_path)))
    assert torch.equal(before, after)
    with pytest.raises(StyleBlendError, match=r"has a model with the prior 'warp' but no mesh\.tflite"):
        load(tmp_path)


def test_the_mask_and_the_prior_learn_in_their_stages() -> None:
    """Stage 1: the prior's encoder, the finer maps and the mask learn with E; stage 2: the mask with D."""
    learns = {}
    for stage in ("train_encoder", "finetune_decoder"):
        learner = tiny.learner(tiny.training(), stage, WARPED)  # type: ignore[arg-type]
        learns[stage] = {name for name, each in learner.swapper.named_parameters() if each.requires_grad}
    assert {"decoder.mask_bias", "decoder.to_mask.weight"} <= learns["train_encoder"] & learns["finetune_decoder"]
    assert any(name.startswith("prior.") for name in learns["train_encoder"])
    assert any(name.startswith("encoder.fine.") for name in learns["train_encoder"])
    assert not any(name.startswith(("prior.", "encoder.")) for name in learns["finetune_decoder"])


@torch.no_grad()
def test_what_is_left_without_the_codes() -> None:
    """`prior_alone` is the prior's picture; `shuffled_codes` the model with another source's codes and the right warp;
    a model without the prior has neither."""
    swapper = randomised(model.build(WARPED)).eval()
    swapper.bend = lambda source, target: bent(len(source))
    batch = cast(Batch, SimpleNamespace(source=pictures(), target=pictures(1)))
    methods = baselines.of_prior(swapper)
    assert torch.equal(methods["prior_alone"](batch), prior_picture(batch.target, bent(), SIDE_PX))
    other = swapper(pictures().flip(0), batch.target, None, bent())
    assert torch.equal(methods["shuffled_codes"](batch), other)
    assert not torch.equal(other, swapper(batch.source, batch.target))
    assert set(methods) < set(remarks.SCEPTICS)
    assert baselines.of_prior(model.build(JOINED)) == {}


@torch.no_grad()
def test_a_source_is_bent_once_for_all_methods() -> None:
    """The model, what is left without its codes and the starter share one bending of a batch, and give bit for bit
    what each gives by itself; another batch is bent again."""
    swapper, starter = (randomised(model.build(WARPED)).eval() for _ in range(2))
    bends: list[int] = []

    def bend(source: Tensor, target: Tensor) -> Tensor:
        bends.append(len(source))
        return bent(len(source))

    swapper.bend = starter.bend = bend
    once = baselines.bent_by(swapper)
    shared = {
        "model": lambda batch: swapper(batch.source, batch.target, None, once(batch)),
        **baselines.of_prior(swapper, once),
        "starter": baselines.methods(starter, name="starter", bent=once)["starter"],
    }
    alone = {
        "model": lambda batch: swapper(batch.source, batch.target),
        **baselines.of_prior(swapper),
        "starter": baselines.methods(starter, name="starter")["starter"],
    }
    for number in (1, 2):
        batch = cast(Batch, SimpleNamespace(source=pictures(), target=pictures(number)))
        found = {name: method(batch) for name, method in shared.items()}
        assert len(bends) == number
        before = list(bends)
        assert all(torch.equal(found[name], method(batch)) for name, method in alone.items())
        bends[:] = before


@torch.no_grad()
def test_what_is_added_to_the_prior_may_be_without_colour() -> None:
    """With prior_colour 0 the picture differs from the prior's by grey alone, as bright as what would be added; half
    of it lies in the middle."""
    swapper = randomised(model.build(WARPED)).eval()
    swapper.decoder.to_mask.weight.zero_()
    swapper.decoder.mask_bias.fill_(200.0)
    source, target, warped = pictures(), pictures(1), bent()
    added = []
    for share in (1.0, 0.5, 0.0):
        one = model.build(WARPED.model_copy(update={"prior_colour": share})).eval()
        one.load_state_dict(swapper.state_dict())
        added.append(one(source, target, None, warped) - prior_picture(target, warped, SIDE_PX))
    whole, half, none = added
    assert whole.std(1).max() > 1e-3 and none.std(1).max() < 1e-6
    weights = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    torch.testing.assert_close(none[:, :1], (whole * weights).sum(1, keepdim=True), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(half, (whole + none) / 2, atol=1e-5, rtol=1e-4)
