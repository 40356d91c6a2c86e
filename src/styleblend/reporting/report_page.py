"""The page of an evaluation for people: one HTML file that needs no network, no server and no other file."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from jinja2 import Environment, StrictUndefined, Template
from PIL import Image

from styleblend import provenance
from styleblend.data import licences
from styleblend.evaluation import protocol
from styleblend.evaluation.extremes import RULE
from styleblend.evaluation.protocol import MODEL, TRUE_SWAP
from styleblend.provenance.credentials import Credentials
from styleblend.reporting import comparison, curves
from styleblend.reporting.charts import swap_sheet
from styleblend.reporting.comparison import Contender
from styleblend.reporting.figures import KEY_FIGURES, labelled, with_interval
from styleblend.reporting.model_card import data_rows, network_rows
from styleblend.training.record import Record
from styleblend.weights import frozen

if TYPE_CHECKING:
    from styleblend.evaluation.benchmark import Result
    from styleblend.evaluation.extremes import Extreme

NAME = "report.html"
TEMPLATE = Path(__file__).with_name(NAME)
_GROUP_FIGURES = ("id_retrieval_top1", "target_retrieval_top1", "id_similarity_source", "pose_error_deg",
                  "expression_error", "outside_l1")  # fmt: skip


@dataclass(frozen=True)
class Beside:
    """What stands on the page beside the figures.

    alarms: on, by name a sentence. training: of the model's folder. earlier: versions by how they are called.
    made_with: facts of the code, by what they are.
    """

    alarms: Mapping[str, str] = field(default_factory=dict)
    training: Record = Record()
    earlier: Mapping[str, Contender] = field(default_factory=dict)
    made_with: Mapping[str, str] = field(default_factory=dict)


def render(result: Result, beside: Beside, warnings: list[str], folder: Path, signing: Credentials) -> str:
    """The page's HTML.

    Args:
        folder: of the evaluation, with its pairs.parquet. signing: signs the pictures.
    """
    manifest = pd.read_parquet(result.inputs.faces / "manifest.parquet")
    networks = frozen.listed(result.inputs.networks)
    return _template().render(
        alarms=list(beside.alarms.values()),
        events=beside.training.events,
        warnings=warnings,
        pairs=result.flat["n_pairs"],
        persons=result.flat["n_persons"],
        judge=result.flat["network_judge"],
        methods=[name.replace("_", " ") for name in result.measured],
        figures=_figures(result),
        earlier=_earlier(result, beside, folder),
        curves=_data("image/svg+xml", curves.draw(beside.training).encode()),
        rule=RULE,
        extremes=[_shown(kind, each, signing) for kind, each in result.extremes.items()],
        group_heads=[name.replace("_", " ") for name in _GROUP_FIGURES],
        groups=_groups(result),
        made_with=beside.made_with,
        licence=licences.of(networks, manifest).text().replace("**", ""),
        networks=network_rows(networks),
        data=data_rows(manifest),
        protocol=protocol.__doc__,
    )


def _figures(result: Result) -> list[dict[str, Any]]:
    """A row a key figure: words, direction, and a cell a method with what the model is beside it."""
    known = {(row["figure"], row["method"]): row for row in result.figures.to_dict("records")}
    rows = []
    for name, words, better in KEY_FIGURES:
        if (name, MODEL) not in known:
            continue
        own = known[name, MODEL]["value"]
        cells = []
        for method in result.measured:
            found = known.get((name, method))
            if found is None:
                cells.append({"value": "", "interval": "", "kind": "none"})
                continue
            ahead = found["value"] > own if better == "up" else found["value"] < own
            kind = "own" if method == MODEL else "ceiling" if method == TRUE_SWAP else "ahead" if ahead else "behind"
            interval = f"{found['low']:.3g} to {found['high']:.3g}"
            cells.append({"value": f"{found['value']:.3g}", "interval": interval, "kind": kind})
        rows.append({"words": words, "better": "higher" if better == "up" else "lower", "cells": cells})
    return rows


def _earlier(result: Result, beside: Beside, folder: Path) -> dict[str, Any] | None:
    """This model beside the champion and the previous version; None where no version is known yet."""
    if not beside.earlier:
        return None
    here = Contender("this model", {}, result.inputs.swapper, folder, result.flat)
    notes = [
        f"{name}, {other.title}: {line}"
        for name, other in beside.earlier.items()
        for line in comparison.objections(here, other)
    ]
    found = [{each.name: each for each in comparison.differences(here, other)} for other in beside.earlier.values()]
    rows = []
    for name, words, better in KEY_FIGURES:
        both = [known.get(name) for known in found]
        first = next((each for each in both if each is not None), None)
        if first is None:
            continue
        cells = []
        for each in both:
            verdict = "" if each is None or each.better is None else "better" if each.better == here.title else "worse"
            cells.append({"value": "" if each is None else with_interval(*each.second), "verdict": verdict})
        rows.append({"words": labelled(words, better), "own": with_interval(*first.first), "cells": cells})
    made = beside.made_with.get("training")
    same = [other.facts.get("training_fingerprint") == made for other in beside.earlier.values()]
    heads = [
        f"{name}, {other.title}{', of the same training' if again else ''}"
        for again, (name, other) in zip(same, beside.earlier.items(), strict=True)
    ]
    return {"heads": heads, "rows": rows, "notes": notes}


def _groups(result: Result) -> list[dict[str, Any]]:
    """A row a group of pairs: its size, and its figures with their intervals."""
    known: dict[str, dict[str, Any]] = {}
    for row in result.groups.to_dict("records"):
        known.setdefault(str(row["group"]), {})[str(row["figure"])] = row
    found = []
    for group in sorted(known):
        rows = [known[group].get(name) for name in _GROUP_FIGURES]
        cells = ["" if row is None else with_interval(row["value"], row["low"], row["high"]) for row in rows]
        size = result.flat[f"n_pairs_{group}"]
        found.append({"name": _group_words(group), "pairs": size, "cells": cells})
    return found


def _group_words(group: str) -> str:
    """`yaw_0_15` as people read it."""
    kind, _, rest = group.partition("_")
    low, _, high = rest.rpartition("_")
    return f"{kind} {low} {'and more' if high == 'up' else f'to {high}'}" if low else group.replace("_", " ")


def _shown(kind: str, extreme: Extreme, signing: Credentials) -> dict[str, Any]:
    """A kind of pairs as one marked picture, and the place and margin of each row in words."""
    rows = [f"{place} ({margin:+.2f})" for place, margin in zip(extreme.places, extreme.margins, strict=True)]
    return {"kind": kind, "places": ", ".join(rows), "picture": _picture(swap_sheet(extreme.pictures), signing)}


def _picture(image: Image.Image, signing: Credentials) -> str:
    marked = provenance.marked_picture(image, "JPEG", model="evaluate", kind="grid", credentials=signing)
    return _data("image/jpeg", marked)


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}" if content else ""


@cache
def _template() -> Template:
    # What others wrote, as licences and names of files, is text and never markup.
    return Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True).from_string(TEMPLATE.read_text())
