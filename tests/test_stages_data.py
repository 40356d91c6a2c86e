"""The stages download to split as a person meets them: files in, files out, and one line when something is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor, nn

from styleblend.config.data import Align, Keep, Perceive, Split, Validate
from styleblend.config.sources import Download, RenderedSource
from styleblend.config.tracking import Tracking
from styleblend.data.manifest import read_manifest
from styleblend.data.perceived import Networks, perceive_faces, sharpness
from styleblend.data.selection import select
from styleblend.errors import StyleBlendError
from styleblend.stages.align import align
from styleblend.stages.download import download
from styleblend.stages.split import split
from styleblend.stages.validate import Outputs, validate

# Great Expectations 1.24 imports modules of the standard library that Python 3.11 calls deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:module 'sre_.*' is deprecated:DeprecationWarning")

ROOT = Path(__file__).parents[1]


class Projection(nn.Module):
    """A stand-in with the call signature of a network: a fixed random projection of the pixels."""

    metric = "cosine"

    def __init__(self, width: int, seed: int) -> None:
        super().__init__()
        self.width = width
        self.matrix = torch.randn(3 * 8 * 8, width, generator=torch.Generator().manual_seed(seed))

    def forward(self, images: Tensor) -> Tensor:
        small = nn.functional.adaptive_avg_pool2d(images, 8).flatten(1)
        return nn.functional.normalize(small @ self.matrix, dim=1)


class Points(Projection):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).reshape(-1, 68, 2) + 0.5


class Attributes(Projection):
    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        values = super().forward(images)
        return values[:, :3] * 30, values[:, 3:]


STAND_INS = Networks(Projection(16, 0), Projection(12, 1), Points(136, 2), Attributes(10, 3))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the outputs of download, align and perceive for eight rendered people."""
    folder = tmp_path_factory.mktemp("data")
    source = RenderedSource(kind="rendered", identities=8, pictures_per_identity=3, size_px=64, supersample=1, seed=1)
    sources = Download(sources=(source,), workers=1, origin=ROOT / "src/styleblend/synthetic")
    download(folder / "raw", sources, folder / "state")
    cfg = Align(detector="annotations", size_px=32, min_face_px=16, workers=1)
    align(folder / "raw", folder, folder / "faces", cfg, folder / "state")
    perceive_faces(folder / "faces", STAND_INS, folder / "perceived.parquet", Perceive(batch_size=7))
    return folder


def test_perceive_measures_every_face_alone(data: Path, tmp_path: Path) -> None:
    """One row a face in the manifest's order; the size of the batches changes nothing."""
    seen = pd.read_parquet(data / "perceived.parquet")
    manifest = pd.read_parquet(data / "faces" / "manifest.parquet")
    assert seen["face_id"].tolist() == manifest["face_id"].tolist()
    lengths = {name: {len(row) for row in seen[name]} for name in ("identity", "judge", "landmarks", "expression")}
    assert lengths == {"identity": {16}, "judge": {12}, "landmarks": {136}, "expression": {7}}
    assert seen["identity"][0].dtype == np.float32
    alone = perceive_faces(data / "faces", STAND_INS, tmp_path / "one.parquet", Perceive(batch_size=1))
    for name in ("identity", "landmarks"):
        assert np.stack(alone[name]) == pytest.approx(np.stack(seen[name]), abs=1e-5)
    with Image.open(data / "faces" / manifest["path"][5]) as image:
        pixels = np.asarray(image)
    images = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None] / 127.5 - 1
    angles, _ = STAND_INS.attributes(images)
    assert seen.loc[5, ["yaw_deg", "pitch_deg", "roll_deg"]].to_numpy(float) == pytest.approx(
        angles[0].numpy(), abs=1e-4
    )


def test_sharpness_is_the_variance_of_the_laplacian() -> None:
    """It equals a slow reference inside the picture, is 0 for a plain one, and falls with blur."""
    noise = np.random.default_rng(0).integers(0, 255, (24, 24), dtype=np.uint8)
    grey = np.pad(noise.astype(float), 1, mode="reflect")
    laplacian = [
        grey[y - 1, x] + grey[y + 1, x] + grey[y, x - 1] + grey[y, x + 1] - 4 * grey[y, x]
        for y in range(1, 25)
        for x in range(1, 25)
    ]
    assert sharpness(np.stack([noise] * 3, axis=2)) == pytest.approx(np.var(laplacian))
    assert sharpness(np.full((9, 9, 3), 7, dtype=np.uint8)) == 0


