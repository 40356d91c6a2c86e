"""The fixed look at the swapper while it learns: the written validation pairs, without noise."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from styleblend.errors import StyleBlendError
from styleblend.faces import resize
from styleblend.faces.pixels import saturated, to_8bit
from styleblend.faces.regions import face_region
from styleblend.model.discriminator import Discriminator
from styleblend.model.swapper import Swapper
from styleblend.perception.similarity import Metric, similarity
from styleblend.training.batches import Faces
from styleblend.training.generated import Perception
from styleblend.training.steps import Average, as_judge


@dataclass(frozen=True)
class Pairs:
    """Validation pairs on a worker's device, P of them.

    same_person: mean similarity of two pictures of one validation person, to the training network and to the judge;
    source_judge: [P, D], what the judge sees in the sources, where its figures are wanted.
    """

    source: Tensor
    target: Tensor
    source_identity: Tensor
    target_identity: Tensor
    target_landmarks: Tensor
    source_judge: Tensor | None = None
    same_person: tuple[float, float] = (1.0, 1.0)


def read_pairs(
    path: Path,
    faces: Faces,
    device: torch.device,
    perceived: Path | None = None,
    metrics: tuple[Metric, Metric] = ("cosine", "cosine"),
) -> Pairs:
    """Pairs of a parquet file of source_id and target_id; pictures [P, 3, S, S].

    Args:
        perceived: what the stage perceive knows of the faces, for the judge's embeddings; None goes without the judge.
        metrics: how embeddings of the training network and of the judge are compared.
    Raises:
        StyleBlendError: there are no pairs, or a face of them is not in `faces`.
    """
    table = pd.read_parquet(path, columns=["source_id", "target_id"])
    place = {face_id: index for index, face_id in enumerate(faces.face_ids)}
    unknown = sorted({*table["source_id"], *table["target_id"]} - set(place))
    if unknown or len(table) == 0:
        raise StyleBlendError(f"{path} has {len(table)} pairs, unknown faces {unknown[:3]}: run the stage split again")
    source = [place[face_id] for face_id in table["source_id"]]
    target = [place[face_id] for face_id in table["target_id"]]
    judged = None if perceived is None else _judged(perceived, faces)
    means = [
        same_person(each, faces.persons, metric) if each is not None else 1.0
        for each, metric in zip((faces.identity, judged), metrics, strict=True)
    ]
    return Pairs(
        source=faces.images(source).to(device),
        target=faces.images(target).to(device),
        source_identity=faces.identity[source].to(device),
        target_identity=faces.identity[target].to(device),
        target_landmarks=faces.landmarks[target].to(device),
        source_judge=None if judged is None else judged[source].to(device),
        same_person=(means[0], means[1]),
    )


def _judged(perceived: Path, faces: Faces) -> Tensor:
    """The judge's embeddings [M, D] of the faces."""
    seen = pd.read_parquet(perceived, columns=["face_id", "judge"]).set_index("face_id").loc[list(faces.face_ids)]
    return torch.from_numpy(np.stack(seen["judge"].to_list()).astype(np.float32))


def same_person(
    embeddings: Tensor, persons: np.ndarray[tuple[int], np.dtype[np.int64]], metric: Metric = "cosine"
) -> float:
    """Mean similarity of two pictures of one person: what a swap's likeness to its source is a share of.

    1 where nobody has two pictures, and where the mean is below 0.1: that network tells nobody apart.

    Args:
        embeddings: [M, D]. persons: [M], ascending codes. metric: see perception.similarity.
    """
    vectors = F.normalize(embeddings.double(), dim=1) if metric == "cosine" else embeddings.double()
    sizes = np.unique(persons, return_counts=True)[1].tolist()
    count = sum(size * (size - 1) for size in sizes)
    # The sum of |a - b|^2 over all ordered pairs of n vectors is 2 n sum |a|^2 - 2 |sum a|^2. Of unit vectors the
    # cosine is 1 less half of |a - b|^2.
    apart = sum(
        float(2 * len(block) * block.square().sum() - 2 * block.sum(0).square().sum()) for block in vectors.split(sizes)
    )
    total = count - (apart / 2 if metric == "cosine" else apart)
    return mean if count and (mean := total / count) >= 0.1 else 1.0


