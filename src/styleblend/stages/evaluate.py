"""Stage evaluate: every figure of the model, of the baselines and of the true swap on the written test pairs."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file

from styleblend import model
from styleblend.config.evaluation import Evaluate
from styleblend.config.model import sizes_of
from styleblend.config.provenance import Provenance
from styleblend.config.sources import Source
from styleblend.config.tracking import Tracking
from styleblend.evaluation import baselines, inception, metrics, protocol, true_swap
from styleblend.evaluation.inside import look_inside
from styleblend.evaluation.protocol import MODEL, TRUE_SWAP, Measured, Method, Pairs
from styleblend.faces.pixels import from_8bit, to_8bit
from styleblend.perception import attributes, identity
from styleblend.provenance import credentials
from styleblend.registry import runs
from styleblend.reporting.caveat import caveat
from styleblend.reporting.charts import blending_chart, figure_chart, swap_grid
from styleblend.stages.entry import run
from styleblend.system.atomic import whole_file, whole_folder
from styleblend.system.hashes import fingerprint
from styleblend.weights import frozen

if TYPE_CHECKING:
    from styleblend.config.params import Config
    from styleblend.config.training import EncoderStart


def evaluate(
    splits: Path,
    faces: Path,
    perceived: Path,
    networks: Path,
    swapper: Path,
    out: Path,
    metrics_file: Path,
    cfg: Evaluate,
    sources: tuple[Source, ...],
    track: Tracking,
    provenance: Provenance,
    encoder_start: EncoderStart = "pretrained",
) -> dict[str, Any]:
    """Measure, write the report folder `out` and the flat `metrics_file`, and log both to MLflow.

    Args:
        sources: of the section download; the true swap is rendered as its source's photographs were.
        provenance: who signs the grids.
        encoder_start: how the swapper's training began, for the baseline of that moment.
    Returns:
        what metrics_file holds: numbers, and the names of the networks that measured them.
    """
    signing = credentials.of(provenance)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    pairs = protocol.read_pairs(splits, faces, perceived)
    judge = identity.load(networks, "identity_judge").to(device)
    seer = attributes.load(networks, "attributes_judge").to(device)
    describer: protocol.Describer = judge
    listed = frozen.listed(networks)
    # Stated by hand, or by the catalogue, by whose word the stage pretrained took the file.
    inception_sha256 = cfg.inception_sha256 or listed.get("inception", {}).get("sha256")
    if inception_sha256 is not None:
        program = frozen.foreign(networks, "inception") or networks / "inception.pt"
        describer = inception.load(program, inception_sha256, device)
    trained = model.load(swapper).to(device)
    sizes = sizes_of(json.loads((swapper / "model.json").read_text())["model"])
    untrained = baselines.untrained_mixing(sizes, networks, cfg.seed, encoder_start).to(device)
    methods = _methods(pairs, trained, untrained, sources)
    rows = min(cfg.grid_rows, len(pairs))
    keep = sorted(np.random.default_rng(cfg.seed).choice(len(pairs), rows, replace=False).tolist())
    measured = protocol.measure(pairs, methods, judge, seer, cfg.batch_size, keep, device, describer)
    real = protocol.real_features(pairs, describer, cfg.batch_size, device)

    figures = pd.concat(
        {name: protocol.summarise(each.table, cfg.bootstrap, cfg.seed) for name, each in measured.items()},
        names=["method"],
    ).reset_index()
    groups = _by_group(pairs, measured[MODEL], cfg)
    group_sizes = protocol.groups(pairs, cfg.yaw_bins_deg).value_counts(sort=False)
    flat = _flat(figures, groups, measured, real, _frechet_name(describer)) | {
        **{f"n_pairs_{name}": int(size) for name, size in group_sizes.items()},
        "n_pairs": len(pairs),
        "n_real_faces": len(real),
        "n_persons": int(pairs.person.unique().numel()),
        "network_judge": judge.name,
        "network_attributes": seer.name,
        "network_frechet": describer.name,
    }
    manifest = pd.read_parquet(faces / "manifest.parquet")
    warnings = (
        " ".join(caveat(manifest, listed).replace(">", "").replace("**", "").split()),
        metrics.frechet_caveat(len(pairs), *real.shape),
    )
    description: dict[str, Any] = {
        "text": protocol.__doc__,
        "methods": list(methods),
        "network_judge": judge.name,
        "network_attributes": seer.name,
        "gallery_source_faces": int(pairs.source.unique().numel()),
        "gallery_target_faces": int(pairs.target.unique().numel()),
        "warnings": [warning for warning in warnings if warning],
    }
    shown = {role: pairs.pictures(rows_[keep]) for role, rows_ in (("source", pairs.source), ("target", pairs.target))}
    inside = look_inside(trained, *(from_8bit(pictures).to(device) for pictures in shown.values()))
    with whole_folder(out) as folder:
        tables = [each.table.assign(method=name) for name, each in measured.items()]
        pd.concat(tables, ignore_index=True).to_parquet(folder / "pairs.parquet", index=False)
        figures.to_csv(folder / "figures.csv", index=False)
        groups.to_csv(folder / "groups.csv", index=False)
        retrieval = figures[figures["figure"].isin(["id_retrieval_top1", "target_retrieval_top1"])]
        retrieval.to_csv(folder / "retrieval.csv", index=False)
        (folder / "protocol.json").write_text(json.dumps(description, indent=1) + "\n")
        figure_chart(figures, folder / "figures.png")
        swap_grid(_grid(pairs, measured, keep), folder / "swap_grid.png", "evaluate", signing)
        # A later version is shown on the same pairs, when the faces may be long gone.
        truth = {"true_swap": measured[TRUE_SWAP].kept} if TRUE_SWAP in measured else {}
        save_file({name: value.contiguous() for name, value in (shown | truth).items()}, folder / protocol.EXAMPLES)
        drawn = {name: to_8bit(pictures).cpu() for name, pictures in inside.pictures.items()}
        swap_grid(shown | drawn, folder / "inside.png", "evaluate", signing)
        blending_chart(inside.from_source, folder / "blending.png")
    with whole_file(metrics_file) as partial:
        partial.write_text(json.dumps(flat, indent=1) + "\n")

    parent = json.loads((swapper / "run.json").read_text())["parent_run_id"]
    key = fingerprint(swapper, splits, cfg.model_dump_json())
    with runs.child_run(track, parent, "evaluate", key, cfg.model_dump()) as child:
        child.log_metrics({name: value for name, value in flat.items() if not isinstance(value, str)})
        child.set_tags({name: value for name, value in flat.items() if isinstance(value, str)})
        child.log_artifact(out, "evaluate")
    print(f"evaluate: {len(pairs)} pairs, {len(methods)} methods; {out}/figures.csv and {out}/swap_grid.png")
    for line in description["warnings"]:
        print(f"evaluate: {line}")
    return flat


def _methods(
    pairs: Pairs, trained: model.Swapper, untrained: model.Swapper, sources: tuple[Source, ...]
) -> dict[str, Method]:
    methods: dict[str, Method] = {
        MODEL: lambda batch: trained(batch.source, batch.target),
        "copy_target": baselines.copy_target,
        "copy_source": baselines.copy_source,
        "warp_blend": baselines.warp_blend,
        "untrained_mixing": lambda batch: untrained(batch.source, batch.target),
    }
    if true_swap.has_true_swap(pairs):
        rendered = {each.name: each for each in sources if each.kind == "rendered"}
        methods[TRUE_SWAP] = lambda batch: true_swap.true_swaps(batch, rendered)
    return methods


def _frechet_name(describer: protocol.Describer) -> str:
    """The FID is of Inception's features alone; of another network's it is another figure, named after it."""
    if isinstance(describer, inception.Inception):
        return "fid"
    return "frechet_" + "".join(letter if letter.isalnum() else "_" for letter in describer.name.lower())


def _by_group(pairs: Pairs, measured: Measured, cfg: Evaluate) -> pd.DataFrame:
    """The model's figures in each pose group: columns group, figure, value, low, high, n."""
    member = protocol.groups(pairs, cfg.yaw_bins_deg)
    parts = {
        name: protocol.summarise(measured.table[(member == name).to_numpy()], cfg.bootstrap, cfg.seed)
        for name in member.unique()
    }
    return pd.concat(parts, names=["group"]).reset_index()


