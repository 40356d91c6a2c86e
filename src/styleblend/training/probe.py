"""The fixed look at the swapper while it learns: the written validation pairs, without noise."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from styleblend.errors import StyleBlendError
from styleblend.faces import resize
from styleblend.faces.pixels import to_8bit
from styleblend.faces.regions import face_region
from styleblend.model.swapper import Swapper
from styleblend.perception.identity import similarity
from styleblend.training.batches import Faces
from styleblend.training.generated import Perception
from styleblend.training.steps import Average


@dataclass(frozen=True)
class Pairs:
    """Validation pairs on a worker's device, P of them."""

    source: Tensor
    target: Tensor
    source_identity: Tensor
    target_identity: Tensor
    target_landmarks: Tensor


def read_pairs(path: Path, faces: Faces, device: torch.device) -> Pairs:
    """Pairs of a parquet file of source_id and target_id; pictures [P, 3, S, S].

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
    return Pairs(
        source=faces.images(source).to(device),
        target=faces.images(target).to(device),
        source_identity=faces.identity[source].to(device),
        target_identity=faces.identity[target].to(device),
        target_landmarks=faces.landmarks[target].to(device),
    )


@torch.no_grad()
def look(
    swapper: Swapper, perception: Perception, pairs: Pairs, rank: int, world_size: int, average: Average
) -> dict[str, float]:
    """Means over all pairs; each worker swaps every world_size-th of them and all get the same figures.

    `copies_target` is 1 where swapping achieves no more than handing back the target: it is nearer to the
    target's person than to the source's, and no nearer to the source's than the target itself is (by two
    standard errors and a hundredth).
    """
    side, network = swapper.encoder.input_px, perception.identity
    mine = torch.arange(rank, len(pairs.source), world_size, device=pairs.source.device)
    sums = torch.zeros(8, dtype=torch.float64, device=pairs.source.device)
    for chunk in mine.split(16):
        target = pairs.target[chunk]
        swapped = resize.area(swapper(pairs.source[chunk], target), side)
        embedding = network(swapped)
        metric, of_source, of_target = network.metric, pairs.source_identity[chunk], pairs.target_identity[chunk]
        to_source, to_target = similarity(embedding, of_source, metric), similarity(embedding, of_target, metric)
        gain = to_source - similarity(of_target, of_source, metric)
        pose, expression = perception.attributes(swapped)
        wanted_pose, wanted_expression = perception.attributes(target)
        face = face_region(pairs.target_landmarks[chunk], side)
        away = ((swapped - target).abs() / 2).mean(1, keepdim=True) * (1 - face)
        errors = ((pose - wanted_pose).norm(dim=1), (expression - wanted_expression).norm(dim=1))
        outside = away.sum((1, 2, 3)) / (1 - face).sum((1, 2, 3)).clamp_min(1)
        identities = (torch.ones_like(to_source), to_source, to_target, gain, gain.square())
        columns = (*identities, *errors, outside)
        sums += torch.stack([column.double().sum() for column in columns])
    average([sums])
    # The mean over workers of sums, divided by the mean over workers of counts, is the mean over all pairs.
    count = float(sums[0]) * world_size
    names = ["identity_to_source", "identity_to_target", "identity_gain", "squared_gain"]
    names += ["pose_error_deg", "expression_error", "outside_l1"]
    seen: dict[str, float] = dict(zip(names, (sums[1:] / sums[0]).tolist(), strict=True))
    mean = seen["identity_gain"]
    error = (max(seen.pop("squared_gain") - mean**2, 0.0) / count) ** 0.5
    copies = seen["identity_to_target"] > seen["identity_to_source"] and mean < 2 * error + 0.01
    return {**seen, "copies_target": float(copies)}


@torch.no_grad()
def grid(swapper: Swapper, pairs: Pairs, rows: int = 6) -> Tensor:
    """Picture for people, uint8 [H, W, 3]: a row of source, target, swapped for each of the first pairs."""
    source, target = pairs.source[:rows], pairs.target[:rows]
    swapped = resize.area(swapper(source, target), source.shape[-1])
    rows_of = torch.cat([source, target, swapped], dim=3).clamp(-1, 1)
    # A run that has gone wrong is shown, too.
    return to_8bit(torch.cat(list(rows_of), dim=1).nan_to_num()).permute(1, 2, 0).cpu()
