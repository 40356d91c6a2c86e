"""Kill a training in every way at random moments, and compare the model that comes out with an undisturbed one's.

    nice -n 15 python benchmarks/faults.py --faults 50 --seed 0

A tiny project is made in a temporary folder: noise for faces, untrained networks, stage 1 with two workers, one
`dvc repro`. Each training takes several faults, one after the other, each after the one before was recovered from: by
itself where a worker or a node was killed, else by one `dvc repro`. At its end the SHA-256 of the weights must be that
of the undisturbed run. `loop` is the training loop in a process of its own, without Ray and DVC, begun again each time:
what checkpoints alone must stand. Writes a table, and a line of JSON for each fault beside it; the faults that a
record already holds count, so that a series which was ended goes on with the same command.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# First, for it says where tiny_training is.
from faults_project import Nodes, Project, newest_step, strike

from styleblend.system.files import sha256

import tiny_training as tiny  # isort: skip
from local_servers import mlflow_served  # isort: skip

KINDS = ("worker", "trainer", "dvc", "group", "node", "loop")
MOMENTS = ("start", "step", "writing")
FAULTS_A_TRAINING = 5
STEPS_A_FAULT = 12


@dataclass
class Fault:
    """kind: what got SIGKILL. moment: while the stage starts, while it learns, or while a checkpoint is written.

    at_step: of the newest checkpoint when it came. left_partial: a half-written file was there afterwards.
    equal: the training that it belongs to ended with the weights of an undisturbed one.
    """

    kind: str
    moment: str
    at_step: int
    left_partial: bool
    training: int
    equal: bool | None = None


def loop_alone(folder: Path, steps: int) -> None:
    """Train, or go on, in this process; writes the averaged weights to `folder` at the end."""
    import torch
    from safetensors.torch import save_file

    from styleblend.training import loop, probe

    torch.set_num_threads(1)
    cfg = tiny.training(steps=steps, probe_every=steps // 2, log_every=steps)
    inputs = {name: folder / name for name in ("splits", "faces")} | {"perceived": folder / "perceived.parquet"}
    faces, val = tiny.read_splits(inputs)
    pairs = probe.read_pairs(folder / "splits" / "val_pairs.parquet", val, torch.device("cpu"))
    learner = tiny.learner(cfg)
    loop.train(cfg, learner, tiny.perception(), faces, pairs, folder / "kept", loop.Worker(), loop.Recorder())
    save_file(learner.averaged.state_dict(), folder / "weights.safetensors")


def kill_loops(count: int, number: int, chance: random.Random, record: Path) -> None:
    """A training of the loop alone with `count` faults, compared with an undisturbed one."""
    steps, began = count * STEPS_A_FAULT, time.monotonic()
    with tempfile.TemporaryDirectory(prefix="faults-") as scratch:
        folder = Path(scratch)
        tiny.write_inputs(folder)
        command = [sys.executable, __file__, "--loop", str(folder), "--steps", str(steps)]

        def begin() -> subprocess.Popen[bytes]:
            return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})

        def weights() -> str:
            return sha256(folder / "weights.safetensors") if begin().wait() == 0 else "failed"

        wanted = weights()
        shutil.rmtree(folder / "kept")
        faults: list[Fault] = []
        for _ in range(count):
            process, moment = begin(), chance.choice(MOMENTS)
            target = newest_step(folder / "kept") + chance.randint(1, STEPS_A_FAULT - 2)
            if moment == "start":
                time.sleep(chance.uniform(0, 10))
            while moment != "start" and newest_step(folder / "kept") < target and process.poll() is None:
                time.sleep(0.01)
            while moment == "writing" and not any((folder / "kept").glob(".*")) and process.poll() is None:
                time.sleep(0.0002)
            time.sleep(chance.uniform(0, 0.2) if moment == "step" else 0)
            process.kill()
            process.wait()
            left = any((folder / "kept").glob(".*"))
            faults.append(Fault("loop", moment, newest_step(folder / "kept"), left, number))
            print(f"  {asdict(faults[-1])}", flush=True)
        (folder / "weights.safetensors").unlink()
        found = weights()
        for fault in faults:
            fault.equal = found == wanted
    print(f"training {number}: {found == wanted} {found}, {count} faults, {time.monotonic() - began:.0f} s", flush=True)
    with record.open("a") as stream:
        stream.writelines(json.dumps(asdict(fault)) + "\n" for fault in faults)


def disturb(project: Project, kind: str, moment: str, number: int, chance: random.Random, nodes: Nodes | None) -> Fault:
    """One fault at a random moment, and the `dvc repro` after it where one is needed."""
    if project.ended():
        project.begin()
    here = project.step()
    if moment == "start":
        time.sleep(chance.uniform(0, 15))
    else:
        # Past the last recovery, and somewhere in a step.
        target = here + chance.randint(1, STEPS_A_FAULT - 3)
        project.wait(lambda: project.step() >= target)
        time.sleep(chance.uniform(0, 0.3))
    if moment == "writing":
        deadline = time.monotonic() + 20
        project.wait(lambda: project.writing() or time.monotonic() > deadline, pause_s=0.0002)
    at = project.step()
    if project.ended():
        raise SystemExit("it ended before a fault:\n" + "".join(project.lines[-40:]))
    strike(project, kind, chance, nodes)
    left = project.writing()
    if kind in ("trainer", "dvc", "group"):
        assert project.process is not None
        project.process.wait()
        project.begin()
    return Fault(kind, moment, at, left, number)


def undisturbed(project: Project) -> str:
    """SHA-256 of the weights of one `dvc repro`."""
    project.begin()
    return finished(project)


def finished(project: Project) -> str:
    project.wait(lambda: False, pause_s=0.2)
    assert project.process is not None
    if project.process.returncode:
        # A killed node can take the trainer along: one more `dvc repro` is what a person would do.
        print("  one more dvc repro:", "".join(project.lines[-3:]).strip()[-300:])
        project.begin()
        project.wait(lambda: False, pause_s=0.2)
    if project.process.returncode:
        return "failed: " + "".join(project.lines[-5:])
    return sha256(project.folder / "encoder" / "swapper.safetensors")


@contextmanager
def made(steps: int, ray_address: str | None = None) -> Iterator[Project]:
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        kept = Path(folder) / "tracked"
        kept.mkdir()
        server = mlflow_served(kept, 300) if ray_address else nullcontext((None, None))
        with server as (tracking, _):
            project = Project(Path(folder), steps, ray_address, tracking)
            try:
                yield project
            finally:
                end(project)


def end(project: Project) -> None:
    """Kill what is left of a project's run."""
    if not project.ended():
        assert project.process is not None
        os.killpg(project.process.pid, signal.SIGKILL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="*", choices=KINDS, default=KINDS)
    parser.add_argument("--minutes", type=float, default=600, help="begin no training after so many")
    parser.add_argument("--record", type=Path, default=Path(".state/faults.jsonl"), help="a line of JSON a fault")
    parser.add_argument("--out", type=Path, help="Markdown file for the table of all that the record holds")
    parser.add_argument("--loop", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--steps", type=int, default=0, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.loop is not None:
        loop_alone(given.loop, given.steps)
        return
    # As an exception, so that what runs is ended.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    chance, began = random.Random(given.seed), time.monotonic()
    steps = FAULTS_A_TRAINING * STEPS_A_FAULT
    given.record.parent.mkdir(parents=True, exist_ok=True)
    kinds = [kind for kind in given.kinds if kind not in ("node", "loop")]
    there = recorded(given.record)
    begun = len({fault["training"] for fault in there})
    # Other moments than those that the record has.
    chance = random.Random(f"{given.seed} {len(there)}") if there else chance
    todo: list[tuple[bool, list[str]]] = []
    if "loop" in given.kinds:
        most = given.faults if given.kinds == ["loop"] else given.faults // 3
        left = most - sum(fault["kind"] == "loop" for fault in there)
        for number in range(math.ceil(max(0, left) / 10)):
            kill_loops(min(10, left - 10 * number), begun + number, chance, given.record)
        there = recorded(given.record)
        begun = len({fault["training"] for fault in there})
    # Every kind comes before any comes again.
    deck: list[str] = []
    count = len(there)
    while count < given.faults and (kinds or "node" in given.kinds):
        on_nodes = "node" in given.kinds and (len(todo) % 4 == 1 or not kinds)
        size = min(FAULTS_A_TRAINING, given.faults - count)
        while not on_nodes and len(deck) < size:
            deck += chance.sample(kinds, len(kinds))
        todo.append((on_nodes, ["node"] * size if on_nodes else [deck.pop(0) for _ in range(size)]))
        count += size
    if not todo:
        print(text(given.record))
        return
    with made(steps) as plain:
        wanted = undisturbed(plain)
        print(f"undisturbed: {wanted}, {time.monotonic() - began:.0f} s", flush=True)
        for number, (on_nodes, order) in enumerate(todo, start=begun):
            if time.monotonic() - began > 60 * given.minutes:
                break
            train(plain if not on_nodes else None, order, number, steps, wanted, chance, given.record)
            if given.out:
                given.out.write_text(text(given.record))
    print(text(given.record))


def train(
    plain: Project | None, order: list[str], number: int, steps: int, wanted: str, chance: random.Random, record: Path
) -> None:
    """One training with its faults, and a line a fault in the record."""
    began = time.monotonic()
    faults: list[Fault] = []

    def run(project: Project, nodes: Nodes | None) -> None:
        for kind in order:
            # A worker and a node are there once it learns.
            moments = MOMENTS[1:] if kind in ("worker", "node") else MOMENTS
            faults.append(disturb(project, kind, chance.choice(moments), number, chance, nodes))
            print(f"  {asdict(faults[-1])}", flush=True)
        found = finished(project)
        for fault in faults:
            fault.equal = found == wanted
        print(f"training {number}: {found == wanted} {found[:200]}, {time.monotonic() - began:.0f} s", flush=True)

    if plain is not None:
        plain.reset()
        run(plain, None)
    else:
        nodes = Nodes()
        try:
            with made(steps, nodes.address) as project:
                run(project, nodes)
        finally:
            nodes.close()
    with record.open("a") as stream:
        stream.writelines(json.dumps(asdict(fault)) + "\n" for fault in faults)


def recorded(record: Path) -> list[dict[str, Any]]:
    """The faults of a record; none where there is none yet."""
    return [json.loads(line) for line in record.read_text().splitlines()] if record.exists() else []


def text(record: Path) -> str:
    """The table of docs/faults.md."""
    faults = recorded(record)
    rows = [
        "| SIGKILL of | while starting | while learning | while writing | equal at the end |",
        "|---|---|---|---|---|",
    ]
    for kind in KINDS:
        own = [fault for fault in faults if fault["kind"] == kind]
        if own:
            moments = Counter(fault["moment"] for fault in own)
            equal = sum(bool(fault["equal"]) for fault in own)
            counts = " | ".join(str(moments[moment]) for moment in MOMENTS)
            rows.append(f"| {kind} | {counts} | {equal} of {len(own)} |")
    partial = sum(fault["left_partial"] for fault in faults)
    equal = sum(bool(fault["equal"]) for fault in faults)
    total = f"{len(faults)} faults, {equal} of them in trainings that ended with the undisturbed weights, bit for bit."
    return "\n".join([*rows, "", f"{total} {partial} left a half-written checkpoint behind.", ""])


if __name__ == "__main__":
    main()
