"""The benchmark of a trained swapper: the model, the baselines and the true swap on the written test pairs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from styleblend import model
from styleblend.config.evaluation import Evaluate
from styleblend.config.model import sizes_of
from styleblend.config.sources import Source
from styleblend.evaluation import baselines, extremes, frechet, judges, protocol, references, remarks
from styleblend.evaluation.extremes import Extreme
from styleblend.evaluation.protocol import MODEL, TRUE_SWAP, Measured, Method, Pairs
from styleblend.faces.pixels import from_8bit
from styleblend.perception import bending
from styleblend.system.files import sha256
from styleblend.weights import frozen

if TYPE_CHECKING:
    from styleblend.config.training import EncoderStart


@dataclass(frozen=True)
class Inputs:
    """Outputs of the earlier stages, and what is known of how they were made.

    sources: settings of the data's sources; a true swap is rendered as its source's photographs were.
    encoder_start: how the training of the swapper began, for the baseline `untrained_mixing`.
    """

    splits: Path
    faces: Path
    perceived: Path
    networks: Path
    swapper: Path
    sources: tuple[Source, ...]
    encoder_start: EncoderStart = "pretrained"


@dataclass(frozen=True)
class Inside:
    """What the codes hold (paper, Fig. 5): W_s, W_t and W' drawn by the decoder alone, and who gives which channel.

    Pictures [n, 3, R, R], about [-1, 1], in the order of the paper, and the source's share A_w^s of the blend.
    from_source: [n, n_styles, style_dim or 1], 0 takes all from the target, 1 all from the source.
    """

    pictures: dict[str, Tensor]
    from_source: Tensor


@torch.no_grad()
def look_inside(swapper: model.Swapper, source: Tensor, target: Tensor) -> Inside:
    """Draw the codes of pairs [n, 3, S, S] in [-1, 1] with and without the pathway of target features."""
    of_source, of_target = swapper.encoder(source), swapper.encoder(target)
    _, from_source = swapper.blending.weights(of_source.codes, of_target.codes)
    blended = swapper.blending(of_source.codes, of_target.codes)
    pictures = {
        "decoded W_s": swapper.decoder(of_source.codes),
        "decoded W_t": swapper.decoder(of_target.codes),
        "decoded W'": swapper.decoder(blended),
        "swapped": swapper(source, target),
    }
    return Inside(pictures, from_source)


@dataclass(frozen=True)
class Result:
    """All that was measured.

    measured: by method.
    figures: columns method, figure, value, low, high, n.
    groups: the model's figures by pose group, columns group, figure, value, low, high, n.
    flat: numbers and names of networks, as in metrics.json.
    source, target: faces of the pairs whose swaps were kept, uint8 [n, 3, S, S]; n is 0 where none may be shown.
    inside: the same pairs inside the model.
    caveat: what to say beside the Frechet distance, or nothing.
    extremes: best, median and worst pairs that may be shown.
    remarks: how baselines stand beside the model, a sentence each.
    """

    inputs: Inputs
    pairs: Pairs
    measured: dict[str, Measured]
    figures: pd.DataFrame
    groups: pd.DataFrame
    flat: dict[str, Any]
    source: Tensor
    target: Tensor
    inside: Inside
    caveat: str
    extremes: dict[str, Extreme]
    remarks: list[str]


def run(inputs: Inputs, cfg: Evaluate) -> Result:
    """Measure every method on every pair of the test split.

    Raises:
        StyleBlendError: an input is missing, damaged or does not fit the others.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    pairs = protocol.read_pairs(inputs.splits, inputs.faces, inputs.perceived)
    judging = judges.load(inputs.networks, cfg.inception_sha256, device)
    trained = bending.load(inputs.swapper).to(device)
    shown = extremes.may_show(pairs, [each.name for each in inputs.sources if not each.show])
    rows = min(cfg.grid_rows, len(shown))
    keep = sorted(np.random.default_rng(cfg.seed).choice(shown, rows, replace=False).tolist()) if shown else []
    methods = _methods(inputs, pairs, trained, cfg.seed, device)
    measured = protocol.measure(pairs, methods, judging, cfg.batch_size, keep, device)
    found = tables(pairs, measured, judging, cfg, [MODEL], device)
    # Shares of the blend are of any pairs; pictures are of those that may be shown.
    seen = keep or list(range(rows or 1))
    source, target = (pairs.pictures(faces[seen]) for faces in (pairs.source, pairs.target))
    inside = look_inside(trained, from_8bit(source).to(device), from_8bit(target).to(device))
    margin = extremes.margins(measured[MODEL].table)
    said = (
        remarks.nearer_to_real_faces(found.distances, judging.frechet_name),
        *remarks.beside_others(measured, cfg.bootstrap, cfg.seed),
    )
    return Result(
        inputs=inputs,
        pairs=pairs,
        measured=measured,
        figures=found.figures,
        groups=found.groups.drop(columns="method"),
        flat=found.flat,
        source=source[: len(keep)],
        target=target[: len(keep)],
        inside=inside,
        caveat=found.caveat,
        extremes=extremes.draw(pairs, methods, margin, extremes.choose(margin, shown, cfg.report_rows), device),
        remarks=[line for line in said if line],
    )


