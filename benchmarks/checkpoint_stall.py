"""How long training stands still for a checkpoint that is written in the background, and how long for one that is not.

    python benchmarks/checkpoint_stall.py --gigabytes 0.5

The state is random numbers of that size in the layers and Adam moments of one long network; `--device cuda` takes it
from a GPU. Steps of matrix products go on all the while. Prints JSON: seconds of a step alone and while a checkpoint is
written, of the copy that training waits for (`keep`), and of the whole writing (file, checksum, flush).
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from contextlib import closing
from pathlib import Path

import torch

from styleblend.training import checkpoint


def parts(gigabytes: float, device: str) -> dict[str, checkpoint.Stateful]:
    """A network whose state, with the two moments of each weight, has about that size in float32."""
    side = 2048
    layers = max(1, round(gigabytes * 1e9 / (3 * 4 * side * side)))
    network = torch.nn.Sequential(*(torch.nn.Linear(side, side, bias=False) for _ in range(layers))).to(device)
    optimiser = torch.optim.Adam(network.parameters())
    for parameter in network.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimiser.step()
    return {"network": network, "optimiser": optimiser}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=0.5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="on the disk to measure (default: a temporary one)")
    given = parser.parse_args()
    state = parts(given.gigabytes, given.device)
    factor = torch.randn(1024, 1024, device=given.device)

    def step() -> float:
        began = time.perf_counter()
        for _ in range(5):
            factor @ factor
        if given.device != "cpu":
            torch.cuda.synchronize()
        return time.perf_counter() - began

    folder = Path(tempfile.mkdtemp(prefix="stall-", dir=given.folder))
    alone = [step() for _ in range(50)]
    kept, written, beside = [], [], []
    try:
        with closing(checkpoint.Checkpoints(folder, 100, lambda _: True, lambda _: False)) as checkpoints:
            for number in range(given.repeat):
                began = time.perf_counter()
                problem = checkpoints.keep(state, {}, step=number, attempt=0, good=True)
                kept.append(time.perf_counter() - began)
                assert problem is None, problem
                while checkpoints.writing:
                    beside.append(step())
                checkpoints.settle()
                written.append(time.perf_counter() - began - kept[-1])
        size = max(each.path.stat().st_size for each in checkpoint.kept(folder))
    finally:
        shutil.rmtree(folder)
    figures = {
        "device": given.device,
        "gigabytes": size / 1e9,
        "copy_s": statistics.median(kept),
        "writing_s": statistics.median(written),
        "step_alone_s": statistics.median(alone),
        "step_beside_s": statistics.median(beside),
        "longest_step_beside_s": max(beside),
        "stall_without_thread_s": statistics.median(kept) + statistics.median(written),
    }
    print(json.dumps({name: round(value, 4) if isinstance(value, float) else value for name, value in figures.items()}))


if __name__ == "__main__":
    main()
