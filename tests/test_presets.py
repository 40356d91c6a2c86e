"""Presets change params.yaml as a whole, do not pile up, and never leave an invalid file."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from styleblend import model
from styleblend.config.merge import merged
from styleblend.config.params import load_params
from styleblend.config.registry import Gate
from styleblend.config.sources import CelebaHqSource, FfhqSource, FolderSource
from styleblend.errors import StyleBlendError
from styleblend.experiments import presets

NAMES = ("paper", "photos", "standard", "starter")


@pytest.fixture
def project(root: Path, tmp_path: Path) -> Path:
    """A copy of the committed settings, with a folder of photographs beside them."""
    shutil.copy(root / "params.yaml", tmp_path)
    shutil.copytree(root / "presets", tmp_path / "presets")
    (tmp_path / "mine").mkdir()
    return tmp_path


def apply(project: Path, name: str, **options: Any) -> list[str]:
    return presets.apply(name, project / "params.yaml", project / "presets", **options)


def test_the_committed_presets_are_the_promised_ones(root: Path) -> None:
    """`styleblend preset` offers exactly these."""
    assert tuple(presets.names(root / "presets")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_preset_gives_valid_settings_with_its_values(project: Path, name: str) -> None:
    """After a preset the file passes the check and holds every override."""
    lines = apply(project, name)
    assert lines
    load_params(project / "params.yaml")
    written = yaml.safe_load((project / "params.yaml").read_text())
    overrides = yaml.safe_load((project / "presets" / f"{name}.yaml").read_text())
    assert merged(written, overrides) == written


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_can_be_taken_back(project: Path, name: str) -> None:
    """`none` restores the file byte for byte, and a second `none` has nothing to do."""
    before = (project / "params.yaml").read_bytes()
    apply(project, name)
    assert (project / "params.yaml.bak").read_bytes() == before
    apply(project, "none")
    assert (project / "params.yaml").read_bytes() == before
    with pytest.raises(StyleBlendError, match="nothing to take back"):
        apply(project, "none")


def test_presets_do_not_pile_up(project: Path) -> None:
    """One preset after another gives what the last one alone gives."""
    apply(project, "photos", folder=project / "mine")
    alone = yaml.safe_load((project / "params.yaml").read_text())
    apply(project, "paper")
    apply(project, "photos", folder=project / "mine")
    assert yaml.safe_load((project / "params.yaml").read_text()) == alone


def test_the_same_preset_twice_changes_nothing(project: Path) -> None:
    """The second time nothing is written and no change is reported."""
    apply(project, "standard")
    written = (project / "params.yaml").stat().st_mtime_ns
    assert apply(project, "standard") == []
    assert (project / "params.yaml").stat().st_mtime_ns == written


def test_options_reach_the_source(project: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Folder, licence, terms and mirror are written; a folder inside the project is written relative to it."""
    outside = tmp_path_factory.mktemp("weights")
    apply(project, "photos", folder=project / "mine", mirror=outside, licence="my own", terms="all agreed")
    cfg = load_params(project / "params.yaml")
    (source,) = cfg.download.sources
    assert isinstance(source, FolderSource)
    assert (source.path, source.licence, source.terms) == (Path("mine"), "my own", "all agreed")
    assert cfg.download.origin == Path("mine")
    assert cfg.pretrained.mirror == outside


