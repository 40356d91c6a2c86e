"""The metrics: one pure function each, and METRICS, the table of those that have a value for every pair.

To add a metric, write its function and add a row to METRICS: protocol.py measures it, and every report shows it.
No network is called here: embeddings and angles come in. Pictures are [N, 3, H, W] RGB in [-1, 1]. Values are float64,
one a pair, so that means, groups and intervals are computed in one place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from styleblend.evaluation.pictures import detail_energy, feature_distance, l1_outside, psnr_db, ssim
from styleblend.faces.pixels import saturated
from styleblend.perception.similarity import Metric as NetworkMetric
from styleblend.perception.similarity import similarity as likeness_between

Likeness = NetworkMetric
"""How embeddings of a network are compared; a network says so by its attribute `metric`, without one it is cosine."""
OUTER_EYES_68 = (36, 45)
"""Outer corners of the eyes among iBUG's 68 points."""


def likeness_of(network: object) -> Likeness:
    """How embeddings of a network are compared: by its attribute `metric`, without one by cosine."""
    likeness: Likeness = getattr(network, "metric", "cosine")
    return likeness


def retrieval_rank(
    probes: Tensor, gallery: Tensor, wanted: Tensor, persons: Tensor, likeness: Likeness = "cosine"
) -> Tensor:
    """Place of the right person when the gallery is sorted by similarity to a probe; 1 is the best.

    Counts the faces of other persons that are at least as similar as the most similar face of the right one,
    so a tie, or a similarity that is not a number, counts against the probe.

    Args:
        probes: [N, D] embeddings of any length; gallery: [G, D].
        wanted: [N] label of the right person; persons: [G] labels of the gallery.
        likeness: how the network's embeddings are compared, as in identity_similarity.
    Returns:
        [N] int64 from 1 to G + 1.
    """
    if likeness == "distance":
        similarity = -torch.cdist(probes.double(), gallery.double(), compute_mode="donot_use_mm_for_euclid_dist")
    else:
        similarity = F.normalize(probes.double(), dim=1) @ F.normalize(gallery.double(), dim=1).T
    right = wanted[:, None] == persons[None, :]
    if not right.any(1).all():
        raise ValueError("a probe's person has no face in the gallery")
    best = similarity.masked_fill(~right, -torch.inf).amax(1, keepdim=True)
    return 1 + (~right & ~(similarity < best)).sum(1)


def identity_similarity(a: Tensor, b: Tensor, likeness: Likeness = "cosine") -> Tensor:
    """perception.similarity in float64, [N, D], [N, D] -> [N]; 1 is the same."""
    return likeness_between(a.double(), b.double(), likeness)


def judge_gap(training: Tensor, judge: Tensor, same_training: float, same_judge: float) -> Tensor:
    """What the network of the training is more convinced of than the judge, [N], [N] -> [N].

    Similarities of swap and source, each as a share of its own network's mean between two pictures of one person.
    A generator that fools the network that it learns under has a large one.
    """
    return training.double() / same_training - judge.double() / same_judge


def landmark_error(a: Tensor, b: Tensor, eyes: tuple[int, int] = OUTER_EYES_68) -> Tensor:
    """Mean distance of points [N, K, 2] -> [N], in per cent of the distance between b's outer corners of the eyes."""
    a, b = a.double(), b.double()
    across = (b[:, eyes[0]] - b[:, eyes[1]]).norm(dim=1)
    return 100 * (a - b).norm(dim=2).mean(1) / across.clamp(min=1e-9)


def pose_error_deg(a: Tensor, b: Tensor) -> Tensor:
    """L2 norm of the difference of (yaw, pitch, roll), [N, 3] in degrees -> [N]; full turns do not count."""
    return ((a.double() - b.double() + 180) % 360 - 180).norm(dim=1)


def expression_error(a: Tensor, b: Tensor) -> Tensor:
    """L2 norm of the difference of expression coefficients of one network, [N, E] -> [N]."""
    return (a.double() - b.double()).norm(dim=1)


