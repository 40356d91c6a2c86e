"""`styleblend evaluate`: measure any method's swapped pictures by a written pair list, or this model over seeds."""

from __future__ import annotations

import json
import re
import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from styleblend.config.params import Config, load_params
from styleblend.errors import StyleBlendError

if TYPE_CHECKING:
    from styleblend.data.pair_list import ListedPair
    from styleblend.data.paired_faces import Cutting
    from styleblend.evaluation.protocol import Batch, Method

NETWORKS = Path("data/pretrained/networks")


def add_options(add: ArgumentParser) -> None:
    """The options of the subcommand."""
    add.add_argument("--pairs", type=Path, metavar="FILE", help="list of pairs: .csv, .txt, or FaceForensics' .json")
    add.add_argument("--pictures", type=Path, metavar="DIR", help="what the list names (default: the list's folder)")
    help = "a method's swapped pictures; once for each method"
    add.add_argument("--swaps", action="append", default=[], metavar="NAME=DIR", help=help)
    add.add_argument("--aligned", action="store_true", help="all pictures are aligned faces: no detection")
    add.add_argument("--frames", type=int, default=10, metavar="N", help="of each FaceForensics sequence (default: 10)")
    add.add_argument("--model", help="folder, alias or number of a version to measure on the same pairs")
    add.add_argument("--detector-weights", type=Path, metavar="FILE", help="file of the face detector")
    add.add_argument("--networks", type=Path, default=NETWORKS, metavar="DIR", help="judges (default: %(default)s)")
    help = "folder to write (default: reports/others)"
    add.add_argument("-o", "--output", type=Path, default=Path("reports/others"), help=help)
    help = "train and measure the settings with K seeds, in isolated runs; can be interrupted"
    add.add_argument("--seeds", type=int, metavar="K", help=help)


def run(given: Namespace) -> None:
    """Measure swaps of others, or train over seeds.

    Raises:
        StyleBlendError: the options do not go together, or an input is missing or of another form.
    """
    if given.seeds is not None:
        if given.pairs or given.swaps:
            raise StyleBlendError("--seeds trains this project's model, --pairs measures pictures: give one of them")
        from styleblend.experiments import seeds

        print(f"evaluate: {seeds.over_seeds(given.params.absolute().parent, given.seeds)}")
        return
    if given.pairs is None or not given.swaps:
        raise StyleBlendError("give --pairs FILE with --swaps NAME=DIR, or --seeds K; `dvc repro` measures the model")
    if given.frames < 1:
        raise StyleBlendError(f"--frames is {given.frames}: give 1 or more")
    measure(given, load_params(given.params), swap_folders(given.swaps))


def swap_folders(given: Sequence[str]) -> dict[str, Path]:
    """Method to folder, from NAME=DIR.

    Raises:
        StyleBlendError: another form, a name that is taken, or one twice.
    """
    from styleblend.evaluation import baselines
    from styleblend.evaluation.protocol import MODEL, TRUE_SWAP

    taken = {MODEL, TRUE_SWAP, *baselines.simple()}
    found: dict[str, Path] = {}
    for text in given:
        name, equals, folder = text.partition("=")
        if not equals or not folder or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
            raise StyleBlendError(f"--swaps '{text}': give NAME=DIR, the name of letters, digits, '_', '.' and '-'")
        if name in taken or name in found:
            raise StyleBlendError(f"--swaps '{text}': the name '{name}' is taken; give another")
        found[name] = Path(folder)
    return found


def measure(given: Namespace, cfg: Config, folders: Mapping[str, Path]) -> None:
    """Check everything that can be checked before long work, then measure and write the report."""
    from styleblend.data import pair_list, paired_faces
    from styleblend.swapping.loaders import find_detector

    pictures = given.pictures or given.pairs.parent
    pairs = pair_list.read_pair_list(given.pairs, pictures, given.frames)
    pair_list.require_pictures(given.pairs, pairs, pictures)
    swaps = {name: pair_list.swapped_files(name, pairs, folder) for name, folder in folders.items()}
    detector = None if given.aligned else find_detector(cfg, given.detector_weights, given.networks)
    cutting = paired_faces.Cutting(pictures, cfg.align.size_px, detector, cfg.align.max_pixels)
    paired_faces.require_sizes(pairs, swaps, cutting)
    with tempfile.TemporaryDirectory() as scratch:
        _measure_in(Path(scratch), given, cfg, pairs, swaps, cutting)
    print(f"evaluate: {len(pairs)} pairs; {given.output}/table.md, {given.output}/metrics.json, swap_grid.png")


