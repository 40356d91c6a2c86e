"""How far one and two workers drift apart by rounding, and what the setting `deterministic` costs on this machine.

    python benchmarks/determinism.py --steps 12

The tiny training of the tests, on the CPU; its two workers are threads that meet in sums of a fixed order. Drift is the
norm of the difference of all learned weights of G, over the norm of how far they have moved since step 0, and beside it
the largest difference of one weight; gradients are those of step 0. Cost is the median time of steps with and
without the setting, taken in turn; `own forms` has them on the CPU, too, where they are not needed, as on a GPU.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import tiny_training as tiny  # noqa: E402
from styleblend.config.training import Training  # noqa: E402
from styleblend.training import loop, steps  # noqa: E402
from styleblend.training.repeatable import repeatable  # noqa: E402
from styleblend.training.stream import Batches  # noqa: E402
from thread_workers import Together  # noqa: E402


def weights(learner: steps.Learner) -> Tensor:
    """All learned weights of G in one row."""
    return torch.cat([each.detach().flatten().double() for each in learner.swapper.parameters() if each.requires_grad])


def gradients(learner: steps.Learner) -> Tensor:
    """The gradients that Adam has just used, in one row."""
    return torch.cat([each.grad.flatten().double() for each in learner.swapper.parameters() if each.grad is not None])


def trained(inputs: dict[str, Path], cfg: Training, count: int, steps_: int) -> tuple[Tensor, list[Tensor]]:
    """Gradients of step 0, and weights before step 0 and after each step, of the first of `count` workers."""
    faces, perception = tiny.read_splits(inputs)[0], tiny.perception()
    # Before there are threads, which share torch's generator.
    learners = [tiny.learner(cfg) for _ in range(count)]

    def work(worker: loop.Worker) -> tuple[Tensor, list[Tensor]]:
        learner, batches = learners[worker.rank], Batches(cfg, faces, worker.rank, count)
        rows, first = [weights(learner)], torch.zeros(())
        for step in range(steps_):
            steps.both_steps(learner, perception, batches.at(step, 0), cfg, step, worker.average)
            rows.append(weights(learner))
            first = first if step else gradients(learner)
        batches.close()
        return first, rows

    return Together(count).run(work)[0]


def drift(inputs: dict[str, Path], beta1: float, count: int) -> dict[str, object]:
    """Two workers against one."""
    cfg = tiny.training(steps=count, adam_betas=(beta1, 0.99), discriminator_adam_betas=(beta1, 0.99))
    (first, one), (other, two) = (trained(inputs, cfg, workers, count) for workers in (1, 2))
    apart = [float((a - b).norm() / (a - one[0]).norm()) for a, b in zip(one[1:], two[1:], strict=True)]
    largest = [float((a - b).abs().max()) for a, b in zip(one[1:], two[1:], strict=True)]
    return {"beta1": beta1, "gradients": float((first - other).norm() / first.norm()), "weights": apart} | {
        "largest": largest
    }


def cost(inputs: dict[str, Path], count: int) -> dict[str, float]:
    """Median seconds of a step, without the setting, with it, and with its own forms on the CPU."""
    cfg = tiny.training(steps=count, crop_jitter=0.1)
    batch, perception, learner = tiny.first_batch(inputs, cfg), tiny.perception(), tiny.learner(cfg)
    ways = {"off": (False, ("cuda",)), "on": (True, ("cuda",)), "own forms": (True, ("cpu",))}
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for step in range(count):
        for name, (on, devices) in ways.items():
            began = time.perf_counter()
            with repeatable(on, devices):
                steps.both_steps(learner, perception, batch, cfg, 0, loop.alone)
            if step:
                taken[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--steps", type=int, default=12, help="steps of each training (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=15, help="steps timed of each way (default: %(default)s)")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="determinism-") as folder:
        inputs = tiny.write_inputs(Path(folder))
        for beta1 in (0.0, 0.9):
            print(json.dumps(drift(inputs, beta1, given.steps)), flush=True)
        print(json.dumps({"seconds_per_step": cost(inputs, given.repeats + 1)}), flush=True)


if __name__ == "__main__":
    main()
