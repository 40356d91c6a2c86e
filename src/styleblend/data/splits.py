"""Training, validation and test faces with no person in two of them, and the pairs that are evaluated.

A person is a label where there is one. Faces without a label are one person when their identity embeddings are more
alike than a threshold, directly or over other faces (connected components). This errs towards few persons. How alike
two are is their cosine, or 1 - distance^2 where the identity network's vectors are compared by distance.

Copies of a picture were left out before (data.selection), so no picture stands in two splits, nor twice in a pair.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from styleblend.config.data import Split
from styleblend.data.clusters import BLOCK, Vectors, cluster, likeness
from styleblend.errors import StyleBlendError
from styleblend.system.files import whole_folder

FEWEST = 2  # persons in a split: a swap needs two


@dataclass(frozen=True)
class Splits:
    """Tables (face_id, person) and pairs (source_id, target_id), as they are written."""

    train: pd.DataFrame
    val: pd.DataFrame
    test: pd.DataFrame
    val_pairs: pd.DataFrame
    test_pairs: pd.DataFrame

    def write(self, out: Path) -> None:
        """Write each table as `<out>/<name>.parquet`, all or none."""
        with whole_folder(out) as partial:
            self.write_into(partial)

    def write_into(self, out: Path) -> None:
        """The same into a folder that is there."""
        for name in ("train", "val", "test", "val_pairs", "test_pairs"):
            getattr(self, name).to_parquet(out / f"{name}.parquet", index=False)


def split(manifest: pd.DataFrame, perceived: pd.DataFrame, cfg: Split) -> Splits:
    """Split by person, with shares of persons, and draw the pairs; the same for the same tables and seed.

    Args:
        manifest: rows of the faces to use.
    Raises:
        StyleBlendError: too few persons for three splits of at least two.
    """
    faces = manifest[["face_id", "person", "raw_sha256"]].merge(perceived[["face_id", "identity"]], on="face_id")
    metric = _metric(perceived)
    if len(faces) < len(manifest):
        raise StyleBlendError(
            f"{len(manifest) - len(faces)} of {len(manifest)} faces have no row in the perceived table: "
            "run the stage perceive again"
        )
    faces = faces.sort_values("face_id", ignore_index=True)
    vectors = np.stack(faces["identity"].to_list()).astype(np.float32)
    faces["person"] = name_persons(faces["person"], vectors, cfg.cluster_similarity, metric)
    sizes = faces["person"].value_counts().sort_index()
    n_val, n_test = (max(FEWEST, round(share * len(sizes))) for share in (cfg.val, cfg.test))
    if len(sizes) < n_val + n_test + FEWEST:
        raise StyleBlendError(_too_few(manifest, faces, vectors, len(sizes), cfg, metric))

    random = np.random.default_rng(cfg.seed)
    order = random.permutation(sizes.index).tolist()
    # A person with more than half of all faces (many that the network cannot tell apart) stays in training:
    # as one of the few persons of the test it would be most of the test.
    order.sort(key=lambda person: sizes[person] > len(faces) / 2)
    members = {"val": order[:n_val], "test": order[n_val : n_val + n_test], "train": order[n_val + n_test :]}
    tables = {
        name: faces.loc[faces["person"].isin(persons), ["face_id", "person"]].reset_index(drop=True)
        for name, persons in members.items()
    }
    pictures = faces.set_index("face_id")["raw_sha256"]
    pairs = {
        name: draw_pairs(tables[name], wanted, cfg.seed + number, tables[name]["face_id"].map(pictures))
        for number, (name, wanted) in enumerate((("val", cfg.val_pairs), ("test", cfg.test_pairs)), start=1)
    }
    return Splits(**tables, val_pairs=pairs["val"], test_pairs=pairs["test"])


def _metric(perceived: pd.DataFrame) -> str:
    """How the table's vectors are compared; tables of earlier versions do not say, and have unit vectors."""
    return str(perceived["identity_metric"].iloc[0]) if "identity_metric" in perceived and len(perceived) else "cosine"