def _flat(
    figures: pd.DataFrame,
    groups: pd.DataFrame,
    measured: Mapping[str, Measured],
    real: torch.Tensor,
    frechet: str,
) -> dict[str, Any]:
    """Flat names: the model's plain and with limits, others' as method/figure, groups' as figure_group."""
    flat: dict[str, Any] = {}
    for row in figures.to_dict("records"):
        if row["method"] == MODEL:
            flat |= {row["figure"]: row["value"]}
            flat |= {f"{row['figure']}_low": row["low"], f"{row['figure']}_high": row["high"]}
        else:
            flat[f"{row['method']}/{row['figure']}"] = row["value"]
    for name, each in measured.items():
        flat[frechet if name == MODEL else f"{name}/{frechet}"] = metrics.frechet_distance(each.features, real)
    for row in groups.to_dict("records"):
        flat[f"{row['figure']}_{row['group']}"] = row["value"]
    return flat


def _grid(pairs: Pairs, measured: Mapping[str, Measured], keep: list[int]) -> dict[str, torch.Tensor]:
    columns = {
        "source": pairs.pictures(pairs.source[keep]),
        "target": pairs.pictures(pairs.target[keep]),
        "swapped": measured[MODEL].kept,
    }
    if TRUE_SWAP in measured:
        columns["true swap"] = measured[TRUE_SWAP].kept
    return columns | {"warp + blend": measured["warp_blend"].kept}


def main(given: argparse.Namespace, cfg: Config) -> None:
    """Stage evaluate: every figure of the model, of the baselines and of the true swap on the written test pairs."""
    evaluate(
        given.splits,
        given.faces,
        given.perceived,
        given.networks,
        given.swapper,
        given.out,
        given.metrics,
        cfg.evaluate,
        cfg.download.sources,
        cfg.tracking,
        cfg.provenance,
        # Not among the stage's params in dvc.yaml: another start makes another swapper, which is among its deps.
        cfg.train_encoder.encoder_start,
    )


if __name__ == "__main__":
    run("evaluate", main, "splits", "faces", "perceived", "networks", "swapper", "out", "metrics")
