"""Two model versions side by side, for a person who decides which one is used: figures, origins and pictures.

Where both were measured on the same pairs by the same networks, a difference is clear when the bootstrap 95 % interval
of the mean difference, pair by pair, leaves out zero. Where they were not, it is clear only when the intervals of the
two lie apart, and the table says why that is the weaker ground.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from styleblend.config.tracking import Tracking
from styleblend.errors import StyleBlendError
from styleblend.evaluation.protocol import EXAMPLES, MODEL, difference
from styleblend.faces.pixels import from_8bit, to_8bit
from styleblend.faces.resize import bicubic
from styleblend.perception import bending
from styleblend.provenance.credentials import Credentials
from styleblend.registry import versions
from styleblend.registry.mlflow_store import NoVersion, TrackingError
from styleblend.reporting.charts import swap_grid
from styleblend.reporting.figures import KEY_FIGURES, labelled, with_interval
from styleblend.reporting.table import markdown

RESAMPLES = 1000
_JUDGES = ("network_judge", "network_attributes")


@dataclass(frozen=True)
class Contender:
    """A version to compare. `facts` are its tags; `evaluation` is its folder of the stage evaluate."""

    title: str
    facts: Mapping[str, str]
    swapper: Path
    evaluation: Path
    metrics: Mapping[str, Any]

    def pairs(self, method: str = MODEL) -> pd.DataFrame:
        """Its own rows of pairs.parquet, or those of a method beside it."""
        table = pd.read_parquet(self.evaluation / "pairs.parquet")
        return table[table["method"] == method].drop(columns="method").reset_index(drop=True)


@dataclass(frozen=True)
class Difference:
    """One figure of two versions: (value, low, high) of each; `better` is the title of the clearly better one."""

    name: str
    words: str
    first: tuple[float, float, float]
    second: tuple[float, float, float]
    better: str | None


@contextmanager
def contender(cfg: Tracking, reference: str) -> Iterator[Contender]:
    """A registered version by alias or number; its files are there inside the block only.

    Raises:
        StyleBlendError: there is no such version, or it was registered without what a comparison needs.
    """
    version = versions.find_version(cfg, reference)
    title = f"version {version.version}"
    with tempfile.TemporaryDirectory() as scratch:
        record = versions.fetch_record(cfg, version.version, Path(scratch) / "record")
        if not ((record / "metrics.json").is_file() and (record / "evaluate/pairs.parquet").is_file()):
            raise StyleBlendError(f"{title} was registered without its figures: compare with another version")
        measured = json.loads((record / "metrics.json").read_text())
        yield Contender(title, facts(version), record / versions.SWAPPER, record / "evaluate", measured)


@contextmanager
def earlier(cfg: Tracking) -> Iterator[dict[str, Contender]]:
    """The champion and the newest version, where there are such, by how they are called; without their swappers.

    One that was registered without its figures, or that lost them, is left out.
    """
    found: dict[str, versions.Version] = {}
    for name, find in (("champion", lambda: versions.find_version(cfg, "champion")),
                       ("previous version", lambda: versions.newest_version(cfg))):  # fmt: skip
        with suppress(NoVersion):
            version = find()
            if all(version.version != other.version for other in found.values()):
                found[name] = version
    with tempfile.TemporaryDirectory() as scratch:
        known = {}
        for name, version in found.items():
            folder = Path(scratch) / version.version
            folder.mkdir()
            with suppress(TrackingError):
                measured = json.loads(versions.fetch_part(cfg, version, "metrics.json", folder).read_text())
                pairs = versions.fetch_part(cfg, version, "evaluate/pairs.parquet", folder)
                known[name] = Contender(f"version {version.version}", facts(version), folder, pairs.parent, measured)
        yield known


def facts(version: versions.Version) -> dict[str, str]:
    """Tags and aliases of a version, as a Contender has them."""
    return {**version.tags, "alias": ", ".join(version.aliases) or "none"}


def differences(first: Contender, second: Contender) -> list[Difference]:
    """The key figures that both have, in the order of reports."""
    apart = paired(first.pairs(), second.pairs()) if not objections(first, second) else None
    found = []
    for name, words, direction in KEY_FIGURES:
        if not (name in first.metrics and name in second.metrics):
            continue
        values = [
            (each.metrics[name], each.metrics.get(f"{name}_low", -np.inf), each.metrics.get(f"{name}_high", np.inf))
            for each in (first, second)
        ]
        # Without pairs: the smallest and the largest difference that the two intervals allow.
        (_, low_1, high_1), (_, low_2, high_2) = values
        low, high = apart[name] if apart is not None else (low_1 - high_2, high_1 - low_2)
        better = None
        if low > 0 or high < 0:
            better = (first if (low > 0) == (direction == "up") else second).title
        found.append(Difference(name, labelled(words, direction), values[0], values[1], better))
    return found


def objections(first: Contender, second: Contender) -> list[str]:
    """Why figures of the two cannot be compared pair by pair; empty where they can."""
    found = other_judges(first, second)
    keys = ["source_id", "target_id"]
    if not first.pairs()[keys].equals(second.pairs()[keys]):
        found.append(
            f"Figures come from different test pairs: {second.title} may have learned from faces that test "
            f"{first.title}, and the other way round."
        )
    return found


def other_judges(first: Contender, second: Contender) -> list[str]:
    """Which figures of the two come from different networks and cannot be compared at all."""
    found = []
    for name in _JUDGES:
        networks = [str(each.metrics.get(name, "unknown")) for each in (first, second)]
        if networks[0] != networks[1]:
            found.append(f"Figures come from different networks ({name}: {networks[0]} and {networks[1]}).")
    return found


def table(first: Contender, second: Contender) -> str:
    """What a person weighs, in Markdown: figures with 95 % intervals, what is clear, and where each comes from."""
    origins = [
        (words, *(_shortened(each.facts.get(name, "unknown")) for each in (first, second))) for words, name in _ORIGINS
    ]
    return f"{figures(first, second)}\n\n{markdown(('Made of', first.title, second.title), origins)}"


def figures(first: Contender, second: Contender) -> str:
    """The key figures of both with their intervals, in Markdown, and below it on what ground one counts as better."""
    clear: dict[str | None, str] = {None: "none", **{each.title: f"{each.title} is better" for each in (first, second)}}
    rows = [
        (each.words, with_interval(*each.first), with_interval(*each.second), clear[each.better])
        for each in differences(first, second)
    ]
    pairs = [str(int(each.metrics["n_pairs"])) if "n_pairs" in each.metrics else "?" for each in (first, second)]
    heads = ("Figure, 95 % interval", first.title, second.title, "clear difference")
    table = markdown(heads, [*rows, ("test pairs", *pairs, "")])
    against = objections(first, second)
    ground = "the intervals of the two lie apart" if against else "the 95 % interval of the paired difference omits 0"
    return "\n".join([table, "", *against, f"A difference is clear where {ground}."])


def verdict(first: Contender, second: Contender) -> str:
    """The table in one line, of the first's view."""
    rows = differences(first, second)
    better, worse = (sum(row.better == each.title for row in rows) for each in (first, second))
    return f"against {second.title}: {better} figures clearly better, {worse} clearly worse, of {len(rows)}"


