"""One step: what moves, what does not, and that two workers do what one does."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor
from torch.nn.utils import parametrize

import tiny_training as tiny
from styleblend.config.training import LossWeights, Training
from styleblend.faces.regions import mesh_region
from styleblend.model import build
from styleblend.perception.landmarks import to_19
from styleblend.perception.shape import unposed
from styleblend.training import losses, steps
from styleblend.training.batches import Batch, Faces, read_faces
from styleblend.training.loop import alone
from styleblend.training.steps import discriminator_step, generator_step, generator_terms, learning_rate
from styleblend.training.stream import Batches

PERCEPTION = tiny.perception()


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Faces:
    inputs = tiny.write_inputs(tmp_path_factory.mktemp("inputs"))
    return read_faces(inputs["splits"] / "train.parquet", inputs["faces"], inputs["perceived"], 32)


def batch_of(cfg: Training, faces: Faces, step: int, rank: int = 0, world_size: int = 1) -> Batch:
    batches = Batches(cfg, faces, rank, world_size)
    batch = batches.at(step, 0)
    batches.close()
    return batch


@pytest.mark.parametrize("stage", ["train_encoder", "finetune_decoder", "pretrain"])
def test_only_the_parts_of_a_stage_learn(stage: str, faces: Faces) -> None:
    """What is frozen stays the same bit for bit; every parameter that learns moves within three steps."""
    cfg = tiny.training()
    learner = tiny.learner(cfg, stage, noise=0.1)
    before = copy.deepcopy(learner.swapper.state_dict())
    for step in range(3):
        assert generator_step(learner, PERCEPTION, batch_of(cfg, faces, step), cfg, step, alone).finite
    for name, value in learner.swapper.state_dict().items():
        part, _, rest = name.partition(".")
        pathway = part == "decoder" and rest.startswith("pathway")
        learns = (part != "decoder" or pathway) if stage == "train_encoder" else part == "decoder"
        learns = learns or stage == "pretrain"
        if name == "encoder.mean_code":
            learns = False
        # A decoder's last AdaIN takes away whatever a bias adds evenly to a channel of one sign, but never exactly.
        assert torch.equal(value, before[name]) != learns, name


def test_a_step_needs_no_parameter_that_gets_no_gradient(faces: Faces) -> None:
    """Autograd itself reaches every learning parameter in one step, in both stages and in V."""
    cfg = tiny.training()
    for stage in ("train_encoder", "finetune_decoder"):
        learner = tiny.learner(cfg, stage, noise=0.1)
        batch = batch_of(cfg, faces, 0)
        terms, swapped = generator_terms(learner.swapper, learner.discriminator, PERCEPTION, batch, cfg, 0)
        learning = [parameter for parameter in learner.swapper.parameters() if parameter.requires_grad]
        for gradient in torch.autograd.grad(sum(terms.values()), learning, allow_unused=True):
            assert gradient is not None
        scores = losses.adversarial(learner.discriminator(swapped.detach()))
        for gradient in torch.autograd.grad(scores, list(learner.discriminator.parameters()), allow_unused=True):
            assert gradient is not None


def test_terms_are_those_of_the_equations(faces: Faces) -> None:
    """Every term equals its loss on pictures that the swapper gives by its own plain forward."""
    weights = dict.fromkeys(LossWeights.model_fields, 1.0) | {"chroma": 0}  # it needs a prior: see test_jitter.py
    cfg = tiny.training(loss=weights, target_similarity=0.1, mesh_expression=3)
    learner = tiny.learner(cfg, sizes=tiny.MODEL.model_copy(update={"join": "mask"}), noise=0.1)
    swapper, batch = learner.swapper, batch_of(cfg, faces, 3)
    batch = batch._replace(target_mesh=tiny.meshes(len(batch.source)))
    assert 0 < batch.same_person.sum() < len(batch.same_person)
    torch.nn.init.normal_(swapper.decoder.pathway["8"][2].weight)
    with torch.no_grad():
        noise = swapper.decoder.make_noise(batch.noise_seeds)
        terms, swapped = generator_terms(swapper, learner.discriminator.eval(), PERCEPTION, batch, cfg, 3)
        plain = swapper(batch.source, batch.target, noise)
        torch.testing.assert_close(swapped, plain)
        embedding, solid = PERCEPTION.identity(plain), PERCEPTION.landmarks_3d
        second, face = PERCEPTION.identity_second, mesh_region(batch.target_mesh, 32, 0.5)
        of_target = swapper.encoder(batch.target)
        codes = swapper.blending(swapper.encoder(batch.source).codes, of_target.codes)
        pose, expression = PERCEPTION.attributes(plain)
        wanted_pose, wanted_expression = PERCEPTION.attributes(batch.target)
        wanted = {
            "adversarial": losses.adversarial(learner.discriminator(plain)),
            "identity": losses.identity(embedding, batch.source_identity),
            "contrastive": losses.contrastive(
                embedding, batch.source_identity, batch.target_identity, batch.negatives, ~batch.same_person, 0.07
            ),
            "reconstruction": losses.reconstruction(plain, batch.target, batch.same_person),
            "perceptual": losses.perceptual(
                PERCEPTION.identity.features(plain), PERCEPTION.identity.features(batch.target), batch.same_person
            ),
            "landmarks": losses.landmarks(to_19(PERCEPTION.landmarks(plain)), to_19(batch.target_landmarks)),
            "swap_consistency": losses.swap_consistency(
                swapper(plain, batch.source, noise), batch.source, swapper(batch.target, plain, noise), batch.target
            ),
            "attributes": losses.attributes(pose, wanted_pose, expression, wanted_expression),
            "shape_3d": losses.shape_3d(
                unposed(solid(plain), solid.turn(solid(batch.target))),
                unposed(solid(batch.source), solid.turn(solid(batch.source))),
            ),
            "outside": losses.outside(plain, batch.target, face),
            "edges": losses.edges(plain, batch.target, batch.same_person),
            "colour": losses.colour(plain, batch.target),
            "pixels": losses.pixels(plain, batch.target, batch.same_person, face),
            "perceptual_maps": losses.perceptual_maps(
                PERCEPTION.identity.look(plain).maps, PERCEPTION.identity.look(batch.target).maps, batch.same_person
            ),
            "identity_second": losses.identity(second(plain), second(batch.source)),
            "target_margin": losses.target_margin(embedding, batch.target_identity, 0.1, batch.same_person, "cosine"),
            "mesh": losses.mesh(PERCEPTION.mesh(plain), batch.target_mesh, 3, batch.same_person),
            "mask": losses.mask(swapper.draw(codes, of_target, batch.target, noise, None)[1], face),
        }
    assert set(terms) == set(wanted) == set(LossWeights.model_fields) - {"chroma"}
    for name, value in wanted.items():
        torch.testing.assert_close(terms[name], value, msg=name)


def test_the_rate_cools_down_at_the_end(faces: Faces) -> None:
    """Constant without a cool-down; with one it is the full rate until then and falls evenly, and Adam is given it."""
    plain, cooled = (tiny.training(steps=10, learning_rate=0.1, cool_down=share) for share in (0, 0.4))
    assert [learning_rate(plain, step) for step in range(10)] == [0.1] * 10
    falling = [learning_rate(cooled, step) for step in range(10)]
    assert falling == pytest.approx([0.1] * 6 + [0.1, 0.075, 0.05, 0.025])
    learner = tiny.learner(cooled, noise=0.1)
    generator_step(learner, PERCEPTION, batch_of(cooled, faces, 8), cooled, 8, alone)
    assert learner.swapper_optimiser.param_groups[0]["lr"] == pytest.approx(0.05)


def test_the_rate_warms_up_at_the_start() -> None:
    """It rises evenly to the full rate within warm_up steps, and a cool-down takes its own part of it."""
    warm = tiny.training(steps=10, learning_rate=0.1, warm_up=4, cool_down=0.2)
    wanted = [0.025, 0.05, 0.075, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.05]
    assert [learning_rate(warm, step) for step in range(10)] == pytest.approx(wanted)


def test_identity_and_v_begin_when_they_are_told(faces: Faces) -> None:
    """Before identity_from no term of identity or points is computed, then each weight rises evenly; V's at once."""
    cfg = tiny.training(identity_from=2, identity_ramp=4, adversarial_from=3)
    learner = tiny.learner(cfg, noise=0.1)
    ramped = {"identity", "contrastive", "target_margin", "landmarks"}
    for step, share in ((0, 0.0), (2, 0.0), (3, 0.25), (5, 0.75), (6, 1.0), (90, 1.0)):
        assert [cfg.weight(name, step) for name in ("identity", "mesh", "edges")] == [share, 0, 1]
        batch = batch_of(cfg, faces, step)
        terms, _ = generator_terms(learner.swapper, learner.discriminator, PERCEPTION, batch, cfg, step)
        assert {name in terms for name in ramped} == {share > 0}
        assert ("adversarial" in terms) == (step >= 3)


