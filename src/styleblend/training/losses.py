"""Training objectives (paper, section 2.4): one pure function an equation, and the table of terms that steps sum.

Squared errors are means over their elements, not sums: a sum over pixels grows with the resolution and would
swamp the identity terms. Each function returns a scalar, the mean over the batch, so the mean over workers
with equally many samples is the loss of the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from styleblend.faces import resize
from styleblend.faces.pixels import beside, grey
from styleblend.perception.landmarks import to_19
from styleblend.perception.mesh import EXPRESSION_POINTS
from styleblend.perception.similarity import Metric, similarity
from styleblend.training.generated import Generated

BESIDE_FACE = 0.4
"""Weight of a pixel beside the face in `pixels`, where 1 is that of one in the face."""


def _mean_over_maps(values: Sequence[Tensor]) -> Tensor:
    # Every scale of V counts alike, though a fine one has more patches.
    return torch.stack([value.mean() for value in values]).mean()


def adversarial(fake_scores: Sequence[Tensor]) -> Tensor:
    """Eq. 5: -E[V(G(I_s, I_t))], mean over scales and patches."""
    return -_mean_over_maps(fake_scores)


def discriminator_hinge(real_scores: Sequence[Tensor], fake_scores: Sequence[Tensor]) -> Tensor:
    """Eq. 6 and 7: -E[min(0, -1 + V(I))] - E[min(0, -1 - V(G(I_s, I_t)))]."""
    real = _mean_over_maps([F.relu(1 - scores) for scores in real_scores])
    fake = _mean_over_maps([F.relu(1 + scores) for scores in fake_scores])
    return real + fake


def r1(images: Tensor, scores: Sequence[Tensor]) -> Tensor:
    """Not in the paper (Mescheder et al. 2018): 1/2 E[|grad_I V(I)|^2], V's output averaged over scales and patches.

    Args:
        images: real pictures that require a gradient. scores: what V gave for them.
    """
    per_picture = torch.stack([value.mean((1, 2, 3)) for value in scores]).mean(0).sum()
    (gradient,) = torch.autograd.grad(per_picture, images, create_graph=True)
    return 0.5 * gradient.square().sum((1, 2, 3)).mean()


def identity(swapped: Tensor, source: Tensor, metric: Metric = "cosine") -> Tensor:
    """Eq. 8: 1 - cos(F_id(swapped), F_id(I_s)) of embeddings [N, D].

    For a network whose vectors are compared by distance it is |F_id(swapped) - F_id(I_s)|^2: cosines of different
    people are nearly 1 there.
    """
    return (1 - similarity(swapped, source, metric)).mean()


def contrastive(
    swapped: Tensor,
    source: Tensor,
    target: Tensor,
    negatives: Tensor,
    target_is_negative: Tensor,
    temperature: float,
    metric: Metric = "cosine",
) -> Tensor:
    """Eq. 9: -log(exp(S_s) / (exp(S_s) + exp(S_t) + sum_n exp(S_n))), S_x = cos(x, swapped) / temperature.

    With the metric `distance` it is S_x = -|x - swapped|^2 / temperature, up to a constant that cancels.

    The paper's denominator is written without exp(S_s). InfoNCE, which it cites, has it, and so has this:
    without it the loss has no lower end but -2 / temperature and pulls as hard on a face that already is the
    source's as on one that is not.

    Args:
        swapped, source, target: embeddings [N, D]. negatives: [N, K, D], of other persons than the source.
        target_is_negative: bool [N]; False where the target is the source's own person.
    """
    positive = similarity(source, swapped, metric)
    from_target = similarity(target, swapped, metric).masked_fill(~target_is_negative, -torch.inf)
    others = similarity(negatives, swapped[:, None], metric, dim=2)
    logits = torch.cat([positive[:, None], from_target[:, None], others], dim=1) / temperature
    return -F.log_softmax(logits, dim=1)[:, 0].mean()


def reconstruction(swapped: Tensor, truth: Tensor, answered: Tensor) -> Tensor:
    """Eq. 10: 1/2 mean (swapped - I_t)^2 where `answered` (bool [N]), 0 elsewhere; mean over all N.

    In the paper those are the self pairs, whose right answer is the target.
    """
    return 0.5 * ((swapped - truth).square().mean((1, 2, 3)) * answered).mean()


def perceptual(swapped: Tensor, truth: Tensor, answered: Tensor) -> Tensor:
    """Not in the paper: Eq. 10 on features [N, F] of a frozen network in place of pixels."""
    return 0.5 * ((swapped - truth).square().mean(1) * answered).mean()


def perceptual_maps(swapped: Sequence[Tensor], truth: Sequence[Tensor], answered: Tensor) -> Tensor:
    """Not in the paper (Johnson et al. 2016): mean |difference| of a frozen network's maps, as a share of the truth's.

    The mean over the levels, for each picture by itself; where the right answer is known.

    Args:
        swapped, truth: maps [N, C, H, W] of each level, of channels and sides of its own.
    """
    shares = [
        (a - b).abs().mean((1, 2, 3)) / b.abs().mean((1, 2, 3)).clamp_min(1e-8)
        for a, b in zip(swapped, truth, strict=True)
    ]
    return (torch.stack(shares).mean(0) * answered).mean()


def pixels(swapped: Tensor, truth: Tensor, answered: Tensor, face: Tensor) -> Tensor:
    """Not in the paper: Eq. 10 as mean |difference|, weighted 1 in the face and BESIDE_FACE beside it.

    Args:
        face: [N, 1, S, S] in [0, 1], 1 where the face is.
    """
    weight = BESIDE_FACE + (1 - BESIDE_FACE) * face
    return (((swapped - truth).abs() * weight).mean((1, 2, 3)) * answered).mean()


def target_margin(swapped: Tensor, target: Tensor, limit: float, same_person: Tensor, metric: Metric) -> Tensor:
    """Not in the paper: max(0, similarity of F_id(swapped) and F_id(I_t) - limit); 0 for reconstructions.

    Eq. 9 pushes from the target however far the swap is; this stops where they are as unlike as strangers.

    Args:
        swapped, target: embeddings [N, D]. limit: with the metric `distance`, 1 - margin^2.
    """
    return (F.relu(similarity(swapped, target, metric) - limit) * ~same_person).mean()


def landmarks(swapped: Tensor, target: Tensor) -> Tensor:
    """Eq. 11: 1/2 mean (F_lm(I_t) - F_lm(swapped))^2 over points [N, 19, 2], x and y in [0, 1]."""
    return 0.5 * F.mse_loss(swapped, target)


def mesh(swapped: Tensor, target: Tensor, expressive: float, same_person: Tensor) -> Tensor:
    """Not in the paper: Eq. 11 on all points of a mesh, x and y in [0, 1]; 0 for reconstructions, whose pixels show it.

    Args:
        swapped, target: points [N, 468, 3]; those of `swapped` count for other persons alone.
        expressive: weight of the points that show the expression over the others; the weights' mean is 1.
    """
    weight = torch.ones(swapped.shape[1], dtype=swapped.dtype, device=swapped.device)
    weight = weight.index_fill(0, beside(EXPRESSION_POINTS, weight), expressive)
    error = (swapped[..., :2] - target[..., :2]).square().mean(2) * (weight / weight.mean())
    return 0.5 * (error.mean(1) * ~same_person).mean()


def attributes(swapped_pose: Tensor, pose: Tensor, swapped_expression: Tensor, expression: Tensor) -> Tensor:
    """Not in the paper: 1/2 mean (difference of pose / 20 degrees)^2 + 1/2 mean (difference of expression)^2.

    It holds in profile, where half of the landmarks are hidden.

    Args:
        swapped_pose, pose: yaw, pitch, roll [N, 3] in degrees. swapped_expression, expression: [N, E].
    """
    return 0.5 * F.mse_loss(swapped_pose / 20, pose / 20) + 0.5 * F.mse_loss(swapped_expression, expression)


def shape_3d(swapped: Tensor, source: Tensor) -> Tensor:
    """Not in the paper: 1/2 mean (R_t^-1 p(swapped) - R_s^-1 p(I_s))^2 over rigid landmarks in three dimensions.

    p are points around 0 and of unit size, R_x the rotation of the face in I_x. It is 0 where the swapped face has
    the pose of the target and the shape of the source, seen from wherever.

    Args:
        swapped, source: [N, K, 3], see perception.shape.unposed: swapped with the target's turn, source with its own.
    """
    return 0.5 * F.mse_loss(swapped, source)


def swap_consistency(source_again: Tensor, source: Tensor, target_again: Tensor, target: Tensor) -> Tensor:
    """Eq. 12: 1/2 mean (G(swapped, I_s) - I_s)^2 + 1/2 mean (G(I_t, swapped) - I_t)^2 of pictures [N, 3, S, S]."""
    return 0.5 * F.mse_loss(source_again, source) + 0.5 * F.mse_loss(target_again, target)


def outside(swapped: Tensor, target: Tensor, face: Tensor) -> Tensor:
    """Not in the paper: mean |swapped - I_t| outside the face, weights 1 - face; mean over pictures.

    Args:
        swapped, target: [N, 3, S, S]. face: [N, 1, S, S] in [0, 1], 1 where the face is.
    """
    weight = 1 - face
    distance = ((swapped - target).abs().mean(1, keepdim=True) * weight).sum((1, 2, 3))
    # A face that fills the picture leaves nothing to compare: 0, not 0 / 0.
    return (distance / weight.sum((1, 2, 3)).clamp_min(1)).mean()


def mask(logits: Tensor, face: Tensor) -> Tensor:
    """Not in the paper: binary cross-entropy between the mask of drawn pixels and the target's face.

    Args:
        logits: [N, 1, R, R]. face: [N, 1, S, S] in [0, 1], brought to the side R.
    """
    if face.shape != logits.shape:
        face = F.interpolate(face, size=logits.shape[2:], mode="bilinear", align_corners=False, antialias=True)
    return F.binary_cross_entropy_with_logits(logits.float(), face)


def edges(swapped: Tensor, truth: Tensor, answered: Tensor) -> Tensor:
    """Not in the paper: Eq. 10 as mean |difference| of horizontal and vertical differences of pixels.

    Squared errors of pixels are smallest for a blurred picture where the place of an edge is not sure; this is not.
    """
    error = swapped - truth
    across = (error[..., 1:] - error[..., :-1]).abs().mean((1, 2, 3))
    down = (error[..., 1:, :] - error[..., :-1, :]).abs().mean((1, 2, 3))
    return ((across + down) * answered).mean()


def colour(swapped: Tensor, target: Tensor) -> Tensor:
    """Not in the paper: mean |difference| of pictures [N, 3, S, S] reduced to 8 px a side.

    Skin tone and light are the target's. Nothing else says so inside the face of a swap, and an identity network that
    knows a person by the skin, too, pulls towards the source's, or towards no skin's at all.
    """
    return (resize.area(swapped, 8) - resize.area(target, 8)).abs().mean()


def chroma(swapped: Tensor, expected: Tensor, same_person: Tensor) -> Tensor:
    """Not in the paper: mean |difference| of colours without brightness, of swaps; mean over all N.

    Without it eyes and lips take colours that the teaching networks like and people do not.

    Args:
        swapped, expected: [N, 3, S, S], the latter what the prior alone says. same_person: bool [N].
    """
    apart = (swapped - grey(swapped)) - (expected - grey(expected))
    return (apart.abs().mean((1, 2, 3)) * ~same_person).mean()


# A term's name is its weight in the section loss of params.yaml, and what is logged.
TERMS: dict[str, Callable[[Generated], Tensor]] = {
    "swap_consistency": lambda g: swap_consistency(
        g.swapped_back[0], g.batch.source, g.swapped_back[1], g.batch.target
    ),
    "adversarial": lambda g: adversarial(g.scores),
    "identity": lambda g: identity(g.embedding, g.batch.source_identity, g.perception.identity.metric),
    "contrastive": lambda g: contrastive(
        g.embedding,
        g.batch.source_identity,
        g.batch.target_identity,
        g.batch.negatives,
        ~g.batch.same_person,
        g.cfg.temperature,
        g.perception.identity.metric,
    ),  # fmt: skip
    "reconstruction": lambda g: reconstruction(g.swapped, g.batch.truth, g.batch.answered),
    "pixels": lambda g: pixels(g.swapped, g.batch.truth, g.batch.answered, g.face),
    "edges": lambda g: edges(g.swapped, g.batch.truth, g.batch.answered),
    "perceptual": lambda g: perceptual(*g.features, g.batch.answered),
    "perceptual_maps": lambda g: perceptual_maps(*g.maps, g.batch.answered),
    "identity_second": lambda g: identity(*g.second_embeddings, g.second.metric),
    "target_margin": lambda g: target_margin(
        g.embedding, g.batch.target_identity, g.cfg.target_similarity, g.batch.same_person, g.perception.identity.metric
    ),
    "landmarks": lambda g: landmarks(g.points, to_19(g.batch.target_landmarks)),
    "mesh": lambda g: mesh(*g.meshes, g.cfg.mesh_expression, g.batch.same_person),
    "attributes": lambda g: attributes(*g.attributes),
    "shape_3d": lambda g: shape_3d(*g.shapes),
    "outside": lambda g: outside(g.swapped, g.batch.truth, g.face),
    "colour": lambda g: colour(g.swapped, g.batch.truth),
    "chroma": lambda g: chroma(g.swapped, g.expected, g.batch.same_person),
    "mask": lambda g: mask(g.drawn_where, g.face),
}
"""The terms of Eq. 13 in the order in which they are computed."""
