"""Time, disk and memory of the stages align and perceive for many pictures: from nothing, again, and with ten more.

    python benchmarks/many_faces.py [--count 1000] [--side 256] [--work FOLDER]

Pictures are rendered, and cut out by their own landmarks; perceive looks with this project's small networks. Every
phase is a process of its own. For the speed-up, halves of the pictures are taken by one process and by all cores in
turns (one, all, all, one), so that a load which comes or goes meets both. Seconds are those of this machine and its
load; what is given for 10,000 and 100,000 pictures is computed from the count: proportional, memory from two counts.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
from peak_memory import peak_gib

from styleblend.config.data import Align, Perceive
from styleblend.config.sources import Download, RenderedSource
from styleblend.data import sources
from styleblend.data.align import align_faces
from styleblend.system.parallel import cores

MANY, FEW, MORE = (10_000, 100_000), 100, 10
INDEX = "rendered/index.parquet"
NETWORKS = Path("data/pretrained/small")


def aligned(work: Path, out: str, workers: int, state: str | None) -> None:
    cfg = Align(detector="annotations", size_px=256, workers=workers, min_face_px=16)
    align_faces(work / "raw", NETWORKS, work / out, cfg, None if state is None else work / state)


def perceived(work: Path, faces: str, workers: int, state: str | None) -> None:
    from styleblend.data.perceived import perceive_folder

    cfg = Perceive(workers=workers)
    perceive_folder(
        work / faces, NETWORKS, work / f"{faces}.parquet", cfg, state=None if state is None else work / state
    )


def measured(function: Callable[..., None], *given: Any) -> dict[str, float]:
    """Wall and processor seconds of a call in a fresh process, and the most memory of it and of its largest worker."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_measured, function, *given).result()


def _measured(function: Callable[..., None], *given: Any) -> dict[str, float]:
    start = time.perf_counter()
    function(*given)
    wall = time.perf_counter() - start
    own, workers = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {
        "seconds": round(wall, 1),
        "cpu_seconds": round(sum(used.ru_utime + used.ru_stime for used in (own, workers)), 1),
        "memory_mb": round(peak_gib() * 1024),
        "worker_memory_mb": round(workers.ru_maxrss / 1024),
    }


def size_mb(place: Path) -> float:
    """Disk in use; a file with two names counts once."""
    files = {file.stat().st_ino: file.stat().st_size for file in place.rglob("*") if file.is_file()}
    return round(sum(files.values()) / 2**20, 1)


def some(raw: Path, index: pd.DataFrame, first: int, last: int) -> None:
    """Let the index name some of the pictures alone."""
    index.iloc[first:last].to_parquet(raw / INDEX)


def measure(work: Path, count: int, side: int) -> dict[str, Any]:
    """All phases, in an order in which each finds what it needs."""
    people = max(6, -(-(count + MORE) // 10))
    source = RenderedSource(
        kind="rendered", identities=people, pictures_per_identity=10, size_px=side, supersample=1, seed=0
    )
    sources.gather(
        Download(sources=(source,), workers=cores(), origin=Path("src")), work / "raw", work / "state_download"
    )
    index = pd.read_parquet(work / "raw" / INDEX)
    found: dict[str, Any] = {"pictures": count, "side_px": side, "cores": cores()}
    for stage, function in (("align", aligned), ("perceive", perceived)):
        phases: dict[str, Any] = {}
        half = count // 2
        for name, first, last, workers, state in (
            ("few", 0, FEW, cores(), None),
            ("one_process_1", 0, half, 1, None),
            ("all_cores_1", 0, half, cores(), None),
            ("all_cores_2", half, count, cores(), None),
            ("one_process_2", half, count, 1, None),
            ("from_nothing", 0, count, cores(), "state"),
            ("again", 0, count, cores(), "state"),
            ("ten_more", 0, count + MORE, cores(), "state"),
        ):
            # What perceive reads was aligned in the phase of the same name.
            some(work / "raw", index, first, last)
            phases[name] = measured(function, work, f"faces_{name}", workers, state)
            print(f"{stage} {name}: {json.dumps(phases[name])}", file=sys.stderr, flush=True)
        seconds = {name: phase["seconds"] for name, phase in phases.items()}
        one, all_cores = (seconds[f"{way}_1"] + seconds[f"{way}_2"] for way in ("one_process", "all_cores"))
        phases["speed_up"] = round(one / all_cores, 2)
        found[stage] = phases
    disk = {
        "raw": size_mb(work / "raw"),
        "faces": size_mb(work / "faces_ten_more"),
        "perceived": round((work / "faces_ten_more.parquet").stat().st_size / 2**20, 1),
        "kept_by_align": size_mb(work / "state/align"),
        "kept_by_perceive": size_mb(work / "state/perceive"),
    }
    found["disk_mb"] = disk | {"faces_and_kept_by_align": round(_together(work), 1)}
    return found | {f"computed_for_{many}": computed(found, count, many) for many in MANY}


def _together(work: Path) -> float:
    both = {}
    for place in (work / "state/align", work / "faces_ten_more"):
        both |= {file.stat().st_ino: file.stat().st_size for file in place.rglob("*") if file.is_file()}
    return sum(both.values()) / 2**20


def computed(found: dict[str, Any], count: int, many: int) -> dict[str, Any]:
    """The same for many pictures, by proportion."""
    times = many / count
    result: dict[str, Any] = {name: round(size * times) for name, size in found["disk_mb"].items()}
    for stage in ("align", "perceive"):
        phases = found[stage]
        few, whole = phases["few"]["memory_mb"], phases["from_nothing"]["memory_mb"]
        result[f"{stage}_hours_all_cores"] = round(phases["from_nothing"]["seconds"] * times / 3600, 2)
        result[f"{stage}_minutes_again"] = round(phases["again"]["seconds"] * times / 60, 1)
        result[f"{stage}_memory_mb"] = round(few + (whole - few) * (many - FEW) / (count - FEW))
    return result


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--work", type=Path, help="an empty folder that is kept; default: a temporary one")
    args = parser.parse_args()
    if args.count <= FEW:
        parser.error(f"--count {args.count}: give more than {FEW}")
    work = args.work or Path(tempfile.mkdtemp(prefix="many_faces."))
    try:
        print(json.dumps(measure(work, args.count, args.side), indent=1))
    finally:
        if args.work is None:
            shutil.rmtree(work)


if __name__ == "__main__":
    main()
