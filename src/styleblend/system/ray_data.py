"""Tasks on the machines of a Ray cluster, by Ray Data, which reads no faster than the cluster works.

The machines need to share nothing: the files of a task go to the one that works on it as bytes, and what the task keeps
comes back as bytes. This process only reads, hands out and keeps.
"""

from __future__ import annotations

import logging
import math
import os
import pickle
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

import psutil

from styleblend.errors import StyleBlendError
from styleblend.system import ray_errors
from styleblend.system.files import whole_file
from styleblend.system.kept import Kept
from styleblend.system.parallel import shown_progress
from styleblend.system.ray_address import join

_BLOCK = 8
"""Tasks that are read and travel together: photographs can be large."""
_PLACE = "styleblend-cluster-"
"""Temporary folders of processes that work on a cluster; the number of the process follows."""


class Movable(Protocol):
    """A task that can run on another machine. It can be pickled, and keeps its results by `Kept`."""

    def reads(self) -> tuple[Path, ...]:
        """The files that it reads, beside the networks."""
        ...

    def moved(self, files: tuple[Path, ...], networks: Path, store: Path) -> Self:
        """The same task for copies of these files and of the networks' folder, with results in another folder."""
        ...


Task = TypeVar("Task", bound=Movable)


@dataclass(frozen=True)
class Cluster:
    """A cluster that runs, which this machine belongs to.

    setting: names the setting of the address in errors. gpus: of each process that works.
    """

    address: str
    setting: str
    gpus: float = 0


def fill(
    store: Kept, function: Callable[[Task], object], tasks: Sequence[Task], networks: Path, cluster: Cluster, label: str
) -> None:
    """Call `function` for every task on the cluster, and bring what they keep into `store`, in any order.

    Of pictures that are read and of results only as many exist at once as the object store of the cluster has room for.
    Tasks whose files cannot be read are left out, and counted in a line.

    Raises:
        StyleBlendError: no cluster answers, a task raised one, or Ray failed.
    """
    if not tasks:
        return
    import ray

    with ray_errors.told(cluster.address):
        join(cluster.address, cluster.setting, {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"})
        try:
            left_out = 0
            for result in shown_progress(_results(function, tasks, networks, cluster), len(tasks), label):
                if result["error"]:
                    raise StyleBlendError(result["error"])
                if result["kept"] is None:
                    left_out += 1
                    continue
                for name, content in pickle.loads(result["kept"]):
                    with whole_file(store.folder / name, lasting=False) as partial:
                        partial.write_bytes(content)
            if left_out:
                print(f"{label}: {left_out} of {len(tasks)} not sent, for their files cannot be read", flush=True)
        finally:
            ray.shutdown()


def _results(
    function: Callable[[Task], object], tasks: Sequence[Task], networks: Path, cluster: Cluster
) -> Iterator[dict[str, Any]]:
    import ray
    from ray.data import ActorPoolStrategy, DataContext, TaskPoolStrategy

    logging.getLogger("ray.data").setLevel(logging.WARNING)
    DataContext.get_current().enable_progress_bars = False
    # The files are here, so this machine reads them, by processes that take no CPU from those that work.
    here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
    files = {file.relative_to(networks).as_posix(): file.read_bytes() for file in networks.rglob("*") if file.is_file()}
    total = ray.cluster_resources()
    most = math.floor(total.get("GPU", 0) / cluster.gpus if cluster.gpus else total.get("CPU", 1))
    if most < 1:
        raise StyleBlendError(
            f"{cluster.setting} is {cluster.address}, a cluster of {total.get('GPU', 0):g} GPUs, and a process wants"
            f" {cluster.gpus:g}: lower gpus_per_worker of the section, or add machines"
        )
    held = ray.put(files)
    # Whole names: the processes that read stand in another folder than this one.
    named = [[file.absolute() for file in task.reads()] for task in tasks]
    rows = [
        {"task": pickle.dumps(task), "names": pickle.dumps(names)} for task, names in zip(tasks, named, strict=True)
    ]
    read = ray.data.from_items(rows, override_num_blocks=math.ceil(len(rows) / _BLOCK)).map(
        _with_files, compute=TaskPoolStrategy(size=2), num_cpus=0, label_selector=here
    )
    worker: Any = _Worker
    worked = read.map(
        worker,
        # In a list, so that a worker asks for it itself, also one that takes the place of a lost one.
        fn_constructor_args=(function, [held]),
        compute=ActorPoolStrategy(min_size=1, max_size=most, initial_size=most, max_tasks_in_flight_per_actor=2),
        num_cpus=1,
        num_gpus=cluster.gpus or None,
    )
    yield from worked.iter_rows()


def _with_files(row: dict[str, Any]) -> dict[str, Any]:
    """A task with the contents of its files, None where one of them cannot be read."""
    try:
        contents = [file.read_bytes() for file in pickle.loads(row["names"])]
    except OSError:
        contents = None
    return {"task": row["task"], "files": pickle.dumps(contents)}


def _remove_left() -> None:
    """Remove what processes that were killed left on this machine: pictures of people may be among it."""
    for place in Path(tempfile.gettempdir()).glob(f"{_PLACE}*"):
        number = place.name.removeprefix(_PLACE).partition("-")[0]
        if number.isdecimal() and not psutil.pid_exists(int(number)):
            shutil.rmtree(place, ignore_errors=True)


class _Worker:
    """A process on some machine of the cluster, with the networks in a folder of its own."""

    def __init__(self, function: Callable[[Movable], object], files: list[Any]) -> None:
        import ray

        self.function = function
        _remove_left()
        self.place = tempfile.TemporaryDirectory(prefix=f"{_PLACE}{os.getpid()}-")
        self.networks = Path(self.place.name, "networks")
        for name, content in ray.get(files[0]).items():
            (self.networks / name).parent.mkdir(parents=True, exist_ok=True)
            (self.networks / name).write_bytes(content)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        task: Movable = pickle.loads(row["task"])
        contents = pickle.loads(row["files"])
        if contents is None:
            return {"kept": None, "error": ""}
        with tempfile.TemporaryDirectory(dir=self.place.name) as folder:
            store = Path(folder, "kept")
            copies = tuple(Path(folder, str(number)) for number in range(len(contents)))
            for copy, content in zip(copies, contents, strict=True):
                copy.write_bytes(content)
            try:
                self.function(task.moved(copies, self.networks, store))
            except StyleBlendError as error:
                return {"kept": None, "error": str(error)}
            made = [file for file in sorted(store.rglob("*")) if file.is_file()]
            kept = [(file.relative_to(store).as_posix(), file.read_bytes()) for file in made]
        return {"kept": pickle.dumps(kept), "error": ""}
