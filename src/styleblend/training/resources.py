"""Whether a cluster can hold the workers of a training, in numbers alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from styleblend.config.training import Training

Resources = Mapping[str, float]


def of_a_worker(cfg: Training) -> dict[str, float]:
    """What each worker reserves."""
    return {"CPU": cfg.cpus_per_worker} | ({"GPU": cfg.gpus_per_worker} if cfg.gpus_per_worker else {})


def workers_that_fit(cfg: Training, nodes: Iterable[Resources]) -> int:
    """How many workers find room on nodes of these resources. Several workers may share a GPU, but none has two halves.

    >>> workers_that_fit(Training(steps=1, batch_size=2, curriculum_steps=0), [{"CPU": 1.5}, {"CPU": 4}])
    5
    """
    return sum(_on_node(cfg, node) for node in nodes)


def _on_node(cfg: Training, node: Resources) -> int:
    by_cpu = math.floor(node.get("CPU", 0) / cfg.cpus_per_worker + 1e-6)
    if not cfg.gpus_per_worker:
        return by_cpu
    return min(by_cpu, math.floor(node.get("GPU", 0)) * cfg.workers_per_gpu)


def lack(stage: str, cfg: Training, nodes: Iterable[Resources], place: str) -> str | None:
    """What a place lacks for the workers of a stage, in one line with the remedy; None if they fit."""
    nodes = list(nodes)
    fit = workers_that_fit(cfg, nodes)
    if fit >= cfg.fewest_workers:
        return None
    cpus, gpus = (math.floor(sum(node.get(kind, 0) for node in nodes)) for kind in ("CPU", "GPU"))
    each = f"{cfg.cpus_per_worker:g} CPUs" + (f" and {cfg.gpus_per_worker:g} GPUs" if cfg.gpus_per_worker else "")
    remedy = f"lower {stage}.workers or what each asks for"
    if cfg.gpus_per_worker and not gpus:
        remedy = f"set {stage}.gpus_per_worker to 0 to train on CPUs, or run where there are GPUs"
    return (
        f"{stage}: {cfg.fewest_workers} workers of {each} are wanted, and {place} has room for {fit}"
        f" ({cpus} CPUs and {gpus} GPUs): {remedy}"
    )
