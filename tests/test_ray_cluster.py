"""Workers that find no room are said at once, or while a cluster may grow, and never waited for in silence."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import tiny_training as tiny
from styleblend.errors import StyleBlendError
from styleblend.training import ray_cluster, resources


@pytest.mark.parametrize(
    ("asked", "nodes", "fit"),
    [
        ({"cpus_per_worker": 2}, [{"CPU": 4}, {"CPU": 3}], 3),
        ({"gpus_per_worker": 1}, [{"CPU": 16, "GPU": 8}], 8),
        ({"gpus_per_worker": 1}, [{"CPU": 4, "GPU": 8}, {"CPU": 4}], 4),
        # 2 of 3 GPUs in all, but no worker gets a half of each of two.
        ({"gpus_per_worker": 0.7}, [{"CPU": 9, "GPU": 2}], 2),
        ({"gpus_per_worker": 0.3}, [{"CPU": 9, "GPU": 2}], 6),
        ({"gpus_per_worker": 0.1}, [{"CPU": 99, "GPU": 1}], 10),
        ({"gpus_per_worker": 1}, [{"CPU": 9}], 0),
    ],
)
def test_workers_that_fit_are_counted_by_node(asked: dict[str, float], nodes: list[dict[str, float]], fit: int) -> None:
    """CPUs and GPUs of one worker come from one node, and its part of a GPU from one GPU."""
    cfg = tiny.training(**asked)
    assert resources.workers_that_fit(cfg, nodes) == fit
    just, many = (tiny.training(workers=n, batch_size=2 * n, **asked) for n in (max(fit, 1), fit + 1))
    assert (resources.lack("train_encoder", just, nodes, "it") is None) == (fit > 0)
    assert f"{fit + 1} workers" in str(resources.lack("train_encoder", many, nodes, "it"))


def test_gpus_that_are_not_here_are_refused_before_ray_starts() -> None:
    """One line with what is wanted, what is there and what to change; this process has not even loaded Ray for it."""
    there = torch.cuda.device_count()
    cfg = tiny.training(workers=there + 1, batch_size=2 * (there + 1), gpus_per_worker=1)
    with pytest.raises(StyleBlendError) as caught:
        ray_cluster.expect_room_here("train_encoder", cfg)
    said = str(caught.value)
    assert said.startswith(f"train_encoder: {there + 1} workers of 1 CPUs and 1 GPUs are wanted, and this machine has")
    assert "\n" not in said and ("gpus_per_worker" if not there else "train_encoder.workers") in said
    ray_cluster.expect_room_here("train_encoder", tiny.training(workers=2, cpus_per_worker=64))


GROWS = """
import os
os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2"}
import ray
from ray.cluster_utils import Cluster
from styleblend.training import ray_cluster, resources
import tiny_training as tiny

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 100 * 2**20})
settings = {"workers": 2, "ray_address": cluster.address}
def say(line):
    print(line, flush=True)
    cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20)
try:
    with ray_cluster.started("train_encoder", tiny.training(**settings, wait_for_cluster_s=0), STATE, print): pass
except ray_cluster.NoRoom as error:
    print(error, flush=True)
with ray_cluster.started("train_encoder", tiny.training(**settings, wait_for_cluster_s=60), STATE, say) as storage:
    print("room", storage.name, flush=True)
cluster.shutdown()
"""


@pytest.mark.slow
def test_a_cluster_that_grows_is_waited_for_up_to_a_limit(root: Path, tmp_path: Path) -> None:
    """Ray with one CPU for two workers: no room is an error at the limit; a node that joins ends the waiting."""
    program = f"import sys; from pathlib import Path; sys.path.insert(0, {str(root / 'tests')!r})\n{GROWS}"
    program = program.replace("STATE", f"Path({str(tmp_path)!r})")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if "worker" in line or line.startswith("room")]
    assert done.returncode == 0 and len(lines) == 3, done.stdout + done.stderr
    assert lines[0].startswith("train_encoder: 2 workers of 1 CPUs are wanted") and "has room for 1 " in lines[0]
    assert lines[0].endswith("or raise train_encoder.wait_for_cluster_s (0)")
    assert lines[1].startswith("waited 0 of 60 s for the cluster: train_encoder: 2 workers")
    assert lines[2] == "room ray"
