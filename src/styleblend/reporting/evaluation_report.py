"""The report folder of an evaluation: tables, charts and grids of swaps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from safetensors.torch import save_file

from styleblend.evaluation import protocol
from styleblend.evaluation.baselines import HALF_MASK
from styleblend.evaluation.protocol import EXAMPLES, MODEL, TRUE_SWAP
from styleblend.faces.pixels import to_8bit
from styleblend.provenance.credentials import Credentials
from styleblend.reporting import report_page
from styleblend.reporting.charts import blending_chart, figure_chart, swap_grid
from styleblend.reporting.figures import caveat
from styleblend.system.files import whole_folder
from styleblend.weights import frozen

if TYPE_CHECKING:
    from styleblend.evaluation.benchmark import Result


def write(result: Result, out: Path, signing: Credentials, beside: report_page.Beside) -> list[str]:
    """Write the folder `out`; `signing` signs its pictures, `beside` is what the page has beside the figures.

    Returns:
        what a person must know beside the figures, a line each.
    """
    warnings = _warnings(result)
    with whole_folder(out) as folder:
        tables = [each.table.assign(method=name) for name, each in result.measured.items()]
        pd.concat(tables, ignore_index=True).to_parquet(folder / "pairs.parquet", index=False)
        figures = result.figures
        retrieval = figures[figures["figure"].isin(["id_retrieval_top1", "target_retrieval_top1"])]
        for name, rows in (("figures", figures), ("groups", result.groups), ("retrieval", retrieval)):
            rows.to_csv(folder / f"{name}.csv", index=False)
        (folder / "protocol.json").write_text(
            json.dumps(_description(result, warnings) | {"alarms": dict(beside.alarms)}, indent=1) + "\n"
        )
        figure_chart(figures, folder / "figures.png")
        blending_chart(result.inside.from_source, folder / "blending.png")
        if len(result.source):
            _write_pictures(result, folder, signing)
        page = report_page.render(result, beside, warnings + result.remarks, folder, signing)
        (folder / report_page.NAME).write_text(page)
    return warnings + result.remarks


def _warnings(result: Result) -> list[str]:
    inputs = result.inputs
    of_data = caveat(pd.read_parquet(inputs.faces / "manifest.parquet"), frozen.listed(inputs.networks))
    plain = " ".join(of_data.replace(">", "").replace("**", "").split())
    return [warning for warning in (plain, result.caveat) if warning]


def _description(result: Result, warnings: list[str]) -> dict[str, Any]:
    return {
        "text": protocol.__doc__,
        "methods": list(result.measured),
        "network_judge": result.flat["network_judge"],
        "network_attributes": result.flat["network_attributes"],
        "network_landmarks": result.flat["network_landmarks"],
        "gallery_source_faces": int(result.pairs.source.unique().numel()),
        "gallery_target_faces": int(result.pairs.target.unique().numel()),
        "warnings": warnings,
        "remarks": result.remarks,
    }


def _write_pictures(result: Result, folder: Path, signing: Credentials) -> None:
    shown = {"source": result.source, "target": result.target}
    kept = {name: each.kept for name, each in result.measured.items()}
    ceiling = {"true swap": kept[TRUE_SWAP]} if TRUE_SWAP in kept else {}
    beside = {"dense warp": kept["dense_warp"]}
    if HALF_MASK in kept:
        beside["half mask"] = kept[HALF_MASK]
    columns = {**shown, "swapped": kept[MODEL], **ceiling, **beside, "warp + blend": kept["warp_blend"]}
    swap_grid(columns, folder / "swap_grid.png", "evaluate", signing)
    drawn = {name: to_8bit(pictures).cpu() for name, pictures in result.inside.pictures.items()}
    swap_grid(shown | drawn, folder / "inside.png", "evaluate", signing)
    # A later version is shown on the same pairs, when the faces may be long gone.
    examples = shown | ({"true_swap": kept[TRUE_SWAP]} if TRUE_SWAP in kept else {})
    save_file({name: pictures.contiguous() for name, pictures in examples.items()}, folder / EXAMPLES)
