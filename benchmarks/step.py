"""Time and memory of a training step by part, against a plain step of the same losses.

    OMP_NUM_THREADS=1 python benchmarks/step.py --sizes demo 128 --repeats 5 --json step.json

Both learn from the same first weights, samples and noise, one step of each in turn, and the terms of the first step
must be equal. plain_step.py says what the plain one is. --set changes our settings alone, as --set precision=bfloat16.

Parts are measured in steps of their own, on a GPU with a wait after each. Memory is that of a process of its own
(--memory) on the CPU, on a GPU the most that was allocated. Figures of a shared machine vary: compare within one run,
and there the CPU time of all threads of the process, which others do not lengthen as they do the wall time.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import fields
from functools import wraps
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from peak_memory import peak_gib
from plain_step import plain_step
from step_cases import SIZES, Case, given_settings, settings
from torch import Tensor

from styleblend.config.tracking import Tracking
from styleblend.registry import outbox
from styleblend.training import checkpoint, losses, steps
from styleblend.training.adam import Adam
from styleblend.training.loop import alone
from styleblend.training.steps import Learner

PARTS = ("data", "G forward", "losses' networks", "backward", "optimiser", "average", "V", "rest")


class Clock:
    """Seconds by part; what a part calls of another counts for that, all within V for V."""

    def __init__(self, device: torch.device) -> None:
        self.spent: dict[str, float] = defaultdict(float)
        self._device, self._open, self._since = device, ["rest"], 0.0
        # On the CPU the thread's own time, which others on the machine do not change; it computes by itself then.
        self._now = time.thread_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter

    def _turn(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize()
        now = self._now()
        self.spent[self._open[-1]] += now - self._since
        self._since = now

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time of the block."""
        self._turn()
        self._open.append("V" if "V" in self._open else name)
        try:
            yield
        finally:
            self._turn()
            self._open.pop()

    def begin(self) -> None:
        """From here on time counts."""
        self._turn()
        self.spent.clear()

    def timed(self, name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, as a part."""

        @wraps(work)
        def wrapper(*given: Any, **named: Any) -> Any:
            with self.part(name):
                return work(*given, **named)

        return wrapper


@contextmanager
def watched(clock: Clock, case: Case, learner: Learner) -> Iterator[None]:
    """The parts of both_steps, on the clock while the block lasts."""
    swapper = learner.swapper
    of_g = [(swapper.encoder, "forward"), (swapper.blending, "forward"), (swapper.decoder, "draw")]
    networks = [
        (each, name) for each in case.perception if each is not None for name in ("forward", "look", "features")
    ]
    places: list[tuple[Any, str, str]] = [(owner, name, "G forward") for owner, name in of_g]
    places += [(owner, name, "losses' networks") for owner, name in networks if hasattr(owner, name)]
    places += [(torch.Tensor, "backward", "backward"), (Adam, "step_if", "optimiser"), (steps, "_follow", "average")]
    places += [(steps, "discriminator_step", "V")]
    with ExitStack() as stack:
        for owner, name, part in places:
            stack.enter_context(patch.object(owner, name, clock.timed(part, getattr(owner, name))))
        yield


def measure(ours: Case, plain: Case, repeats: int) -> dict[str, Any]:
    """Seconds of both steps, by part for ours, and whether they compute the same."""
    device = ours.device
    first = ours.learner()
    other = plain.learner()
    found: dict[str, Any] = {"size": ours.size, "stage": ours.stage, "batch": ours.training.batch_size}
    found |= {"input_px": ours.model.input_px, "decoder_px": ours.model.resolution}

    def wait() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    with closing(ours.batches()) as batches:

        def our_step(step: int) -> dict[str, Tensor]:
            batch = batches.at(step, 0).to(device)
            return steps.both_steps(first, ours.perception, batch, ours.training, step, alone).terms

        with steps.arithmetic(ours.training, device):
            one = our_step(0)
        two = plain_step(plain, other, 0)
        assert one.keys() == two.keys(), (sorted(one), sorted(two))
        apart = {name: float((one[name] - value).abs() / value.abs().clamp_min(1e-6)) for name, value in two.items()}
        found["largest_relative_difference_of_a_term"] = max(apart.values())
        assert max(apart.values()) < (2e-3 if ours.training.precision == "float32" else 0.1), apart
        times: dict[str, list[float]] = {"ours": [], "plain": []}
        busy = {"ours": 0.0, "plain": 0.0}
        # Whole rounds of Eq. 12, which is not taken at each step.
        rounds = -(-repeats // ours.training.swap_every) * ours.training.swap_every
        for step in range(1, 1 + rounds):
            for name, work in (("plain", lambda k: plain_step(plain, other, k)), ("ours", our_step)):
                began, worked = wait(), time.process_time()
                with steps.arithmetic(ours.training if name == "ours" else plain.training, device):
                    work(step)
                times[name].append(wait() - began)
                busy[name] += time.process_time() - worked
        found["steps"] = rounds
        found |= {f"{name}_s": sum(each) / rounds for name, each in times.items()}
        found |= {f"{name}_cpu_s": each / rounds for name, each in busy.items()}
        found["plain_over_ours"] = found["plain_s"] / found["ours_s"]
        found["plain_over_ours_cpu"] = busy["plain"] / busy["ours"]
        ratios = [a / b for a, b in zip(times["plain"], times["ours"], strict=True)]
        found["median_ratio_of_a_pair_of_steps"] = median(ratios)

        clock, several = Clock(device), ours.training.swap_every
        with watched(clock, ours, first):
            clock.begin()
            for step in range(1 + rounds, 1 + rounds + several):
                with clock.part("data"):
                    batch = batches.at(step, 0).to(device)
                steps.both_steps(first, ours.perception, batch, ours.training, step, alone)
            clock._turn()
        found["parts_s"] = {name: clock.spent[name] / several for name in PARTS}

        began = time.thread_time()
        for step in range(4):
            batches._read(step, 9)
        found["loader_cpu_s"] = (time.thread_time() - began) / 4
        learns = sum(found["parts_s"].values()) - found["parts_s"]["data"]
        found["loader_batches_in_a_step"] = batches.threads * learns / found["loader_cpu_s"]
    found |= beside(ours, first, sum(found["parts_s"].values()))
    if device.type == "cuda":
        found |= {
            f"{name}_peak_gib": gpu_peak(work) for name, work in (("ours", our_last(ours)), ("plain", last(plain)))
        }
    return found


def our_last(case: Case) -> Callable[[], object]:
    """A step of ours from the beginning."""

    def work() -> None:
        with closing(case.batches()) as batches, steps.arithmetic(case.training, case.device):
            batch = batches.at(0, 0).to(case.device)
            steps.both_steps(case.learner(), case.perception, batch, case.training, 0, alone)

    return work


def last(case: Case) -> Callable[[], object]:
    """A plain step from the beginning."""
    return lambda: plain_step(case, case.learner(), 0)


def gpu_peak(work: Callable[[], object]) -> float:
    """GiB that a step adds to what is there."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    there = torch.cuda.memory_allocated()
    work()
    return (torch.cuda.max_memory_allocated() - there) / 2**30


def beside(case: Case, learner: Learner, step_s: float) -> dict[str, float]:
    """Shares of a step that keeping checkpoints and recording figures take of the CPU time of the thread that learns.

    Ray is asked nothing in a step: it starts workers and waits for them.
    """
    cfg, folder = case.training, case.folder / "kept"
    parts = {each.name: getattr(learner, each.name) for each in fields(learner)}
    with closing(checkpoint.Checkpoints(folder, 100, lambda _: True, lambda _: False)) as kept:
        began = time.thread_time()
        kept.keep(parts, {}, step=1, attempt=0, good=True)
        copied = time.thread_time() - began
        kept.settle()
    box = outbox.Outbox(case.folder / "box", Tracking(uri="sqlite:///none.db"), outbox.Address("", "", "", {}), print)
    began = time.thread_time()
    for step in range(20):
        box.metrics(step, {f"loss/{name}": 0.1 for name in (*losses.TERMS, "seconds_per_step")})
    recorded = (time.thread_time() - began) / 20
    return {
        "checkpoint_share": copied / cfg.checkpoint_every / step_s,
        "recording_share": recorded / cfg.log_every / step_s,
    }


def peak_of(size: str, stage: str, way: str, arguments: list[str]) -> float:
    """GiB that a process of its own has held at most after one step."""
    command = [sys.executable, __file__, *arguments, "--sizes", size, "--stages", stage, "--only", way]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def table(rows: list[dict[str, Any]], device: str) -> str:
    """Markdown: times and shares of the parts; of a CPU its own time, which others on the machine do not lengthen."""
    heads = ["size", "stage", "batch", "plain s", "ours s", "ratio", *PARTS, "loader / step"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    kind = "cpu_s" if device == "cpu" else "s"
    for row in rows:
        whole, plain, ours = sum(row["parts_s"].values()), row[f"plain_{kind}"], row[f"ours_{kind}"]
        cells = [row["size"], row["stage"], row["batch"], f"{plain:.3g}", f"{ours:.3g}", f"{plain / ours:.2f}"]
        cells += [f"{row['parts_s'][name] / whole:.1%}" for name in PARTS]
        lines.append("| " + " | ".join(map(str, [*cells, f"{row['loader_batches_in_a_step']:.1f}"])) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure; print one JSON object and a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["demo", "128"])
    parser.add_argument("--stages", nargs="+", default=["train_encoder", "finetune_decoder"])
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--networks", type=Path, default=Path("data/pretrained/small"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch", type=int, help="pairs a step; default: a worker's of the size")
    parser.add_argument("--set", nargs="*", default=[], help="our settings, as precision=bfloat16")
    parser.add_argument("--memory", action="store_true", help="measure memory in processes of their own")
    parser.add_argument("--only", choices=("ours", "plain"), help="one step, then the process's peak in GiB")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    changes = given_settings(given.set)
    shared = {} if given.batch is None else {"batch_size": given.batch}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for size in given.sizes:
            for stage in given.stages:
                place = (torch.device(given.device), given.networks, Path(folder))
                ours = Case(size, stage, *settings(size, stage, given.params, shared | changes), *place)
                off = {"precision": "float32", "tf32": False, "channels_last": False, "compile": False, "accumulate": 1}
                plain = Case(size, stage, *settings(size, stage, given.params, shared | off), *place)
                if given.only:
                    (our_last(ours) if given.only == "ours" else last(plain))()
                    print(peak_gib())
                    return
                rows.append(measure(ours, plain, given.repeats))
                if given.memory:
                    passed = [each for each in sys.argv[1:] if each != "--memory"]
                    rows[-1] |= {f"{way}_process_gib": peak_of(size, stage, way, passed) for way in ("ours", "plain")}
                print(json.dumps(rows[-1]), flush=True)
    report = {"device": given.device, "threads": given.threads, "set": given.set, "rows": rows}
    if given.json:
        given.json.write_text(json.dumps(report, indent=1) + "\n")
    print(table(rows, given.device))


if __name__ == "__main__":
    main()