@dataclass(frozen=True)
class Tables:
    """Figures of methods that were measured on the same pairs.

    figures: columns method, figure, value, low, high, n; groups: the same of each pose group, with a column group,
    for the methods in question. flat: numbers and names of networks, as in metrics.json; the figures of other methods
    than the model as `method/figure`. distances: Frechet distance by method. caveat: what to say beside them.
    """

    figures: pd.DataFrame
    groups: pd.DataFrame
    flat: dict[str, Any]
    distances: dict[str, float]
    caveat: str


def tables(
    pairs: Pairs,
    measured: Mapping[str, Measured],
    judging: judges.Judges,
    cfg: Evaluate,
    in_question: Sequence[str],
    device: str,
) -> Tables:
    """Summarise what was measured.

    Args:
        in_question: the methods that the evaluation is about: with intervals, and by pose group, in `flat`.
    """
    real = protocol.real_features(pairs, judging, cfg.batch_size, device)
    member = protocol.groups(pairs, cfg.yaw_bins_deg)
    summarise = partial(protocol.summarise, resamples=cfg.bootstrap, seed=cfg.seed)
    figures = pd.concat({name: summarise(each.table) for name, each in measured.items()}, names=["method"])
    by_group = {
        (name, group): summarise(measured[name].table[(member == group).to_numpy()])
        for name in in_question
        for group in member.unique()
    }
    figures, groups = figures.reset_index(), pd.concat(by_group, names=["method", "group"]).reset_index()
    distances = {method: frechet.frechet_distance(each.features, real) for method, each in measured.items()}
    flat = {
        **_by_method(figures, in_question),
        **{_name(method, judging.frechet_name): distance for method, distance in distances.items()},
        **{_name(row["method"], f"{row['figure']}_{row['group']}"): row["value"] for row in groups.to_dict("records")},
        **{f"n_pairs_{name}": int(size) for name, size in member.value_counts(sort=False).items()},
        "n_pairs": len(pairs),
        "n_real_faces": len(real),
        **context(pairs, judging),
    }
    return Tables(figures, groups, flat, distances, frechet.frechet_caveat(len(pairs), *real.shape))


def context(pairs: Pairs, judging: judges.Judges) -> dict[str, Any]:
    """What figures depend on beside the swaps: sizes of the galleries, who judged, and how alike real faces are."""
    found: dict[str, Any] = {
        "n_persons": int(pairs.person.unique().numel()),
        "n_gallery_faces": int(pairs.source.unique().numel()),
        "n_gallery_persons": int(pairs.person[pairs.source].unique().numel()),
        "network_judge": judging.identity.name,
        "network_attributes": judging.attributes.name,
        "network_frechet": judging.describer.name,
    }
    for role, network in (("training", judging.training), ("landmarks", judging.landmarks)):
        if network is not None:
            found[f"network_{role}"] = str(getattr(network, "name", role))
    for name, scale in zip(("judge", "training"), references.scales(pairs, judging), strict=True):
        if scale is not None:
            found |= {f"same_person_{name}": scale.same_person, f"strangers_{name}": scale.strangers}
    return found


def _methods(inputs: Inputs, pairs: Pairs, trained: model.Swapper, seed: int, device: str) -> dict[str, Method]:
    sizes = sizes_of(json.loads((inputs.swapper / "model.json").read_text())["model"])
    untrained = baselines.untrained_mixing(sizes, inputs.networks, seed, inputs.encoder_start).to(device)
    bent = baselines.bent_by(trained)
    methods: dict[str, Method] = {
        MODEL: lambda batch: trained(batch.source, batch.target, None, bent(batch)),
        **baselines.of_prior(trained, bent),
        **baselines.methods(
            untrained,
            baselines.keeps_identity_apart(inputs.networks, inputs.encoder_start),
            "starter" if inputs.encoder_start == "starter" else "untrained_mixing",
            bent if _one_mesh(inputs, untrained) else None,
        ),
    }
    if baselines.has_true_swap(pairs):
        rendered = {each.name: each for each in inputs.sources if each.kind == "rendered"}
        methods[TRUE_SWAP] = lambda batch: baselines.true_swaps(batch, rendered)
    return methods


def _one_mesh(inputs: Inputs, untrained: model.Swapper) -> bool:
    """Whether the model and where its training began bend sources by one and the same network."""
    files = inputs.swapper / bending.MESH_FILE, frozen.foreign(inputs.networks, "landmarks")
    if untrained.bend is None or files[1] is None or not files[0].is_file():
        return False
    return sha256(files[0]) == sha256(files[1])


def _name(method: str, figure: str) -> str:
    """The model's figures go by their own names, those of other methods as `method/figure`."""
    return figure if method == MODEL else f"{method}/{figure}"


def _by_method(figures: pd.DataFrame, in_question: Sequence[str]) -> dict[str, float]:
    flat: dict[str, float] = {}
    for row in figures.to_dict("records"):
        name = _name(row["method"], row["figure"])
        flat[name] = row["value"]
        if row["method"] in in_question:
            flat |= {f"{name}_low": row["low"], f"{name}_high": row["high"]}
    return flat
