"""How a GPU learns: it is asked nothing in a step, leaves bad steps out by itself, and is what the CPU is to rounding.

The fused way runs on the CPU, too, and the meta device shows what would wait.
"""

from __future__ import annotations

import copy
import importlib
import io
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import tiny_training as tiny
from styleblend.config.training import LossWeights, Training
from styleblend.errors import StyleBlendError
from styleblend.training import checkpoint, loop, probe, ready, steps
from styleblend.training.adam import Adam
from styleblend.training.batches import Batch, Faces
from styleblend.training.loop import alone
from styleblend.training.stream import Batches

PERCEPTION = tiny.perception()
RESOLUTIONS = (4, 8, 16, 32)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return tiny.write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def faces(inputs: dict[str, Path]) -> Faces:
    return tiny.read_splits(inputs)[0]


def batch_of(cfg: Training, faces: Faces, step: int = 0) -> Batch:
    batches = Batches(cfg, faces, 0, 1, resolutions=RESOLUTIONS)
    batch = batches.at(step, 0)
    batches.close()
    return batch


class Watched(TorchDispatchMode):
    """Notes what a GPU would have to be waited for: numbers that the host asks for, and copies that are not let go.

    A list as an index and a tensor made of numbers are copied before torch's dispatcher sees them: what nothing seen
    has made, and is not of `there_before`, came so.
    """

    def __init__(self, there_before: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.waits: list[str] = []
        self._made = list(there_before)
        self._storages = {each.untyped_storage()._cdata for each in self._made}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name
        tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        away = [each for each in tensors if each.is_meta]
        # Numbers go along with a call; tensors of the host, as indices, are copied there.
        mixed = bool(away) and any(each.is_cpu and each.dim() for each in tensors)
        if name == "aten::copy_" and tensors[0].device != tensors[1].device:
            mixed = not (args[2] if len(args) > 2 else kwargs.get("non_blocking", False))
        if name == "aten::_to_copy":
            mixed = kwargs.get("device", tensors[0].device) != tensors[0].device and not kwargs.get("non_blocking")
        if mixed or name in ("aten::_local_scalar_dense", "aten::nonzero"):
            self.waits.append(name)
        self.waits += [f"{name} of numbers" for each in away if each.untyped_storage()._cdata not in self._storages]
        out = func(*args, **kwargs)
        made = [each for each in tree_leaves(out) if isinstance(each, Tensor)]
        self._made += made
        self._storages |= {each.untyped_storage()._cdata for each in made}
        return out


def test_what_would_wait_is_seen() -> None:
    """The test below can fail: indices and constants of the host, and numbers asked for, are noted."""
    away, here = torch.zeros(3, device="meta"), torch.arange(2)
    waits: dict[str, Callable[[], Any]] = {
        "list": lambda: away[[0, 2]],
        "numbers": lambda: away * away.new_tensor([1.0, 2.0, 3.0]),
        "index": lambda: away[here],
        "copy": lambda: here.to("meta"),
        "asked": lambda: here[0].item(),
    }
    for name, wait in waits.items():
        with Watched([away]) as watched:
            wait()
        assert watched.waits, name
    with Watched([away]) as watched:
        (away[here.to("meta", non_blocking=True)] + 1).mul_(torch.ones_like(away)[:2])
    assert not watched.waits


def test_a_step_asks_the_device_nothing(faces: Faces, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of G and V with every term, clipping, R1, jitter, clipped norms and two shares: no wait at all."""
    # Fused kernels know this device, the check before them does not.
    adam = importlib.import_module("torch.optim.adam")
    monkeypatch.setattr(adam, "_device_dtype_check_for_fused", lambda parameter: None)
    weights = dict.fromkeys(LossWeights.model_fields, 1.0) | {"chroma": 0, "mask": 1}
    cfg = tiny.training(
        loss=weights, accumulate=2, r1_gamma=1, clip_norm=1, discriminator_clip_norm=1, saturation_jitter=0.5,
        crop_jitter=0.1, mesh_expression=3,
    )  # fmt: skip
    there = torch.device("meta")
    built = tiny.learner(cfg, sizes=tiny.MODEL.model_copy(update={"join": "mask"}))
    learner = steps.new_learner(built.swapper.to(there), built.discriminator.to(there), "pretrain", cfg, fused=True)
    perception = type(PERCEPTION)(*(network and copy.deepcopy(network).to(there) for network in PERCEPTION))
    batch = batch_of(cfg, faces)
    batch = batch._replace(target_mesh=tiny.meshes(len(batch.source))).to(there)
    networks = (learner.swapper, learner.averaged, learner.discriminator, *filter(None, perception))
    known = [tensor for network in networks for tensor in (*network.parameters(), *network.buffers())]
    with Watched([*known, *(each for each in tree_leaves(batch) if isinstance(each, Tensor))]) as watched:
        outcome = steps.both_steps(learner, perception, batch, cfg, 3, alone)
    assert set(outcome.terms) >= {"mesh", "mask", "identity", "shape_3d", "attributes", "r1", "discriminator"}
    assert not watched.waits and outcome.finite.is_meta


def moved(learner: steps.Learner, before: dict[str, dict[str, Tensor]]) -> set[str]:
    return {
        f"{part}.{name}"
        for part, state in before.items()
        for name, value in getattr(learner, part).state_dict().items()
        if not torch.equal(value, state[name])
    }


def test_a_fused_step_is_the_plain_one_to_rounding(faces: Faces) -> None:
    """Three steps of both ways end alike, averaged weights included; the average of gradients sees the same ones."""
    cfg = tiny.training(adam_betas=(0.9, 0.99), learning_rate=1e-4)
    plain, fused = (tiny.learner(cfg, noise=0.1, fused=way) for way in (False, True))
    for step in range(3):
        for learner in (plain, fused):
            assert steps.both_steps(learner, PERCEPTION, batch_of(cfg, faces, step), cfg, step, alone).finite
    for part in ("swapper", "averaged", "discriminator"):
        wanted, found = (getattr(learner, part).state_dict() for learner in (plain, fused))
        for name, value in found.items():
            # A gradient near 0 may change its sign by rounding: Adam then steps the other way, by its rate at most.
            torch.testing.assert_close(value, wanted[name], atol=3e-4, rtol=1e-3, msg=name)
            assert (value - wanted[name]).abs().float().mean() < 1e-5, name


@pytest.mark.parametrize("bad", ["swapper", "discriminator"])
def test_a_fused_step_leaves_itself_out(faces: Faces, bad: str) -> None:
    """NaN in G's gradients moves nothing but power iterations, in V's alone nothing of V; the next step moves all."""
    cfg = tiny.training(r1_gamma=1)
    learner = tiny.learner(cfg, noise=0.1, fused=True)
    assert steps.both_steps(learner, PERCEPTION, batch_of(cfg, faces), cfg, 0, alone).finite
    parts = ("swapper", "averaged", "discriminator")
    before = {part: copy.deepcopy(getattr(learner, part).state_dict()) for part in parts}
    counts = {each: float(state["step"]) for each, state in learner.swapper_optimiser.state.items()}
    batch = batch_of(cfg, faces, 1)
    calls = iter([bad == "swapper", bad == "discriminator"])

    def spoil(gradients) -> None:
        if next(calls):
            gradients[0].view(-1)[0] = torch.nan

    outcome = steps.both_steps(learner, PERCEPTION, batch, cfg, 1, spoil)
    assert not outcome.finite
    changed = {name for name in moved(learner, before) if not name.rpartition(".")[2].startswith("_")}
    assert not {name for name in changed if name.startswith("discriminator")}
    assert bool(changed) == (bad == "discriminator")
    ahead = 0 if bad == "swapper" else 1
    assert all(float(state["step"]) == counts[each] + ahead for each, state in learner.swapper_optimiser.state.items())
    assert steps.both_steps(learner, PERCEPTION, batch, cfg, 2, alone).finite
    assert all(torch.isfinite(value).all() for value in learner.swapper.state_dict().values())
    assert moved(learner, before) > changed


def trained(learner: steps.Learner, cfg: Training, inputs: dict[str, Path], folder: Path, faces: Faces, bad=()):
    """A training whose batches of these (attempt, step) are spoilt; returns its progress and lines."""
    real, lines = Batches.at, []

    class Lines(loop.Recorder):
        def line(self, text: str) -> None:
            lines.append(text)

    def spoilt(self, step: int, attempt: int) -> Batch:
        batch = real(self, step, attempt)
        return batch._replace(target=batch.target * torch.nan) if (attempt, step) in bad else batch

    val = tiny.read_splits(inputs)[1]
    pairs = probe.read_pairs(inputs["splits"] / "val_pairs.parquet", val, torch.device("cpu"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Batches, "at", spoilt)
        progress = loop.train(cfg, learner, PERCEPTION, faces, pairs, folder, loop.Worker(), Lines())
    return progress, lines


CHEAP = dict.fromkeys(LossWeights.model_fields, 0.0) | {"reconstruction": 1.0, "adversarial": 0.1}


def test_bad_steps_are_counted_when_a_gpu_is_asked(inputs, faces: Faces, tmp_path: Path) -> None:
    """Read every third step: each bad one is told by its own number, and too many go back, to the end of the run."""
    cfg = tiny.training(
        steps=9, log_every=3, checkpoint_every=3, probe_every=9, max_skipped=1, skipped_within=3, loss=CHEAP
    )
    learner = tiny.learner(cfg, fused=True)
    progress, lines = trained(learner, cfg, inputs, tmp_path, faces, {(0, 1), (0, 6), (0, 7)})
    assert "the gradients of step 1 are not finite: it is left out" in lines
    (back,) = [line for line in lines if line.startswith("rollback")]
    assert back.startswith("rollback 1 to step 6: the gradients of 2 of the last 3 steps are not finite")
    assert back.endswith("those of step 7 the last")
    assert progress.step == 9 and progress.skips == 3
    assert {each.step for each in checkpoint.kept(tmp_path)} >= {9}


def test_a_fused_training_resumes_bit_for_bit(inputs, faces: Faces, tmp_path: Path) -> None:
    """Four steps in one go, and two and two more from a checkpoint, give the same weights and moments."""
    cfg = tiny.training(steps=4, log_every=2, checkpoint_every=2, probe_every=4, loss=CHEAP)
    whole, parts = tiny.learner(cfg, fused=True), tiny.learner(cfg, fused=True)
    trained(whole, cfg, inputs, tmp_path / "whole", faces)
    middle = min(checkpoint.kept(tmp_path / "whole"), key=lambda each: each.step)
    assert middle.step == 2
    (tmp_path / "parts").mkdir()
    middle.path.rename(tmp_path / "parts" / middle.path.name)
    _, lines = trained(parts, cfg, inputs, tmp_path / "parts", faces)
    assert lines[0] == "resumed at step 2 of 4"
    for part in ("swapper", "averaged", "discriminator"):
        wanted = getattr(whole, part).state_dict()
        assert all(torch.equal(value, wanted[name]) for name, value in getattr(parts, part).state_dict().items())
    states = [learner.swapper_optimiser.state_dict()["state"] for learner in (whole, parts)]
    assert all(torch.equal(value, states[1][k][name]) for k, each in states[0].items() for name, value in each.items())


@pytest.mark.parametrize("fused", [False, True])
def test_adam_stays_as_it_is_when_it_loads(fused: bool) -> None:
    """A state of the other way, in another layout, brings moments and steps along and changes no way of computing."""
    weights = [torch.nn.Parameter(torch.randn(4, 3, 2, 2)) for _ in range(2)]
    weights[1].data = weights[0].detach().clone(memory_format=torch.channels_last)
    there, here = Adam([weights[0]], 0.1, (0.9, 0.99), not fused), Adam([weights[1]], 0.1, (0.9, 0.99), fused)
    gradient = torch.randn(4, 3, 2, 2)
    weights[0].grad = gradient.clone()
    there.step()
    file = io.BytesIO()
    torch.save(there.state_dict(), file)
    file.seek(0)
    here.load_state_dict(torch.load(file))
    (state,) = here.state.values()
    assert here.param_groups[0]["fused"] is (True if fused else None) and float(state["step"]) == 1
    assert state["exp_avg"].stride() == weights[1].stride()
    torch.testing.assert_close(state["exp_avg"], 0.1 * gradient)
    weights[1].data.copy_(weights[0].detach())
    for weight, optimiser in zip(weights, (there, here), strict=True):
        weight.grad = torch.empty_like(weight).copy_(gradient)
        optimiser.step()
    torch.testing.assert_close(weights[1].detach(), weights[0].detach())


@pytest.mark.parametrize("step", [0, 3, 5000])
def test_the_average_is_that_of_a_loop_bit_for_bit(step: int) -> None:
    """All parameters that learn at once, as one lerp after the other gives them; the others stay."""
    learner = tiny.learner(tiny.training(ema_decay=0.995), "finetune_decoder")
    wanted = copy.deepcopy(learner.averaged)
    for parameter in learner.swapper.parameters():
        parameter.data.add_(torch.randn_like(parameter))
    decay = min(0.995, (1 + step) / (10 + step))
    with torch.no_grad():
        for mean, now in zip(wanted.parameters(), learner.swapper.parameters(), strict=True):
            if now.requires_grad:
                mean.lerp_(now, 1 - decay)
    steps._follow(learner, 0.995, step, torch.tensor(True))
    assert all(torch.equal(a, b) for a, b in zip(learner.averaged.parameters(), wanted.parameters(), strict=True))


def test_what_comes_with_a_batch_is_what_a_step_would_make(faces: Faces) -> None:
    """Noise, mask, jitter and rows of a batch that was read ahead, bit for bit; its shares have their own samples'."""
    cfg = tiny.training(saturation_jitter=0.5, accumulate=2)
    batch, learner = batch_of(cfg, faces, 3), tiny.learner(cfg, noise=0.1)
    assert batch.ready is not None
    maps = learner.swapper.decoder.make_noise(batch.noise_seeds)
    for one, other in zip(learner.swapper.decoder.noise_maps(batch.ready.noise), maps, strict=True):
        assert torch.equal(one, other)
    network = (learner.swapper, learner.discriminator, PERCEPTION)
    with steps.as_judge(learner.discriminator):
        ahead = steps.generator_terms(*network, batch, cfg, 3)
        now = steps.generator_terms(*network, batch._replace(ready=None), cfg, 3)
    assert torch.equal(ahead[1], now[1]) and all(torch.equal(value, now[0][name]) for name, value in ahead[0].items())
    made = ready.Ready(*batch.ready[:3], swaps=(0, 3))
    first, second = batch._replace(ready=made).shares(2)
    assert first.ready is not None and second.ready is not None
    assert (first.ready.swaps, second.ready.swaps) == ((0,), (1,))
    assert torch.equal(second.ready.noise, batch.ready.noise[2:]) and torch.equal(second.source, batch.source[2:])
    assert first.noise_seeds + second.noise_seeds == batch.noise_seeds


def test_batches_read_ahead_are_those_that_are_asked_for(faces: Faces) -> None:
    """Several steps ahead, over a return to an earlier step and a jump: always the step's own samples."""
    cfg = tiny.training()
    batches = Batches(cfg, faces, 0, 1)
    batches.threads = 3
    for step, attempt in ((0, 0), (1, 0), (1, 1), (2, 1), (7, 1)):
        single = Batches(cfg, faces, 0, 1)
        assert batches.at(step, attempt).noise_seeds == single.at(step, attempt).noise_seeds
        single.close()
    batches.close()


def gradients(learner: steps.Learner, batch: Batch, cfg: Training) -> list[Tensor]:
    """Those of G and V that a step hands to the optimisers."""
    seen: list[Tensor] = []
    steps.both_steps(learner, PERCEPTION, batch, cfg, 2, lambda each: seen.extend(one.clone() for one in each))
    return seen


def test_shares_learn_what_the_whole_batch_learns(faces: Faces, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two and four shares in float64: terms, gradients of G and V are those of autograd over the whole batch."""
    settings: dict[str, Any] = {"r1_gamma": 0.5, "batch_size": 4}
    perception = type(PERCEPTION)(*(network and copy.deepcopy(network).double() for network in PERCEPTION))
    monkeypatch.setattr(__import__(__name__), "PERCEPTION", perception)
    cfg = tiny.training(**settings)
    batch = batch_of(cfg, faces, 2).each(lambda tensor: tensor.double() if tensor.is_floating_point() else tensor)

    def doubled(cfg: Training) -> steps.Learner:
        built = tiny.learner(cfg, noise=0.1)
        return steps.new_learner(built.swapper.double(), built.discriminator.double(), "pretrain", cfg)

    # The reference: one sum of weighted terms, one call of autograd, for each network.
    learner = doubled(cfg)
    with steps.as_judge(learner.discriminator):
        terms, swapped = steps.generator_terms(learner.swapper, learner.discriminator, perception, batch, cfg, 2)
    total = sum(cfg.weight(name, 2) * value for name, value in terms.items())
    named = [each for group in learner.swapper_optimiser.param_groups for each in group["params"]]
    wanted = list(torch.autograd.grad(total, named))
    _, judged = steps.discriminator_terms(learner.discriminator, batch.source, swapped.detach(), cfg)
    wanted += torch.autograd.grad(judged, list(learner.discriminator.parameters()))
    for count in (2, 4):
        parted = tiny.training(**settings, accumulate=count)
        for one, other in zip(gradients(doubled(parted), batch, parted), wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)
    outcome = steps.both_steps(doubled(parted), perception, batch, parted, 2, alone)
    for name, value in terms.items():
        torch.testing.assert_close(outcome.terms[name], value.detach(), rtol=1e-9, atol=1e-12, msg=name)
    torch.testing.assert_close(outcome.swapped, swapped.detach(), rtol=1e-9, atol=1e-9)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
@pytest.mark.parametrize("way", ["channels_last", "compile"])
def test_another_way_of_computing_is_the_plain_one_to_rounding(faces: Faces, way: str) -> None:
    """Gradients of G and V, with weights and pictures as NHWC, and with G taken apart as torch.compile does."""
    plain = tiny.training(loss=CHEAP | {"identity": 1.0})
    wanted = gradients(tiny.learner(plain, noise=0.1), batch_of(plain, faces, 2), plain)
    cfg = plain.model_copy(update={"channels_last": way == "channels_last"})
    learner, batch = tiny.learner(cfg, noise=0.1), batch_of(cfg, faces, 2)
    if way == "compile":
        # The graphs without the compiler behind them, which takes minutes.
        steps.compile_parts(learner.swapper, backend="eager")
    else:
        layout = {"memory_format": torch.channels_last}
        assert learner.swapper.encoder.stem[0].weight.is_contiguous(**layout)
        assert all(each.is_contiguous(**layout) for each in (batch.source, batch.target, batch.truth))
    for one, value in zip(gradients(learner, batch, cfg), wanted, strict=True):
        torch.testing.assert_close(one, value, rtol=1e-3, atol=2e-5)


def test_a_compiler_that_there_is_not_is_said_in_one_line() -> None:
    """The setting, why it cannot be, and the remedy."""

    def none(graph, inputs):
        raise RuntimeError("no working C++ compiler")

    with pytest.raises(
        StyleBlendError, match=r"compile is true, .* \(.*no working C\+\+ compiler.*\): set it to false"
    ):
        steps.compile_parts(tiny.learner(tiny.training()).swapper, backend=none)
