"""A run whose identity networks come from packages: dlib's form in a wheel trains, faceres' form of npm judges."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

import dlib_files
import graph_files
import tiny_project
import tiny_training as tiny
from package_files import npm_tarball, wheel
from styleblend.config.data import Perceive
from styleblend.config.pretrained import Pretrained
from styleblend.config.training import LossWeights
from styleblend.perception import identity
from styleblend.perception.identity import DlibFace, GraphFace
from styleblend.reporting.model_card import Candidate, model_card
from styleblend.stages.perceive import perceive
from styleblend.system.files import sha256
from styleblend.training import probe
from styleblend.training.batches import read_faces
from styleblend.training.generated import load_perception
from styleblend.training.steps import choose_what_learns, generator_terms
from styleblend.weights import frozen
from styleblend.weights.run_folder import collect
from styleblend.weights.store import store_of
from test_networks_of_others import batch_of


def small_networks(folder: Path) -> Path:
    """Untrained small networks with cards, as git holds them."""
    tiny.write_networks(folder)
    tiny_project.make(folder.parent / "project")
    for ending in ("safetensors", "json"):
        shutil.copy(folder.parent / f"project/data/networks/attributes_judge.{ending}", folder)
    for weights in folder.glob("*.safetensors"):
        card = weights.with_suffix(".json")
        about = json.loads(card.read_text()) if card.is_file() else {}
        card.write_text(json.dumps({**about, "sha256": sha256(weights), "licence": "MIT"}))
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """The folder of a run's networks, filled from packages in a mirror, and what networks.json says."""
    root = tmp_path_factory.mktemp("packages")
    (root / "mirror").mkdir()
    dlib_files.write(dlib_files.Net(outputs=8), root / "net.dat")
    graph_files.faceres().write(root / "net.zip")
    shutil.unpack_archive(root / "net.zip", root / "parts")
    parts = {name: (root / "parts" / name).read_bytes() for name in ("net.json", "net.bin")}
    packed = wheel(root / "mirror", {"nets/net.dat": (root / "net.dat").read_bytes()})
    tarball = npm_tarball(root / "mirror", parts)
    terms = {"licence": "theirs", "commercial": False, "consequence": "ask", "not_verified": "what it learned from"}
    networks = {
        "near": {"roles": ["identity"], "file": "net.dat", "format": "dlib", "package": "wheel",
                 "members": {"nets/net.dat": sha256(root / "net.dat")}},
        "judge": {"roles": ["identity_judge"], "file": "net.zip", "format": "tfjs", "package": "npm",
                  "members": {name: sha256(root / "parts" / name) for name in parts}},
    }  # fmt: skip
    packages = {
        "wheel": {"registry": "pypi", "name": "face-nets", "version": "1.0", "file": packed.name},
        "npm": {"registry": "npm", "name": "@faces/nets", "version": "1.0.0", "file": tarball.name},
    }
    own = root / "own.yaml"
    listed = {name: terms | each for name, each in networks.items()}
    own.write_text(yaml.safe_dump({"packages": packages, "networks": listed}))
    cfg = Pretrained(identity="near", identity_judge="judge", mirror=root / "mirror", catalogue=own)
    small = small_networks(root / "small")
    return root / "out", collect(small, root / "out", cfg, store_of(cfg, root / "cache", root / "lock"))


def test_networks_json_says_where_they_came_from(run: tuple[Path, dict]) -> None:
    """By registry, package and version; their loaders are found by their endings."""
    folder, listed = run
    assert listed["identity"]["origin"] == "pypi face-nets 1.0" and listed["identity"]["file"] == "identity.dat"
    assert listed["identity_judge"]["origin"] == "npm @faces/nets 1.0.0"
    assert isinstance(identity.load(folder, "identity"), DlibFace)
    assert isinstance(identity.load(folder, "identity_judge"), GraphFace)


