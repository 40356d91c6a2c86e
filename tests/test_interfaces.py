"""The networks as an outsider uses them: plain numbers, any batch, and torch's own tools around them."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import torch.multiprocessing
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from styleblend.errors import StyleBlendError
from styleblend.model import Blending, Decoder, Discriminator, Encoder, Swapper, build_decoder, build_encoder
from styleblend.training.steps import Stage, choose_what_learns
from tiny_model import MODEL, SIDE_PX, randomised

Body = Literal["se_resnet", "ir_se50"]
BODIES: tuple[Body, Body] = ("se_resnet", "ir_se50")
STAGES: tuple[Stage, Stage] = ("train_encoder", "finetune_decoder")


def encoder(body: Body = "se_resnet") -> Encoder:
    # A copy is not validated: a real ir_se50 has sizes of its own, which take long to compute with.
    return build_encoder(MODEL.model_copy(update={"encoder_body": body}))


def swapper(body: Body = "se_resnet") -> Swapper:
    """The same weights at every call, all of them random: zeros would hide a part that does nothing."""
    torch.manual_seed(0)
    blending = Blending(MODEL.n_styles, MODEL.style_dim, MODEL.blending_layers, MODEL.blending_heads)
    return randomised(Swapper(encoder(body), blending, build_decoder(MODEL)), 0.2).eval()


def pictures(count: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    source, target = torch.rand(2, count, 3, SIDE_PX, SIDE_PX, generator=generator) * 2 - 1
    return source, target


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_any_batch_gives_each_picture_what_it_gets_alone(count: int) -> None:
    """One, even and odd numbers of pictures; a swap and a score do not depend on the other pictures."""
    network, judge = swapper().double(), Discriminator(SIDE_PX, 4, 2).double().eval()
    source, target = (images.double() for images in pictures(count))
    noise = tuple(maps.double() for maps in network.decoder.make_noise(range(count)))
    together = network(source, target, noise)
    assert together.shape == (count, 3, 32, 32)
    scores = judge(together)
    for k in range(count):
        alone = network(source[k : k + 1], target[k : k + 1], tuple(maps[k : k + 1] for maps in noise))
        torch.testing.assert_close(together[k : k + 1], alone)
        for of_all, of_one in zip(scores, judge(alone), strict=True):
            torch.testing.assert_close(of_all[k : k + 1], of_one)


def test_parts_that_do_not_fit_are_refused_when_they_are_put_together() -> None:
    """Different codes, and a pathway for other maps than the encoder's, are named with both sizes."""
    with pytest.raises(StyleBlendError, match="encoder 8 x 16, blending 10 x 16, decoder 8 x 16"):
        Swapper(encoder(), Blending(10, 16, 1, 2), build_decoder(MODEL))
    with pytest.raises(StyleBlendError, match=r"takes maps \[\(4, 2, 2\).*gives \[\(8, 2, 2\)"):
        Swapper(encoder(), Blending(8, 16, 1, 2), build_decoder(MODEL.model_copy(update={"pyramid_width": 4})))
    unused = Decoder(MODEL.style_dim, MODEL.decoder_widths)
    Swapper(encoder(), Blending(8, 16, 1, 2), unused)(*pictures(1))


def test_wrong_pictures_and_noise_are_named_with_their_shapes() -> None:
    """Wrong sides, channels, missing batch, unequal batches and noise of other sides or pictures; one line each."""
    network = swapper()
    source, target = pictures(2)
    wrong: list[tuple[tuple[Any, ...], str]] = [
        ((source[..., :16, :16], target), r"source has the shape \(2, 3, 16, 16\): expected \(any, 3, 32, 32\)"),
        ((source[:, :1], target), r"source has the shape \(2, 1, 32, 32\)"),
        ((source[0], target), r"source has the shape \(3, 32, 32\)"),
        ((source, target[:1]), r"target has the shape \(1, 3, 32, 32\): expected \(2, 3, 32, 32\)"),
        ((source, target, network.decoder.make_noise([0])), r"noise\[0\] has the shape \(1, 1, 4, 4\)"),
        ((source, target, network.decoder.make_noise([0, 1])[::-1]), r"noise\[0\] has the shape \(2, 1, 32, 32\)"),
    ]
    for arguments, message in wrong:
        with pytest.raises(StyleBlendError, match=message) as caught:
            network(*arguments)
        assert "\n" not in str(caught.value)
    with pytest.raises(StyleBlendError, match=r"images has the shape \(2, 3, 16, 16\)"):
        Discriminator(SIDE_PX, 4, 2)(source[..., :16, :16])


def compiled(network: nn.Module, backend: str, **options: Any) -> Any:
    torch.compiler.reset()
    return torch.compile(network, backend=backend, **options)


def gradients(network: nn.Module, drawn: Tensor) -> dict[str, Tensor]:
    network.zero_grad(set_to_none=True)
    drawn.square().mean().backward()
    return {name: value.grad for name, value in network.named_parameters() if value.grad is not None}


