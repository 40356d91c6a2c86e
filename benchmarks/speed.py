"""Speed on this machine: faces rendered a second, and seconds of one generator step at the size of params.yaml.

    python benchmarks/speed.py [--threads 1]

Figures of a shared machine vary from run to run: compare figures of one run only.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch

from styleblend.config.params import load_params
from styleblend.model import build
from styleblend.synthetic import factors, renderer


def seconds(work: Callable[[], object], repeats: int) -> float:
    """Median wall time of `work`, after one call to warm up."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    cfg = load_params(args.params)
    found: dict[str, float] = {"threads": args.threads}

    faces = factors.sample(0, list(range(8)), [0] * 8)
    for side, supersample in ((64, 2), (112, 2), (256, 1)):
        taken = seconds(lambda s=side, k=supersample: renderer.render(faces, s, k), args.repeats)
        found[f"rendered_faces_per_s_{side}px_x{supersample}"] = len(faces) / taken

    swapper = build(cfg.model)
    pictures = torch.rand(8, 3, cfg.model.input_px, cfg.model.input_px) * 2 - 1
    found["swap_ms_per_picture"] = 1000 * seconds(lambda: swapper(pictures, pictures), args.repeats) / 8
    found["swap_and_backward_ms_per_picture"] = (
        1000 * seconds(lambda: swapper(pictures, pictures).square().mean().backward(), args.repeats) / 8
    )
    print(json.dumps({name: round(value, 3) for name, value in found.items()}, indent=1))


if __name__ == "__main__":
    main()
