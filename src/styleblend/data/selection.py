"""Which faces a run uses: those within the limits of their measures, and of copies of one picture the best one.

A label says whom a picture shows only where its content agrees. Copies of one picture (the same file, or the same
photograph at another size, crop or compression) are found over all sources and labels; one of them is kept. Where they
have several labels, the kept one has that label whose other faces it is most like.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from styleblend.config.data import Keep
from styleblend.data import copies
from styleblend.data.clusters import Numbers, likeness
from styleblend.data.copies import metric_of, vectors_of
from styleblend.data.quality import COVERED, HASH
from styleblend.errors import StyleBlendError

IDENTICAL, NEAR = "identical", "near-identical"
"""How a face is a copy of the kept one: cut from the same file, or from a file that shows the same photograph."""

UNSEEN = "not perceived"
MEASURES = ("face_px", "sharpness", "yaw_deg", "pitch_deg", "brightness", "dark", "light", COVERED)
"""Columns with limits in section validate.keep."""


def select(folder: Path, manifest: pd.DataFrame, perceived: pd.DataFrame, cfg: Keep) -> pd.DataFrame:
    """Decide for each face of the manifest, in its order.

    Args:
        folder: of the faces; copies are told by their pixels in the end.
    Returns:
        face_id, source, raw_path, person; `content`, the same for faces that were cut alike from identical files;
        `picture`, the number of the picture, the same for its copies; MEASURES; `missed`, the names of the limits that
        the face does not meet; `same_as`, the face that is kept in its place, and `how` it is a copy of that; `kept`.
    Raises:
        StyleBlendError: the perceived table is of an earlier version.
    """
    for name in (HASH, COVERED):
        if name not in perceived:
            raise StyleBlendError(f"the perceived table has no column {name}: run the stage perceive again")
    faces = manifest.reset_index(drop=True).merge(perceived.drop_duplicates("face_id"), on="face_id", how="left")
    chosen = faces[["face_id", "source", "raw_path", "person"]].copy()
    chosen["content"] = copies.contents(faces)
    seen = faces[HASH].notna().to_numpy()
    chosen["picture"] = copies.pictures(folder, faces, chosen["content"], cfg)
    faces["face_px"] = [_side_px(quad) for quad in faces["quad"]]
    chosen[list(MEASURES)] = faces[list(MEASURES)].astype(float)
    missed = limits_missed(chosen, cfg)
    chosen["missed"] = [", ".join(names) if known else UNSEEN for names, known in zip(missed, seen, strict=True)]
    best = _best(chosen, faces, seen)
    chosen["kept"] = (chosen["missed"] == "") & (best == np.arange(len(chosen)))
    ids, contents = chosen["face_id"].to_numpy(), chosen["content"].to_numpy()
    other = best != np.arange(len(chosen))
    chosen["same_as"] = pd.Series(ids[best], dtype="str").where(other)
    how = np.where(contents == contents[best], IDENTICAL, NEAR)
    chosen["how"] = pd.Series(how, dtype="str").where(other)
    return chosen


def limits_missed(measured: pd.DataFrame, cfg: Keep) -> list[list[str]]:
    """Names of the limits of `cfg` that each row of MEASURES does not meet."""
    values = {name: measured[name].to_numpy(float) for name in MEASURES}
    misses = {
        "min_face_px": values["face_px"] < cfg.min_face_px,
        "min_sharpness": values["sharpness"] < cfg.min_sharpness,
        "max_abs_yaw_deg": np.abs(values["yaw_deg"]) > cfg.max_abs_yaw_deg,
        "max_abs_pitch_deg": np.abs(values["pitch_deg"]) > cfg.max_abs_pitch_deg,
        "min_brightness": values["brightness"] < cfg.min_brightness,
        "max_brightness": values["brightness"] > cfg.max_brightness,
        "max_dark": values["dark"] > cfg.max_dark,
        "max_light": values["light"] > cfg.max_light,
        "max_covered": values[COVERED] > cfg.max_covered,
    }
    return [[name for name, missing in misses.items() if missing[row]] for row in range(len(measured))]


def labels_by_picture(chosen: pd.DataFrame) -> pd.DataFrame:
    """A row a picture: `raw_path` of the kept copy (or of the first, where none is), `copies`, `labels` and `named`.

    `labels` counts the different persons that the copies are said to show, `named` lists them.
    """
    first = chosen.sort_values(["picture", "kept"], ascending=[True, False], kind="stable").drop_duplicates("picture")
    by_picture = chosen.groupby("picture")
    counts = pd.DataFrame({"copies": by_picture.size(), "labels": by_picture["person"].nunique()})
    several = chosen[chosen["picture"].isin(counts.index[counts["labels"] > 1])].dropna(subset="person")
    named = several.groupby("picture")["person"].agg(lambda persons: ", ".join(sorted(set(persons))))
    table = first[["picture", "raw_path"]].join(counts, on="picture")
    return table.assign(named=table["picture"].map(named)).reset_index(drop=True)


def _side_px(quad: NDArray[np.float32]) -> float:
    """Side of the crop in the photograph: how large the face is there, whatever it was resized to."""
    corners = np.asarray(quad, np.float64).reshape(4, 2)
    return float(np.hypot(*(corners[1] - corners[0])))


def _best(chosen: pd.DataFrame, faces: pd.DataFrame, seen: NDArray[np.bool_]) -> Numbers:
    """Row of the copy to keep, for each row: under the likeliest label, and then the largest face within the limits."""
    best = np.arange(len(chosen))
    missed, persons = chosen["missed"].to_numpy(), chosen["person"]
    labels = persons.astype(object).where(persons.notna(), None).to_numpy()
    ids, sides = chosen["face_id"].to_numpy(), chosen["face_px"].to_numpy()
    rows_of = pd.Series(best).groupby(chosen["picture"].to_numpy()).indices
    for group in rows_of.values():
        rows = np.asarray(group)
        if len(rows) < 2:
            continue
        known = sorted({labels[row] for row in rows if labels[row] is not None})
        label = known[0] if len(known) == 1 else _likeliest(known, rows, labels, faces, seen) if known else None
        order = [(labels[row] != label, missed[row] != "", -sides[row], str(ids[row]), row) for row in rows]
        best[rows] = min(order)[-1]
    return best


def _likeliest(
    known: list[str], rows: Numbers, labels: NDArray[np.object_], faces: pd.DataFrame, seen: NDArray[np.bool_]
) -> str:
    """The label whose faces in other pictures are most like this picture's; the first by name where nobody has any."""
    others = np.flatnonzero(pd.Series(labels).isin(known).to_numpy() & seen)
    others, own = np.setdiff1d(others, rows), rows[seen[rows]]
    if not len(others) or not len(own):
        return known[0]
    near = likeness(vectors_of(faces.iloc[own]), vectors_of(faces.iloc[others]), metric_of(faces.iloc[own])).max(0)
    return str(pd.Series(near).groupby(labels[others]).max().idxmax())