def test_a_clipped_step_follows_the_same_direction(faces: Faces) -> None:
    """G's gradients have the norm clip_norm and the direction that they had; smaller ones stay as they are."""

    def gradients(clip_norm: float | None) -> torch.Tensor:
        cfg = tiny.training(clip_norm=clip_norm)
        learner = tiny.learner(cfg, noise=0.1)
        generator_step(learner, PERCEPTION, batch_of(cfg, faces, 0), cfg, 0, alone)
        return torch.cat([value.grad.flatten() for value in learner.swapper.parameters() if value.requires_grad])

    plain = gradients(None)
    clipped = gradients(0.5 * plain.norm().item())
    torch.testing.assert_close(clipped, 0.5 * plain, rtol=1e-4, atol=1e-7)
    assert gradients(2 * plain.norm().item()).equal(plain)


def test_the_joint_stage_has_two_rates(faces: Faces) -> None:
    """D without its pathway learns at decoder_learning_rate, E, the SBM and the pathway at learning_rate."""
    cfg = tiny.training(learning_rate=0.002, decoder_learning_rate=0.008, blending_lr_factor=1)
    learner = tiny.learner(cfg, "pretrain", noise=0.1)
    generator_step(learner, PERCEPTION, batch_of(cfg, faces, 0), cfg, 0, alone)
    names = {value: name for name, value in learner.swapper.named_parameters()}
    rates = {names[value]: group["lr"] for group in learner.swapper_optimiser.param_groups for value in group["params"]}
    assert set(rates) == set(names.values())
    for name, rate in rates.items():
        of_decoder = name.startswith("decoder.") and not name.startswith("decoder.pathway.")
        assert rate == pytest.approx(0.008 if of_decoder else 0.002), name