@dataclass(frozen=True)
class Seen:
    """What the judging networks see in N pictures; what no network of the run sees is None.

    images: [N, 3, S, S] in [-1, 1]; embedding: [N, D]; pose_deg: [N, 3], yaw, pitch and roll; expression: [N, E]
    trained: [N, D'], of the identity network of the training; landmarks: [N, K, 2] in [0, 1] of the picture
    maps: the judge's, of its own crop, [N, C, H, W] a level, as unit vectors
    outside_maps: of the whole target picture with only what is outside the target's face from this one
    likeness: how the judge's embeddings are compared
    """

    images: Tensor
    embedding: Tensor
    pose_deg: Tensor
    expression: Tensor
    trained: Tensor | None = None
    landmarks: Tensor | None = None
    maps: Sequence[Tensor] | None = None
    outside_maps: Sequence[Tensor] | None = None
    likeness: Likeness = "cosine"

    def similarity(self, other: Seen) -> Tensor:
        """By the judge, [N]."""
        return identity_similarity(self.embedding, other.embedding, self.likeness)


class Gallery(NamedTuple):
    """Faces among which a person is looked for: embeddings [G, D], wanted [N] and persons [G] as labels."""

    embeddings: Tensor
    wanted: Tensor
    persons: Tensor
    likeness: Likeness = "cosine"


@dataclass(frozen=True)
class Scale:
    """How alike an identity network finds real faces: mean similarities, by which its judgement of a swap is read.

    same_person: of two pictures of one person; strangers: of the sources and targets of the pairs.
    """

    likeness: Likeness
    same_person: float
    strangers: float

    def above_strangers(self, similarity: Tensor) -> Tensor:
        """0 for a stranger, 1 for another picture of the same person."""
        return (similarity.double() - self.strangers) / (self.same_person - self.strangers)


@dataclass(frozen=True)
class Swaps:
    """Swapped faces of N pairs, what they came from, and the galleries in which both persons are looked for.

    target_face: [N, 1, S, S], 1 inside the target's face.
    source_detail, target_detail: [N], detail_energy of the source's face, and of the target outside its face.
    judge, training: scales of both identity networks; None where the split has no two pictures of a person.
    """

    swapped: Seen
    source: Seen
    target: Seen
    sources: Gallery
    targets: Gallery
    target_face: Tensor
    source_detail: Tensor
    target_detail: Tensor
    judge: Scale | None = None
    training: Scale | None = None
    outer_eyes: tuple[int, int] = OUTER_EYES_68

    def training_similarity(self) -> Tensor | None:
        """To the source, by the network of the training, [N]."""
        if self.training is None or self.swapped.trained is None or self.source.trained is None:
            return None
        return identity_similarity(self.swapped.trained, self.source.trained, self.training.likeness)

    def gap(self, above_strangers: bool = False) -> Tensor | None:
        """judge_gap of the pairs, or the same of both networks' similarities as shares of the way from a stranger."""
        trained, judged = self.training_similarity(), self.swapped.similarity(self.source)
        if trained is None or self.training is None or self.judge is None:
            return None
        if above_strangers:
            if min(each.same_person - each.strangers for each in (self.training, self.judge)) <= 0:
                return None  # it tells no persons apart
            return self.training.above_strangers(trained) - self.judge.above_strangers(judged)
        return judge_gap(trained, judged, self.training.same_person, self.judge.same_person)

    def landmark_error(self) -> Tensor | None:
        """Between swap and target, [N]."""
        if self.swapped.landmarks is None or self.target.landmarks is None:
            return None
        return landmark_error(self.swapped.landmarks, self.target.landmarks, self.outer_eyes)

    def outside_distance(self) -> Tensor | None:
        """Feature distance to the target of what is outside the target's face, [N]."""
        return _apart(self.swapped.outside_maps, self.target.outside_maps)


def _apart(a: Sequence[Tensor] | None, b: Sequence[Tensor] | None) -> Tensor | None:
    return None if a is None or b is None else feature_distance(a, b)


@dataclass(frozen=True)
class Metric:
    """A metric with a value for every pair; one of the first four fields computes it.

    per_pair: values [N] of N pairs, a column of pairs.parquet; None where the run has no network that sees it.
    to_true_swap: the same from the swapped faces and their true swaps, where these are known.
    share: whether a condition on columns of pairs.parquet holds; the metric is the share of pairs for which it does.
    root_ratio: names of two columns of energies; the metric is the square root of the ratio of their sums, so that
        pairs in which there is little of it weigh little.
    averaged: False for a column that only serves `share` or `root_ratio`.
    words: name and unit in reports; a metric without words is in the tables alone.
    better: the direction in which it improves.
    """

    per_pair: Callable[[Swaps], Tensor | None] | None = None
    to_true_swap: Callable[[Seen, Seen], Tensor | None] | None = None
    share: Callable[[pd.DataFrame], pd.Series] | None = None
    root_ratio: tuple[str, str] | None = None
    averaged: bool = True
    words: str = ""
    better: Literal["up", "down"] = "up"


