"""The examples of deploy/ fit Ray's own schema, KubeRay's fields, and this project's settings and versions."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from styleblend.config.training import Training
from styleblend.training import resources

POD = {
    "serviceAccountName", "tolerations", "volumes", "nodeSelector", "terminationGracePeriodSeconds",
    "affinity", "initContainers", "imagePullSecrets", "priorityClassName",
}  # fmt: skip
"""Fields of a pod that an example may use; a wrong name is dropped by Kubernetes without a word."""


def object_of(required: set[str], **properties: Any) -> dict[str, Any]:
    """A schema of an object with these fields and no others."""
    return {
        "type": "object", "required": sorted(required), "properties": properties, "additionalProperties": False,
    }  # fmt: skip


TEXT, NUMBER, SWITCH = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "boolean"}
TEXTS = {"type": "object", "additionalProperties": TEXT}
CONTAINER = object_of(
    {"name", "image", "resources"},
    name=TEXT,
    image=TEXT,
    resources=object_of({"requests", "limits"}, requests=TEXTS, limits=TEXTS),
    ports={"type": "array", "items": object_of({"containerPort"}, containerPort=NUMBER, name=TEXT)},
    volumeMounts={"type": "array", "items": object_of({"name", "mountPath"}, name=TEXT, mountPath=TEXT)},
    env={"type": "array"},
)
CONTAINERS = {"type": "array", "minItems": 1, "items": CONTAINER}
TEMPLATE = object_of(
    {"spec"},
    metadata={"type": "object"},
    spec=object_of({"containers"}, **{name: {} for name in POD} | {"containers": CONTAINERS}),
)
RAYJOB = object_of(
    {"apiVersion", "kind", "metadata", "spec"},
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata=object_of({"name"}, name={"type": "string", "pattern": "^[a-z0-9-]{1,47}$"}, namespace=TEXT, labels=TEXTS),
    spec=object_of(
        {"entrypoint", "rayClusterSpec"},
        entrypoint=TEXT,
        backoffLimit=NUMBER,
        activeDeadlineSeconds=NUMBER,
        submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode"]},
        shutdownAfterJobFinishes=SWITCH,
        ttlSecondsAfterFinished=NUMBER,
        runtimeEnvYAML=TEXT,
        suspend=SWITCH,
        rayClusterSpec=object_of(
            {"headGroupSpec", "rayVersion"},
            rayVersion=TEXT,
            enableInTreeAutoscaling=SWITCH,
            autoscalerOptions=object_of(
                set(), idleTimeoutSeconds=NUMBER, upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]}
            ),
            headGroupSpec=object_of(
                {"rayStartParams", "template"}, rayStartParams=TEXTS, template=TEMPLATE, serviceType=TEXT
            ),
            workerGroupSpecs={
                "type": "array",
                "items": object_of(
                    {"groupName", "minReplicas", "maxReplicas", "rayStartParams", "template"},
                    groupName=TEXT,
                    replicas=NUMBER,
                    minReplicas=NUMBER,
                    maxReplicas=NUMBER,
                    numOfHosts=NUMBER,
                    rayStartParams=TEXTS,
                    template=TEMPLATE,
                ),
            },
        ),
    ),
)
"""Names and kinds of RayJob's fields as KubeRay's API ray.io/v1 has them, as far as an example may use them."""


def read(file: Path) -> Any:
    return yaml.safe_load(file.read_text())


def test_the_cluster_file_fits_rays_schema(root: Path) -> None:
    """Ray's ray-schema.json takes it, a field that it does not know is refused, and Ray is not even imported."""
    found = importlib.util.find_spec("ray")
    assert found is not None and found.origin is not None
    schema = json.loads((Path(found.origin).parent / "autoscaler" / "ray-schema.json").read_text())
    cluster = read(root / "deploy" / "ray-cluster.yaml")
    jsonschema.validate(cluster, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(cluster | {"max_worker": 1}, schema)
    kinds = cluster["available_node_types"]
    assert cluster["head_node_type"] in kinds
    assert cluster["max_workers"] == sum(kind["max_workers"] for kind in kinds.values())
    # The head holds no worker, for it is the one machine that must stay.
    assert kinds[cluster["head_node_type"]]["resources"]["CPU"] == 0
    assert "spot" not in str(kinds[cluster["head_node_type"]])


def test_the_rayjob_has_kuberays_fields(root: Path) -> None:
    """Every field is one of ray.io/v1, of its kind; mounts name volumes; a misspelt field is refused."""
    job = read(root / "deploy" / "rayjob.yaml")
    jsonschema.validate(job, RAYJOB)
    wrong = json.loads(json.dumps(job))
    wrong["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["maxReplica"] = 1
    with pytest.raises(jsonschema.ValidationError, match="maxReplica"):
        jsonschema.validate(wrong, RAYJOB)
    cluster = job["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} == volumes
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


def test_the_examples_have_this_projects_versions_and_stages(root: Path) -> None:
    """One image everywhere, the lock's Ray, Python as pyproject.toml wants it, files and a stage that there are."""
    deploy, lock = root / "deploy", (root / "requirements.lock").read_text()
    docker = (deploy / "Dockerfile").read_text()
    (ray,) = re.findall(r"^ray==(.*)$", lock, re.MULTILINE)
    assert set(re.findall(r"ray\[default\]==([\d.]+)", docker)) == {ray}
    job, cluster = read(deploy / "rayjob.yaml"), read(deploy / "ray-cluster.yaml")
    spec = job["spec"]["rayClusterSpec"]
    assert spec["rayVersion"] == ray
    images = set(re.findall(r"image: (\S+)", (deploy / "rayjob.yaml").read_text())) | {cluster["docker"]["image"]}
    assert images == {f"REGISTRY/styleblend:{importlib.metadata.version('styleblend')}"}
    assert f"-t {next(iter(images))} ." in docker
    wanted = re.search(r'requires-python = ">=(3\.\d+),', (root / "pyproject.toml").read_text())
    assert wanted is not None and f"FROM python:{wanted[1]}-" in docker
    for copied in re.findall(r"^COPY (\S+)", docker, re.MULTILINE):
        assert (root / copied).exists()
    (stage,) = re.findall(r"dvc repro (\w+)", job["spec"]["entrypoint"])
    assert stage in read(root / "dvc.yaml")["stages"]


def test_the_settings_of_the_text_fit_the_machines(root: Path) -> None:
    """What docs/cluster.md tells to set is valid; all machines of either example have room, one for the fewest."""
    text = (root / "docs" / "cluster.md").read_text()
    (block,) = re.findall(r"```yaml\n(tracking:.*?)```", text, re.DOTALL)
    settings = yaml.safe_load(block)
    cfg = Training(steps=1, curriculum_steps=0, batch_size=32, **settings["train_encoder"])
    assert settings["train_encoder"] == settings["finetune_decoder"] and cfg.storage and cfg.ray_address == "auto"
    kind = read(root / "deploy" / "ray-cluster.yaml")["available_node_types"]["eight_gpus"]
    (group,) = read(root / "deploy" / "rayjob.yaml")["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    pod = {"CPU": float(limits["cpu"]), "GPU": float(limits["nvidia.com/gpu"])}
    for machine, most in ((kind["resources"], kind["max_workers"]), (pod, group["maxReplicas"])):
        assert resources.workers_that_fit(cfg, [machine] * most) >= cfg.workers
        assert resources.workers_that_fit(cfg, [machine]) >= cfg.fewest_workers
