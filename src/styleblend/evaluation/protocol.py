"""The evaluation protocol: on which pairs, against which galleries, with which networks.

Pairs: the written list of the test split; source and target are different persons, and nobody of the test
split was seen in training. Pictures: what the product would return, so swapped faces are rounded to 8 bits
before anything looks at them, and brought to the side of the data set's faces if the decoder's differs.

Identity retrieval: the probe is a swapped face. The gallery holds every distinct source face of the pair
list, so a person may stand in it with several faces, the probe's own source face among them. All are compared
by cosine of the judge's embeddings. A hit at top-k means that fewer than k faces of other persons are at
least as similar as the most similar face of the source's person. Target retrieval is the same with every
distinct target face and the target's person: it should be rare. The judge is not the network of the training.

Judge gap: similarity of swap and source by the network of the training, less the same by the judge, each as a share of
its own mean between two pictures of one person of the split (same_person_* in metrics.json).

Pose and expression: Euclidean distance between what the attribute network sees in the swapped and in the
target face. Landmark error: mean distance of the points that the run's landmark network sees in both, in per cent
of the distance between the outer corners of the target's eyes; that network trains, too. Outside: mean absolute
difference to the target outside the target's face (faces.regions), range [0, 1].

Fine detail: grey picture minus its Gaussian blur of 1 pixel. The figure is the root of the sum of its squares in
the swapped faces by that in the targets (outside) or the sources (in the face).

Feature distance: of unit feature vectors of the judge (Zhang et al. 2018 without their learned weights), outside
the face and to the true swap.

Frechet distance: swapped faces against all faces of the test split, in the features of Inception (then it is
the FID, of pictures at the data set's side) or else of the judge; covariances are divided by N - 1. It has no
interval: resampling with replacement biases it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from styleblend.errors import StyleBlendError
from styleblend.evaluation import metrics
from styleblend.evaluation.bootstrap import bootstrap_counts, interval
from styleblend.evaluation.metrics import Seen, Swaps
from styleblend.evaluation.references import beside, scales
from styleblend.faces.pixels import from_8bit, to_8bit
from styleblend.faces.regions import face_region
from styleblend.faces.resize import bicubic

if TYPE_CHECKING:
    from styleblend.evaluation.judges import Judges

MODEL = "model"
TRUE_SWAP = "true_swap"
EXAMPLES = "examples.safetensors"
"""Pairs of the grid, uint8 [n, 3, S, S]: `source`, `target` and, where it is known, `true_swap`."""


@dataclass(frozen=True)
class Pairs:
    """The faces of the test split, row by row, and the evaluation pairs as row numbers.

    table: rows of the manifest with `person`; judge: [F, D]; identity: [F, D'], of the training's network;
    landmarks: [F, K, 2] in [0, 1]; yaw_pitch_roll_deg: [F, 3]; expression: [F, E]; person: [F] numbers of persons;
    source, target: [N] rows; mesh: [F, M, 2], all points of the run's mesh alike, None where it has none.
    """

    folder: Path
    table: pd.DataFrame
    judge: Tensor
    identity: Tensor
    landmarks: Tensor
    yaw_pitch_roll_deg: Tensor
    expression: Tensor
    person: Tensor
    source: Tensor
    target: Tensor
    mesh: Tensor | None = None

    @property
    def dense_points(self) -> Tensor:
        """The most points of a face that are known, [F, K, 2]."""
        return self.landmarks if self.mesh is None else self.mesh

    def __len__(self) -> int:
        return len(self.source)

    def pictures(self, rows: Tensor) -> Tensor:
        """Faces as stored: uint8 [n, 3, S, S]."""
        images = []
        for path in self.table["path"].iloc[rows.numpy()]:
            with Image.open(self.folder / path) as image:
                images.append(np.asarray(image.convert("RGB")))
        return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


@dataclass(frozen=True)
class Batch:
    """Some of the pairs: row numbers of the faces, and the pictures in [-1, 1]."""

    pairs: Pairs
    source_rows: Tensor
    target_rows: Tensor
    source: Tensor
    target: Tensor
    numbers: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    """[n] places of the pairs in the list, for a method whose swaps are files; empty outside a list."""


Method = Callable[[Batch], Tensor]
"""Makes swapped faces [n, 3, S, S] in [-1, 1]: the model, a baseline, or the true swap."""


Made = TypeVar("Made")


class Once(Generic[Made]):
    """What a function makes of a batch, made once for all methods that ask for it one after the other."""

    def __init__(self, function: Callable[[Batch], Made]) -> None:
        self._function = function
        self._last: tuple[Batch, Made] | None = None

    def __call__(self, batch: Batch) -> Made:
        if self._last is None or self._last[0] is not batch:
            self._last = (batch, self._function(batch))
        return self._last[1]


@dataclass(frozen=True)
class Measured:
    """What was measured of one method: one row a pair, features for the Frechet distance, and kept pictures."""

    table: pd.DataFrame
    features: Tensor
    kept: Tensor


def read_pairs(splits: Path, faces: Path, perceived: Path, split: str = "test") -> Pairs:
    """The pairs of a split with all that is known of their faces.

    Raises:
        StyleBlendError: a file or a face is missing, or the list is empty.
    """
    members = _read(splits / f"{split}.parquet").set_index("face_id")["person"]
    manifest = _read(faces / "manifest.parquet").set_index("face_id").drop(columns="person", errors="ignore")
    seen = _read(perceived).set_index("face_id")
    listed = _read(splits / f"{split}_pairs.parquet")
    wanted = set(members.index) | set(listed["source_id"]) | set(listed["target_id"])
    missing = sorted(wanted - (set(members.index) & set(manifest.index) & set(seen.index)))
    if missing or listed.empty:
        what = f"face {missing[0]} (and {len(missing) - 1} more) is missing" if missing else "the list is empty"
        raise StyleBlendError(f"{split} pairs cannot be evaluated, {what}: run `dvc repro` to make them anew")
    seen = seen.loc[members.index]

    def column(name: str) -> Tensor:
        return torch.from_numpy(np.stack(seen[name].to_list()).astype(np.float32))

    angles = seen[["yaw_deg", "pitch_deg", "roll_deg"]].to_numpy(np.float32)
    return Pairs(
        folder=faces,
        table=manifest.loc[members.index].assign(person=members),
        judge=column("judge"),
        identity=column("identity"),
        landmarks=column("landmarks").reshape(-1, 68, 2),
        yaw_pitch_roll_deg=torch.from_numpy(angles.copy()),
        expression=column("expression"),
        person=torch.from_numpy(pd.factorize(members)[0].astype(np.int64)),
        source=torch.from_numpy(members.index.get_indexer(pd.Index(listed["source_id"])).astype(np.int64)),
        target=torch.from_numpy(members.index.get_indexer(pd.Index(listed["target_id"])).astype(np.int64)),
        # x, y and depth of each point.
        mesh=column("mesh").unflatten(1, (-1, 3))[..., :2] if "mesh" in seen else None,
    )


@torch.no_grad()
def measure(
    pairs: Pairs,
    methods: Mapping[str, Method],
    judges: Judges,
    batch_size: int,
    keep: Sequence[int] = (),
    device: str = "cpu",
) -> dict[str, Measured]:
    """Measure every method on every pair, batch by batch; memory does not grow with the number of pictures.

    Args:
        methods: by name; if TRUE_SWAP is among them, the others are compared with it too.
        keep: pairs whose swapped faces are returned (uint8), for a grid.
    """
    tables: dict[str, list[pd.DataFrame]] = {name: [] for name in methods}
    features: dict[str, list[Tensor]] = {name: [] for name in methods}
    kept: dict[str, list[Tensor]] = {name: [] for name in methods}
    # The true swap comes first, since the others are compared with it.
    order = sorted(methods, key=lambda name: name != TRUE_SWAP)
    of_split = scales(pairs, judges)
    for rows in tqdm(torch.arange(len(pairs)).split(batch_size), desc="evaluate", disable=None):
        s, t = pairs.source[rows], pairs.target[rows]
        source, target = (from_8bit(pairs.pictures(faces)).to(device) for faces in (s, t))
        batch = Batch(pairs, s, t, source, target, rows)
        face = face_region(pairs.landmarks[t], target.shape[-1])
        seen_target = judges.target(target, face.to(device))
        swaps = beside(batch, face, of_split, judges, seen_target.maps)
        true_swap: Seen | None = None
        for name in order:
            pixels = to_8bit(bicubic(methods[name](batch), target.shape[-1])).cpu()
            seen, described = judges.see(from_8bit(pixels).to(device), seen_target)
            tables[name].append(_columns(swaps(seen), true_swap))
            features[name].append(described)
            kept[name].append(pixels[torch.isin(rows, torch.tensor(keep, dtype=torch.int64))])
            if name == TRUE_SWAP:
                true_swap = seen
    faces = {"source_id": pairs.source, "target_id": pairs.target}
    ids = pd.DataFrame({name: pairs.table.index[rows.numpy()] for name, rows in faces.items()})
    joined = {name: pd.concat([ids, pd.concat(tables[name], ignore_index=True)], axis=1) for name in methods}
    return {name: Measured(joined[name], torch.cat(features[name]), torch.cat(kept[name])) for name in methods}


@torch.no_grad()
def real_features(pairs: Pairs, judges: Judges, batch_size: int, device: str = "cpu") -> Tensor:
    """Features [F, .] of all faces of the split, the reference of the Frechet distance."""
    rows = torch.arange(len(pairs.table)).split(batch_size)
    return torch.cat([judges.describer.features(from_8bit(pairs.pictures(part)).to(device)).cpu() for part in rows])


def per_pair_figures(table: pd.DataFrame) -> pd.DataFrame:
    """Figures whose means are the metrics, one row a pair: shares as 0 or 1, others as measured; no ratios."""
    shares: dict[str, pd.Series] = {}
    for name, metric in metrics.METRICS.items():
        if metric.share is not None:
            # Its columns may lack: without a true swap, or in a version that is older than the metric.
            with suppress(KeyError):
                shares[name] = metric.share(table)
    others = ["source_id", "target_id"] + [name for name, metric in metrics.METRICS.items() if not metric.averaged]
    return pd.concat([pd.DataFrame(shares), table.drop(columns=others, errors="ignore")], axis=1).astype(np.float64)


def figures_of(table: pd.DataFrame, weights: NDArray[Any]) -> pd.DataFrame:
    """Every figure of the pairs of `table`, a row for each row of their weights [R, N], as how often each counts."""
    each = per_pair_figures(table)
    found = pd.DataFrame(weights @ each.to_numpy() / weights.sum(1, keepdims=True), columns=each.columns)
    for name, metric in metrics.METRICS.items():
        if metric.root_ratio is not None and set(metric.root_ratio) <= set(table.columns):
            above, below = (weights @ table[column].to_numpy() for column in metric.root_ratio)
            found[name] = np.sqrt(above / np.maximum(below, 1e-12))
    return found


def summarise(table: pd.DataFrame, resamples: int, seed: int) -> pd.DataFrame:
    """Each figure and its bootstrap 95 % interval: index `figure`, columns value, low, high, n."""
    counts = bootstrap_counts(len(table), resamples, seed)
    low, high = interval(figures_of(table, counts).to_numpy())
    value = figures_of(table, np.ones((1, len(table)))).iloc[0]
    return pd.DataFrame({"value": value, "low": low, "high": high, "n": len(table)}).rename_axis("figure")


def difference(first: pd.DataFrame, second: pd.DataFrame, resamples: int, seed: int) -> pd.DataFrame:
    """Bootstrap 95 % interval of first minus second, of two methods or versions on the same pairs in the same order.

    Returns:
        columns low and high of each figure that both have.
    """
    counts = bootstrap_counts(len(first), resamples, seed)
    own, other = (figures_of(table, counts) for table in (first, second))
    names = [name for name in own.columns if name in other.columns]
    low, high = interval((own[names] - other[names]).to_numpy())
    return pd.DataFrame({"low": low, "high": high}, index=pd.Index(names, name="figure"))


def groups(pairs: Pairs, yaw_bins_deg: Sequence[float]) -> pd.Series:
    """Every pair's group by |yaw| of the target: `yaw_0_15`, `yaw_15_30`, `yaw_30_up` for the limits 15 and 30.

    Categories hold all groups in order, those without a pair too.
    """
    limits = [0.0, *sorted(yaw_bins_deg), np.inf]
    names = [f"yaw_{low:g}_{'up' if high == np.inf else f'{high:g}'}" for low, high in pairwise(limits)]
    yaw = pairs.yaw_pitch_roll_deg[pairs.target, 0].abs().numpy()
    own = [names[k] for k in np.searchsorted(limits, yaw, side="right") - 1]
    return pd.Series(pd.Categorical(own, categories=names))


def _columns(swaps: Swaps, true_swap: Seen | None) -> pd.DataFrame:
    """One row a pair, one column a metric of METRICS, for all but shares, ratios and what no network sees."""
    found: dict[str, Tensor | None] = {}
    for name, metric in metrics.METRICS.items():
        if metric.per_pair is not None:
            found[name] = metric.per_pair(swaps)
        elif metric.to_true_swap is not None and true_swap is not None:
            found[name] = metric.to_true_swap(swaps.swapped, true_swap)
    return pd.DataFrame({name: values.numpy() for name, values in found.items() if values is not None})


def _read(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path)
    except FileNotFoundError:
        raise StyleBlendError(f"{path} is missing: run `dvc repro` to make it") from None
