"""Stage split: training, validation and test faces of different persons, and the pairs of the evaluation."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from styleblend.config.data import Split
from styleblend.config.sources import AnySource
from styleblend.data import splits
from styleblend.data.manifest import read_manifest
from styleblend.data.true_swaps import FOLDER, write_true_swaps
from styleblend.errors import StyleBlendError
from styleblend.stages.entry import Config, run
from styleblend.system.files import whole_folder


def split(
    faces: Path, perceived: Path, selection: Path, out: Path, cfg: Split, sources: Sequence[AnySource] = ()
) -> splits.Splits:
    """Write train, val, test and the two pair lists to `out`, of the faces that the stage validate keeps.

    Args:
        sources: where the faces come from; of rendered ones cfg.true_swaps asks for the true swaps, too.

    Raises:
        StyleBlendError: a table is missing, or there are too few persons.
    """
    for table, stage in ((perceived, "perceive"), (selection, "validate")):
        if not table.is_file():
            raise StyleBlendError(f"{table} is missing: run the stage {stage} first")
    chosen = pd.read_parquet(selection, columns=["face_id", "kept"])
    manifest = read_manifest(faces)
    manifest = manifest[manifest["face_id"].isin(chosen.loc[chosen["kept"], "face_id"])]
    made = splits.split(manifest, pd.read_parquet(perceived), cfg)
    rendered = {source.name: source for source in sources if source.kind == "rendered"}
    with whole_folder(out) as partial:
        made.write_into(partial)
        if cfg.true_swaps:
            count = write_true_swaps(made.train, manifest, rendered, cfg.seed, partial / FOLDER, cfg.workers)
            print(f"split: {count} of {len(made.train)} training faces have a true swap")
    parts = (("train", made.train), ("val", made.val), ("test", made.test))
    counts = [f"{name} {len(table)} faces of {table['person'].nunique()} persons" for name, table in parts]
    print(f"split: {', '.join(counts)}; {len(made.val_pairs)} and {len(made.test_pairs)} pairs of val and test")
    if len(made.test_pairs) < cfg.test_pairs or len(made.val_pairs) < cfg.val_pairs:
        print(f"split: there are no more pairs; asked were {cfg.val_pairs} and {cfg.test_pairs}")
    return made


def main(given: argparse.Namespace, cfg: Config) -> None:
    """Stage split: training, validation and test faces of different persons, and the pairs of the evaluation."""
    split(given.faces, given.perceived, given.selection, given.out, cfg.split, cfg.download.sources)


if __name__ == "__main__":
    run("split", main, "faces", "perceived", "selection", "out")
