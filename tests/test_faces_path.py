"""A team's own photographs, from the preset to a registered version: with networks made here, and with real ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

import dlib_files
import graph_files
import layers_files
import mesh_faces
import tflite_files
from styleblend import provenance
from styleblend.config.merge import merged
from test_end_to_end import checkout, command, repro

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

LONDON = Path(__file__).parents[2] / "shared/faces/london"
PERSONS = 9
TRAINING = {"steps": 2, "batch_size": 2, "negatives": 3, "probe_every": 2, "checkpoint_every": 1, "log_every": 1}
SMALLEST: dict[str, Any] = {
    "align": {"workers": 1},
    "perceive": {"workers": 1},
    "validate": {"min_faces": 10},
    "split": {"val": 0.25, "test": 0.35, "test_pairs": 6, "val_pairs": 3},
    "train_encoder": TRAINING,
    "finetune_decoder": TRAINING,
    "evaluate": {"bootstrap": 100, "grid_rows": 2},
    # After two steps a model reaches no limit.
    "register": {"gate": {"min": {}, "max": {}, "champion": [], "baselines": {}}},
}


def made_networks(mirror: Path) -> dict[str, str]:
    """A network of the published form for each role, in a mirror with the catalogue that names them; returns the names.

    The detector sees the middle of a red picture as a face, the meshes a frontal face in its middle.
    """
    view = np.concatenate([mesh_faces.template() * 192, np.full((10, 3), 96, np.float32)])
    row = [-4, -4, 64, 64, -20, -14, 12, -14, *[0] * 8]
    contents = {
        "detector.tflite": tflite_files.blazeface([row], [2 * (8 * 16 + 8)], threshold=0.2),
        "mesh.tflite": tflite_files.mesh(view[:468], 192, threshold=0.2),
    }
    for name, content in contents.items():
        (mirror / name).write_bytes(content)
    shares = np.random.default_rng(1).normal(size=(52, 292)).astype(np.float32)
    members = {
        "face_landmarks_detector": tflite_files.mesh(view / 192 * 256, 256, threshold=0.2),
        "face_blendshapes": tflite_files.blendshapes(shares),
    }
    tflite_files.task(mirror / "landmarker.task", **members)
    dlib_files.write(dlib_files.Net(outputs=8), mirror / "near.dat")
    graph_files.faceres().write(mirror / "judge.zip")
    layers_files.write(mirror / "features.zip")
    files = {
        "near": ("near.dat", "dlib", ["identity"]),
        "judge": ("judge.zip", "tfjs", ["identity_judge"]),
        "mesh": ("mesh.tflite", "tflite", ["landmarks", "attributes"]),
        "shapes": ("landmarker.task", "task", ["attributes_judge"]),
        "features": ("features.zip", "tfjs_layers", ["inception"]),
        "blaze": ("detector.tflite", "tflite", ["detector"]),
    }
    terms = {"licence": "MIT", "commercial": True, "consequence": "any use"}
    networks: dict[str, dict[str, Any]] = {
        name: {"file": file, "format": form, "roles": roles, **terms} for name, (file, form, roles) in files.items()
    }
    networks["blaze"]["detects"] = ["mediapipe"]
    (mirror / "own.yaml").write_text(yaml.safe_dump({"networks": networks}))
    return {role: name for name, (_, _, roles) in files.items() for role in roles}


def made_photographs(folder: Path) -> None:
    """Two red pictures of each person, no two alike."""
    for person in range(PERSONS):
        (folder / f"person-{person}").mkdir(parents=True)
        for number in range(2):
            pixels = mesh_faces.picture(200, 10 * person + number)
            pixels[..., 0] = 215 + pixels[..., 0] // 8
            Image.fromarray(pixels).save(folder / f"person-{person}/{number}.jpg", quality=95)


def faces_project(root: Path, folder: Path, photographs: Path, **networks: str) -> Path:
    """What `styleblend preset faces --folder` makes of a fresh checkout, at the smallest size; networks by role."""
    (folder / "project").mkdir()
    project = checkout(root, folder / "project")
    preset = ("preset", "faces", "--folder", str(photographs), "--label", "parent_folder", "--licence", "CC BY 4.0")
    mirror = ("--mirror", str(folder / "mirror")) if networks else ()
    done = command(project, "styleblend.commands.cli", *preset, *mirror)
    assert done.returncode == 0, done.stdout
    params = yaml.safe_load((project / "params.yaml").read_text())
    changes = SMALLEST | ({"pretrained": networks} if networks else {})
    (project / "params.yaml").write_text(yaml.safe_dump(merged(params, changes)))
    return project


def expect_a_version(project: Path, count: int) -> None:
    """`dvc repro` ends in a registered version whose evaluation has all figures; it swaps one of the photographs."""
    done = repro(project)
    assert done.returncode == 0, done.stdout[-5000:]
    manifest = pd.read_parquet(project / "data/faces/manifest.parquet")
    assert len(manifest) == count and set(manifest["licence"]) == {"CC BY 4.0"}
    metrics: dict[str, Any] = json.loads((project / "reports/metrics.json").read_text())
    for figure in ("id_retrieval_top1", "pose_error_deg", "expression_error", "landmark_error", "detail_inside"):
        for name in (figure, f"copy_target/{figure}", f"dense_warp/{figure}"):
            assert isinstance(metrics[name], float), name
    registered: dict[str, Any] = json.loads((project / "reports/registered.json").read_text())
    source, target = sorted((project.parent / "photographs").rglob("*.jpg"))[1:3]
    swap = ("swap", str(source), str(target), "-o", "out.png", "--model", registered["version"])
    done = command(project, "styleblend.commands.cli", *swap)
    assert done.returncode == 0 and f"version {registered['version']}" in done.stdout, done.stdout
    with Image.open(project / "out.png") as image, Image.open(target) as before:
        assert image.size == before.size
    assert provenance.read_marks(project / "out.png")["kind"] == "swap"


def test_photographs_become_a_version_with_networks_made_here(root: Path, tmp_path: Path) -> None:
    """Every stage and loader of the preset `faces`, from the committed starter on, with files of published forms."""
    (tmp_path / "mirror").mkdir()
    names = made_networks(tmp_path / "mirror")
    made_photographs(tmp_path / "photographs")
    catalogue = str(tmp_path / "mirror/own.yaml")
    project = faces_project(root, tmp_path, tmp_path / "photographs", catalogue=catalogue, **names)
    expect_a_version(project, 2 * PERSONS)


@pytest.mark.photos
def test_photographs_become_a_version_with_the_real_networks(root: Path, tmp_path: Path) -> None:
    """The same with the preset's own networks, by the names of their packages, and a few people of the London Set."""
    if not LONDON.is_dir():
        pytest.skip("the London Set is not here")
    for person in sorted(LONDON.iterdir())[:PERSONS]:
        shutil.copytree(person, tmp_path / "photographs" / person.name)
    project = faces_project(root, tmp_path, tmp_path / "photographs")
    fetched = command(project, "styleblend.commands.cli", "weights", "fetch")
    if "is not to be had" in fetched.stdout:
        pytest.skip(f"packages cannot be had: {fetched.stdout.splitlines()[-1]}")
    assert fetched.returncode == 0, fetched.stdout
    expect_a_version(project, len(list((tmp_path / "photographs").rglob("*.jpg"))))