def picture(first: Contender, second: Contender, path: Path, credentials: Credentials | None = None) -> None:
    """Write a marked picture of both on the same test pairs: those of the first, or of the second if it has none.

    Args:
        credentials: who signs; None is the test certificate of this machine.
    Raises:
        StyleBlendError: neither brings pairs, or this code cannot load one of the two.
    """
    shown = _examples(first, second)
    swaps = {each.title: _swap(each, shown["source"], shown["target"]) for each in (first, second)}
    ceiling = {"true swap": shown["true_swap"]} if "true_swap" in shown else {}
    columns = {"source": shown["source"], "target": shown["target"], **swaps, **ceiling}
    swap_grid(columns, path, model=f"{first.title} and {second.title}", credentials=credentials)


def _examples(first: Contender, second: Contender) -> dict[str, Tensor]:
    for each in (first, second):
        try:
            return load_file(each.evaluation / EXAMPLES)
        except FileNotFoundError:
            continue
        except SafetensorError as error:
            raise StyleBlendError(f"{EXAMPLES} of {each.title} cannot be read ({error}): register it again") from None
    raise StyleBlendError(f"neither {first.title} nor {second.title} was registered with test pairs to be shown on")


@torch.inference_mode()
def _swap(which: Contender, source: Tensor, target: Tensor) -> Tensor:
    """Swapped faces, uint8 [n, 3, S, S], S being the version's own."""
    swapper = bending.load(which.swapper)
    side = swapper.encoder.input_px
    faces = [bicubic(from_8bit(pictures), side).clamp(-1, 1) for pictures in (source, target)]
    pairs = zip(*(images.split(1) for images in faces), strict=True)
    return to_8bit(torch.cat([swapper(*pair) for pair in pairs]))


def paired(first: pd.DataFrame, second: pd.DataFrame) -> dict[str, tuple[float, float]]:
    """95 % interval of the mean of first minus second, by figure.

    Args:
        first, second: rows of pairs.parquet of two versions or methods, of the same pairs in the same order.
    """
    apart = difference(first, second, RESAMPLES, seed=0)
    return {str(name): (float(row["low"]), float(row["high"])) for name, row in apart.iterrows()}


def _shortened(value: str) -> str:
    """A hash by its first digits; other facts as they are, as long as they fit into a cell."""
    is_hash = len(value) in (40, 64) and set(value) <= set("0123456789abcdef")
    return value[:12] if is_hash else value.replace("|", "/")[:120]


_ORIGINS = (
    ("alias", "alias"), ("gate", "gate"), ("git revision", "git_revision"), ("changed files", "git_changes"),
    ("settings", "params_sha256"), ("data", "data_sha256"), ("licence", "licence"),
    ("licences of the data", "data_licences"), ("environment", "environment"),
)  # fmt: skip
