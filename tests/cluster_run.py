"""Work on a Ray cluster of two machines of this one, as a program of its own: see test_ray_data.py.

python cluster_run.py FOLDER RAW PROJECT, which prints one JSON object
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

# Ray's patience with its own processes is too short for a machine that is busy.
PATIENCE = {"RAY_raylet_start_wait_time_s": "600", "RAY_agent_register_timeout_ms": "600000"}
os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", **PATIENCE}

import ray  # noqa: E402
from ray.cluster_utils import Cluster as Machines  # noqa: E402

from cluster_tasks import Sized, noted  # noqa: E402
from styleblend.config.data import Align, Perceive  # noqa: E402
from styleblend.data import align, perceived  # noqa: E402
from styleblend.data.align import align_faces  # noqa: E402
from styleblend.data.perceived import perceive_folder  # noqa: E402
from styleblend.errors import StyleBlendError  # noqa: E402
from styleblend.system import ray_data  # noqa: E402
from styleblend.system.kept import Kept  # noqa: E402

STORE_MB = 100


def main(folder: Path, raw: Path, project: Path) -> None:
    # The machine that reads has no core to work with.
    head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": STORE_MB * 2**20}
    # What does not fit in memory goes nowhere else.
    head["_system_config"] = {"automatic_object_spilling_enabled": False}
    machines = Machines(initialize_head=True, head_node_args=head)
    machines.add_node(num_cpus=1, object_store_memory=STORE_MB * 2**20)
    address = machines.address
    ray.init(address=address, log_to_driver=False)
    said: dict[str, object] = {"works": [each["NodeID"] for each in ray.nodes() if each["Resources"].get("CPU")]}
    ray.shutdown()

    # Three times as many bytes as both object stores hold.
    inputs, networks = folder / "inputs", folder / "networks"
    inputs.mkdir()
    (networks / "deep").mkdir(parents=True)
    (networks / "deep" / "net.bin").write_bytes(b"weights")
    files = []
    for number in range(150):
        files.append(inputs / f"{number}.dat")
        files[-1].write_bytes(number.to_bytes(8, "big") + bytes(4 * 2**20))
    files.append(inputs / "lost.dat")
    store = Kept(folder / "kept")
    cluster = ray_data.Cluster(address, "align.ray_address")
    tasks = [Sized(file, networks, store.folder) for file in files]
    ray_data.fill(store, noted, tasks, networks, cluster, "noted")
    said["kept"] = [json.loads(store.get(number.to_bytes(8, "big").hex()) or b"{}") for number in range(150)]
    said["files"] = len([file for file in store.folder.rglob("*") if file.is_file()])

    (inputs / "wrong.dat").write_bytes(b"wrong")
    try:
        wrong = [Sized(inputs / "wrong.dat", networks, store.folder)]
        ray_data.fill(store, noted, wrong, networks, cluster, "noted")
    except StyleBlendError as error:
        said["error"] = str(error)

    # Only the machines of the cluster look at pictures, not this process.
    align._looked_at = perceived._seen = None  # type: ignore[assignment]
    cfg = Align(detector="annotations", workers=1, min_face_px=16, size_px=32, ray_address=address)
    align_faces(raw, raw, folder / "faces", cfg, folder / "state")
    batches = Perceive(batch_size=8, workers=1, ray_address=address)
    perceive_folder(
        project / "faces", project / "networks", folder / "perceived.parquet", batches, "cpu", folder / "state"
    )
    try:
        none = ray_data.Cluster("127.0.0.1:1", "perceive.ray_address")
        ray_data.fill(store, noted, tasks[:1], networks, none, "noted")
    except StyleBlendError as error:
        said["nobody"] = str(error)
    machines.shutdown()
    print(json.dumps(said))


if __name__ == "__main__":
    main(*(Path(name) for name in sys.argv[1:]))
