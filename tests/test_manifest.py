"""data.align: every raw picture ends in the manifest or in the quarantine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from styleblend.config.data import Align
from styleblend.config.sources import Download, FolderSource, RenderedSource
from styleblend.data import manifest, sources
from styleblend.data.align import align_faces
from styleblend.errors import StyleBlendError
from styleblend.faces.alignment import crop

SHARED = Path(__file__).parents[2] / "shared"
YUNET = SHARED / "weights" / "yunet_n_dynamic.onnx"
PHOTOS = SHARED / "photos"

needs_yunet = pytest.mark.skipif(not YUNET.is_file(), reason="no YuNet file in ../shared/weights")
needs_photos = pytest.mark.skipif(not PHOTOS.is_dir(), reason="no photographs in ../shared/photos")

ANNOTATIONS = Align(detector="annotations", workers=1, min_face_px=16, size_px=32)
DETECTED = Align(detector="yunet", workers=1)


@pytest.fixture
def networks(tmp_path: Path) -> Path:
    (tmp_path / "networks").mkdir()
    (tmp_path / "networks" / "detector.onnx").write_bytes(YUNET.read_bytes())
    return tmp_path / "networks"


def enumerate_folder(folder: Path, raw: Path) -> Path:
    source = FolderSource(kind="folder", path=folder, licence="mine", terms="agreed")
    sources.gather(Download(sources=(source,), workers=1, origin=folder), raw, raw.parent / "state")
    return raw


@pytest.fixture(scope="module")
def rendered_raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rendered")
    source = RenderedSource(kind="rendered", identities=6, pictures_per_identity=2, size_px=64, supersample=1, seed=1)
    cfg = Download(sources=(source,), workers=1, origin=Path("src/styleblend/synthetic"))
    sources.gather(cfg, folder / "raw", folder / "state")
    return folder / "raw"


def test_rendered_faces_are_aligned_by_their_annotations(rendered_raw: Path, tmp_path: Path) -> None:
    """Each picture gives one face with its truth, and can be cut again exactly from its manifest row."""
    index = sources.read_index(rendered_raw).set_index("path")
    faces, quarantine = align_faces(rendered_raw, tmp_path, tmp_path / "faces", ANNOTATIONS)
    assert len(faces) == len(index) == 12 and quarantine.empty
    assert faces["face_id"].is_unique and faces["face_id"].str.match(r"^rendered-[0-9a-f]{12}$").all()
    for row in faces.itertuples():
        raw = index.loc[row.raw_path]
        for name in ("person", "licence", "terms", "render_seed", "render_person", "render_picture"):
            assert getattr(row, name) == raw[name]
        assert row.raw_sha256 == raw["sha256"] and (row.raw_width, row.raw_height) == (64, 64)
        found = np.asarray(Image.open(tmp_path / "faces" / row.path))
        again = crop(Image.open(rendered_raw / row.raw_path).convert("RGB"), row.quad, 32)
        assert np.array_equal(found, np.asarray(again))


def test_processes_do_not_change_the_result(rendered_raw: Path, tmp_path: Path) -> None:
    """Two workers and one give the same table in the same order."""
    one, _ = align_faces(rendered_raw, tmp_path, tmp_path / "one", ANNOTATIONS)
    two, _ = align_faces(rendered_raw, tmp_path, tmp_path / "two", ANNOTATIONS.model_copy(update={"workers": 2}))
    pd.testing.assert_frame_equal(one, two)
    assert (tmp_path / "one" / one["path"][3]).read_bytes() == (tmp_path / "two" / one["path"][3]).read_bytes()


def test_bad_pictures_are_quarantined_and_the_run_goes_on(rendered_raw: Path, tmp_path: Path) -> None:
    """A picture that was corrupted after the download and faces that are too small: a reason each, one line."""
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "rendered").symlink_to(rendered_raw / "rendered")
    index = sources.read_index(raw)
    missing = index.iloc[:1].assign(source="other", path="other/absent.png")
    changed = index.iloc[1:2].assign(source="other", sha256="0" * 64)
    bare = index.iloc[2:3].assign(source="other", landmarks=None)
    flat = index.iloc[3:4].assign(source="other", landmarks=[np.zeros(136, dtype=np.float32)])
    (raw / "other").mkdir()
    pd.concat([missing, changed, bare, flat]).to_parquet(raw / "other" / "index.parquet")
    faces, quarantine = align_faces(raw, tmp_path, tmp_path / "faces", ANNOTATIONS)
    assert len(faces) == 12 and set(faces["source"]) == {"rendered"}
    reasons = " | ".join(quarantine["reason"])
    assert len(quarantine) == 4 and "\n" not in reasons
    for part in ("No such file", "changed since the download", "no annotated landmarks", "0 px, under"):
        assert part in reasons


@needs_yunet
def test_no_face_anywhere_is_one_line(networks: Path, tmp_path: Path) -> None:
    """Noise pictures end the stage with one line that says how many were looked at and what to do; no output."""
    random = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for number in range(3):
        noise = random.integers(0, 255, (120, 160, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / "photos" / f"{number}.png")
    raw = enumerate_folder(tmp_path / "photos", tmp_path / "raw")
    with pytest.raises(StyleBlendError, match="no face found in any of the 3 pictures.*give photographs") as error:
        align_faces(raw, networks, tmp_path / "faces", DETECTED)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "faces").exists()


def test_a_missing_detector_or_index_is_one_line(rendered_raw: Path, tmp_path: Path) -> None:
    """Both are named before any picture is read; no detector is missed where every picture has landmarks."""
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (64, 64)).save(tmp_path / "photos" / "one.png")
    with pytest.raises(StyleBlendError, match=r"detector\.onnx is missing"):
        align_faces(enumerate_folder(tmp_path / "photos", tmp_path / "raw"), tmp_path, tmp_path / "faces", DETECTED)
    faces, _ = align_faces(
        rendered_raw, tmp_path, tmp_path / "annotated", ANNOTATIONS.model_copy(update={"detector": "yunet"})
    )
    assert set(faces["detector"]) == {"annotations"}
    with pytest.raises(StyleBlendError, match="run the stage download first"):
        align_faces(tmp_path, tmp_path, tmp_path / "faces", ANNOTATIONS)
    with pytest.raises(StyleBlendError, match="run the stage align first"):
        manifest.read_manifest(tmp_path / "faces")


@pytest.mark.photos
@needs_photos
@needs_yunet
def test_several_faces(networks: Path, tmp_path: Path) -> None:
    """A photograph of two people gives its largest face, both, or a reason, as the configuration says."""
    (tmp_path / "photos").mkdir()
    for name in ("couple.jpg", "img25.jpg"):
        (tmp_path / "photos" / name).write_bytes((PHOTOS / "in_the_wild" / name).read_bytes())
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"broken")
    raw = enumerate_folder(tmp_path / "photos", tmp_path / "raw")
    counts = {}
    for choice in ("largest", "all", "quarantine"):
        cfg = DETECTED.model_copy(update={"several_faces": choice})
        faces, quarantine = align_faces(raw, networks, tmp_path / choice, cfg)
        inputs = set(faces["raw_path"]) | set(quarantine["raw_path"])
        assert len(inputs) == 3 and not set(faces["raw_path"]) & set(quarantine["raw_path"])
        assert faces["face_id"].is_unique
        counts[choice] = (len(faces), len(quarantine))
    assert counts == {"largest": (2, 1), "all": (3, 1), "quarantine": (1, 2)}
