"""The networks of identity, landmarks, pose and expression: how they learn, and how well they do on unseen people."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from styleblend.faces.pixels import from_8bit
from styleblend.perception import attributes, identity, landmarks, shape
from styleblend.pretraining.data import Faces
from styleblend.pretraining.loop import learn
from styleblend.synthetic.factors import EXPRESSION, IDENTITY
from styleblend.synthetic.renderer import average_shape


class IdentityLearner(nn.Module):
    """An identity network with what only its training needs: class centres (CosFace) and a factor regression."""

    def __init__(self, network: identity.IdentityNetwork, persons: int, margin: float) -> None:
        super().__init__()
        width = network.projection.out_features
        self.network = network
        self.centres = nn.Parameter(torch.randn(persons, width) * 0.1)
        self.factors = nn.Linear(width, len(IDENTITY))
        self.scale, self.margin = 24.0, margin

    def loss(self, images: Tensor, person: Tensor, factors: Tensor) -> Tensor:
        """CosFace over the persons plus the squared error of the identity factors, which teach most at first."""
        embedding = self.network(images)
        logits = embedding @ functional.normalize(self.centres, dim=1).T
        logits = logits - self.margin * functional.one_hot(person, logits.shape[1])
        # Factors come from the unit vector, so that its angles tell differences of shape.
        regression = functional.mse_loss(self.factors(embedding * embedding.shape[1] ** 0.5), factors)
        return functional.cross_entropy(self.scale * logits, person) + 60 * regression


def train_identity(
    role: str, architecture: dict[str, Any], learned_from: Faces, steps: int, margin: float, state: Path, seed: int
) -> identity.IdentityNetwork:
    """An identity network that has learned from `learned_from`."""
    torch.manual_seed(seed)
    learner = IdentityLearner(identity.IdentityNetwork(**architecture), int(learned_from.person.max()) + 1, margin)

    def loss_of(images: Tensor, rows: Tensor) -> Tensor:
        return learner.loss(images, learned_from.person[rows], learned_from.identity[rows])

    learn(role, learner, loss_of, learned_from, steps, 64, 3e-3, state, seed)
    return learner.network


@torch.no_grad()
def rank1(network: identity.IdentityNetwork, test: Faces, gallery_size: int) -> float:
    """Share of pictures whose nearest first picture, among `gallery_size` unseen persons, is of the same person."""
    embeddings = _seen(network, test)
    hits: list[Tensor] = []
    persons = int(test.person.max()) + 1
    for first in range(0, persons - gallery_size + 1, gallery_size):
        own = (test.person >= first) & (test.person < first + gallery_size)
        vectors, person = embeddings[own], test.person[own]
        is_first = torch.cat([torch.tensor([True]), person[1:] != person[:-1]])
        found = (vectors[~is_first] @ vectors[is_first].T).argmax(1)
        hits.append((person[is_first][found] == person[~is_first]).float())
    return torch.cat(hits).mean().item()


class GeometryLearner(nn.Module):
    """Landmark and attribute network side by side: they share batches, nothing else."""

    def __init__(self, points: landmarks.LandmarkNetwork, attributes_: attributes.AttributeNetwork) -> None:
        super().__init__()
        self.points = points
        self.attributes = attributes_


def train_geometry(
    points: dict[str, Any], attribute: dict[str, Any], learned_from: Faces, steps: int, state: Path, seed: int
) -> GeometryLearner:
    """The landmark network and the attribute network."""
    torch.manual_seed(seed)
    learner = GeometryLearner(landmarks.LandmarkNetwork(**points), attributes.AttributeNetwork(**attribute))

    def loss_of(images: Tensor, rows: Tensor) -> Tensor:
        placed = functional.l1_loss(learner.points(images), learned_from.landmarks[rows])
        return 20 * placed + attribute_loss(learner.attributes, learned_from, images, rows)

    learn("geometry", learner, loss_of, learned_from, steps, 64, 2e-3, state, seed)
    return learner


def train_landmarks_3d(
    architecture: dict[str, Any], learned_from: Faces, steps: int, state: Path, seed: int
) -> shape.ShapeNetwork:
    """The network of landmarks in three dimensions."""
    torch.manual_seed(seed)
    network = shape.ShapeNetwork(**architecture)
    network.average.copy_(average_shape())

    def loss_of(images: Tensor, rows: Tensor) -> Tensor:
        return 20 * functional.l1_loss(network(images), learned_from.landmarks_3d[rows])

    learn("landmarks_3d", network, loss_of, learned_from, steps, 64, 2e-3, state, seed)
    return network


def train_attributes_judge(
    architecture: dict[str, Any], learned_from: Faces, steps: int, state: Path, seed: int
) -> attributes.AttributeNetwork:
    """The attribute network of the evaluation: no training looks through it."""
    torch.manual_seed(seed)
    network = attributes.AttributeNetwork(**architecture)

    learn(
        "attributes_judge",
        network,
        partial(attribute_loss, network, learned_from),
        learned_from,
        steps,
        64,
        3e-3,
        state,
        seed,
    )
    return network


def attribute_loss(network: attributes.AttributeNetwork, truth: Faces, images: Tensor, rows: Tensor) -> Tensor:
    """Squared errors of pose, in units of POSE_SCALE_DEG, and of expression."""
    pose, expression = network(images)
    posed = functional.mse_loss(pose, truth.pose_deg[rows]) / attributes.POSE_SCALE_DEG**2
    return 4 * posed + functional.mse_loss(expression, truth.expression[rows])


@torch.no_grad()
def landmark_errors(network: landmarks.LandmarkNetwork, test: Faces) -> dict[str, float]:
    """Mean landmark error as a share of the eye distance."""
    return {"landmark_nme": _normalised_error(_seen(network, test), test.landmarks)}


@torch.no_grad()
def shape_errors(network: shape.ShapeNetwork, test: Faces) -> dict[str, float]:
    """Mean landmark error as a share of the eye distance, and of the unposed rigid points in their own unit."""
    points, truth = _seen(network, test), test.landmarks_3d
    unposed, truly = (shape.unposed(each, network.turn(each)) for each in (points, truth))
    return {
        "landmark_nme": _normalised_error(points, truth),
        "unposed_error": (unposed - truly).norm(dim=2).mean().item(),
    }


def _seen(network: nn.Module, test: Faces) -> Tensor:
    return torch.cat([network(from_8bit(chunk)) for chunk in test.images.split(200)])


def _normalised_error(points: Tensor, truth: Tensor) -> float:
    eyes = (truth[:, 36:42].mean(1) - truth[:, 42:48].mean(1)).norm(dim=1)
    return ((points - truth).norm(dim=2).mean(1) / eyes).mean().item()


@torch.no_grad()
def attribute_errors(network: attributes.AttributeNetwork, test: Faces) -> dict[str, float]:
    """Mean absolute pose error in degrees, and R2 of each expression coefficient."""
    pose, expression = zip(*(network(from_8bit(chunk)) for chunk in test.images.split(200)), strict=True)
    columns = zip(("yaw", "pitch", "roll"), torch.cat(pose).unbind(1), test.pose_deg.unbind(1), strict=True)
    posed = {f"{name}_error_deg": (angle - truth).abs().mean().item() for name, angle, truth in columns}
    residual = (torch.cat(expression) - test.expression).var(0) / test.expression.var(0)
    return posed | {f"{name}_r2": 1 - residual[k].item() for k, name in enumerate(EXPRESSION)}
