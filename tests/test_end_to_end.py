"""All stages at the smallest size: a real `dvc repro` with every real tool, and what a person may do afterwards."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from styleblend import provenance
from styleblend.config.merge import merged
from styleblend.config.params import load_params
from styleblend.experiments import isolated_run
from styleblend.registry import lineage, mlflow_store
from styleblend.registry.versions import fetch_record, find_version
from styleblend.system.files import sha256
from styleblend.system.lock import only_one

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

TRAINING = {"batch_size": 4, "workers": 2, "negatives": 4, "log_every": 1}
TINY: dict[str, Any] = {
    "download": {
        # Stages with several processes have tests of their own; here each process would only take seconds to start.
        "workers": 1,
        "sources": [
            {
                "kind": "rendered",
                "name": "rendered",
                "identities": 24,
                "pictures_per_identity": 3,
                "size_px": 112,
                "supersample": 1,
                "seed": 1,
            }
        ],
    },
    "align": {"workers": 1},
    "validate": {"min_faces": 60},
    "split": {"val": 0.2, "test": 0.3, "test_pairs": 24, "val_pairs": 6, "workers": 1},
    # One probe that counts a stage: after a few steps a model would be alarmed for learning nothing.
    "train_encoder": TRAINING | {"steps": 4, "curriculum_steps": 2, "probe_every": 4, "checkpoint_every": 2},
    "finetune_decoder": TRAINING | {"steps": 2, "curriculum_steps": 0, "probe_every": 2, "checkpoint_every": 1},
    "evaluate": {"bootstrap": 100, "grid_rows": 3},
    "retrain": {"webhook": "https://hooks.example.com/${HOOK_KEY}"},
    # After a few steps a model reaches no limit.
    "register": {"gate": {"min": {}, "max": {}, "champion": [], "baselines": {}}},
}


def checkout(root: Path, folder: Path) -> Path:
    """A copy of the project as git would give it, with tiny settings."""
    for name in (".dvc/config", ".dvcignore", ".gitignore", "dvc.yaml", "params.yaml"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(root / name, folder / name)
    for name in ("src", "presets", "data/forgotten", "data/pretrained/small", "data/pretrained/faces"):
        shutil.copytree(root / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    if (root / "dvc.lock").exists():
        shutil.copy(root / "dvc.lock", folder)
    subprocess.run(["git", "init", "-q", folder], check=True)
    write(folder, TINY)
    return folder


@pytest.fixture(scope="module")
def project(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project after its first `dvc repro`."""
    folder = checkout(root, tmp_path_factory.mktemp("project"))
    # A version can be made again where git holds what made it.
    commit(folder, "tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOOK_KEY", "s3cret-key")
        done = repro(folder)
    assert done.returncode == 0, done.stdout[-5000:]
    return folder


def write(project: Path, overrides: dict[str, Any]) -> None:
    values = yaml.safe_load((project / "params.yaml").read_text())
    (project / "params.yaml").write_text(yaml.safe_dump(merged(values, overrides)))


def commit(project: Path, message: str) -> None:
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost"]
    for arguments in (["add", "-A"], ["commit", "-qm", message]):
        subprocess.run([*git, *arguments], cwd=project, check=True)


