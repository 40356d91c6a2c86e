"""data.align and data.perceived go on where they ended: what is new is worked on, and nothing else; the same result."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml
from PIL import Image

import tiny_project
from styleblend.config.data import Align, Perceive
from styleblend.config.sources import Download, FolderSource, RenderedSource
from styleblend.data import align, perceived, sources
from styleblend.data.align import align_faces
from styleblend.data.perceived import perceive_folder
from styleblend.faces.pixels import to_8bit
from styleblend.synthetic import factors, renderer
from styleblend.system.files import sha256

CFG = Align(detector="annotations", workers=1, min_face_px=16, size_px=32)
BATCHES = Perceive(batch_size=8, workers=1)
PICTURES = 12
INDEX = "rendered/index.parquet"


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("raw")
    source = RenderedSource(kind="rendered", identities=6, pictures_per_identity=2, size_px=64, supersample=1, seed=1)
    cfg = Download(sources=(source,), workers=1, origin=Path("src/styleblend/synthetic"))
    sources.gather(cfg, folder / "raw", folder / "state")
    return folder / "raw"


@pytest.fixture(scope="module")
def whole(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What a run from nothing writes."""
    out = tmp_path_factory.mktemp("whole") / "faces"
    align_faces(raw, raw, out, CFG)
    return contents(out)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    tiny_project.make(folder)
    return folder / "data"


def contents(folder: Path) -> dict[str, str]:
    """Each file's name and hash."""
    return {file.relative_to(folder).as_posix(): sha256(file) for file in folder.rglob("*") if file.is_file()}


def times(state: Path) -> dict[Path, int]:
    """When each kept file was written."""
    return {file: file.stat().st_mtime_ns for file in state.rglob("*") if file.is_file() and file.name != "lock"}


def with_pictures(raw: Path, place: Path, some: slice) -> Path:
    """A copy of `raw` whose index has some of the pictures alone."""
    shutil.copytree(raw, place)
    pd.read_parquet(raw / INDEX)[some].to_parquet(place / INDEX)
    return place


def test_a_killed_alignment_goes_on(raw: Path, whole: dict[str, str], tmp_path: Path) -> None:
    """After SIGKILL in the middle the same command does the rest alone, and writes what a run from nothing writes."""
    program = f"""
import os, signal
from pathlib import Path
from styleblend.config.data import Align
from styleblend.data import align
looked = align._looked_at
def killed(task, content, key):
    if task.row["path"] > "rendered/images/00002/001.png":
        os.kill(os.getpid(), signal.SIGKILL)
    return looked(task, content, key)
align._looked_at = killed
cfg = Align.model_validate_json({CFG.model_dump_json()!r})
align.align_faces(Path({str(raw)!r}), Path({str(raw)!r}), Path("faces"), cfg, Path("state"))
"""
    ended = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, timeout=100)
    assert ended.returncode == -signal.SIGKILL and not (tmp_path / "faces").exists()
    before = times(tmp_path / "state")
    assert len(before) == 2 * 6  # a record and a face of each picture
    align_faces(raw, raw, tmp_path / "faces", CFG, tmp_path / "state")
    assert contents(tmp_path / "faces") == whole
    after = times(tmp_path / "state")
    assert len(after) == 2 * PICTURES and before.items() <= after.items()


def test_added_and_removed_pictures(raw: Path, whole: dict[str, str], tmp_path: Path) -> None:
    """Of pictures that join, those alone are looked at; of one that leaves, all that came of it goes."""
    few = with_pictures(raw, tmp_path / "few", slice(1, 9))
    align_faces(few, raw, tmp_path / "faces", CFG, tmp_path / "state")
    before = times(tmp_path / "state")
    align_faces(raw, raw, tmp_path / "faces", CFG, tmp_path / "state")
    assert contents(tmp_path / "faces") == whole
    after = times(tmp_path / "state")
    assert len(before) == 2 * 8 and len(after) == 2 * PICTURES and before.items() <= after.items()
    align_faces(few, raw, tmp_path / "faces", CFG, tmp_path / "state")
    assert times(tmp_path / "state") == before
    assert len(list((tmp_path / "faces/images").iterdir())) == 8


