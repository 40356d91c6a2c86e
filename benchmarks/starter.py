"""What the starter's swaps of photographs look like and measure, with and without colours of its own.

    styleblend preset faces --folder LONDON --label parent_folder
    styleblend weights fetch
    dvc repro perceive split
    OMP_NUM_THREADS=1 python benchmarks/starter.py --pairs 240 --out starter.json --sheet starter.png
    python benchmarks/starter.py --pairs 500 --also 'the paper alone=FOLDER'

Run in the project's folder. All methods are judged on the same pairs of the test split in one run: the committed
starter as it is, the same with all colours that it draws, the solid warp that it begins with, a spline over all
points of the mesh, the target itself, and models of other folders, each with and without another source's codes. The
figures of the pairs whose heads are turned further apart than --apart-deg are given by themselves. The sheet shows the
best, median and worst pairs by the rule of the report (evaluation.extremes).
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from PIL import Image, ImageDraw

from styleblend import model
from styleblend.config.params import load_params
from styleblend.evaluation import baselines, extremes, frechet, judges, protocol
from styleblend.evaluation.metrics import pose_error_deg
from styleblend.evaluation.protocol import Batch, Method
from styleblend.faces.pixels import from_8bit, to_8bit
from styleblend.perception import bending
from styleblend.perception.landmarks import load_mesh
from styleblend.provenance import save_picture
from styleblend.reporting.charts import swap_sheet
from styleblend.weights import starter

DATA = Path("data")
NETWORKS = DATA / "pretrained" / "networks"


def begun(prior_colour: float) -> model.Swapper:
    """The starter of the run, with another share of the colours that it draws."""
    sizes = starter.sizes(NETWORKS / "starter")
    swapper = model.build(sizes.model_copy(update={"prior_colour": prior_colour}))
    swapper.load_state_dict(model.load(NETWORKS / "starter").state_dict())
    swapper.bend = bending.Bender(load_mesh(NETWORKS))
    return swapper.eval()


def swaps_of(swapper: model.Swapper, bent: Method) -> Method:
    """Its swaps, from the source that is bent once for all."""

    def swapped(batch: Batch) -> torch.Tensor:
        made: torch.Tensor = swapper(batch.source, batch.target, None, bent(batch))
        return made

    return swapped


def of_folder(name: str, folder: Path) -> dict[str, Method]:
    """The swaps of a model that needs no warp, and those with the codes of the batch's next source."""
    swapper = model.load(folder)

    def swapped(batch: Batch, turns: int = 0) -> torch.Tensor:
        made: torch.Tensor = swapper(batch.source.roll(turns, 0), batch.target)
        return made

    return {name: swapped, f"{name}, codes of others": partial(swapped, turns=1)}


def named(text: str) -> tuple[str, Path]:
    """NAME=FOLDER."""
    name, _, folder = text.partition("=")
    if not name or not folder:
        raise argparse.ArgumentTypeError(f"'{text}' is not of the form NAME=FOLDER")
    return name, Path(folder)


def apart(pairs: protocol.Pairs, degrees: float) -> torch.Tensor:
    """Which pairs, bool [N], have heads that are turned further apart than that, in yaw, pitch and roll together."""
    angles = pairs.yaw_pitch_roll_deg
    return pose_error_deg(angles[pairs.source], angles[pairs.target]) > degrees


def drawn(pictures: dict[str, dict[str, torch.Tensor]]) -> Image.Image:
    """The sheets of each kind of pairs side by side."""
    sheets = [(kind, swap_sheet(columns)) for kind, columns in pictures.items()]
    gap, top = 8, 16
    whole = Image.new("RGB", (sum(s.width + gap for _, s in sheets) - gap, sheets[0][1].height + top), "white")
    left = 0
    for kind, sheet in sheets:
        ImageDraw.Draw(whole).text((left + 4, 2), kind, fill="black")
        whole.paste(sheet, (left, top))
        left += sheet.width + gap
    return whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=240)
    parser.add_argument("--rows", type=int, default=3, help="of each kind on the sheet")
    parser.add_argument(
        "--also", action="append", type=named, default=[], metavar="NAME=FOLDER", help="a model without a prior"
    )
    parser.add_argument("--apart-deg", type=float, default=30)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--sheet", type=Path)
    given = parser.parse_args()
    cfg = load_params(Path("params.yaml"))
    pairs = protocol.read_pairs(DATA / "splits", DATA / "faces", DATA / "perceived.parquet")
    pairs = replace(pairs, source=pairs.source[: given.pairs], target=pairs.target[: given.pairs])
    coloured, grey = begun(1), begun(0)
    bent = baselines.bent_by(coloured)
    methods: dict[str, Method] = {
        "starter": swaps_of(grey, bent),
        "with all colours": swaps_of(coloured, bent),
        "solid warp": baselines.of_prior(coloured, bent)[baselines.PRIOR_ALONE],
        "spline": baselines.dense_warped,
        "copy target": baselines.copy_target,
    }
    for name, folder in given.also:
        methods |= of_folder(name, folder)
    judging, size = judges.load(NETWORKS), cfg.evaluate.batch_size
    with torch.no_grad():
        measured = protocol.measure(pairs, methods, judging, size, [], "cpu")
        real = protocol.real_features(pairs, judging, size)
    far = apart(pairs, given.apart_deg).numpy()
    figures: dict[str, dict[str, list[dict[str, float]]]] = {}
    for name, each in measured.items():
        tables = {"all": each.table, "apart": each.table[far]} if far.any() else {"all": each.table}
        figures[name] = {
            of: protocol.summarise(table, cfg.evaluate.bootstrap, cfg.evaluate.seed).reset_index().to_dict("records")
            for of, table in tables.items()
        }
        distance = frechet.frechet_distance(each.features, real)
        figures[name]["all"].append({"figure": judging.frechet_name, "value": distance})
        for of, rows in figures[name].items():
            print(name, f"({of})", {row["figure"]: round(row["value"], 4) for row in rows})
    if given.out is not None:
        size_of = {"pairs": len(pairs), "apart": int(far.sum()), "apart_deg": given.apart_deg}
        persons = pairs.table["person"].nunique()
        given.out.write_text(json.dumps({**size_of, "gallery": persons, "figures": figures}, indent=1) + "\n")
    if given.sheet is not None:
        margin = extremes.margins(measured["starter"].table)
        shown = extremes.may_show(pairs, [each.name for each in cfg.download.sources if not each.show])
        pictures = {}
        for kind, rows in extremes.choose(margin, shown, given.rows).items():
            s, t = pairs.source[rows], pairs.target[rows]
            batch = Batch(pairs, s, t, *(from_8bit(pairs.pictures(each)) for each in (s, t)))
            with torch.no_grad():
                made = {name: to_8bit(methods[name](batch)) for name in ("solid warp", "starter")}
            pictures[kind] = {"source": pairs.pictures(s), "target": pairs.pictures(t), **made}
        save_picture(drawn(pictures), given.sheet, model="styleblend starter", kind="grid")


if __name__ == "__main__":
    main()
