"""The paper's equations, each against a slow reference that is written from the paper in float64, and what they imply.

References are plain arithmetic on numbers and use nothing of the package. Where the package states that it departs
from the paper's letter (means for sums, the denominator of Eq. 9), the reference does the same and the test says so.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from numpy.typing import NDArray
from torch import Tensor, nn

import tiny_training as tiny
from styleblend.config.merge import merged
from styleblend.config.model import Model
from styleblend.config.params import Config, parse_params
from styleblend.config.training import LossWeights, Training
from styleblend.model.blending import Blending, CrossAttention
from styleblend.model.decoder import StyledLayer
from styleblend.model.layers import adain
from styleblend.perception import identity
from styleblend.perception.landmarks import to_19
from styleblend.training import losses
from styleblend.training.batches import Batch, Faces, draw, read_faces
from styleblend.training.loop import alone
from styleblend.training.steps import Learner, Stage, discriminator_step, generator_step
from styleblend.training.stream import Batches
from tiny_model import randomised

Array = NDArray[np.float64]
STAGES: tuple[Stage, ...] = ("train_encoder", "finetune_decoder")
JOINT: tuple[Stage, ...] = (*STAGES, "pretrain")
# The term of a mask teaches the mask and what it is drawn from, but no colours; that of chroma needs a prior.
TERMS = tuple(name for name in LossWeights.model_fields if name not in ("mask", "chroma"))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def rows(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def weights_of(network: nn.Module) -> dict[str, Array]:
    return {name: value.detach().double().numpy().copy() for name, value in network.state_dict().items()}


def cos(a: Array, b: Array) -> float:
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def squared_distance(a: Tensor, b: Tensor) -> float:
    """The paper's squared L2 norm of a difference."""
    return math.fsum((x - y) ** 2 for x, y in zip(a.flatten().tolist(), b.flatten().tolist(), strict=True))


# Eq. 1 to 3: the style blending module


def attention(queries: Array, keys: Array, values: Array) -> Array:
    """softmax(q k / sqrt(d_k)) v of one head, one query after another."""
    out = np.zeros((len(queries), values.shape[1]))
    for i, query in enumerate(queries):
        shares = [math.exp(sum(a * b for a, b in zip(query, key, strict=True)) / math.sqrt(len(key))) for key in keys]
        for share, value in zip(shares, values, strict=True):
            out[i] += share / sum(shares) * value
    return out


def multi_head(queries: Array, keys: Array, values: Array, heads: int) -> Array:
    """Each head sees its own part of the channels; their results stand side by side."""
    parts = (np.split(x, heads, axis=1) for x in (queries, keys, values))
    return np.concatenate([attention(q, k, v) for q, k, v in zip(*parts, strict=True)], axis=1)


def normalised(x: Array, scale: Array, shift: Array) -> Array:
    """Layer norm of each row."""
    out = np.zeros_like(x)
    for i, row in enumerate(x):
        mean = sum(row) / len(row)
        variance = sum((value - mean) ** 2 for value in row) / len(row)
        out[i] = (row - mean) / math.sqrt(variance + 1e-5) * scale + shift
    return out


def attended(source: Array, target: Array, w: dict[str, Array], heads: int) -> tuple[Array, Array]:
    """Eq. 1: (A_s, A_t) of normalised codes; q, k and v of either code come from FC layers of its own."""
    q_s, k_s, v_s = (source @ part.T for part in np.split(w["qkv_s.weight"], 3))
    q_t, k_t, v_t = (target @ part.T for part in np.split(w["qkv_t.weight"], 3))
    return multi_head(q_t, k_s, v_s, heads), multi_head(q_s, k_t, v_t, heads)


def transformer_layer(source: Array, target: Array, w: dict[str, Array], heads: int) -> tuple[Array, Array]:
    """Pre-norm: each code plus its attention, then plus two FC layers with a GELU between them."""
    a_s, a_t = attended(
        normalised(source, w["norm_s.weight"], w["norm_s.bias"]),
        normalised(target, w["norm_t.weight"], w["norm_t.bias"]),
        w,
        heads,
    )

    def finished(x: Array, of_other: Array, name: str) -> Array:
        x = x + of_other @ w[f"out_{name}.weight"].T + w[f"out_{name}.bias"]
        hidden = normalised(x, w[f"forward_{name}.0.weight"], w[f"forward_{name}.0.bias"])
        hidden = hidden @ w[f"forward_{name}.1.weight"].T + w[f"forward_{name}.1.bias"]
        hidden = hidden * 0.5 * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2)))
        return x + hidden @ w[f"forward_{name}.3.weight"].T + w[f"forward_{name}.3.bias"]

    return finished(source, a_s, "s"), finished(target, a_t, "t")