@pytest.mark.parametrize("change", [{"size_px": 48}, {"min_face_px": 17}])
def test_other_settings_are_other_results(change: dict[str, int], raw: Path, tmp_path: Path) -> None:
    """A changed setting looks at every picture again and leaves nothing of what the old one made."""
    align_faces(raw, raw, tmp_path / "faces", CFG, tmp_path / "state")
    before = times(tmp_path / "state")
    align_faces(raw, raw, tmp_path / "faces", CFG.model_copy(update=change), tmp_path / "state")
    after = times(tmp_path / "state")
    assert len(after) == len(before) and not set(after) & set(before)


def test_names_of_kept_results(tmp_path: Path) -> None:
    """They change with settings and with the file of a network, not with the number of processes or other networks."""
    (tmp_path / "detector.onnx").write_bytes(b"one")
    first = align._made_by(tmp_path, CFG)
    (tmp_path / "identity.safetensors").write_bytes(b"unused")
    assert align._made_by(tmp_path, CFG.model_copy(update={"workers": 3})) == first
    (tmp_path / "detector.onnx").write_bytes(b"two")
    assert align._made_by(tmp_path, CFG) != first
    seen = perceived._made_by(tmp_path, BATCHES, "cpu")
    (tmp_path / "identity.safetensors").write_bytes(b"used")
    assert perceived._made_by(tmp_path, BATCHES, "cpu") != seen


def test_damaged_results_are_made_again(raw: Path, whole: dict[str, str], tmp_path: Path) -> None:
    """A record that was cut off, a face with a changed byte and one that is lost: all is as from nothing."""
    align_faces(raw, raw, tmp_path / "faces", CFG, tmp_path / "state")
    before = times(tmp_path / "state")
    pictures = sorted(file for file in before if file.suffix == ".png")
    record = pictures[0].with_name(pictures[0].name.removesuffix("-0.png"))
    record.write_bytes(record.read_bytes()[:-3])
    changed = bytearray(pictures[1].read_bytes())
    changed[-30] ^= 1
    pictures[1].write_bytes(changed)
    pictures[2].unlink()
    shutil.rmtree(tmp_path / "faces")
    align_faces(raw, raw, tmp_path / "faces", CFG, tmp_path / "state")
    assert contents(tmp_path / "faces") == whole
    after = times(tmp_path / "state")
    assert set(after) == set(before) and sum(before[file] == after[file] for file in before) == 2 * (PICTURES - 3)


def test_a_refusal_is_kept_and_named_alike(raw: Path, tmp_path: Path) -> None:
    """A picture that gives no face is not looked at again, and its reason is the same."""
    place = with_pictures(raw, tmp_path / "raw", slice(0, 2))
    (place / "rendered/images/00000/000.png").write_bytes(b"no picture")
    index = pd.read_parquet(place / INDEX)
    index.loc[0, "sha256"] = sha256(place / index["path"][0])
    index.to_parquet(place / INDEX)
    (_, first), (_, second) = (align_faces(place, raw, tmp_path / "faces", CFG, tmp_path / "state") for _ in range(2))
    assert len(first) == 1 and "cannot be decoded" in first["reason"][0]
    pd.testing.assert_frame_equal(first, second)
    assert len(times(tmp_path / "state")) == 3


def test_landmarks_of_a_source_overrule_the_detector(
    raw: Path, whole: dict[str, str], yunet_file: Path, tmp_path: Path
) -> None:
    """Pictures whose source has landmarks are cut out by them; the detector is asked for the others alone."""
    (tmp_path / "photos").mkdir()
    # A rendered face of which YuNet, made for photographs, is sure.
    face = renderer.render(factors.sample(5, [8], [0]), 256).images[0]
    Image.fromarray(to_8bit(face[None])[0].permute(1, 2, 0).numpy()).save(tmp_path / "photos/face.png")
    folder = FolderSource(kind="folder", path=tmp_path / "photos", licence="mine", terms="agreed")
    sources.gather(Download(sources=(folder,), workers=1, origin=tmp_path), tmp_path / "raw", tmp_path / "state")
    shutil.copytree(raw / "rendered", tmp_path / "raw/rendered")
    (tmp_path / "networks").mkdir()
    shutil.copyfile(yunet_file, tmp_path / "networks/detector.onnx")
    cfg = CFG.model_copy(update={"detector": "yunet"})
    faces, refused = align_faces(tmp_path / "raw", tmp_path / "networks", tmp_path / "faces", cfg)
    assert refused.empty and len(faces) == PICTURES + 1
    found = dict(zip(faces["source"], faces["detector"], strict=True))
    assert found == {"rendered": "annotations", "folder": "yunet"}
    images = {name: content for name, content in whole.items() if name.startswith("images/rendered")}
    assert len(images) == PICTURES and images.items() <= contents(tmp_path / "faces").items()


