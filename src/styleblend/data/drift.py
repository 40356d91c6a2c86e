"""How far the data moved since the champion learned: a profile that goes with each version, and two-sample measures.

Numbers are compared by the Kolmogorov-Smirnov statistic, the largest distance of two distribution functions; shares of
sources and licences by the total variation, half the sum of their differences. Both are 0 for the same and 1 for data
that have nothing in common. A distance that samples of these sizes reach by chance once in a thousand times is none.
A column moves, too, where another network measured it.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import ks_2samp

from styleblend.config.tracking import Tracking
from styleblend.data.selection import MEASURES
from styleblend.errors import StyleBlendError
from styleblend.registry import versions
from styleblend.registry.mlflow_store import NoVersion

NUMBERS = (*MEASURES, "roll_deg", "score", "faces_per_person")
SHARES = ("source", "licence")
QUANTILES = 501
_CHANCE = 1.95
"""Of the Kolmogorov-Smirnov statistic at one in a thousand, times sqrt(1 / n + 1 / m)."""

KS, TOTAL_VARIATION = "Kolmogorov-Smirnov", "total variation"


def profile(manifest: pd.DataFrame, perceived: pd.DataFrame, chosen: pd.DataFrame) -> dict[str, Any]:
    """What the faces that are used are like: quantiles of NUMBERS and shares of SHARES, for a file of some 50 kB.

    Args:
        chosen: as `selection.select` gives it.
    """
    kept = chosen.loc[chosen["kept"], ["face_id", "person", *MEASURES]]
    others = manifest[["face_id", "score", *SHARES]].merge(perceived[["face_id", "roll_deg"]], on="face_id")
    faces = kept.merge(others, on="face_id")
    columns: dict[str, Any] = {name: faces[name] for name in NUMBERS if name in faces}
    columns["faces_per_person"] = faces["person"].value_counts()
    return {
        "faces": len(faces),
        "numbers": {name: _sketch(values.to_numpy(float)) for name, values in columns.items()},
        "shares": {
            name: faces[name].fillna("").value_counts(normalize=True).round(6).sort_index().to_dict() for name in SHARES
        },
    }


def _sketch(values: NDArray[np.float64]) -> dict[str, Any]:
    """How many finite values there are, and QUANTILES of them, which are values that occur."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return {"count": 0, "quantiles": []}
    places = np.linspace(0, 1, min(QUANTILES, len(finite)))
    quantiles = np.quantile(finite, places, method="inverted_cdf")
    return {"count": len(finite), "quantiles": [float(f"{value:.6g}") for value in quantiles]}


def compare(new: Mapping[str, Any], old: Mapping[str, Any]) -> pd.DataFrame:
    """A row a column that both profiles have: column, measure, distance in [0, 1], and the medians of both.

    The distance is 0 where chance explains it.
    """
    rows = []
    for name in NUMBERS:
        here, there = new["numbers"].get(name), old["numbers"].get(name)
        if not (here and there and here["count"] and there["count"]):
            continue
        distance = float(ks_2samp(here["quantiles"], there["quantiles"], method="asymp").statistic)
        medians = [f"{np.median(each['quantiles']):.4g}" for each in (here, there)]
        rows.append((name, KS, _beyond_chance(distance, here["count"], there["count"]), *medians))
    for name in SHARES:
        here, there = new["shares"].get(name, {}), old["shares"].get(name, {})
        apart = [abs(here.get(value, 0) - there.get(value, 0)) for value in {*here, *there}]
        most = [max(each, key=lambda value, of=each: (of[value], value), default="") for each in (here, there)]  # type: ignore[misc]
        rows.append((name, TOTAL_VARIATION, _beyond_chance(sum(apart) / 2, new["faces"], old["faces"]), *most))
    return pd.DataFrame(rows, columns=["column", "measure", "distance", "here", "champion"])


def _beyond_chance(distance: float, count: int, other: int) -> float:
    if not count or not other:
        return 0.0
    return round(distance, 4) if distance > _CHANCE * np.sqrt(1 / count + 1 / other) else 0.0


def of_champion(track: Tracking, alias: str = "champion") -> tuple[dict[str, Any] | None, str]:
    """The profile of the data that the champion learned from, and which version it is; or None, and why there is none.

    It is a file of the version. A registry that does not answer is no fault of the data, and is only said.
    """
    try:
        version = versions.find_version(track, alias)
    except NoVersion:
        return None, f"no version has the alias {alias} yet"
    except StyleBlendError as error:
        return None, f"the {alias} could not be looked up ({error})"
    title = f"the {alias}, version {version.version},"
    with tempfile.TemporaryDirectory() as scratch:
        try:
            file = versions.fetch_part(track, version, versions.PROFILE, Path(scratch))
            return json.loads(file.read_text()), title.rstrip(",")
        except (StyleBlendError, ValueError):
            return None, f"{title} was registered without a profile of its data"