def test_terms_that_are_off_are_not_computed(faces: Faces) -> None:
    """Weight 0 leaves a term out; Eq. 12 is taken at every k-th step."""
    off = dict.fromkeys(LossWeights.model_fields, 0.0)
    cfg = tiny.training(loss={**off, "swap_consistency": 1, "identity": 1}, swap_every=2)
    learner = tiny.learner(cfg, noise=0.1)
    for step, names in ((0, {"swap_consistency", "identity"}), (1, {"identity"})):
        terms, _ = generator_terms(
            learner.swapper, learner.discriminator, PERCEPTION, batch_of(cfg, faces, step), cfg, step
        )
        assert set(terms) == names


def test_two_workers_learn_what_one_learns(faces: Faces) -> None:
    """Means of the gradients of two half batches are the gradients of the whole batch, in both networks."""
    cfg = tiny.training(r1_gamma=0.1)

    def gradients(rank: int, world_size: int) -> list[torch.Tensor]:
        seen: list[torch.Tensor] = []

        def keep(tensors) -> None:
            seen.extend(tensor.double().clone() for tensor in tensors)

        learner = tiny.learner(cfg, noise=0.1)
        batch = batch_of(cfg, faces, 2, rank, world_size)
        outcome = generator_step(learner, PERCEPTION, batch, cfg, 2, keep)
        discriminator_step(learner, batch, outcome.swapped, cfg, keep)
        return seen

    for whole, first, second in zip(gradients(0, 1), gradients(0, 2), gradients(1, 2), strict=True):
        torch.testing.assert_close((first + second) / 2, whole, atol=2e-5, rtol=1e-3)


def test_the_generator_step_leaves_the_discriminator_alone(faces: Faces) -> None:
    """V's weights, spectral norms and gradients are untouched by G's step, and the reverse."""
    cfg = tiny.training()
    learner = tiny.learner(cfg, noise=0.1)
    batch = batch_of(cfg, faces, 0)
    before = copy.deepcopy(learner.discriminator.state_dict())
    outcome = generator_step(learner, PERCEPTION, batch, cfg, 0, alone)
    assert all(torch.equal(value, before[name]) for name, value in learner.discriminator.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in learner.discriminator.parameters())
    before = copy.deepcopy(learner.swapper.state_dict())
    discriminator_step(learner, batch, outcome.swapped, cfg, alone)
    assert all(torch.equal(value, before[name]) for name, value in learner.swapper.state_dict().items())


