"""The identity networks: how they learn, and how often they recognise people whom they have not seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from styleblend.faces.pixels import from_8bit
from styleblend.perception import identity
from styleblend.pretraining.data import Faces
from styleblend.pretraining.loop import learn
from styleblend.synthetic.factors import IDENTITY


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
        """CosFace over the persons plus the squared error of the renderer's identity factors.

        The factors teach most at first: each picture gives as many numbers as there are factors, where thousands
        of persons with a few pictures each give a network little to hold on to.
        """
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
    learner = IdentityLearner(identity.build(architecture), int(learned_from.person.max()) + 1, margin)

    def loss_of(images: Tensor, rows: Tensor, random: torch.Generator) -> Tensor:
        return learner.loss(images, learned_from.person[rows], learned_from.identity[rows])

    learn(role, learner, loss_of, learned_from, steps, 64, 3e-3, state, seed)
    return learner.network


@torch.no_grad()
def rank1(network: identity.IdentityNetwork, test: Faces, gallery_size: int) -> float:
    """Share of pictures whose nearest first picture, among `gallery_size` unseen persons, is of the same person."""
    embeddings = torch.cat([network(from_8bit(chunk)) for chunk in test.images.split(200)])
    hits: list[Tensor] = []
    persons = int(test.person.max()) + 1
    for first in range(0, persons - gallery_size + 1, gallery_size):
        own = (test.person >= first) & (test.person < first + gallery_size)
        vectors, person = embeddings[own], test.person[own]
        is_first = torch.cat([torch.tensor([True]), person[1:] != person[:-1]])
        found = (vectors[~is_first] @ vectors[is_first].T).argmax(1)
        hits.append((person[is_first][found] == person[~is_first]).float())
    return torch.cat(hits).mean().item()