def name_persons(labels: pd.Series, vectors: Vectors, similarity: float, metric: str = "cosine") -> list[str]:
    """A person's name for each face: its label, or `cluster-N` for faces [n] without one.

    vectors [n, D] have unit length unless the metric is `distance`. A cluster takes the nearest label of a face that
    is closer than `similarity`.
    """
    known = labels.notna().to_numpy()
    names = labels.astype(object).to_numpy(copy=True)
    unknown = np.flatnonzero(~known)
    if not len(unknown):
        return names.tolist()
    clusters = cluster(vectors[unknown], similarity, metric)
    nearest_label: dict[int, str] = {}
    if known.any():
        labelled = names[known]
        nearness: dict[int, float] = {}
        for start in range(0, len(unknown), BLOCK):
            block = likeness(vectors[unknown[start : start + BLOCK]], vectors[known], metric)
            for number, row in zip(clusters[start : start + BLOCK], block, strict=True):
                best = int(row.argmax())
                if row[best] > max(similarity, nearness.get(number, -np.inf)):
                    nearness[number], nearest_label[number] = row[best], labelled[best]
    names[unknown] = [nearest_label.get(number, f"cluster-{number}") for number in clusters]
    return names.tolist()


def draw_pairs(faces: pd.DataFrame, wanted: int, seed: int, pictures: pd.Series | None = None) -> pd.DataFrame:
    """Up to `wanted` distinct (source_id, target_id) of different persons, each face about equally often.

    Args:
        pictures: of each face what its picture is known by; two faces of one picture make no pair.
    """
    ids, persons = faces["face_id"].to_numpy(), pd.factorize(faces["person"])[0]
    shown = np.arange(len(ids)) if pictures is None else pd.factorize(pictures)[0]
    random = np.random.default_rng(seed)
    # Of a person's and a picture's faces, those that are both are counted twice.
    both = pd.factorize(pd.Series(zip(persons, shown, strict=True), dtype=object))[0] if len(ids) else persons
    alike = sum(int((np.bincount(groups) ** 2).sum()) * sign for groups, sign in ((persons, 1), (shown, 1), (both, -1)))
    possible = len(ids) ** 2 - alike
    if possible <= 4 * wanted:
        apart = (persons[:, None] != persons[None, :]) & (shown[:, None] != shown[None, :])
        chosen = random.permutation(np.argwhere(apart))[:wanted].tolist()
    else:
        drawn: dict[tuple[int, int], None] = {}
        while len(drawn) < wanted:
            sources, targets = random.permutation(len(ids)), random.permutation(len(ids))
            keep = (persons[sources] != persons[targets]) & (shown[sources] != shown[targets])
            drawn.update(dict.fromkeys(zip(sources[keep].tolist(), targets[keep].tolist(), strict=True)))
        chosen = list(drawn)[:wanted]
    sources_ids, targets_ids = [ids[source] for source, _ in chosen], [ids[target] for _, target in chosen]
    return pd.DataFrame({"source_id": sources_ids, "target_id": targets_ids}, dtype="str")


def _too_few(
    manifest: pd.DataFrame, faces: pd.DataFrame, vectors: Vectors, persons: int, cfg: Split, metric: str
) -> str:
    problem = f"{persons} persons ({len(faces)} faces) are too few for three splits of {FEWEST} persons or more"
    unlabelled = int(manifest["person"].isna().sum())
    if not unlabelled:
        return f"{problem}: add pictures of more people, or lower split.val and split.test"
    problem += f" ({unlabelled} faces have no label and are joined where closer than {cfg.cluster_similarity})"
    labels = manifest.set_index("face_id")["person"].reindex(faces["face_id"])
    for similarity in (0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999):
        if similarity <= cfg.cluster_similarity:
            continue
        found = len(set(name_persons(labels, vectors, similarity, metric)))
        if found >= FEWEST + sum(max(FEWEST, round(share * found)) for share in (cfg.val, cfg.test)):
            remedy = f"raise split.cluster_similarity to {similarity}, which gives {found} persons"
            return f"{problem}: {remedy}, or label the pictures"
    return f"{problem}: add pictures of more people"