@pytest.mark.slow
@pytest.mark.parametrize("body", BODIES)
def test_compile_takes_the_swapper_as_one_graph(body: Body) -> None:
    """torch.compile breaks nowhere, forward and backward, and gives the same picture and the same gradients."""
    network = swapper(body)
    source, target = pictures(3)
    noise = network.decoder.make_noise(range(3))
    plain = network(source, target, noise)
    wanted = gradients(network, plain)
    drawn = compiled(network, "aot_eager", fullgraph=True)(source, target, noise)
    torch.testing.assert_close(drawn, plain, atol=1e-5, rtol=1e-4)
    found = gradients(network, drawn)
    assert found.keys() == wanted.keys() == dict(network.named_parameters()).keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, wanted[name], atol=1e-5, rtol=1e-3, msg=name)


def test_compile_takes_the_discriminator_as_one_graph() -> None:
    """In eval mode, as the generator sees it, and in training mode, where spectral norms move with each call."""
    torch.manual_seed(0)
    judge = Discriminator(SIDE_PX, 4, 2)
    images, _ = pictures(3)
    for training in (False, True):
        judge.train(training)
        before = {name: value.clone() for name, value in judge.state_dict().items()}
        wanted = judge(images)
        judge.load_state_dict(before)
        for drawn, plain in zip(compiled(judge, "eager", fullgraph=True)(images), wanted, strict=True):
            torch.testing.assert_close(drawn, plain)


def test_autocast_stays_near_float32() -> None:
    """bfloat16 on the CPU: finite pictures, scores and gradients, a few parts in a hundred from float32's."""
    network, judge = swapper(), Discriminator(SIDE_PX, 4, 2).eval()
    source, target = pictures(3)
    noise = network.decoder.make_noise(range(3))
    wanted = network(source, target, noise)
    exact = gradients(network, wanted)
    with torch.autocast("cpu", torch.bfloat16):
        drawn = network(source, target, noise)
        scores = judge(drawn)
    assert all(score.dtype == torch.bfloat16 for score in scores), "autocast was not on"
    assert (drawn.float() - wanted).square().mean() < 0.05**2 * wanted.var()
    for score, plain in zip(scores, judge(wanted), strict=True):
        assert (score.float() - plain).abs().max() < 0.1 * plain.abs().max()
    rough = gradients(network, drawn.float())
    assert rough.keys() == exact.keys()
    assert all(torch.isfinite(value).all() for value in rough.values())
    flat, rough_flat = (torch.cat([value.flatten() for value in values.values()]) for values in (exact, rough))
    assert torch.nn.functional.cosine_similarity(flat, rough_flat, dim=0) > 0.98


@pytest.mark.parametrize("body", BODIES)
def test_export_keeps_the_picture_for_any_batch(body: Body) -> None:
    """torch.export of a dynamic batch, written and read again, draws the same pictures, for one and for odd numbers."""
    network = swapper(body)
    batch = torch.export.Dim("batch", min=1, max=64)
    source, target = pictures(3)
    noise = network.decoder.make_noise(range(3))
    file = io.BytesIO()
    with torch.no_grad():
        sizes = ({0: batch}, {0: batch}, tuple({0: batch} for _ in noise))
        torch.export.save(torch.export.export(network, (source, target, noise), dynamic_shapes=sizes), file)
        file.seek(0)
        program = torch.export.load(file).module()
        for count in (1, 2, 5):
            source, target = pictures(count, seed=count)
            noise = network.decoder.make_noise(range(count))
            torch.testing.assert_close(program(source, target, noise), network(source, target, noise))


def _share(rank: int, folder: str) -> None:
    """One of two processes: two steps of each stage on one of two pictures, then on the other."""
    os.environ |= {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    try:
        found: dict[str, dict[str, Tensor]] = {}
        for stage in STAGES:
            network = swapper().train()
            choose_what_learns(network, stage)
            parallel = DistributedDataParallel(network, find_unused_parameters=False)
            source, target = pictures(2)
            for step in range(2):
                # A parameter that got no gradient in the first step stops the second one.
                mine = slice((rank + step) % 2, (rank + step) % 2 + 1)
                noise = network.decoder.make_noise([(rank + step) % 2])
                found[stage] = gradients(network, parallel(source[mine], target[mine], noise))
        if rank == 0:
            torch.save(found, f"{folder}/gradients.pt")
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_data_parallel_needs_no_search_for_unused_parameters(tmp_path: Path) -> None:
    """Two processes with one picture each get the gradients of one with both, in both stages, step after step."""
    torch.multiprocessing.spawn(_share, args=(str(tmp_path),), nprocs=2)
    found = torch.load(tmp_path / "gradients.pt", weights_only=True)
    for stage in STAGES:
        network = swapper().train()
        learning = choose_what_learns(network, stage)
        wanted = gradients(network, network(*pictures(2), network.decoder.make_noise([0, 1])))
        assert len(wanted) == len(learning) and found[stage].keys() == wanted.keys()
        for name, gradient in wanted.items():
            torch.testing.assert_close(found[stage][name], gradient, atol=1e-5, rtol=1e-3, msg=name)
