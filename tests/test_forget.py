"""`styleblend forget`: what is named leaves every table and does not come back, and versions that know it are named."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from styleblend.commands import cli
from styleblend.config.data import Align, Split
from styleblend.config.sources import Download, FolderSource, RenderedSource
from styleblend.config.tracking import Tracking
from styleblend.data import forgotten, removal, sources, splits
from styleblend.data.align import align_faces
from styleblend.data.manifest import read_manifest
from styleblend.errors import StyleBlendError
from styleblend.pretraining import sittings
from styleblend.registry import learned, mlflow_store, runs
from styleblend.stages.download import download
from styleblend.system import dvc
from styleblend.system.files import sha256

SOURCE = RenderedSource(
    kind="rendered", name="rendered", identities=8, pictures_per_identity=2, size_px=48, supersample=1, seed=5
)
CFG = Download(origin=Path(), sources=(SOURCE,), workers=1)
TABLES = ("train", "val", "test", "val_pairs", "test_pairs")


def gather(project: Path) -> None:
    """The stages download, align and split, with vectors in place of a network's."""
    download(project / "data/raw", CFG, project / ".state", forgotten.read(project / forgotten.FOLDER))
    align_faces(
        project / "data/raw", project, project / "data/faces", Align(detector="annotations", size_px=32, min_face_px=10)
    )
    manifest = read_manifest(project / "data/faces")
    vectors = np.eye(len(manifest), dtype=np.float32).tolist()
    perceived = pd.DataFrame({"face_id": manifest["face_id"], "identity": vectors})
    perceived.to_parquet(project / "data/perceived.parquet")
    splits.split(manifest, perceived, Split(val=0.25, test=0.25, val_pairs=8, test_pairs=8)).write(
        project / "data/splits"
    )


