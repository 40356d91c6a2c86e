"""Seconds that FAN needs for a picture on this machine, forward and with the gradient that a loss asks for.

    python benchmarks/fan.py [--threads 1] [--device cpu] [--batch 1]

Its weights are random: they change no time. On cores that others use, two threads can be ten times slower than one.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import torch
from face_alignment.models.fan import FAN

from styleblend.perception.fan import FanLandmarks


def seconds(work: Callable[[], object], device: str, repeats: int) -> float:
    """Median wall time of `work`, after one call to warm up."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        work()
        if device != "cpu":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return sorted(times[1:])[repeats // 2]


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    network = FanLandmarks("FAN-4", FAN(4)).to(args.device)
    images = torch.rand(args.batch, 3, 256, 256, device=args.device) * 2 - 1

    @torch.no_grad()
    def forward() -> None:
        network(images)

    def with_gradient() -> None:
        network(images.requires_grad_()).square().mean().backward()

    found: dict[str, object] = {"threads": args.threads, "device": args.device, "batch": args.batch}
    for name, work in (("forward", forward), ("forward_and_backward", with_gradient)):
        found[f"{name}_s_per_picture"] = round(seconds(work, args.device, args.repeats) / args.batch, 4)
    if args.device == "cuda":
        found["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
