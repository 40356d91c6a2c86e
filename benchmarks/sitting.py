"""A training of some minutes through the product's own loop, ended in the middle and gone on with: what a GPU reaches.

    python benchmarks/sitting.py --device cuda --size 256 --minutes 10 --set precision=bfloat16 tf32=true \
        channels_last=true --out sitting

For each stage: pairs a second before and after the resume, the share of the device's own rate of matrix products (8192
a side, in the precision of G), peak memory, how often a step makes the host wait, and a profile of three steps, before
and after the settings of --set, in the folder --out. On a CPU, with smaller sizes and times, it tries the way alone.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import torch
from step_cases import SIZES, Case, given_settings, settings
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from styleblend.training import loop, steps
from styleblend.training.steps import Learner

FOR_EVER = 10**6


class Enough(Exception):
    """The time is over."""


class Watch(loop.Recorder):
    """Ends a training after some seconds, and knows its pace: that of all steps after the first line of figures."""

    def __init__(self, seconds: float) -> None:
        self.until = time.perf_counter() + seconds
        self.lines: list[str] = []
        self.seen: list[tuple[int, float]] = []

    def metrics(self, step: int, values: dict[str, float]) -> None:
        if "seconds_per_step" in values:
            self.seen.append((step, time.perf_counter()))
        # A state is kept every so often: only then can a training be gone on with.
        if time.perf_counter() > self.until and len(self.seen) > 2:
            raise Enough

    def line(self, text: str) -> None:
        self.lines.append(text)

    @property
    def seconds_per_step(self) -> float:
        (first, began), (last, ended) = self.seen[0], self.seen[-1]
        return (ended - began) / (last - first)


def learn(case: Case, seconds: float) -> Watch:
    """Train with the loop, from its newest checkpoint if there is one, until the time is over."""
    watch = Watch(seconds)
    worker = loop.Worker(device=case.device)
    parts = (case.training, case.learner(), case.perception, case.faces, case.pairs, case.folder / "kept", worker)
    with suppress(Enough):
        loop.train(*parts, watch)
    return watch


def a_step(case: Case, learner: Learner, number: int) -> None:
    """One step without the loop."""
    with closing(case.batches()) as batches, steps.arithmetic(case.training, case.device):
        batch = batches.at(number, 0).to(case.device)
        steps.both_steps(learner, case.perception, batch, case.training, number, loop.alone)


def products_a_second(device: torch.device, dtype: torch.dtype, side: int) -> float:
    """Multiplications and additions a second of a large matrix product."""
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))

    def ten() -> float:
        began = time.perf_counter()
        for _ in range(10):
            a @ b
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began

    ten()
    return 10 * 2 * side**3 / min(ten() for _ in range(3))


def waits(case: Case) -> int:
    """How often torch says that a step makes the host wait for the GPU, the copy of its batch included."""
    learner = case.learner()
    a_step(case, learner, 0)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            a_step(case, learner, 1)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(each.message) for each in caught)


def profiled(case: Case, file: Path) -> None:
    """Write which kernels take the time of three steps."""
    learner, on_gpu = case.learner(), case.device.type == "cuda"
    a_step(case, learner, 0)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as seen:
        for number in range(1, 4):
            a_step(case, learner, number)
    by = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    file.write_text(seen.key_averages().table(sort_by=by, row_limit=40))


def sitting(case: Case, before: Case, minutes: float, out: Path) -> dict[str, Any]:
    """Measure a stage; `before` has the settings without --set."""
    on_gpu, name = case.device.type == "cuda", f"{case.size}-{case.stage}"
    found: dict[str, Any] = {"size": case.size, "stage": case.stage, "batch": case.training.batch_size}
    # A mean over as many steps as Eq. 12 is taken once in.
    counted, learner = FlopCounterMode(display=False), case.learner()
    with counted:
        for number in range(case.training.swap_every):
            a_step(case, learner, number)
    flops = counted.get_total_flops() / case.training.swap_every
    profiled(before, out / f"{name}-before.txt")
    profiled(case, out / f"{name}-after.txt")
    if on_gpu:
        found["waits_a_step"] = waits(case)
        torch.cuda.reset_peak_memory_stats()
    first = learn(case, 30 * minutes)
    second = learn(case, 30 * minutes)
    resumed = [line for line in second.lines if line.startswith("resumed")]
    assert resumed, second.lines[:3]
    found["resumed"] = resumed[0]
    for part, watch in (("before_resume", first), ("after_resume", second)):
        found[f"pairs_a_second_{part}"] = case.training.batch_size / watch.seconds_per_step
    dtype = torch.bfloat16 if case.training.precision == "bfloat16" else torch.float32
    with steps.arithmetic(case.training, case.device):
        rate = products_a_second(case.device, dtype, 8192 if on_gpu else 1024)
    found["flops_a_step"], found["card_flops"] = flops, rate
    found["share_of_the_card"] = flops / second.seconds_per_step / rate
    if on_gpu:
        found["device"] = torch.cuda.get_device_name()
        found["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
    return found


def main() -> None:
    """Measure both stages and print a JSON object for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", choices=SIZES, default="256")
    parser.add_argument("--stages", nargs="+", default=["train_encoder", "finetune_decoder"])
    parser.add_argument("--minutes", type=float, default=10, help="of each stage")
    parser.add_argument("--batch", type=int, help="pairs a step; default: a worker's of the size")
    parser.add_argument("--cpus", type=float, default=4, help="threads that read ahead")
    parser.add_argument("--checkpoint-every", type=int, default=100)
    parser.add_argument("--set", nargs="*", default=[], help="settings, as precision=bfloat16")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--networks", type=Path, default=Path("data/pretrained/small"))
    parser.add_argument("--out", type=Path, default=Path("sitting"))
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    every = given.checkpoint_every
    fixed: dict[str, Any] = {"steps": FOR_EVER, "log_every": every, "checkpoint_every": every, "probe_every": 5 * every}
    fixed |= {"cool_down": 0, "cpus_per_worker": given.cpus}
    fixed |= {} if given.batch is None else {"batch_size": given.batch}
    changes = given_settings(given.set)
    for stage in given.stages:
        with tempfile.TemporaryDirectory() as folder:
            place = (torch.device(given.device), given.networks, Path(folder))
            case, before = (
                Case(given.size, stage, *settings(given.size, stage, given.params, fixed | more), *place)
                for more in (changes, {})
            )
            found = sitting(case, before, given.minutes, given.out)
        (given.out / f"{given.size}-{stage}.json").write_text(json.dumps(found, indent=1) + "\n")
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