def test_nothing_moves_when_a_gradient_is_not_finite(faces: Faces) -> None:
    """A NaN in the batch is reported, and weights, optimiser and average stay as they were."""
    cfg = tiny.training()
    learner = tiny.learner(cfg, noise=0.1)
    batch = batch_of(cfg, faces, 0)
    batch.target[0, 0, 0, 0] = torch.nan
    before = copy.deepcopy(learner.swapper.state_dict())
    outcome = generator_step(learner, PERCEPTION, batch, cfg, 0, alone)
    assert not outcome.finite and not learner.swapper_optimiser.state_dict()["state"]
    assert all(torch.equal(value, before[name]) for name, value in learner.swapper.state_dict().items())
    assert all(torch.equal(value, before[name]) for name, value in learner.averaged.state_dict().items())


def test_averaged_weights_follow(faces: Faces) -> None:
    """After a step the average lies between old and new weights, nearer to the old ones once warm."""
    cfg = tiny.training(ema_decay=0.75)
    learner = tiny.learner(cfg, noise=0.1)
    before = learner.swapper.encoder.stem[0].weight.clone()
    generator_step(learner, PERCEPTION, batch_of(cfg, faces, 0), cfg, 1000, alone)
    after = learner.swapper.encoder.stem[0].weight
    torch.testing.assert_close(learner.averaged.encoder.stem[0].weight, 0.75 * before + 0.25 * after)


def test_bfloat16_steps_stay_near_float32(faces: Faces) -> None:
    """Autocast changes terms by rounding only."""
    learner = tiny.learner(tiny.training(), noise=0.1)
    batch = batch_of(tiny.training(), faces, 0)
    exact, rounded = (
        generator_terms(learner.swapper, learner.discriminator, PERCEPTION, batch, tiny.training(precision=name), 0)[0]
        for name in ("float32", "bfloat16")
    )
    for name, value in exact.items():
        torch.testing.assert_close(rounded[name], value, atol=0.05, rtol=0.1, msg=name)


class Times(torch.nn.Module):
    """A parametrization: the parameter is stored divided by `factor`."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, stored: Tensor) -> Tensor:
        return self.factor * stored

    def right_inverse(self, true: Tensor) -> Tensor:
        return true / self.factor


@pytest.mark.parametrize("gradients", [1.0, 1e-8], ids=["large", "as_small_as_epsilon"])
def test_the_blend_learns_as_if_it_were_stored_divided_by_its_factor(gradients: float) -> None:
    """Adam's groups of Eq. 2's bias and maps step as plain Adam does on parameters of a smaller scale."""
    cfg = tiny.training(blending_lr_factor=50)
    torch.manual_seed(0)
    swapper = build(tiny.MODEL).double()
    divided = copy.deepcopy(swapper)
    for module, name, factor in (
        (divided.blending, "bias", 50.0),
        (divided.blending.exponent_s, "weight", 12.5),
        (divided.blending.exponent_t, "weight", 12.5),
    ):
        parametrize.register_parametrization(module, name, Times(factor))
    optimisers = [
        (swapper, steps.swapper_optimiser(swapper, cfg)),
        (divided, torch.optim.Adam(divided.parameters(), cfg.learning_rate, cfg.adam_betas)),
    ]
    before = swapper.blending.bias.detach().clone()
    for _ in range(20):
        codes = torch.randn(2, 3, 8, 16, dtype=torch.float64)
        for network, optimiser in optimisers:
            optimiser.zero_grad()
            (gradients * network.blending(*codes).square().mean()).backward()
            optimiser.step()
    assert (swapper.blending.bias - before).abs().max() > 5 * cfg.learning_rate
    for get in ("bias", "exponent_s.weight", "exponent_t.weight", "place"):
        name, _, last = get.rpartition(".")
        one, other = (getattr(network.blending.get_submodule(name), last) for network in (swapper, divided))
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_a_step_gives_each_group_its_factor_of_the_rate(faces: Faces) -> None:
    """With a rate that falls, too; the second stage, in which the blend is frozen, has one group."""
    cfg = tiny.training(cool_down=0.5, steps=4, blending_lr_factor=50)
    learner = tiny.learner(cfg)
    generator_step(learner, PERCEPTION, batch_of(cfg, faces, 3), cfg, 3, alone)
    rate = learning_rate(cfg, 3)
    groups = learner.swapper_optimiser.param_groups
    assert sorted(group["lr"] / rate for group in groups) == pytest.approx([1, 12.5, 50])
    (one,) = tiny.learner(cfg, "finetune_decoder").swapper_optimiser.param_groups
    assert one["lr"] == cfg.learning_rate and one["eps"] == 1e-8