@torch.no_grad()
def look(
    swapper: Swapper,
    perception: Perception,
    pairs: Pairs,
    rank: int,
    world_size: int,
    average: Average,
    discriminator: Discriminator | None = None,
) -> dict[str, float]:
    """Means over all pairs; each worker swaps every world_size-th of them and all get the same figures.

    `identity_share` and `judge_share` are the similarity to the source, to the network of the training and to the
    judge, as shares of what two pictures of one person have. `copies_target` is 1 where swapping achieves no more than
    handing back the target: it is nearer to the target's person than to the source's, and no nearer to the source's
    than the target itself is (by two standard errors and a hundredth). `discriminator_loss` is Eq. 6 and 7 with the
    pairs' sources as real pictures, `fooled_share` the swaps that V takes for one.

    Args:
        discriminator: V, where an adversarial term trains it.
    """
    mine = torch.arange(len(pairs.source), device=pairs.source.device)[rank::world_size]
    # A worker without a pair of its own brings as many figures as the others, and they weigh nothing.
    weight = 1.0 if len(mine) else 0.0
    sums: dict[str, Tensor] = {}
    for chunk in (mine if len(mine) else torch.zeros_like(pairs.source[:1, 0, 0, 0], dtype=torch.int64)).split(16):
        for name, values in _seen(swapper, perception, pairs, chunk, discriminator).items():
            total = weight * values.double().sum()
            sums[name] = sums[name] + total if name in sums else total
    return _means(sums, pairs, world_size, average)


def _seen(
    swapper: Swapper, perception: Perception, pairs: Pairs, chunk: Tensor, discriminator: Discriminator | None
) -> dict[str, Tensor]:
    """Figures [n] of the pairs with the numbers `chunk` [n]."""
    side = swapper.encoder.input_px
    source, target = pairs.source[chunk], pairs.target[chunk]
    swapped = resize.area(swapper(source, target), side)
    network = perception.identity
    embedding, of_source, of_target = network(swapped), pairs.source_identity[chunk], pairs.target_identity[chunk]
    to_source = similarity(embedding, of_source, network.metric)
    gain = to_source - similarity(of_target, of_source, network.metric)
    pose, expression = perception.attributes(swapped)
    wanted_pose, wanted_expression = perception.attributes(target)
    face = face_region(pairs.target_landmarks[chunk], side)
    away = ((swapped - target).abs() / 2).mean(1, keepdim=True) * (1 - face)
    seen = {
        "pairs": torch.ones_like(to_source),
        "identity_to_source": to_source,
        "identity_to_target": similarity(embedding, of_target, network.metric),
        "identity_gain": gain,
        "squared_gain": gain.square(),
        "pose_error_deg": (pose - wanted_pose).norm(dim=1),
        "pose_error_source_deg": (pose - perception.attributes(source)[0]).norm(dim=1),
        "expression_error": (expression - wanted_expression).norm(dim=1),
        "outside_l1": away.sum((1, 2, 3)) / (1 - face).sum((1, 2, 3)).clamp_min(1),
        "saturated": saturated(swapped),
        "saturated_target": saturated(target),
    }
    if perception.identity_judge is not None and pairs.source_judge is not None:
        judged = perception.identity_judge(swapped)
        seen["judge_to_source"] = similarity(judged, pairs.source_judge[chunk], perception.identity_judge.metric)
    if discriminator is not None:
        with as_judge(discriminator):
            real, fake = discriminator(source), discriminator(swapped)
        hinges = [F.relu(1 - maps) for maps in real] + [F.relu(1 + maps) for maps in fake]
        # Half of the maps are of real pictures: twice the mean over all is the sum of the two means.
        seen["discriminator_loss"] = 2 * torch.stack([maps.mean((1, 2, 3)) for maps in hinges]).mean(0)
        seen["fooled_share"] = (torch.stack([maps.mean((1, 2, 3)) for maps in fake]).mean(0) > 0).double()
    return seen


def _means(sums: dict[str, Tensor], pairs: Pairs, world_size: int, average: Average) -> dict[str, float]:
    columns = torch.stack(list(sums.values()))
    average([columns])
    # The mean over workers of sums, divided by the mean over workers of counts, is the mean over all pairs.
    count = float(columns[0]) * world_size
    seen: dict[str, float] = dict(zip(sums, (columns / columns[0]).tolist(), strict=True))
    del seen["pairs"]
    mean = seen["identity_gain"]
    error = (max(seen.pop("squared_gain") - mean**2, 0.0) / count) ** 0.5
    copies = seen["identity_to_target"] > seen["identity_to_source"] and mean < 2 * error + 0.01
    seen["identity_share"] = seen["identity_to_source"] / pairs.same_person[0]
    if "judge_to_source" in seen:
        seen["judge_share"] = seen["judge_to_source"] / pairs.same_person[1]
    return {**seen, "copies_target": float(copies)}


@torch.no_grad()
def grid(swapper: Swapper, pairs: Pairs, rows: int = 6) -> Tensor:
    """Picture for people, uint8 [H, W, 3]: a row of source, target, swapped for each of the first pairs."""
    source, target = pairs.source[:rows], pairs.target[:rows]
    swapped = resize.area(swapper(source, target), source.shape[-1])
    rows_of = torch.cat([source, target, swapped], dim=3).clamp(-1, 1)
    # A run that has gone wrong is shown, too.
    return to_8bit(torch.cat(list(rows_of), dim=1).nan_to_num()).permute(1, 2, 0).cpu()
