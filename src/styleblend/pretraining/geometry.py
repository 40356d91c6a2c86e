"""The networks of landmarks, pose and expression: how they learn, and how far they are off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from styleblend.faces.pixels import from_8bit
from styleblend.perception import attributes, landmarks, shape
from styleblend.pretraining.data import Faces
from styleblend.pretraining.loop import learn
from styleblend.synthetic.factors import EXPRESSION
from styleblend.synthetic.renderer import average_shape


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
    learner = GeometryLearner(landmarks.build(points), attributes.build(attribute))

    def loss_of(images: Tensor, rows: Tensor, random: torch.Generator) -> Tensor:
        placed = functional.l1_loss(learner.points(images), learned_from.landmarks[rows])
        return 20 * placed + attribute_loss(learner.attributes, images, learned_from, rows)

    learn("geometry", learner, loss_of, learned_from, steps, 64, 2e-3, state, seed)
    return learner


def train_landmarks_3d(
    architecture: dict[str, Any], learned_from: Faces, steps: int, state: Path, seed: int
) -> shape.ShapeNetwork:
    """The network of landmarks in three dimensions."""
    torch.manual_seed(seed)
    network = shape.build(architecture)
    network.average.copy_(average_shape())

    def loss_of(images: Tensor, rows: Tensor, random: torch.Generator) -> Tensor:
        return 20 * functional.l1_loss(network(images), learned_from.landmarks_3d[rows])

    learn("landmarks_3d", network, loss_of, learned_from, steps, 64, 2e-3, state, seed)
    return network


def train_attributes_judge(
    architecture: dict[str, Any], learned_from: Faces, steps: int, state: Path, seed: int
) -> attributes.AttributeNetwork:
    """The attribute network of the evaluation: no training looks through it."""
    torch.manual_seed(seed)
    network = attributes.build(architecture)

    def loss_of(images: Tensor, rows: Tensor, random: torch.Generator) -> Tensor:
        return attribute_loss(network, images, learned_from, rows)

    learn("attributes_judge", network, loss_of, learned_from, steps, 64, 3e-3, state, seed)
    return network


def attribute_loss(network: attributes.AttributeNetwork, images: Tensor, truth: Faces, rows: Tensor) -> Tensor:
    """Squared errors of pose, in units of POSE_SCALE_DEG, and of expression."""
    pose, expression = network(images)
    posed = functional.mse_loss(pose, truth.pose_deg[rows]) / attributes.POSE_SCALE_DEG**2
    return 4 * posed + functional.mse_loss(expression, truth.expression[rows])


@torch.no_grad()
def landmark_errors(network: landmarks.LandmarkNetwork, test: Faces) -> dict[str, float]:
    """Mean landmark error as a share of the eye distance."""
    return {"landmark_nme": _normalised_error(_points(network, test), test.landmarks)}


@torch.no_grad()
def shape_errors(network: shape.ShapeNetwork, test: Faces) -> dict[str, float]:
    """Mean landmark error as a share of the eye distance, and of the unposed rigid points in their own unit."""
    points, truth = _points(network, test), test.landmarks_3d
    unposed, truly = (shape.unposed(each, network.turn(each)) for each in (points, truth))
    return {
        "landmark_nme": _normalised_error(points, truth),
        "unposed_error": (unposed - truly).norm(dim=2).mean().item(),
    }


def _points(network: nn.Module, test: Faces) -> Tensor:
    return torch.cat([network(from_8bit(chunk)) for chunk in test.images.split(200)])


def _normalised_error(points: Tensor, truth: Tensor) -> float:
    eyes = (truth[:, 36:42].mean(1) - truth[:, 42:48].mean(1)).norm(dim=1)
    return ((points - truth).norm(dim=2).mean(1) / eyes).mean().item()


@torch.no_grad()
def attribute_errors(network: attributes.AttributeNetwork, test: Faces) -> dict[str, float]:
    """Mean absolute pose error in degrees, and R2 of each expression coefficient."""
    pose, expression = zip(*(network(from_8bit(chunk)) for chunk in test.images.split(200)), strict=True)
    measured = {}
    for k, name in enumerate(("yaw", "pitch", "roll")):
        measured[f"{name}_error_deg"] = (torch.cat(pose)[:, k] - test.pose_deg[:, k]).abs().mean().item()
    residual = (torch.cat(expression) - test.expression).var(0) / test.expression.var(0)
    measured |= {f"{name}_r2": 1 - residual[k].item() for k, name in enumerate(EXPRESSION)}
    return measured
