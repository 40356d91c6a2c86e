"""What benchmarks/faults.py kills: a tiny project with its `dvc repro`, and a Ray cluster of two nodes."""

from __future__ import annotations

import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import tiny_training as tiny  # noqa: E402
from styleblend.training import checkpoint  # noqa: E402

PATIENCE_S = 1800.0
MAY_PASS = os.EX_TEMPFAIL
"""Exit code of a stage that found the machine too busy for Ray: the fault of a series beside other work."""


def newest_step(folder: Path) -> int:
    return max((each.step for each in checkpoint.kept(folder)), default=0)


class Project:
    """The tiny project, and the `dvc repro` that is at work in it, if any."""

    def __init__(self, folder: Path, steps: int, ray_address: str | None = None, tracking: str | None = None) -> None:
        self.folder, self.lines = folder, []  # type: ignore[var-annotated]
        self.process: subprocess.Popen[str] | None = None
        inputs = tiny.write_inputs(folder)
        params = yaml.safe_load((ROOT / "params.yaml").read_text())
        params["model"] = tiny.MODEL.model_dump(mode="json")
        params["align"]["size_px"] = tiny.SIDE_PX
        changes: dict[str, Any] = {"steps": steps, "probe_every": steps // 2, "checkpoint_every": 2, "log_every": 1}
        if ray_address is not None:
            # As on several machines: a storage that all reach, and MLflow's server.
            changes |= {"ray_address": ray_address, "storage": str(folder / "storage")}
            params["tracking"]["uri"] = tracking
        settings = tiny.training(workers=2, **changes).model_dump(mode="json")
        params["train_encoder"] = params["finetune_decoder"] = settings
        (folder / "params.yaml").write_text(yaml.safe_dump(params))
        paths = {name: path.relative_to(folder) for name, path in inputs.items()}
        arguments = [f"--{name}={path}" for name, path in paths.items()]
        command = [sys.executable, "-m", "styleblend.stages.train_encoder", *arguments, "--out=encoder"]
        stage = {"cmd": shlex.join(command), "deps": [str(path) for path in paths.values()], "outs": ["encoder"]}
        (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"train_encoder": stage}}))
        subprocess.run([sys.executable, "-m", "dvc", "init", "--no-scm", "--quiet"], cwd=folder, check=True)

    def begin(self) -> None:
        """Start `dvc repro`, in a process group of its own."""
        self.marker = f"STYLEBLEND_FAULTS={uuid.uuid4()}"
        name, value = self.marker.split("=")
        self.lines = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "dvc", "repro"],
            cwd=self.folder,
            env={**os.environ, "OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled", name: value},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        threading.Thread(target=self._read, args=(self.process, self.lines), daemon=True).start()

    @staticmethod
    def _read(process: subprocess.Popen[str], lines: list[str]) -> None:
        assert process.stdout is not None
        lines.extend(process.stdout)

    def ended(self) -> bool:
        """Whether no `dvc repro` is at work; one that ended because the machine was too busy is begun again first."""
        if self.process is None or self.process.poll() is None:
            return self.process is None
        if not self.process.returncode or f"exited with {MAY_PASS}" not in "".join(self.lines[-5:]):
            return True
        print(f"  the machine was too busy: {''.join(self.lines[-5:]).strip()[:160]}; again", flush=True)
        self.begin()
        return False

    def wait(self, met: Callable[[], bool], pause_s: float = 0.05) -> None:
        """Until the condition is met or the process has ended."""
        deadline = time.monotonic() + PATIENCE_S
        while not met() and not self.ended():
            if time.monotonic() > deadline:
                raise SystemExit("no progress for long:\n" + "".join(self.lines[-40:]))
            time.sleep(pause_s)

    @property
    def checkpoints(self) -> Path | None:
        stored = list(self.folder.glob("storage/train_encoder-*/checkpoints"))
        return next(iter(stored or self.folder.glob(".state/train_encoder-*/checkpoints")), None)

    def step(self) -> int:
        """Of the newest checkpoint."""
        return newest_step(self.checkpoints) if self.checkpoints else 0

    def writing(self) -> bool:
        return self.checkpoints is not None and any(self.checkpoints.glob(".*"))

    def processes(self) -> list[psutil.Process]:
        """All that inherited this run's environment: DVC, the stage, and Ray's processes."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                if self.marker.encode() in Path(f"/proc/{process.pid}/environ").read_bytes():
                    found.append(process)
        return found

    def reset(self) -> None:
        """As before the first run; DVC's cache would bring the model back without training."""
        for name in (".state", "encoder", "mlruns", "storage", ".dvc/cache"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        for name in ("dvc.lock", "mlflow.db"):
            (self.folder / name).unlink(missing_ok=True)


def strike(project: Project, kind: str, chance: random.Random, nodes: Nodes | None) -> None:
    """Send SIGKILL to what `kind` names."""
    assert project.process is not None
    if kind == "node":
        assert nodes is not None
        nodes.kill()
    elif kind == "dvc":
        project.process.kill()
    elif kind == "group":
        os.killpg(project.process.pid, signal.SIGKILL)
    else:
        wanted = "TrainWorker" if kind == "worker" else "styleblend.stages.train_encoder"
        found = []
        for process in nodes.processes() if nodes and kind == "worker" else project.processes():
            with suppress(psutil.Error):
                command = process.cmdline()
                if any(wanted in part for part in command) and "-c" not in command[:2]:
                    found.append(process)
        if found:
            with suppress(psutil.Error):
                chance.choice(found).kill()
        else:
            print(f"  no {kind} was found")


class Nodes:
    """A Ray cluster of two nodes with one core each, on this machine."""

    def __init__(self) -> None:
        os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
        from ray.cluster_utils import Cluster

        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        self.other = self.cluster.add_node(num_cpus=1)

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    def kill(self) -> None:
        """SIGKILL to one node; another one takes its place, as where a node was preempted."""
        self.cluster.remove_node(self.other, allow_graceful=False)
        self.other = self.cluster.add_node(num_cpus=1)

    def processes(self) -> list[psutil.Process]:
        return psutil.Process().children(recursive=True)

    def close(self) -> None:
        self.cluster.shutdown()