def shares_of(exponents_t: Array, exponents_s: Array) -> tuple[Array, Array]:
    """Eq. 2, one style element and channel at a time: (weights of the target, weights of the source)."""
    of_t, of_s = np.zeros_like(exponents_t), np.zeros_like(exponents_s)
    for place in np.ndindex(exponents_t.shape):
        e_t, e_s = math.exp(exponents_t[place]), math.exp(exponents_s[place])
        of_t[place], of_s[place] = e_t / (e_s + e_t), e_s / (e_s + e_t)
    return of_t, of_s


def blending_weights(source: Array, target: Array, w: dict[str, Array], heads: int) -> tuple[Array, Array]:
    """Eq. 1 and 2 for one sample: all layers, then the exponents from the last streams."""
    source, target = source + w["place"], target + w["place"]
    for k in range(1 + max(int(name.split(".")[1]) for name in w if name.startswith("layers."))):
        prefix = f"layers.{k}."
        of_layer = {name.removeprefix(prefix): value for name, value in w.items() if name.startswith(prefix)}
        source, target = transformer_layer(source, target, of_layer, heads)
    exponents_t = normalised(target, w["norm_t.weight"], w["norm_t.bias"]) @ w["exponent_t.weight"].T + w["bias"]
    exponents_s = normalised(source, w["norm_s.weight"], w["norm_s.bias"]) @ w["exponent_s.weight"].T
    return shares_of(exponents_t, exponents_s)