def command(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=project,
        env=os.environ | {"PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def repro(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return command(project, "dvc", "repro", *arguments)


def ran(output: str) -> list[str]:
    """The stages that DVC ran, in order."""
    return [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")]


def versions(project: Path) -> str:
    content: dict[str, str] = json.loads((project / "reports/registered.json").read_text())
    return content["version"]


def test_every_output_is_there(project: Path) -> None:
    """Data, splits, both models, the evaluation with its grid, the card and the registered version."""
    manifest = pd.read_parquet(project / "data/faces/manifest.parquet")
    assert len(manifest) + len(pd.read_parquet(project / "data/faces/quarantine.parquet")) == 72
    persons = [
        set(pd.read_parquet(project / f"data/splits/{part}.parquet")["person"]) for part in ("train", "val", "test")
    ]
    assert all(persons) and not set.intersection(persons[0], persons[1] | persons[2])
    for name in ("encoder", "swapper"):
        assert (project / "data/models" / name / "swapper.safetensors").is_file()
    metrics = json.loads((project / "reports/metrics.json").read_text())
    for figure in ("id_retrieval_top1", "target_retrieval_top1", "pose_error_deg", "outside_l1", "psnr_true_swap_db"):
        for name in (figure, f"copy_target/{figure}", f"warp_blend/{figure}"):
            assert isinstance(metrics[name], float), name
    assert metrics["n_pairs"] == 24
    registered = json.loads((project / "reports/registered.json").read_text())
    assert (registered["alias"], registered["gate"]) == ("candidate", "passed")
    assert (project / "reports/model_card.md").read_text()
    assert (project / "reports/data_docs/index.html").is_file()
    assert pd.read_parquet(project / "data/selection.parquet")["kept"].all()
    validation = json.loads((project / "reports/validation.json").read_text())
    assert (validation["faces"], validation["used"], validation["fallen"]) == (72, 72, {})
    assert "Every face is used." in (project / "reports/data.md").read_text()
    assert list(project.glob("mlruns/**/data_profile.json"))


def test_every_picture_of_faces_is_marked(project: Path) -> None:
    """Rendered photographs, aligned faces and grids all say that they were made."""
    made = [*project.glob("data/raw/**/*.png"), *project.glob("data/faces/**/*.png")]
    grids = [path for path in project.glob("reports/**/*.png") if "grid" in path.name]
    assert len(made) >= 144
    assert grids
    for path in (*made[::20], *grids):
        assert provenance.read_marks(path)["kind"] in ("rendered", "grid"), path


def test_no_secret_of_the_environment_is_kept(project: Path) -> None:
    """What a ${NAME} of params.yaml stands for is in no file: DVC's locks, MLflow's store, versions, reports, logs."""
    files = [file for file in project.rglob("*") if file.is_file()]
    versions = [file for file in files if file.name == "params.yaml" and "mlruns" in file.parts]
    assert versions and all(b"${HOOK_KEY}" in file.read_bytes() for file in versions)
    for file in files:
        assert b"s3cret-key" not in file.read_bytes(), file


def test_runs_nest_under_one_pipeline_run(project: Path) -> None:
    """MLflow has one parent with a child for each training stage, evaluation and registration, all finished."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{project / 'mlflow.db'}")
    parent = json.loads((project / "reports/registered.json").read_text())["parent_run_id"]
    experiment = client.get_run(parent).info.experiment_id
    runs = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parent}'")
    stages = {run.data.tags["styleblend.stage"]: run.info.status for run in runs}
    assert stages == dict.fromkeys(("train_encoder", "finetune_decoder", "evaluate", "register"), "FINISHED")


def test_a_second_repro_runs_nothing(project: Path) -> None:
    """Nothing changed, so nothing runs, and `dvc status` has nothing to say but that all is in order."""
    again = repro(project)
    assert again.returncode == 0, again.stdout
    assert ran(again.stdout) == []
    status = command(project, "dvc", "status")
    assert "Data and pipelines are up to date" in status.stdout


def test_a_readme_changes_nothing(project: Path) -> None:
    """Files that no stage uses are nobody's dependency."""
    (project / "README.md").write_text("changed")
    (project / "presets/faces.yaml").write_text("changed")
    assert ran(repro(project, "--dry").stdout) == []


def test_a_changed_loss_trains_again(project: Path) -> None:
    """And leaves the data alone."""
    file = project / "src/styleblend/training/losses.py"
    before = file.read_text()
    file.write_text(before + "\n# changed\n")
    planned = ran(repro(project, "--dry").stdout)
    file.write_text(before)
    assert planned[0] == "train_encoder"
    assert set(planned) <= {"train_encoder", "finetune_decoder", "evaluate", "register"}


def test_report_says_how_good_it_is(project: Path) -> None:
    """The closing lines name the version and where to look."""
    done = command(project, "styleblend.commands.cli", "report")
    assert done.returncode == 0, done.stdout
    assert f"version {versions(project)}" in done.stdout
    assert "swap_grid.png" in done.stdout


def test_the_registered_model_swaps(project: Path) -> None:
    """Straight after a run, with the candidate, on two aligned faces of the data set."""
    faces = sorted((project / "data/faces/images").iterdir())[:2]
    done = command(
        project, "styleblend.commands.cli", "swap", str(faces[0]), str(faces[1]), "--aligned", "-o", "out.png"
    )
    assert done.returncode == 0, done.stdout
    with Image.open(project / "out.png") as image:
        assert image.size == (64, 64)
    assert provenance.read_marks(project / "out.png")["kind"] == "swap"


def test_the_registered_version_comes_out_again_bit_for_bit(project: Path) -> None:
    """`styleblend reproduce` trains both stages again with Ray, from git, the version's settings and DVC's cache."""
    done = command(project, "styleblend.commands.cli", "reproduce", versions(project))
    assert done.returncode == 0, done.stdout[-5000:]
    assert ran(done.stdout) == ["train_encoder", "finetune_decoder"]
    weights = project / "data/models/swapper/swapper.safetensors"
    assert f"the same, bit for bit: swapper.safetensors has the sha256 {sha256(weights)} again" in done.stdout
    assert "train_encoder" not in ran(repro(project, "--dry").stdout), "the project itself is as it was"


def test_rendered_photographs_can_be_swapped(project: Path, yunet_file: Path) -> None:
    """Not aligned, as they came: the real detector finds the face in them."""
    pictures = sorted((project / "data/raw/rendered/images").rglob("*.png"))[:2]
    arguments = ["swap", *map(str, pictures), "--detector-weights", str(yunet_file), "-o", "whole.png"]
    done = command(project, "styleblend.commands.cli", *arguments)
    assert done.returncode == 0, done.stdout
    with Image.open(project / "whole.png") as image:
        assert image.size == (112, 112)


def test_a_changed_evaluation_evaluates_and_registers_only(project: Path) -> None:
    """The model is not trained again for another figure."""
    write(project, {"evaluate": {"bootstrap": 101}})
    done = repro(project)
    assert done.returncode == 0, done.stdout
    assert ran(done.stdout) == ["evaluate", "register"]


@pytest.mark.parametrize(
    ("overrides", "stage", "message"),
    [
        ({"evaluate": {"bootstrapp": 100}}, "evaluate", "evaluate.bootstrapp: unknown key"),
        ({"perceive": {"batch_size": 0}}, "perceive", "perceive.batch_size: Input should be greater than or equal"),
        ({"validate": {"min_faces": 10_000}}, "validate", "expectations on the data do not hold"),
        ({"register": {"gate": {"min": {"nosuch": 1}}}}, "register", "register.gate names 'nosuch'"),
    ],
)
def test_a_mistake_ends_the_pipeline_with_one_line(
    project: Path, overrides: dict[str, Any], stage: str, message: str
) -> None:
    """No traceback; the stage's line says what and where; DVC ends with an exit code that is not 0."""
    before = (project / "params.yaml").read_text()
    write(project, overrides)
    done = repro(project)
    (project / "params.yaml").write_text(before)
    assert done.returncode != 0
    assert message in line_of(done.stdout, stage)


OWN = ("dvc.lock", "reports/metrics.json", "reports/evaluate/groups.csv", "data/models/swapper/swapper.safetensors")


def test_ablations_leave_the_pipeline_alone(project: Path) -> None:
    """Variants train and evaluate in working copies, register nothing and run only once.

    Settings, lock, model and figures stay the pipeline's own.
    """
    variants = project / "presets/ablations/variants.yaml"
    plan = yaml.safe_load(variants.read_text())
    chosen = ("full", "no_landmarks")
    variants.write_text(yaml.safe_dump({"shared": {}, "variants": {name: plan["variants"][name] for name in chosen}}))
    commit(project, "two variants")
    # Tests before this one end stages early.
    assert repro(project).returncode == 0
    params, before = (project / "params.yaml").read_text(), versions(project)
    own = {name: (project / name).read_bytes() for name in OWN}
    done = command(project, "styleblend.commands.cli", "ablate")
    assert done.returncode == 0, done.stdout[-3000:]
    assert "train_encoder" in ran(done.stdout) and "register" not in ran(done.stdout)
    report = (project / "reports/ablations.md").read_text()
    assert all(f"| {name} |" in report for name in chosen) and "Not run yet" not in report
    assert (project / "params.yaml").read_text() == params and versions(project) == before
    # What `styleblend report` shows is what was registered, not the last variant.
    for name, content in own.items():
        assert (project / name).read_bytes() == content, name
    figures = {name: json.loads((project / f"reports/ablations/{name}.json").read_text())["metrics"] for name in chosen}
    assert figures["no_landmarks"] != figures["full"] == json.loads(own["reports/metrics.json"])
    assert "Data and pipelines are up to date" in command(project, "dvc", "status").stdout
    assert not any((project / ".state/isolated").iterdir())
    again = command(project, "styleblend.commands.cli", "ablate")
    assert again.returncode == 0 and ran(again.stdout) == []
    assert ran(repro(project).stdout) == []


def test_a_run_with_overrides_registers_in_the_project(project: Path) -> None:
    """In a working copy only what depends on the override runs; the version is in the project's store, with the run's
    settings and the project's revision. The project's reports show it once it is adopted, and params.yaml is as it was.
    """
    assert repro(project).returncode == 0
    params, before = (project / "params.yaml").read_text(), versions(project)
    own = isolated_run.values(project, {"evaluate": {"bootstrap": 120}})
    with only_one(project, "a test") as lock, isolated_run.working_copy(project, "retrain", own) as folder:
        with isolated_run.dvc(folder, "repro", lock=lock) as process:
            assert process.stdout is not None
            out = process.stdout.read()
            assert process.wait() == 0, out[-5000:]
        assert ran(out) == ["evaluate", "register"]
        assert versions(project) == before
        isolated_run.adopt(folder, project)
    assert int(versions(project)) > int(before) and (project / "params.yaml").read_text() == params
    track = mlflow_store.resolved(load_params(project / "params.yaml").tracking, project)
    made = find_version(track, versions(project))
    assert made.tags["git_revision"] == lineage.git_revision(project)
    assert made.tags["git_changes"] == (", ".join(lineage.changed_code(project) or ()) or "none")
    record = fetch_record(track, made.version, project / ".state/record")
    assert yaml.safe_load((record / "params.yaml").read_text())["evaluate"]["bootstrap"] == 120
    learned = json.loads((record / "pictures.json").read_text())
    dealt = {name: pd.read_parquet(project / f"data/splits/{name}.parquet") for name in ("train", "val", "test")}
    assert {name: len(found) for name, found in learned.items()} == {name: len(rows) for name, rows in dealt.items()}
    assert record.is_relative_to(project) and any((project / "mlruns").rglob("params.yaml"))
    again = repro(project)
    assert ran(again.stdout) == [] and versions(project) == before, "its own settings are in DVC's cache"


def photographed(mine: Path, mirror: Path) -> dict[str, Any]:
    """Settings for a folder of photographs, in which YuNet finds the faces; small networks see them."""
    own = {"kind": "folder", "name": "mine", "path": str(mine), "licence": "own", "terms": "a test"}
    return {
        "download": {"origin": str(mine), "sources": [own]},
        "pretrained": {"detector": "yunet", "mirror": str(mirror)},
        "align": {"detector": "yunet"},
        "validate": {"min_faces": 20, "max_quarantined": 0.5, "mostly": 0.8},
        # Embeddings of real faces lie close together in a network that learned from rendered ones.
        "split": {"cluster_similarity": 0.95, "test_pairs": 60, "val_pairs": 16},
    }


@pytest.mark.photos
def test_real_photographs_all_give_a_face(
    root: Path, photos: Path, yunet_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A person's own folder: each picture ends in the manifest; a broken one that is added, in the quarantine."""
    mine = Path(shutil.copytree(photos, tmp_path_factory.mktemp("photographs") / "mine"))
    (mine / "README.md").unlink()
    folder = checkout(root, tmp_path_factory.mktemp("project"))
    write(folder, photographed(mine, yunet_file.parent) | {"align": {"detector": "yunet", "workers": 2}})
    done = repro(folder, "split")
    assert done.returncode == 0, done.stdout[-5000:]
    inputs = {path for path in mine.rglob("*") if path.is_file()}
    manifest = pd.read_parquet(folder / "data/faces/manifest.parquet")
    assert len(manifest) == len(inputs) == 60
    assert pd.read_parquet(folder / "data/faces/quarantine.parquet").empty
    # Sharp enough to be no plain colour.
    assert all(np.asarray(Image.open(folder / "data/faces" / path)).std() > 10 for path in manifest["path"])
    (mine / "broken.jpg").write_bytes(min(inputs).read_bytes()[:5000])
    done = repro(folder, "align")
    assert done.returncode == 0, done.stdout[-5000:]
    assert ran(done.stdout) == ["download", "align"]
    (reason,) = pd.read_parquet(folder / "data/faces/quarantine.parquet")["reason"]
    assert "decode" in reason


def test_a_folder_without_a_face_is_one_line(root: Path, yunet_file: Path, tmp_path: Path) -> None:
    """So is an empty one; both say what to do."""
    (tmp_path / "project").mkdir()
    (tmp_path / "mine").mkdir()
    folder = checkout(root, tmp_path / "project")
    write(folder, photographed(tmp_path / "mine", yunet_file.parent))
    done = repro(folder, "align")
    assert done.returncode != 0
    assert "put photographs there" in line_of(done.stdout, "download")
    Image.effect_noise((200, 200), 80).save(tmp_path / "mine" / "noise.png")
    done = repro(folder, "align")
    assert done.returncode != 0
    assert "no face" in line_of(done.stdout, "align")


def line_of(output: str, stage: str) -> str:
    """The one line that a stage says to a person when it cannot go on."""
    assert "Traceback" not in output
    (line,) = [line for line in output.splitlines() if line.startswith("styleblend ")]
    assert line.startswith(f"styleblend {stage}: ")
    return line