METRICS: dict[str, Metric] = {
    "source_rank": Metric(lambda s: retrieval_rank(s.swapped.embedding, *s.sources), averaged=False),
    "target_rank": Metric(lambda s: retrieval_rank(s.swapped.embedding, *s.targets), averaged=False),
    "id_retrieval_top1": Metric(share=lambda pairs: pairs["source_rank"] <= 1, words="source found at rank 1"),
    "id_retrieval_top5": Metric(share=lambda pairs: pairs["source_rank"] <= 5, words="source found within rank 5"),
    "target_retrieval_top1": Metric(
        share=lambda pairs: pairs["target_rank"] <= 1, words="target found at rank 1", better="down"
    ),
    "id_similarity_source": Metric(lambda s: s.swapped.similarity(s.source), words="similarity to the source"),
    "id_similarity_target": Metric(lambda s: s.swapped.similarity(s.target)),
    "training_similarity_source": Metric(lambda s: s.training_similarity()),
    "judge_gap": Metric(lambda s: s.gap(), words="judge gap", better="down"),
    "judge_gap_above_strangers": Metric(lambda s: s.gap(above_strangers=True)),
    "pose_error_deg": Metric(
        lambda s: pose_error_deg(s.swapped.pose_deg, s.target.pose_deg), words="pose error, degrees", better="down"
    ),
    "pose_error_source_deg": Metric(lambda s: pose_error_deg(s.swapped.pose_deg, s.source.pose_deg)),
    "pose_nearer_target": Metric(
        share=lambda pairs: pairs["pose_error_deg"] < pairs["pose_error_source_deg"], words="pose nearer the target's"
    ),
    "expression_error": Metric(
        lambda s: expression_error(s.swapped.expression, s.target.expression), words="expression error", better="down"
    ),
    "landmark_error": Metric(lambda s: s.landmark_error(), words="landmark error, %", better="down"),
    "outside_l1": Metric(
        lambda s: l1_outside(s.swapped.images, s.target.images, s.target_face),
        words="L1 outside the face, [0, 1]",
        better="down",
    ),  # fmt: skip
    "feature_distance_outside": Metric(lambda s: s.outside_distance(), words="feature distance outside", better="down"),
    "detail_swapped_outside": Metric(lambda s: detail_energy(s.swapped.images, 1 - s.target_face), averaged=False),
    "detail_target_outside": Metric(lambda s: s.target_detail, averaged=False),
    "detail_swapped_inside": Metric(lambda s: detail_energy(s.swapped.images, s.target_face), averaged=False),
    "detail_source_inside": Metric(lambda s: s.source_detail, averaged=False),
    "detail_outside": Metric(
        root_ratio=("detail_swapped_outside", "detail_target_outside"), words="fine detail outside"
    ),
    "detail_inside": Metric(
        root_ratio=("detail_swapped_inside", "detail_source_inside"), words="fine detail in the face"
    ),
    "saturated": Metric(lambda s: saturated(s.swapped.images)),
    "psnr_true_swap_db": Metric(
        to_true_swap=lambda s, true: psnr_db(s.images, true.images), words="PSNR to the true swap, dB"
    ),
    "ssim_true_swap": Metric(to_true_swap=lambda s, true: ssim(s.images, true.images), words="SSIM to the true swap"),
    "feature_distance_true_swap": Metric(
        to_true_swap=lambda s, true: _apart(s.maps, true.maps), words="feature distance, true swap", better="down"
    ),
    "id_similarity_true_swap": Metric(to_true_swap=lambda s, true: s.similarity(true)),
    "pose_error_true_swap_deg": Metric(to_true_swap=lambda s, true: pose_error_deg(s.pose_deg, true.pose_deg)),
    "expression_error_true_swap": Metric(to_true_swap=lambda s, true: expression_error(s.expression, true.expression)),
}
"""All metrics by their names in files; reports show those with words in this order."""
