"""The paper preset on FFHQ and CelebA-HQ as they are published: nothing but their two places is filled in."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import published_files
from published_files import LICENCES, PERSONS, packed
from styleblend.commands import cli
from styleblend.config.params import load_params
from styleblend.data import published
from styleblend.stages.download import download


@pytest.fixture
def project(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The committed settings and presets in an otherwise empty folder, which is the current one."""
    folder = tmp_path / "project"
    for name in (".git", ".dvc"):
        (folder / name).mkdir(parents=True)
    shutil.copy(root / "params.yaml", folder)
    shutil.copytree(root / "presets", folder / "presets")
    monkeypatch.chdir(folder)
    return folder


def lay_down(form: str, place: Path) -> tuple[Path, Path]:
    """Both sets below `place`, with what is published beside them: the two places that a person names."""
    ffhq = published_files.ffhq(place / "ffhq") / "images1024x1024"
    celeba = published_files.celeba_mask_hq(place / "celeba_hq")
    if form == "folders":
        return ffhq, celeba / "CelebA-HQ-img"
    images = packed(ffhq, ffhq.with_suffix(".zip"), ffhq.name)
    identities = published.CELEBA_IDENTITIES
    zipped = packed(celeba, place / "CelebAMask-HQ.zip", "CelebAMask-HQ", leave_out=(identities,))
    (celeba / identities).rename(place / identities)
    for folder in (ffhq, celeba):
        shutil.rmtree(folder)
    return images, zipped


@pytest.mark.parametrize("form", ["folders", "zips"])
@pytest.mark.parametrize("inside", [True, False], ids=["in the project", "elsewhere"])
def test_the_paper_preset_runs_on_both_sets(
    form: str, inside: bool, project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`preset paper --ffhq --celeba-hq`, then `check` and the stage download: every picture, with landmarks, licence
    and author of each of FFHQ's and the person of each of CelebA-HQ's. Only the number of processes is lowered.
    """
    ffhq, celeba = lay_down(form, project / "datasets" if inside else tmp_path / "disk")
    cli.main(["preset", "paper", "--ffhq", str(ffhq), "--celeba-hq", str(celeba)])
    cli.main(["check"])
    said = capsys.readouterr().out
    assert said.count("an archive of") == (2 if form == "zips" else 0) and "params.yaml is in order" in said
    cfg = load_params(project / "params.yaml").download
    assert cfg.origin == (Path("datasets") if inside else tmp_path / "disk")
    index = download(project / "data/raw", cfg.model_copy(update={"workers": 1}))
    faces = {name: rows for name, rows in index.groupby("source")}
    assert list(faces["ffhq"]["licence"]) == list(LICENCES) and faces["ffhq"]["author"].notna().all()
    assert [len(marks) for marks in faces["ffhq"]["landmarks"]] == [136] * 3
    assert list(faces["celeba_hq"]["person"]) == list(PERSONS)
    assert index["terms"].str.len().gt(0).all()
    assert "ffhq: 3 pictures" in capsys.readouterr().out


def test_the_paper_preset_runs_as_it_stands_on_the_usual_places(project: Path) -> None:
    """Folders laid down where the preset looks for them need no option at all; a folder alone has no persons."""
    lay_down("folders", project / "datasets")
    cli.main(["preset", "paper"])
    cfg = load_params(project / "params.yaml").download
    index = download(project / "data/raw", cfg.model_copy(update={"workers": 1}))
    assert list(index["source"]) == ["celeba_hq"] * 3 + ["ffhq"] * 3 and index["person"].isna().all()