@pytest.mark.parametrize(("stage", "code"), [("align", align.CODE), ("perceive", perceived.CODE)])
def test_kept_results_are_named_after_the_code(stage: str, code: tuple[str, ...], root: Path) -> None:
    """What dvc.yaml watches changes the name of kept results, but for settings, which count by value, and tables."""
    deps = yaml.safe_load((root / "dvc.yaml").read_text())["stages"][stage]["deps"]
    watched = {dep.removeprefix("src/styleblend/") for dep in deps if dep.startswith("src/")}
    no_result = {"config/base.py", "config/data.py", "data/index.py", "data/manifest.py", f"stages/{stage}.py"}
    assert set(code) == watched - no_result
    assert all((align.PACKAGE / name).exists() for name in code)


def removed_faces(data: Path, place: Path, some: slice) -> Path:
    shutil.copytree(data / "faces", place)
    pd.read_parquet(data / "faces/manifest.parquet")[some].to_parquet(place / "manifest.parquet")
    return place


def test_perceiving_goes_on(project: Path, tmp_path: Path) -> None:
    """After half the rows were lost, faces joined or left: the table of a run from nothing, and old rows untouched."""
    networks, state, out = project / "networks", tmp_path / "state", tmp_path / "seen.parquet"
    perceive_folder(project / "faces", networks, tmp_path / "whole.parquet", BATCHES)
    few = removed_faces(project, tmp_path / "few", slice(2, 9))
    perceive_folder(few, networks, out, BATCHES, state=state)
    before = times(state)
    assert len(before) == 7
    for number, file in enumerate(before):
        if number in (1, 3):
            file.unlink()
        if number == 4:
            file.write_bytes(file.read_bytes()[:-1])
    perceive_folder(project / "faces", networks, out, BATCHES, state=state)
    assert out.read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    after = times(state)
    assert len(after) == PICTURES and sum(before[file] == after[file] for file in before) == 4
    perceive_folder(few, networks, out, BATCHES, state=state)
    assert set(times(state)) == set(before)
    assert out.read_bytes() == table_of(few, networks, tmp_path)


def table_of(faces: Path, networks: Path, tmp_path: Path) -> bytes:
    perceive_folder(faces, networks, tmp_path / "anew.parquet", BATCHES)
    return (tmp_path / "anew.parquet").read_bytes()


def test_processes_see_the_same(project: Path, tmp_path: Path) -> None:
    """Two processes write the table that one writes, and so does whoever has the networks loaded."""
    two = perceive_folder(
        project / "faces", project / "networks", tmp_path / "2.parquet", Perceive(batch_size=6, workers=2)
    )
    cfg = Perceive(batch_size=6, workers=1)
    perceive_folder(project / "faces", project / "networks", tmp_path / "1.parquet", cfg)
    assert (tmp_path / "1.parquet").read_bytes() == (tmp_path / "2.parquet").read_bytes()
    loaded = perceived.load_networks(project / "networks", "cpu")
    one = perceived.perceive_faces(project / "faces", loaded, tmp_path / "0.parquet", cfg)
    pd.testing.assert_frame_equal(one, two)


def test_an_alignment_that_moves_nothing_is_not_perceived_again(raw: Path, project: Path, tmp_path: Path) -> None:
    """Faces that come out of other settings as they were keep what was seen in them."""
    state, out = tmp_path / "state", tmp_path / "seen.parquet"
    for cfg in (CFG, CFG.model_copy(update={"min_face_px": 17})):
        align_faces(raw, raw, tmp_path / "faces", cfg, state)
        perceive_folder(tmp_path / "faces", project / "networks", out, BATCHES, state=state)
        seen = times(state / "perceive")
        if cfg is CFG:
            first = seen
    assert seen == first and len(seen) == PICTURES