def _measure_in(
    scratch: Path, given: Namespace, cfg: Config, pairs: list[ListedPair], swaps: Mapping[str, list[Path]],
    cutting: Cutting,
) -> None:  # fmt: skip
    import numpy as np
    import torch

    from styleblend.data import paired_faces
    from styleblend.evaluation import baselines, benchmark, judges, protocol
    from styleblend.provenance import credentials
    from styleblend.reporting import others_report

    device = "cuda" if torch.cuda.is_available() else "cpu"
    cut = paired_faces.write(pairs, swaps, cutting, given.networks, scratch, device)
    known = protocol.read_pairs(scratch / "splits", scratch / "faces", scratch / "perceived.parquet")
    judging = judges.load(given.networks, cfg.evaluate.inception_sha256, device)
    methods = {**{name: _from_files(files) for name, files in cut.items()}, **_model(given.model, cfg, device)}
    in_question = list(methods)
    rows = min(cfg.evaluate.grid_rows, len(known))
    keep = sorted(np.random.default_rng(cfg.evaluate.seed).choice(len(known), rows, replace=False).tolist())
    everything = {**methods, **baselines.simple()}
    measured = protocol.measure(known, everything, judging, cfg.evaluate.batch_size, keep, device)
    found = benchmark.tables(known, measured, judging, cfg.evaluate, in_question, device)
    shown = others_report.Shown(*(known.pictures(faces[keep]) for faces in (known.source, known.target)))
    notes = [note for note in (found.caveat, *_notes(given, found.flat)) if note]
    others_report.write(found, measured, shown, given.output, notes, credentials.of(cfg.provenance))
    print(others_report.table(found, in_question))
    for note in notes:
        print(f"evaluate: {note}")


def _from_files(files: Sequence[Path]) -> Method:
    """The method whose swapped faces lie in files, in the order of the pairs."""
    import numpy as np
    import torch
    from PIL import Image

    from styleblend.faces.pixels import from_8bit

    def swapped(batch: Batch) -> torch.Tensor:
        faces = []
        for number in batch.numbers.tolist():
            with Image.open(files[number]) as image:
                faces.append(np.asarray(image.convert("RGB")))
        return from_8bit(torch.from_numpy(np.stack(faces)).permute(0, 3, 1, 2))

    return swapped


def _model(reference: str | None, cfg: Config, device: str) -> dict[str, Method]:
    """A version of this project's model as a method, at the side that it takes."""
    if reference is None:
        return {}
    from styleblend.evaluation.protocol import MODEL
    from styleblend.faces.resize import bicubic
    from styleblend.swapping.loaders import find_model

    trained = find_model(cfg, reference)[0].to(device)
    side = trained.encoder.input_px
    return {MODEL: lambda batch: trained(*(bicubic(each, side).clamp(-1, 1) for each in (batch.source, batch.target)))}


def _notes(given: Namespace, flat: Mapping[str, object]) -> list[str]:
    """What a reader of the table must know of the networks and of the persons."""
    from styleblend.weights import frozen

    listed = frozen.listed(given.networks)
    small = [role for role in ("identity_judge", "attributes_judge", "landmarks") if _is_small(listed.get(role, {}))]
    notes = []
    if small:
        notes.append(f"{', '.join(small)} learned from rendered faces only: on photographs these figures say little")
    if "same_person_judge" not in flat:
        notes.append("no person of the list has two pictures, so no judge gap is known: name persons in its columns")
    return notes


def _is_small(entry: object) -> bool:
    return "this project" in json.dumps(entry)