def test_doubts_stand_in_the_card_and_the_tags(run: tuple[Path, dict], tmp_path: Path) -> None:
    """What the catalogue says that nobody verified travels with a version, by the network's name."""
    tiny_project.make(tmp_path)
    faces = tmp_path / "data/faces"
    model = {"model": {"resolution": 64}, "alignment": {"template": "ffhq", "size_px": 64}}
    protocol = {"methods": ["model"], "text": "none"}
    manifest = pd.read_parquet(faces / "manifest.parquet")
    inputs: Any = SimpleNamespace(faces=faces, swapper=tmp_path)
    candidate = Candidate(inputs, {"n_pairs": 6.0}, protocol, manifest, frozen.listed(run[0]), model)
    tags = candidate.tags()
    assert tags["not_verified"] == "near: what it learned from; judge: what it learned from"
    card = model_card(candidate, tags, "No gate.")
    assert "**Not verified**\n\n- near: what it learned from\n- judge: what it learned from\n\n## Limits" in card
    assert tags["licence"] == "non-commercial", "the one that trains binds the model"


def test_the_table_of_faces_keeps_lengths_and_says_how_to_compare(run: tuple[Path, dict], tmp_path: Path) -> None:
    """perceive writes dlib's vectors as they are, and the judge's with unit length."""
    tiny_project.make(tmp_path)
    table = perceive(tmp_path / "data/faces", run[0], tmp_path / "perceived.parquet", Perceive(batch_size=5))
    vectors = np.stack(table["identity"].to_list())
    assert set(table["identity_metric"]) == {"distance"} and vectors.shape == (12, 8)
    assert np.abs(np.linalg.norm(vectors, axis=1) - 1).min() > 0.01
    np.testing.assert_allclose(np.linalg.norm(np.stack(table["judge"].to_list()), axis=1), 1, atol=1e-5)


def test_training_learns_by_the_networks_distance(run: tuple[Path, dict]) -> None:
    """Eq. 8 is the mean squared distance of the swap's vector, and its gradient reaches E; so does Eq. 9's."""
    torch.manual_seed(0)
    learner = tiny.learner(tiny.training(), pathway=0.1)
    choose_what_learns(learner.swapper, "train_encoder")
    weights = dict.fromkeys(LossWeights.model_fields, 0.0) | {"identity": 1.0, "contrastive": 1.0, "perceptual": 1.0}
    cfg = tiny.training(loss=weights)
    perception = load_perception(run[0], cfg.loss, torch.device("cpu"))
    batch = batch_of(3, 8)
    terms, swapped = generator_terms(learner.swapper, learner.discriminator, perception, batch, cfg, 0)
    apart = (perception.identity(swapped) - batch.source_identity).square().sum(1)
    torch.testing.assert_close(terms["identity"], apart.mean())
    for name in ("identity", "contrastive"):
        terms[name].backward(retain_graph=True)
        reached = [each.grad for each in learner.swapper.encoder.parameters()]
        assert all(each is not None and each.isfinite().all() for each in reached)
        assert any(bool(each.any()) for each in reached if each is not None)
        learner.swapper.zero_grad()


def test_the_probe_looks_by_the_same_similarity(run: tuple[Path, dict], tmp_path: Path) -> None:
    """identity_to_source is the mean of 1 - distance^2."""
    inputs = tiny.write_inputs(tmp_path)
    faces = read_faces(inputs["splits"] / "val.parquet", inputs["faces"], inputs["perceived"], tiny.SIDE_PX)
    pairs = probe.read_pairs(inputs["splits"] / "val_pairs.parquet", faces, torch.device("cpu"))
    swapper = tiny.learner(tiny.training()).averaged
    perception = load_perception(run[0], tiny.training().loss, torch.device("cpu"))
    seen = probe.look(swapper, perception, pairs, 0, 1, lambda tensors: None)
    with torch.no_grad():
        vectors = perception.identity(swapper(pairs.source, pairs.target))
    wanted = 1 - (vectors - pairs.source_identity).square().sum(1)
    assert seen["identity_to_source"] == pytest.approx(float(wanted.mean()), abs=1e-4)


def test_the_built_in_ones_can_be_chosen() -> None:
    """dlib for training and faceres as the judge, as in params.yaml; dlib does not judge, for judges take cosines."""
    cfg = Pretrained(identity="dlib_resnet", identity_judge="faceres")
    assert cfg.chosen() == {"identity": "dlib_resnet", "identity_judge": "faceres"}
    with pytest.raises(ValueError, match="identity_judge cannot be 'dlib_resnet': choose small or .*faceres"):
        Pretrained(identity_judge="dlib_resnet")