@pytest.fixture(params=["channel", "element"])
def blending(request: pytest.FixtureRequest) -> Blending:
    """Five styles of eight channels, random in every parameter."""
    made = randomised(Blending(5, 8, 2, 2, request.param)).double()
    assert isinstance(made, Blending)
    return made


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_eq_01_each_code_attends_to_the_other(heads: int) -> None:
    """A layer whose other parts are switched off adds A_t of Eq. 1 to the target's stream and A_s to the source's."""
    layer = randomised(CrossAttention(8, heads)).double()
    with torch.no_grad():
        for out, last in ((layer.out_s, layer.forward_s[3]), (layer.out_t, layer.forward_t[3])):
            out.weight.copy_(torch.eye(8))
            for parameter in (out.bias, last.weight, last.bias):
                parameter.zero_()
        for norm in (layer.norm_s, layer.norm_t):
            norm.reset_parameters()
        source, target = rows(2, 5, 8), rows(2, 5, 8, seed=1)
        new_source, new_target = layer(source, target)
    one, zero = np.ones(8), np.zeros(8)
    for n in range(2):
        codes = (normalised(code[n].numpy(), one, zero) for code in (source, target))
        a_s, a_t = attended(*codes, weights_of(layer), heads)
        np.testing.assert_allclose((new_target - target)[n].numpy(), a_t, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose((new_source - source)[n].numpy(), a_s, rtol=1e-9, atol=1e-12)


def test_eq_01_and_02_weights_follow_all_layers(blending: Blending) -> None:
    """The module's weights are those of the reference: attention layers one after another, then Eq. 2."""
    source, target = rows(2, 5, 8), rows(2, 5, 8, seed=1)
    weight_t, weight_s = (weight.detach().numpy() for weight in blending.weights(source, target))
    for n in range(2):
        wanted_t, wanted_s = blending_weights(source[n].numpy(), target[n].numpy(), weights_of(blending), 2)
        np.testing.assert_allclose(weight_t[n], wanted_t, rtol=1e-9)
        np.testing.assert_allclose(weight_s[n], wanted_s, rtol=1e-9)


def test_eq_02_weights_sum_to_one_for_each_style(blending: Blending) -> None:
    """Target's and source's shares are positive and make one; also where e^A would overflow."""
    codes = rows(3, 5, 8), rows(3, 5, 8, seed=1)
    with torch.no_grad():
        for scale in (1.0, 1e4):
            blending.exponent_t.weight.mul_(scale)
            weight_t, weight_s = blending.weights(*codes)
            assert weight_t.shape[:2] == (3, 5) and bool((weight_t >= 0).all()) and bool((weight_s >= 0).all())
            torch.testing.assert_close(weight_t + weight_s, torch.ones_like(weight_t))
    assert weight_t.max() > 0.999 and weight_t.min() < 0.001


class Agreed(nn.Module):
    """An attention layer that gives both codes the same attention."""

    def forward(self, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        return source * target, source * target


def test_eq_02_and_03_equal_attentions_give_the_mean(blending: Blending) -> None:
    """Where A_t = A_s, read out alike and with the bias at its start, W' is the mean of two different codes."""
    blending.layers = nn.ModuleList([Agreed()])
    blending.norm_s.load_state_dict(blending.norm_t.state_dict())
    blending.exponent_s.load_state_dict(blending.exponent_t.state_dict())
    source, target = rows(2, 5, 8), rows(2, 5, 8, seed=1)
    with torch.no_grad():
        assert not torch.allclose(blending(source, target), (source + target) / 2, atol=1e-3)
        blending.bias.zero_()
        torch.testing.assert_close(blending(source, target), (source + target) / 2)


def test_eq_02_swapped_codes_and_branches_swap_the_weights(blending: Blending) -> None:
    """Target as source and source as target, each with the other's parameters: the weights change places."""
    mirror = copy.deepcopy(blending)
    state = {
        re.sub(r"_[st]\b", lambda found: {"_s": "_t", "_t": "_s"}[found.group()], name): value
        for name, value in blending.state_dict().items()
    }
    mirror.load_state_dict({**state, "bias": -state["bias"]})
    source, target = rows(2, 5, 8), rows(2, 5, 8, seed=1)
    weight_t, weight_s = blending.weights(source, target)
    mirrored_t, mirrored_s = mirror.weights(target, source)
    torch.testing.assert_close(mirrored_t, weight_s)
    torch.testing.assert_close(mirrored_s, weight_t)
    torch.testing.assert_close(mirror(target, source), blending(source, target))
    # Without the other's parameters they do not: the branches are not the same.
    assert not torch.allclose(blending.weights(target, source)[0], weight_s, atol=1e-3)


def test_eq_03_codes_are_mixed_element_by_element(blending: Blending) -> None:
    """W' = A_w^t W_t + A_w^s W_s, a scalar weight of an element counting for all its channels."""
    source, target = rows(2, 5, 8), rows(2, 5, 8, seed=1)
    mixed = blending(source, target)
    weight_t, weight_s = blending.weights(source, target)
    for n, i, c in np.ndindex(2, 5, 8):
        place = (n, i, c if weight_t.shape[2] > 1 else 0)
        wanted = weight_t[place].item() * target[n, i, c].item() + weight_s[place].item() * source[n, i, c].item()
        assert mixed[n, i, c].item() == pytest.approx(wanted, rel=1e-12)


# Eq. 4: AdaIN


def adain_of(channel: list[float], gamma: float, beta: float) -> list[float]:
    mean = math.fsum(channel) / len(channel)
    deviation = math.sqrt(math.fsum((x - mean) ** 2 for x in channel) / len(channel))
    return [(x - mean) / (deviation + 1e-8) * gamma + beta for x in channel]


def test_eq_04_adain_sets_each_channels_moments() -> None:
    """Per sample and channel: minus the mean, by the standard deviation, times gamma, plus beta; in float32 inside."""
    x, gamma, beta = rows(2, 3, 4, 5) * 5 + 2, rows(2, 3, seed=1), rows(2, 3, seed=2)
    out = adain(x, gamma, beta)
    for n, c in np.ndindex(2, 3):
        wanted = adain_of(x[n, c].flatten().tolist(), gamma[n, c].item(), beta[n, c].item())
        assert out[n, c].flatten().tolist() == pytest.approx(wanted, abs=2e-5)


def test_eq_04_a_channel_without_contrast_gives_beta() -> None:
    """Epsilon keeps the division finite: what is left of a constant channel is its shift."""
    out = adain(torch.full((1, 2, 4, 4), 3.0), torch.tensor([[5.0, 1.0]]), torch.tensor([[0.5, -2.0]]))
    torch.testing.assert_close(out, torch.tensor([0.5, -2.0])[None, :, None, None].expand(1, 2, 4, 4))


def test_eq_04_gamma_and_beta_are_an_affine_map_of_the_style() -> None:
    """A layer's picture has mean beta and deviation |gamma|, (gamma - 1, beta) = T w + b, T at equalised rate."""
    layer = randomised(StyledLayer(3, 4, 6))
    assert isinstance(layer, StyledLayer)
    x, style = torch.randn(2, 3, 8, 8), torch.randn(2, 6)
    out = layer(x, style, None).double()
    matrix, bias = layer.style.weight.double().tolist(), layer.style.bias.double().tolist()
    for n, c in np.ndindex(2, 4):
        w = style[n].double().tolist()
        gamma, beta = (
            sum(t * value for t, value in zip(matrix[k], w, strict=True)) / math.sqrt(6) + bias[k] for k in (c, 4 + c)
        )
        assert out[n, c].mean().item() == pytest.approx(beta, abs=1e-5)
        assert out[n, c].std(correction=0).item() == pytest.approx(abs(1 + gamma), rel=1e-4)


# Eq. 5 to 7: adversarial learning


def scores(seed: int) -> list[Tensor]:
    """What V says of two pictures at two scales."""
    return [rows(2, 1, 4, 4, seed=seed), rows(2, 1, 2, 2, seed=seed + 1)]


def expected(of_scales: list[Tensor], term: Callable[[float], float]) -> float:
    """E of a term of V's scores: over pictures and patches of a scale, then over scales, which count alike."""
    means = [[term(v) for v in maps.double().flatten().tolist()] for maps in of_scales]
    return sum(sum(values) / len(values) for values in means) / len(means)


def test_eq_05_generator_wants_high_scores() -> None:
    """-E[V(G)]: a fine scale, which has more patches, counts as much as a coarse one."""
    fake = scores(seed=4)
    assert losses.adversarial(fake).item() == pytest.approx(-expected(fake, lambda v: v))


def test_eq_06_and_07_discriminator_has_a_hinge_on_each_side() -> None:
    """-E[min(0, -1 + V(I))] - E[min(0, -1 - V(G))]."""
    real, fake = scores(seed=0), scores(seed=2)
    wanted = -expected(real, lambda v: min(0.0, -1 + v)) - expected(fake, lambda v: min(0.0, -1 - v))
    assert losses.discriminator_hinge(real, fake).item() == pytest.approx(wanted)


def test_eq_06_and_07_nothing_is_left_to_learn_beyond_the_hinge() -> None:
    """Real scores from 1 up and fake ones from -1 down cost nothing and give no gradient; one inside does."""
    real, fake = [1 + maps.abs() for maps in scores(seed=0)], [-1 - maps.abs() for maps in scores(seed=2)]
    for maps in (*real, *fake):
        maps.requires_grad_()
    loss = losses.discriminator_hinge(real, fake)
    loss.backward()
    assert loss.item() == 0
    assert all(maps.grad is not None and not maps.grad.any() for maps in (*real, *fake))
    inside = [real[0], real[1].detach().index_fill(0, torch.tensor([0]), 0.75)]
    assert losses.discriminator_hinge(inside, fake).item() == pytest.approx(0.25 / 2 / 2)


# Eq. 8 and 9: identity


def test_eq_08_identity_is_one_minus_the_cosine() -> None:
    """Mean over the pairs, whatever the length of the embeddings: 0 for the same direction, 2 for the opposite."""
    swapped, source = rows(4, 8), rows(4, 8, seed=1)
    wanted = sum(1 - cos(a, b) for a, b in zip(swapped.numpy(), source.numpy(), strict=True)) / 4
    assert losses.identity(swapped, source).item() == pytest.approx(wanted)
    assert losses.identity(3 * source, source).item() == pytest.approx(0, abs=1e-12)
    assert losses.identity(-source, source).item() == pytest.approx(2)


def contrast(swapped: Array, source: Array, rejected: list[Array], tau: float, positive_below: bool) -> float:
    """Eq. 9 of one sample; `positive_below` puts exp(S_s) under the line too."""
    of_source = math.exp(cos(source, swapped) / tau)
    below = sum(math.exp(cos(other, swapped) / tau) for other in rejected)
    return -math.log(of_source / (below + (of_source if positive_below else 0.0)))


@pytest.mark.parametrize("tau", [0.07, 0.5])
def test_eq_09_contrast_is_infonce(tau: float) -> None:
    """-log of the source's share among source, target and negatives; no target where it is the source's own person."""
    swapped, source, target, negatives = rows(3, 8), rows(3, 8, seed=1), rows(3, 8, seed=2), rows(3, 5, 8, seed=3)
    differ = torch.tensor([True, False, True])
    wanted = 0.0
    for n in range(3):
        rejected = [*negatives[n].numpy(), *([target[n].numpy()] if differ[n] else [])]
        wanted += contrast(swapped[n].numpy(), source[n].numpy(), rejected, tau, positive_below=True) / 3
    assert losses.contrastive(swapped, source, target, negatives, differ, tau).item() == pytest.approx(wanted)


def test_eq_09_contrast_is_the_softplus_of_the_papers_form() -> None:
    """Without exp(S_s) under the line the paper's value L is unbounded below; ours is log(1 + e^L) of each sample."""
    swapped, source, target, negatives = rows(1, 8), rows(1, 8, seed=1), rows(1, 8, seed=2), rows(1, 5, 8, seed=3)
    for wanted_face in (swapped, source, target):
        rejected = [target[0].numpy(), *negatives[0].numpy()]
        of_paper = contrast(wanted_face[0].numpy(), source[0].numpy(), rejected, 0.2, positive_below=False)
        found = losses.contrastive(wanted_face, source, target, negatives, torch.tensor([True]), 0.2)
        assert found.item() == pytest.approx(math.log(1 + math.exp(of_paper)))
    # The source itself: beyond zero in the paper's form, not in ours.
    assert contrast(source[0].numpy(), source[0].numpy(), rejected, 0.2, positive_below=False) < 0
    assert losses.contrastive(source, source, target, negatives, torch.tensor([True]), 0.2) > 0


def test_eq_09_is_finite_with_a_small_temperature() -> None:
    """Neither the loss nor its gradient overflows, with the target left out too."""
    swapped = rows(2, 8).requires_grad_()
    differ = torch.tensor([True, False])
    loss = losses.contrastive(swapped, -swapped.detach(), rows(2, 8), rows(2, 5, 8), differ, 1e-3)
    loss.backward()
    assert loss.item() > 1000 and swapped.grad is not None and bool(torch.isfinite(swapped.grad).all())


def test_eq_08_and_09_of_a_network_that_measures_distances() -> None:
    """The squared distance, and softmax over negative squared distances; the length counts, where a cosine is blind."""
    swapped, source, target, negatives = rows(3, 8), rows(3, 8, seed=1), rows(3, 8, seed=2), rows(3, 5, 8, seed=3)
    differ = torch.tensor([True, False, True])
    faces, people = swapped.numpy(), source.numpy()
    wanted = sum(np.linalg.norm(a - b) ** 2 for a, b in zip(faces, people, strict=True)) / 3
    assert losses.identity(swapped, source, "distance").item() == pytest.approx(wanted)
    contrasted = 0.0
    for n in range(3):
        rejected = [*negatives[n].numpy(), *([target[n].numpy()] if differ[n] else [])]
        near = [math.exp(-(np.linalg.norm(each - faces[n]) ** 2) / 3) for each in (people[n], *rejected)]
        contrasted -= math.log(near[0] / sum(near)) / 3
    found = losses.contrastive(swapped, source, target, negatives, differ, 3, "distance")
    assert found.item() == pytest.approx(contrasted)
    assert losses.identity(2 * source, source).item() == pytest.approx(0, abs=1e-12)
    assert losses.identity(2 * source, source, "distance").item() > 1


# Eq. 10 to 12: squared errors, as means over their elements where the paper has sums


def test_eq_10_reconstruction_counts_self_pairs_only() -> None:
    """Half the squared distance to the target over its 48 values where both are one person; 0 in the mean elsewhere."""
    swapped, target = rows(3, 3, 4, 4), rows(3, 3, 4, 4, seed=1)
    same = torch.tensor([True, False, True])
    wanted = sum(0.5 * squared_distance(swapped[n], target[n]) / 48 for n in (0, 2)) / 3
    assert losses.reconstruction(swapped, target, same).item() == pytest.approx(wanted)
    assert losses.reconstruction(swapped, target, torch.zeros(3, dtype=torch.bool)).item() == 0


def test_eq_11_landmarks_are_compared_point_by_point() -> None:
    """Half the squared distance of 19 points over their 38 coordinates, mean over pictures."""
    swapped, target = rows(2, 19, 2), rows(2, 19, 2, seed=1)
    wanted = sum(0.5 * squared_distance(swapped[n], target[n]) / 38 for n in range(2)) / 2
    assert losses.landmarks(swapped, target).item() == pytest.approx(wanted)


def test_eq_11_the_19_points_are_those_of_aflw() -> None:
    """Brows, eyes with their centres, nose, mouth with its centre, chin: from 68 points, numbered from 1."""
    points = rows(2, 68, 2)
    brows, nose, chin = [18, 20, 22, 23, 25, 27], [32, 31, 36], [9]
    left_eye, right_eye = [[37], [37, 38, 39, 40, 41, 42], [40]], [[43], [43, 44, 45, 46, 47, 48], [46]]
    mouth = [[49], [63, 67], [55]]
    groups = [[k] for k in brows] + left_eye + right_eye + [[k] for k in nose] + mouth + [chin]
    found = to_19(points)
    assert found.shape == (2, 19, 2)
    for n, k, axis in np.ndindex(2, 19, 2):
        wanted = sum(points[n, point - 1, axis].item() for point in groups[k]) / len(groups[k])
        assert found[n, k, axis].item() == pytest.approx(wanted)


def test_eq_12_both_ways_back_count_alike() -> None:
    """Half the squared distance of the source won back and of the target won back, each over its 48 values."""
    source_again, source, target_again, target = (rows(2, 3, 4, 4, seed=k) for k in range(4))
    wanted = 0.0
    for n in range(2):
        wanted += 0.5 * squared_distance(source_again[n], source[n]) / 48 / 2
        wanted += 0.5 * squared_distance(target_again[n], target[n]) / 48 / 2
    found = losses.swap_consistency(source_again, source, target_again, target)
    assert found.item() == pytest.approx(wanted)


# Eq. 13 and the steps that learn it


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Faces:
    inputs = tiny.write_inputs(tmp_path_factory.mktemp("inputs"))
    return read_faces(inputs["splits"] / "train.parquet", inputs["faces"], inputs["perceived"], tiny.SIDE_PX)


TWICE_THE_SIDE = tiny.MODEL.model_copy(
    update={"resolution": 2 * tiny.SIDE_PX, "decoder_widths": tiny.MODEL.decoder_widths | {2 * tiny.SIDE_PX: 8}}
)
"""A decoder that draws larger pictures than it is trained on, as the paper's does (1024 and 256 px)."""


def batch_of(cfg: Training, faces: Faces, step: int) -> Batch:
    batches = Batches(cfg, faces, 0, 1)
    batch = batches.at(step, 0)
    batches.close()
    return batch


def only(term: str) -> dict[str, float]:
    return {name: float(name == term) for name in TERMS}


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum() / ((a * a).sum() * (b * b).sum()).sqrt()


def objective(learner: Learner, batch: Batch, weights: dict[str, float], tau: float) -> Tensor:
    """Eq. 13 from Eq. 5 and 8 to 12, one sample after another in float64, on pictures of plain calls of G.

    Pictures larger than the batch's become means of squares of pixels (section 2.4: "downsampled output images").
    """
    perception, judge = tiny.perception(), copy.deepcopy(learner.discriminator).eval()
    noise = learner.swapper.decoder.make_noise(batch.noise_seeds)

    def generated(source: Tensor, target: Tensor) -> Tensor:
        drawn = learner.swapper(source, target, noise)
        square = drawn.shape[-1] // target.shape[-1]
        return drawn.unflatten(3, (-1, square)).unflatten(2, (-1, square)).mean((3, 5))

    def half_mean_square(a: Tensor, b: Tensor) -> Tensor:
        return ((a.double() - b.double()) ** 2).sum() / a.numel() / 2

    swapped = generated(batch.source, batch.target)
    source_again, target_again = generated(swapped, batch.source), generated(batch.target, swapped)
    embeddings = perception.identity(swapped).double()
    points = perception.landmarks(swapped)
    maps = [of_scale.double() for of_scale in judge(swapped)]
    total = torch.zeros((), dtype=torch.float64)
    count = len(swapped)
    for n in range(count):
        face, source, target = embeddings[n], batch.source_identity[n].double(), batch.target_identity[n].double()
        same = bool(batch.same_person[n])
        adversarial = -sum(of_scale[n].mean() for of_scale in maps) / len(maps)
        rejected = [*batch.negatives[n].double(), *([] if same else [target])]
        similar = (cosine(source, face) / tau).exp()
        share = similar / (similar + sum((cosine(other, face) / tau).exp() for other in rejected))
        both_ways = half_mean_square(source_again[n], batch.source[n])
        both_ways = both_ways + half_mean_square(target_again[n], batch.target[n])
        total = total + (
            weights["adversarial"] * adversarial
            + weights["identity"] * (1 - cosine(face, source))
            + weights["contrastive"] * -share.log()
            + weights["reconstruction"] * half_mean_square(swapped[n], batch.target[n]) * same
            + weights["landmarks"]
            * half_mean_square(to_19(points[n : n + 1]), to_19(batch.target_landmarks[n : n + 1]))
            + weights["swap_consistency"] * both_ways
        )
    return total / count


@pytest.mark.parametrize("sizes", [tiny.MODEL, TWICE_THE_SIDE], ids=["same_side", "twice_the_side"])
@pytest.mark.parametrize("stage", STAGES)
def test_eq_13_a_step_follows_the_weighted_sum(stage: Stage, sizes: Model, faces: Faces) -> None:
    """The gradients of a step are those of the reference's total, each term under its own weight."""
    weights = dict.fromkeys(TERMS, 0.0) | {"adversarial": 2, "identity": 3, "contrastive": 0.5}
    weights |= {"reconstruction": 7, "landmarks": 110, "swap_consistency": 5}
    cfg = tiny.training(loss=weights, temperature=0.2)
    learner, batch = tiny.learner(cfg, stage, sizes, noise=0.1, pathway=0.1), batch_of(cfg, faces, 3)
    assert 0 < batch.same_person.sum() < len(batch.same_person)
    learning = [parameter for parameter in learner.swapper.parameters() if parameter.requires_grad]
    wanted = torch.autograd.grad(objective(learner, batch, weights, 0.2), learning)
    seen: list[Tensor] = []
    outcome = generator_step(learner, tiny.perception(), batch, cfg, 3, lambda tensors: seen.extend(tensors))
    total = sum(weights[name] * value.item() for name, value in outcome.terms.items())
    with torch.no_grad():
        # After the step the networks have moved: the value is checked on ones that have not.
        before = objective(tiny.learner(cfg, stage, sizes, noise=0.1, pathway=0.1), batch, weights, 0.2).item()
    assert total == pytest.approx(before, rel=1e-5)
    scale = max(gradient.norm().item() for gradient in wanted)
    for found, reference in zip(seen, wanted, strict=True):
        assert (found - reference).norm().item() < 1e-3 * reference.norm().item() + 1e-5 * scale


def test_eq_06_and_07_a_step_sees_sources_and_swaps(faces: Faces) -> None:
    """V's loss in a step is that of its scores of the batch's sources as real and of the swapped pictures as fake."""
    cfg = tiny.training()
    learner, batch = tiny.learner(cfg, "train_encoder", noise=0.1, pathway=0.1), batch_of(cfg, faces, 0)
    swapped = rows(*batch.source.shape, seed=5).float()
    judge = copy.deepcopy(learner.discriminator)
    outcome = discriminator_step(learner, batch, swapped, cfg, alone)
    # The copy makes its own power iteration of the spectral norm, as V did in the step.
    of_both = judge(torch.cat([batch.source, swapped]))
    real, fake = ([maps.detach().chunk(2)[k] for maps in of_both] for k in (0, 1))
    wanted = -expected(real, lambda v: min(0.0, -1 + v)) - expected(fake, lambda v: min(0.0, -1 - v))
    assert outcome.terms["discriminator"].item() == pytest.approx(wanted, rel=1e-5)


def test_v_learns_from_photographs_alone_where_colours_change(faces: Faces) -> None:
    """With changed sources the real pictures are what the camera saw: a worn face and a swap's answer never are."""
    cfg = tiny.training(colour_jitter=0.2)
    learner, batch = tiny.learner(cfg, "train_encoder", noise=0.1, pathway=0.1), batch_of(cfg, faces, 0)
    same = torch.arange(len(batch.source)) % 2 == 0
    taken, invented = rows(*batch.source.shape, seed=6).float(), torch.full_like(batch.source, torch.nan)
    chosen = same[:, None, None, None]
    batch = batch._replace(
        same_person=same, truth=torch.where(chosen, taken, invented), target=torch.where(chosen, invented, taken)
    )
    swapped = rows(*batch.source.shape, seed=5).float()
    judge = copy.deepcopy(learner.discriminator)
    outcome = discriminator_step(learner, batch, swapped, cfg, alone)
    of_both = judge(torch.cat([taken, swapped]))
    real, fake = ([maps.detach().chunk(2)[k] for maps in of_both] for k in (0, 1))
    wanted = -expected(real, lambda v: min(0.0, -1 + v)) - expected(fake, lambda v: min(0.0, -1 - v))
    assert outcome.terms["discriminator"].item() == pytest.approx(wanted, rel=1e-5)


def everything_of(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and all buffers, those that are not saved too."""
    yield from network.named_parameters()
    yield from network.named_buffers()


def snapshot(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in everything_of(network)}


def moved(network: nn.Module, before: dict[str, Tensor]) -> set[str]:
    return {name for name, value in everything_of(network) if not torch.equal(value, before[name])}


def learns(stage: Stage, name: str) -> bool:
    """Stage 1: E, the SBM and the pathway. Stage 2: D with its pathway. The joint stage: all."""
    if stage == "pretrain":
        return True
    if stage == "train_encoder":
        return not name.startswith("decoder.") or name.startswith("decoder.pathway.")
    return name.startswith("decoder.")


@pytest.mark.parametrize("term", TERMS)
@pytest.mark.parametrize("stage", JOINT)
def test_eq_13_each_term_trains_what_a_stage_trains_and_nothing_frozen(stage: Stage, term: str, faces: Faces) -> None:
    """Every learning parameter gets a gradient of each term alone and moves; all else stays bit for bit, buffers too.

    All else is D's synthesis in stage 1, E and the SBM in stage 2, and V and the frozen networks in both.
    """
    # Untrained networks see much of the target in every swap.
    cfg = tiny.training(loss=only(term), target_similarity=-1)
    learner, batch = tiny.learner(cfg, stage, noise=0.1, pathway=0.1), batch_of(cfg, faces, 3)
    batch = batch._replace(target_mesh=tiny.meshes(len(batch.source)))
    assert 0 < batch.same_person.sum() < len(batch.same_person)
    # Batch norms inside, which would move their statistics if they were not frozen too.
    with_statistics = {"trunk": "residual", "blocks": [1, 1]}
    seeing = tiny.perception()._replace(
        identity=identity.IdentityNetwork(**tiny.NETWORKS["identity"][1] | with_statistics).eval().requires_grad_(False)
    )
    watched = {"swapper": learner.swapper, "averaged": learner.averaged, "discriminator": learner.discriminator}
    watched |= dict(seeing._asdict())
    before = {name: snapshot(network) for name, network in watched.items()}
    assert generator_step(learner, seeing, batch, cfg, 0, alone).finite
    trained = {name for name, _ in learner.swapper.named_parameters() if learns(stage, name)}
    for name, parameter in learner.swapper.named_parameters():
        reached = parameter.grad is not None and bool(parameter.grad.any())
        assert reached == (name in trained), name
    for role, network in watched.items():
        if role not in ("swapper", "averaged"):
            assert all(parameter.grad is None for parameter in network.parameters()), role
        assert moved(network, before[role]) == (trained if role in ("swapper", "averaged") else set()), role


def test_eq_06_and_07_train_the_discriminator_alone(faces: Faces) -> None:
    """V's step reaches each of its parameters, and leaves G, its average and their gradients as they are."""
    cfg = tiny.training()
    learner, batch = tiny.learner(cfg, "train_encoder", noise=0.1, pathway=0.1), batch_of(cfg, faces, 0)
    # About 1, so that part of the real scores is beyond the hinge: else both sides pull evenly at this bias.
    nn.init.constant_(learner.discriminator.classifiers[0][-1].bias, 1)
    outcome = generator_step(learner, tiny.perception(), batch, cfg, 0, alone)
    before = {"swapper": snapshot(learner.swapper), "averaged": snapshot(learner.averaged)}
    gradients = [None if p.grad is None else p.grad.clone() for p in learner.swapper.parameters()]
    judge = snapshot(learner.discriminator)
    assert discriminator_step(learner, batch, outcome.swapped, cfg, alone).finite
    assert not moved(learner.swapper, before["swapper"]) and not moved(learner.averaged, before["averaged"])
    for parameter, gradient in zip(learner.swapper.parameters(), gradients, strict=True):
        assert (parameter.grad is None) == (gradient is None)
        assert gradient is None or torch.equal(parameter.grad, gradient)
    assert {name for name, _ in learner.discriminator.named_parameters()} <= moved(learner.discriminator, judge)


# The curriculum of Eq. 10


@pytest.mark.parametrize(("start", "end"), [(1.0, 0.0), (0.8, 0.3), (0.2, 0.6)])
def test_eq_10_the_share_of_self_pairs_goes_from_start_to_end(start: float, end: float, faces: Faces) -> None:
    """In batches as training gets them, source and target are one picture with P: the start, a line, the end."""
    cfg = tiny.training(
        batch_size=200, curriculum_start=start, curriculum_end=end, curriculum_steps=20, same_person=0, negatives=1
    )
    batches = Batches(cfg, faces, 0, 1)
    for step, way in ((0, 0.0), (10, 0.5), (20, 1.0), (500, 1.0)):
        batch = batches.at(step, 0)
        one_picture = (batch.source == batch.target).flatten(1).all(1)
        assert torch.equal(one_picture, batch.same_person)
        wanted = start + way * (end - start)
        # Four standard errors; none where P is 0 or 1, where every single pair must be so.
        assert abs(one_picture.double().mean().item() - wanted) <= 4 * math.sqrt(wanted * (1 - wanted) / 200)
    batches.close()


def committed(root: Path, preset: str | None) -> Config:
    """The settings of params.yaml, with a preset on top."""
    values = yaml.safe_load((root / "params.yaml").read_text())
    if preset:
        values = merged(values, yaml.safe_load((root / "presets" / f"{preset}.yaml").read_text()))
    return parse_params(values, "settings")


@pytest.mark.parametrize("preset", [None, "paper", "standard"])
def test_eq_10_the_committed_settings_have_the_curriculum_they_name(preset: str | None, root: Path) -> None:
    """Drawn at the first step and after the last of the curriculum, with the paper's from all to none."""
    cfg = committed(root, preset)
    persons = np.repeat(np.arange(10), 3)
    for training in (cfg.train_encoder, cfg.finetune_decoder):
        assert training.curriculum_steps <= training.steps
        last = training.curriculum_steps
        first_wanted = training.curriculum_start if last else training.curriculum_end
        for step, wanted in ((0, first_wanted), (last, training.curriculum_end)):
            share = draw(training, persons, step, range(1000)).same_person.mean()
            assert abs(share - wanted) <= 4 * math.sqrt(wanted * (1 - wanted) / 1000)
    if preset == "paper":
        assert (cfg.train_encoder.curriculum_start, cfg.train_encoder.curriculum_end) == (1, 0)
        assert (cfg.finetune_decoder.curriculum_start, cfg.finetune_decoder.curriculum_end) == (0, 0)


def test_eq_13_the_paper_preset_has_the_papers_terms_at_every_step_and_no_others(root: Path) -> None:
    """Whatever the demo sets, no term beyond Eq. 13 leaks into the preset, and no term of it is left out at a step."""
    cfg = committed(root, "paper")
    for training in (cfg.train_encoder, cfg.finetune_decoder):
        weights = {name: weight for name, weight in training.loss if weight}
        paper = {"adversarial": 1, "identity": 10, "contrastive": 5, "reconstruction": 1, "landmarks": 100}
        assert weights == paper | {"swap_consistency": 1}
        assert training.swap_every == 1 and training.blending_lr_factor == 1


# The page that says what the paper leaves open


def test_the_page_on_the_paper_names_keys_that_exist(root: Path) -> None:
    """Every `section.key` in docs/paper.md is a setting, so that a renamed one cannot leave the page wrong."""
    sections = set(Config.model_fields) - {"validate_", "register_"}
    text = (root / "docs" / "paper.md").read_text()
    named = set(re.findall(rf"`((?:{'|'.join(sorted(sections))})(?:\.[a-z0-9_]+)+)`", text))
    assert len(named) > 20
    for name in named:
        first, *rest = name.split(".")
        field = Config.model_fields[first]
        for key in rest:
            fields = getattr(field.annotation, "model_fields", {})
            assert key in fields, f"docs/paper.md names {name}, which is no setting"
            field = fields[key]