def test_a_lost_face_is_one_line(data: Path, tmp_path: Path) -> None:
    """A picture that is in the manifest and not on disk is named."""
    (tmp_path / "manifest.parquet").write_bytes((data / "faces" / "manifest.parquet").read_bytes())
    with pytest.raises(StyleBlendError, match=r"face .*\.png cannot be read .*run the stage align again"):
        perceive_faces(tmp_path, STAND_INS, tmp_path / "out.parquet", Perceive())


def written_to(folder: Path) -> Outputs:
    return Outputs(*(folder / name for name in ("s.parquet", "docs", "validation.json", "data.md", "profile.json")))


def test_validate_writes_its_report(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Good data gives a report and docs; a limit that is not met ends the stage with a list, and both are there."""
    outputs = written_to(tmp_path)
    validate(
        data / "faces",
        data / "perceived.parquet",
        outputs,
        Validate(min_faces=24),
        Tracking(uri=f"sqlite:///{tmp_path}/none.db"),
    )
    assert json.loads(outputs.out.read_text())["success"] is True
    assert "Every face is used." in outputs.report.read_text() and "no model registry" not in outputs.report.read_text()
    assert pd.read_parquet(outputs.selection)["kept"].all()
    with pytest.raises(StyleBlendError, match="2 of .* expectations .*do not hold") as error:
        cfg = Validate(min_faces=25, min_sharpness=1e9)
        validate(data / "faces", data / "perceived.parquet", outputs, cfg, None)
    assert "\n" not in str(error.value)
    printed = capsys.readouterr().out
    assert "validate: failed: perceived: sharpness" in printed and "24 of 24 faces" in printed
    assert "validate: failed: run: faces" in printed and "it is 24" in printed
    assert "not compared with the champion's data: no version has the alias champion yet" in printed
    assert json.loads(outputs.out.read_text())["success"] is False
    assert (tmp_path / "docs" / "index.html").is_file()


def test_split_writes_tables_and_pairs(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Five tables with the named columns; fewer pairs than asked are said to be fewer."""
    cfg = Split(val=0.25, test=0.25, val_pairs=10, test_pairs=100)
    manifest, perceived = read_manifest(data / "faces"), pd.read_parquet(data / "perceived.parquet")
    select(data / "faces", manifest, perceived, Keep()).to_parquet(tmp_path / "selection.parquet")
    split(data / "faces", data / "perceived.parquet", tmp_path / "selection.parquet", tmp_path / "splits", cfg)
    tables = {path.stem: pd.read_parquet(path) for path in (tmp_path / "splits").iterdir()}
    assert {name: len(table) for name, table in tables.items()} == {
        "train": 12, "val": 6, "test": 6, "val_pairs": 10, "test_pairs": 18,
    }  # fmt: skip
    assert list(tables["test"]) == ["face_id", "person"]
    assert list(tables["test_pairs"]) == ["source_id", "target_id"]
    assert "no more pairs" in capsys.readouterr().out


def stage(name: str, cwd: Path, *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"styleblend.stages.{name}", *args]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=100)


def params(folder: Path, **download: object) -> None:
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values["download"] |= download
    values["align"]["detector"] = values["pretrained"]["detector"] = "yunet"
    (folder / "params.yaml").write_text(yaml.safe_dump(values))


def test_mistakes_end_a_stage_with_one_line(tmp_path: Path) -> None:
    """An empty folder, an unknown label, a missing network: exit code 1, one line on stderr, nothing on disk."""
    source = {"kind": "folder", "path": "photos", "licence": "mine", "terms": "agreed"}
    (tmp_path / "photos").mkdir()
    params(tmp_path, sources=[source], origin="photos")
    empty = stage("download", tmp_path, "--out", "data/raw")
    small = stage("pretrained", tmp_path, "--small", "small", "--starter", "starter", "--out", "networks")
    tables = stage("split", tmp_path, "--faces", "faces", "--perceived", "p.parquet", "--selection", "s.parquet",
                   "--out", "splits")  # fmt: skip
    params(tmp_path, sources=[source | {"label": "file_name"}], origin="photos")
    label = stage("download", tmp_path, "--out", "data/raw")
    for outcome, words in (
        (empty, "photos and its sub-folders hold no picture"),
        (small, "identity.json is missing in small: restore it"),
        (tables, "p.parquet is missing: run the stage perceive first"),
        (label, "label: Input should be 'none' or 'parent_folder', got 'file_name'"),
    ):
        assert outcome.returncode == 1
        assert words in outcome.stderr and outcome.stderr.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"params.yaml", "photos"}
