"""Seconds that two workers on this machine take to average the gradients of G, one way or another.

    OMP_NUM_THREADS=1 python benchmarks/exchange.py [--size demo]

flat: all gradients in one tensor and one sum, as training does. buckets: the same in parts of 4 MB, each sent while the
next is gathered. each: a sum for each gradient. Both workers are processes here that meet through gloo. Prints JSON:
the median seconds of each way, wall and CPU, of the slower worker, and the bytes that are averaged.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from step_cases import SIZES, settings
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from styleblend.model import build
from styleblend.training.ray_trainer import mean_over_workers
from styleblend.training.steps import choose_what_learns

BUCKET_BYTES = 4_000_000


def in_buckets(tensors: Sequence[Tensor]) -> None:
    """Means over the workers, some tensors at a time."""
    buckets: list[list[Tensor]] = [[]]
    for tensor in tensors:
        if sum(each.nbytes for each in buckets[-1]) > BUCKET_BYTES:
            buckets.append([])
        buckets[-1].append(tensor)
    going = []
    for bucket in buckets:
        flat = torch.cat([each.flatten() for each in bucket])
        going.append((bucket, flat, dist.all_reduce(flat, async_op=True)))
    for bucket, flat, work in going:
        work.wait()
        flat /= dist.get_world_size()
        parts = flat.split([each.numel() for each in bucket])
        torch._foreach_copy_(bucket, [part.view_as(each) for part, each in zip(parts, bucket, strict=True)])


def each_alone(tensors: Sequence[Tensor]) -> None:
    """Means over the workers, one exchange a tensor."""
    for tensor in tensors:
        dist.all_reduce(tensor)
        tensor /= dist.get_world_size()


WAYS: dict[str, Callable[[Sequence[Tensor]], None]] = {
    "flat": mean_over_workers, "buckets": in_buckets, "each": each_alone
}  # fmt: skip


def work(rank: int, meeting: str, given: argparse.Namespace) -> None:
    """Measure as one of two workers; the first one prints."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    torch.set_num_threads(1)
    model, _ = settings(given.size, "train_encoder", given.params, {})
    shapes = [parameter.shape for parameter in choose_what_learns(build(model), "train_encoder")]
    found: dict[str, object] = {"size": given.size, "bytes": 4 * sum(shape.numel() for shape in shapes)}
    means = {}
    times: dict[str, list[float]] = {name: [] for name in WAYS}
    busy: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(given.repeats):
        for name, average in WAYS.items():
            torch.manual_seed(rank)
            gradients = [torch.randn(shape) for shape in shapes]
            dist.barrier()
            began, worked = time.perf_counter(), time.process_time()
            average(gradients)
            taken = torch.tensor([time.perf_counter() - began, time.process_time() - worked])
            dist.all_reduce(taken, dist.ReduceOp.MAX)
            times[name].append(float(taken[0]))
            busy[name].append(float(taken[1]))
            means[name] = torch.cat([each.flatten() for each in gradients])
    found |= {f"{name}_s": round(statistics.median(each), 4) for name, each in times.items()}
    found |= {f"{name}_cpu_s": round(statistics.median(each), 4) for name, each in busy.items()}
    found["equal"] = all(torch.equal(means["flat"], each) for each in means.values())
    if rank == 0:
        print(json.dumps(found))
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="demo")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--repeats", type=int, default=15)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        spawn(work, (f"{folder}/meeting", given), nprocs=2)


if __name__ == "__main__":
    main()
