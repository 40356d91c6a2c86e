"""What the tests of system.ray_data do on a cluster; its workers import this."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import ray

from styleblend.errors import StyleBlendError
from styleblend.system.kept import Kept


@dataclass(frozen=True)
class Sized:
    """A task that keeps where it was worked on, what its file held and what lay beside the networks."""

    file: Path
    networks: Path
    store: Path

    def reads(self) -> tuple[Path, ...]:
        return (self.file,)

    def moved(self, files: tuple[Path, ...], networks: Path, store: Path) -> Sized:
        return replace(self, file=files[0], networks=networks, store=store)


def noted(task: Sized) -> None:
    content = task.file.read_bytes()
    if content == b"wrong":
        raise StyleBlendError("the value is wrong: give another")
    found = sorted(file.name for file in task.networks.rglob("*.bin"))
    told = {"machine": ray.get_runtime_context().get_node_id(), "bytes": len(content), "networks": found}
    Kept(task.store).put(content[:8].hex(), json.dumps(told | {"place": str(task.file)}).encode())