@pytest.fixture(scope="module")
def made(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with data, and DVC's lock and cache of them."""
    project = tmp_path_factory.mktemp("forget") / "project"
    (project / ".dvc").mkdir(parents=True)
    (project / ".dvc/config").write_text("[core]\n    no_scm = true\n    analytics = false\n")
    shutil.copytree(root / "data/forgotten", project / "data/forgotten")
    shutil.copy(root / "params.yaml", project)
    gather(project)
    stages = {
        "data": {"cmd": "true", "outs": [{path: {"persist": True}} for path in ("data/faces", "data/splits")]},
        "train_encoder": {"cmd": "true", "deps": ["data/faces", "data/splits"]},
    }
    (project / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    dvc.says(project, "repro", "--quiet")
    return project


@pytest.fixture
def project(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, which is the current folder."""
    copy = tmp_path / "project"
    shutil.copytree(made, copy)
    monkeypatch.chdir(copy)
    return copy


def faces_of(project: Path) -> dict[str, set[str]]:
    """Every table that names faces, and the files of them."""
    data = project / "data"
    found = {name: pd.read_parquet(data / f"splits/{name}.parquet") for name in TABLES}
    named = {
        name: set(table[[column for column in table if column.endswith("_id")]].stack())
        for name, table in found.items()
    }
    return named | {
        "manifest": set(read_manifest(data / "faces")["face_id"]),
        "perceived": set(pd.read_parquet(data / "perceived.parquet")["face_id"]),
        "files": {file.stem for file in (data / "faces/images").iterdir()},
    }


def register(project: Path, **files: Path) -> None:
    """A version of MLflow's registry that carries these files, and nothing to load."""
    track = mlflow_store.resolved(Tracking(), project)
    client, experiment = mlflow_store.connect(track)
    with runs.child_run(track, "0" * 32, "register", "-".join(files) or "none", {}) as run:
        for file in files.values():
            run.log_artifact(file, "model/artifacts")
        (project / "MLmodel").write_text("flavors: {}\n")
        run.log_artifact(project / "MLmodel", "model")
        with suppress(mlflow_store.TrackingError):
            client.create_registered_model(track.model_name)
        source = f"{client.get_run(run.run_id).info.artifact_uri}/model"
        client.create_model_version(track.model_name, source, run.run_id)


def test_a_person_and_a_picture_leave_every_table_and_do_not_come_back(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a person by label and of a picture by its file no row and no file is left; all else stays as it was, a new run
    of the stages leaves out the same and nothing more, and the list holds neither name nor path."""
    before, manifest = faces_of(project), read_manifest(project / "data/faces")
    person = manifest[manifest["person"] == "rendered-00003"]
    picture = manifest[manifest["person"] == "rendered-00005"].iloc[0]
    gone = {*person["face_id"], picture["face_id"]}
    cli.main(["forget", "rendered-00003", f"data/raw/{picture['raw_path']}"])
    said = capsys.readouterr().out
    assert "person: 2 pictures" in said and "3 faces, 3 raw pictures" in said and "no registered version" in said
    after = faces_of(project)
    for name, ids in before.items():
        left = ids - gone
        # A face leaves a list of pairs with its partner, where that has no other pair.
        assert after[name] <= left if name.endswith("pairs") else after[name] == left
    index = pd.read_parquet(project / "data/raw/rendered/index.parquet")
    assert len(index) == len(manifest) - 3 and set(index["path"]).isdisjoint([*person["raw_path"], picture["raw_path"]])
    assert {file.relative_to("data/raw").as_posix() for file in Path("data/raw").rglob("*.png")} == set(index["path"])
    gather(project)
    assert faces_of(project)["manifest"] == before["manifest"] - gone
    again = read_manifest(project / "data/faces").merge(manifest, on="face_id", suffixes=("", "_before"))
    assert (again["raw_sha256"] == again["raw_sha256_before"]).all() and len(again) == len(manifest) - 3
    kept = (project / forgotten.FOLDER / forgotten.FILE).read_text()
    assert "rendered" not in kept and picture["raw_sha256"] in kept
    listed = forgotten.read(project / forgotten.FOLDER)
    assert listed.person("rendered-00003") and not listed.person("rendered-00004") and listed.size == 2


def test_versions_say_what_they_learned_from(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One tells by the hashes that it carries, one by its dvc.lock and DVC's cache, and one cannot tell; what it was
    only measured on a version did not learn from."""
    tables = {name: pd.read_parquet(project / f"data/splits/{name}.parquet") for name in ("train", "test")}
    trained, tested = (tables[name]["person"].iloc[0] for name in ("train", "test"))
    carried = learned.write(project / "data/faces", project / "data/splits", project / learned.FILE)
    register(project, pictures=carried)
    register(project, lock=project / "dvc.lock")
    register(project)
    cli.main(["forget", trained])
    said = capsys.readouterr().out
    for number in (1, 2):
        assert f"styleblend version {number} learned from 2 of them" in said
    assert "styleblend version 3: whether it learned from them cannot be said" in said
    cli.main(["forget", tested])
    said = capsys.readouterr().out
    for number in (1, 2):
        assert f"styleblend version {number} did not learn from them; 2 were among what it was measured on" in said
    # The person's pictures are gone from the data: DVC's cache still has the label, a list of hashes does not.
    found = learned.uses(Tracking(), frozenset(), trained, project / ".dvc/cache")
    assert [use.learned for use in found] == [0, 2, 0]
    assert "that left the data before" in found[0].unknown
    shutil.rmtree(project / ".dvc/cache")
    (first, second, _) = learned.uses(Tracking(), frozenset({sha256(carried)}), None, project / ".dvc/cache")
    assert (first.learned, first.unknown) == (0, "") and "in DVC's cache no more" in second.unknown


def test_a_face_without_a_label_and_its_cluster_can_be_named(project: Path) -> None:
    """By the id of a face, its aligned file, and the name that the splits give to a cluster."""
    manifest = read_manifest(project / "data/faces")
    row = manifest.iloc[4]
    for name in (row["face_id"], f"data/faces/{row['path']}", f"data/raw/{row['raw_path']}", row["raw_path"]):
        assert removal.find(project, name).pictures == {row["raw_sha256"]}
    table = pd.read_parquet(project / "data/splits/train.parquet")
    table["person"] = "cluster-7"
    table.to_parquet(project / "data/splits/train.parquet")
    found = removal.find(project, "cluster-7")
    assert found.person is None and len(found.pictures) == len(table)


def test_who_is_not_known_is_one_line_and_nothing_is_written(project: Path) -> None:
    """Also where another name of the same command is known."""
    with pytest.raises(SystemExit, match="'nobody' is neither a picture's file nor a person of the data"):
        cli.main(["forget", "rendered-00001", "nobody"])
    assert not (project / forgotten.FOLDER / forgotten.FILE).exists()
    (project / forgotten.FOLDER / forgotten.FILE).write_text("{}")
    with pytest.raises(SystemExit, match="list.json cannot be read .*take it back from git"):
        cli.main(["forget", "rendered-00001"])
    assert (read_manifest(project / "data/faces")["person"] == "rendered-00001").sum() == 2


def test_photographs_stay_out_under_another_name_and_new_ones_of_a_person_too(tmp_path: Path) -> None:
    """A picture is known by its content wherever it lies, a person by the folder, also for pictures that come later."""
    folder = tmp_path / "photographs"
    for number, name in enumerate(("ann/1.png", "bob/1.png", "bob/2.png")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(folder / name)
    source = FolderSource(kind="folder", path=folder, label="parent_folder", licence="own", terms="a test")
    cfg = Download(origin=folder, sources=(source,), workers=1)
    without = forgotten.Forgotten().also([sha256(folder / "bob/1.png")], ["ann"])
    shutil.copy(folder / "bob/1.png", folder / "bob/other name.png")
    shutil.copy(folder / "bob/2.png", folder / "ann/later.png")
    index = sources.gather(cfg, tmp_path / "raw", tmp_path / "state", without)
    assert index["path"].tolist() == ["folder/images/bob/2.png"]
    assert [file.name for file in (tmp_path / "raw").rglob("*.png")] == ["2.png"]
    assert not list((tmp_path / "state").rglob("*.png"))
    with pytest.raises(StyleBlendError, match="all 5 pictures of download.sources are to be forgotten"):
        sources.gather(cfg, tmp_path / "raw", tmp_path / "state", without.also([], ["bob"]))


def test_what_the_recipe_of_the_starter_prepared_goes_too(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A person whom only that recipe has is known by name; the folder prepared from it goes, one without it stays, and
    the training that saw it is named. While a sitting is at work nothing is done."""
    recipe = project / sittings.STATE
    manifest = read_manifest(project / "data/faces")
    for name, person in (("data-1", "ann"), ("data-2", "bob")):
        shutil.copytree(project / "data/faces", recipe / name / "faces")
        manifest.assign(person=person).to_parquet(recipe / name / "faces/manifest.parquet")
    shutil.copytree(project / "data/splits", recipe / "training-1/splits")
    with sittings.alone(recipe), pytest.raises(SystemExit, match="another process runs pretrain_faces"):
        cli.main(["forget", "ann"])
    assert forgotten.read(project / forgotten.FOLDER).size == 0
    cli.main(["forget", "ann"])
    said = capsys.readouterr().out
    assert f"person: {len(manifest)} pictures" in said and f"{len(manifest)} faces that were prepared" in said
    assert f"{sittings.STATE}/training-1 was dealt some of them" in said
    assert sittings.prepared(recipe) == [recipe / "data-2/faces"] and not (recipe / "forgotten").exists()
    assert forgotten.read(project / forgotten.FOLDER).person("ann")


def test_the_list_is_the_same_after_it_was_read(tmp_path: Path) -> None:
    """Order and salt stay, a name listed twice stands there once, and an absent list is an empty one."""
    assert forgotten.read(tmp_path).size == 0 and not forgotten.read(tmp_path).person("ann")
    first = forgotten.Forgotten().also(["b", "a"], ["ann"])
    forgotten.write(first, tmp_path)
    assert forgotten.read(tmp_path) == first == first.also(["a"], ["ann"])
    assert json.loads((tmp_path / forgotten.FILE).read_text())["pictures"] == ["a", "b"]
    assert forgotten.Forgotten().also([], ["ann"]).persons.isdisjoint(first.persons)
