"""What is known of real faces and stands beside the swaps, and how alike an identity network finds real faces."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from styleblend.evaluation.metrics import Gallery, Likeness, Scale, Seen, Swaps, identity_similarity, likeness_of
from styleblend.evaluation.pictures import detail_energy
from styleblend.faces.regions import face_region

if TYPE_CHECKING:
    from styleblend.evaluation.judges import Judges
    from styleblend.evaluation.protocol import Batch, Pairs


def scales(pairs: Pairs, judges: Judges) -> tuple[Scale | None, Scale | None]:
    """Scales of the judge and of the training's network, on all faces of the split; None where there is none."""
    judge = scale(pairs.judge, pairs, judges.likeness)
    training = None if judges.training is None else scale(pairs.identity, pairs, likeness_of(judges.training))
    return judge, training


def scale(embeddings: Tensor, pairs: Pairs, likeness: Likeness) -> Scale | None:
    """The scale of embeddings [F, D] of the split's faces.

    Returns:
        None where no person has two faces, or a network finds two faces of a person not alike at all: no share can be
        taken of that.
    """
    same = same_person_mean(embeddings, pairs.person, likeness)
    strangers = float(identity_similarity(embeddings[pairs.source], embeddings[pairs.target], likeness).mean())
    if same is None or not same > 0:
        return None
    return Scale(likeness, same, strangers)


def same_person_mean(embeddings: Tensor, person: Tensor, likeness: Likeness) -> float | None:
    """Mean similarity of two different faces of one person; each person counts the same, whatever its number of faces.

    Args:
        embeddings: [F, D]; person: [F] numbers of persons.
    Returns:
        None where nobody has two faces.
    """
    means = []
    for number in person.unique():
        own = embeddings[person == number]
        if len(own) > 1:
            first, second = torch.triu_indices(len(own), len(own), 1)
            means.append(identity_similarity(own[first], own[second], likeness).mean())
    return float(torch.stack(means).mean()) if means else None


def beside(
    batch: Batch,
    face: Tensor,
    of_split: tuple[Scale | None, Scale | None],
    judges: Judges,
    maps: list[Tensor] | None = None,
) -> Callable[[Seen], Swaps]:
    """Takes what was seen in the swaps of a batch, and puts what is known of the batch beside it.

    Args:
        face: [N, 1, S, S], 1 inside the targets' faces; maps: the judge's, of the targets.
    """
    pairs, s, t = batch.pairs, batch.source_rows, batch.target_rows
    source_face = face_region(pairs.landmarks[s], batch.source.shape[-1]).to(batch.source.device)
    return partial(
        Swaps,
        source=_known(pairs, s, batch.source),
        target=replace(_known(pairs, t, batch.target), outside_maps=maps),
        sources=_gallery(pairs, pairs.source, s, judges.likeness),
        targets=_gallery(pairs, pairs.target, t, judges.likeness),
        target_face=face,
        source_detail=detail_energy(batch.source, source_face).cpu(),
        target_detail=detail_energy(batch.target, 1 - face.to(batch.target.device)).cpu(),
        judge=of_split[0],
        training=of_split[1],
        outer_eyes=judges.outer_eyes,
    )


def _known(pairs: Pairs, rows: Tensor, images: Tensor) -> Seen:
    """What the stage perceive saw in faces of the data set."""
    angles, expression = pairs.yaw_pitch_roll_deg[rows], pairs.expression[rows]
    return Seen(images.cpu(), pairs.judge[rows], angles, expression, pairs.identity[rows], pairs.landmarks[rows])


def _gallery(pairs: Pairs, rows: Tensor, wanted: Tensor, likeness: Likeness) -> Gallery:
    distinct = rows.unique()
    return Gallery(pairs.judge[distinct], pairs.person[wanted], pairs.person[distinct], likeness)