def test_places_of_data_sets_reach_their_sources(project: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Path, what lies beside it, and the folder that DVC watches, which holds all of them."""
    disk = tmp_path_factory.mktemp("disk")
    for name in ("faces/CelebAMask-HQ.zip", "faces/identity_CelebA.txt", "ffhq.tar", "ffhq-dataset-v2.json"):
        (disk / name).parent.mkdir(exist_ok=True)
        (disk / name).touch()
    apply(project, "paper", ffhq=disk / "ffhq.tar", celeba_hq=disk / "faces/CelebAMask-HQ.zip")
    cfg = load_params(project / "params.yaml").download
    assert cfg.origin == disk
    ffhq, celeba = cfg.sources
    assert isinstance(ffhq, FfhqSource) and isinstance(celeba, CelebaHqSource)
    assert (ffhq.path, ffhq.metadata) == (disk / "ffhq.tar", disk / "ffhq-dataset-v2.json")
    assert (celeba.identities, celeba.mapping) == (disk / "faces/identity_CelebA.txt", None)


def test_data_sets_that_share_no_folder_are_refused(project: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """DVC watches one folder with both; one that holds the project itself would never come to rest."""
    disk = tmp_path_factory.mktemp("disk")
    before = (project / "params.yaml").read_bytes()
    for given in ({"ffhq": disk}, {"ffhq": disk, "celeba_hq": project / "mine"}):
        with pytest.raises(StyleBlendError, match="DVC would have to watch all of .*one folder of their own"):
            apply(project, "paper", **given)
    assert (project / "params.yaml").read_bytes() == before


def test_an_empty_table_empties(project: Path) -> None:
    """The gate is for rendered faces: `photos` takes its limits away, and leaves the rest of the section."""
    before = load_params(project / "params.yaml").register_
    assert before.gate.min and before.gate.max
    apply(project, "photos")
    assert load_params(project / "params.yaml").register_ == before.model_copy(update={"gate": Gate()})
    assert merged({"a": 1}, {}) == {"a": 1}


def test_changes_are_reported_one_by_one(project: Path) -> None:
    """Each line names the key, the old value and the new one."""
    steps = load_params(project / "params.yaml").train_encoder.steps
    lines = apply(project, "standard")
    wanted = yaml.safe_load((project / "presets/standard.yaml").read_text())["train_encoder"]["steps"]
    assert f"train_encoder.steps: {steps} -> {wanted}" in lines
    assert all("\n" not in line and " -> " in line for line in lines)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("nosuch", {}, "no preset 'nosuch': choose from paper, photos, standard, starter, none"),
        ("photos", {"folder": Path("/nowhere")}, "--folder /nowhere does not exist"),
        ("photos", {"mirror": Path("/nowhere")}, "--mirror /nowhere does not exist"),
        ("photos", {"licence": ""}, "licence: missing; state in one line"),
        ("paper", {"ffhq": Path("/nowhere")}, "--ffhq /nowhere does not exist"),
        ("paper", {"celeba_hq": Path("/nowhere")}, "--celeba-hq /nowhere does not exist"),
        ("photos", {"ffhq": Path("/tmp")}, "preset photos has 0 sources of kind ffhq, so --ffhq does not fit"),
        ("standard", {"folder": Path("/tmp")}, "preset standard has 0 folders"),
        ("paper", {"folder": Path("/tmp")}, "preset paper has 0 folders"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(
    project: Path, name: str, options: dict[str, Any], message: str
) -> None:
    """params.yaml stays as it was, and no backup appears."""
    before = (project / "params.yaml").read_bytes()
    with pytest.raises(StyleBlendError, match=message) as caught:
        apply(project, name, **options)
    assert "\n" not in str(caught.value)
    assert (project / "params.yaml").read_bytes() == before
    assert not (project / "params.yaml.bak").exists()


def test_the_paper_preset_builds_the_networks_of_the_paper(project: Path) -> None:
    """1024 px from 256 px, 18 styles of 512, SE-ResNet50's stages, four attention layers, the paper's weights."""
    apply(project, "paper")
    cfg = load_params(project / "params.yaml")
    with torch.device("meta"):
        swapper = model.build(cfg.model)
        swapped = swapper(torch.zeros(1, 3, 256, 256), torch.zeros(1, 3, 256, 256))
    assert swapped.shape == (1, 3, 1024, 1024)
    assert (cfg.model.n_styles, cfg.model.style_dim) == (18, 512)
    assert cfg.model.encoder_blocks == (3, 4, 14, 3)
    assert cfg.model.blending_layers == 4
    for stage in (cfg.train_encoder, cfg.finetune_decoder):
        weights = stage.loss
        assert (weights.identity, weights.contrastive, weights.reconstruction) == (10, 5, 1)
        assert (weights.landmarks, weights.swap_consistency, weights.adversarial) == (100, 1, 1)
        assert (weights.outside, weights.perceptual, stage.same_person) == (0, 0, 0)
        assert (stage.batch_size, stage.workers, stage.temperature) == (32, 8, 0.07)
    assert cfg.train_encoder.learning_rate == 4e-5
    assert cfg.train_encoder.steps + cfg.finetune_decoder.steps == 2_400_000
