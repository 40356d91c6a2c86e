"""face-alignment's detectors and FAN through the library itself, on files in their form that see coloured dots."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import fan_files
from arcface_files import iresnet, write
from face_alignment_files import fan_of_colours, s3fd_of_red, save, silent_blazeface
from insightface_files import scrfd
from styleblend.config.data import Align
from styleblend.data.align import align_faces
from styleblend.errors import StyleBlendError
from styleblend.face_detector import loader
from styleblend.face_detector.detection import Detection
from styleblend.face_detector.face_alignment import FaceAlignmentDetector
from test_manifest import enumerate_folder

RED, GREEN, BLUE = (160, 136), (160, 152), (156, 168)
"""Middles of the dots in `planted`."""


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with S3FD and FAN, as networks.json names them."""
    folder = tmp_path_factory.mktemp("networks")
    save(s3fd_of_red(), folder / "detector.pth")
    save(fan_of_colours(), folder / "landmarks.pth")
    entries = {role: {"file": f"{role}.pth"} for role in ("detector", "landmarks")}
    (folder / "networks.json").write_text(json.dumps(entries))
    return folder


@pytest.fixture(scope="module")
def detector(networks: Path) -> FaceAlignmentDetector:
    found = loader.load("face_alignment", networks, 0.6, threads=1)
    assert isinstance(found, FaceAlignmentDetector) and found.kind == "sfd"
    return found


def planted(size: tuple[int, int] = (320, 320)) -> Image.Image:
    """Eyes, nose and mouth as a red, a green and a blue dot."""
    image = Image.new("RGB", size)
    for (x, y), colour in ((RED, (255, 0, 0)), (GREEN, (0, 255, 0)), (BLUE, (0, 0, 255))):
        image.paste(colour, (x - 4, y - 4, x + 4, y + 4))
    return image


def check(faces: list[Detection], scale: float = 1) -> None:
    """One face of 64 px around the middle of S3FD's cell, with its points at the dots."""
    (face,) = faces
    assert face.box == pytest.approx(scale * np.array((136, 104, 64, 64)), abs=1)
    assert face.score == pytest.approx(0.98, abs=0.01)
    assert face.landmarks_px is not None and face.points_px is face.landmarks_px
    for points, dot in ((range(36, 48), RED), (range(27, 36), GREEN), ((*range(17), *range(48, 68)), BLUE)):
        wanted = scale * np.array(dot) - 0.5  # pixel centres
        assert np.abs(face.landmarks_px[list(points)] - wanted).max() < 3 * scale
    assert face.five_px == pytest.approx(face.landmarks_px[[36, 42, 30, 48, 54]])


def test_planted_points_are_found(detector: FaceAlignmentDetector) -> None:
    """Box and score are S3FD's, landmarks FAN's, all in pixels of the picture."""
    check(detector.detect(planted()))


def test_a_small_picture_is_looked_at_enlarged(detector: FaceAlignmentDetector) -> None:
    """The same picture at half the side gives the same face at half the coordinates."""
    check(detector.detect(planted().resize((160, 160), Image.Resampling.BOX)), 0.5)


def test_where_nothing_is_nothing_is_found(detector: FaceAlignmentDetector) -> None:
    """One grey pixel and a very long picture: an empty list, without a warning."""
    for image in (Image.new("L", (1, 1), 128), Image.new("RGB", (2000, 1), "blue")):
        assert detector.detect(image) == []


def test_the_lowest_score_is_the_detectors(networks: Path) -> None:
    """What the detector trusts less than min_score is no face."""
    sceptic = FaceAlignmentDetector(networks / "detector.pth", networks / "landmarks.pth", 0.99)
    assert sceptic.detect(planted()) == []


def test_the_librarys_download_folder_is_left_as_it_was(networks: Path) -> None:
    """Weights are handed over in a folder that is gone afterwards, also when it fails; torch.hub looks where it did."""
    before = torch.hub.get_dir()
    broken = save({"conv3_3_norm_mbox_conf.weight": torch.zeros(1)}, networks / "broken.pth")
    with pytest.raises(StyleBlendError, match=r"broken\.pth does not fit face-alignment's network"):
        FaceAlignmentDetector(broken, networks / "landmarks.pth")
    assert torch.hub.get_dir() == before


@pytest.mark.parametrize("kind", ["blazeface", "blazeface_back", "scrfd"])
def test_its_other_detectors(networks: Path, tmp_path: Path, kind: str) -> None:
    """The file's content says which of the library's detectors it is for."""
    if kind == "scrfd":
        file = write(scrfd(), tmp_path / "detector.onnx")
    else:
        file = save(silent_blazeface(kind == "blazeface_back"), tmp_path / "detector.pth")
    found = FaceAlignmentDetector(file, networks / "landmarks.pth", 0.6)
    assert found.kind == kind.removesuffix("_back")
    image = Image.new("RGB", (320, 320))
    # The library hands SCRFD pictures whose red is where insightface has blue.
    image.paste((0, 0, 255), (47, 79, 65, 97))
    boxes = [face.box for face in found.detect(image)]
    assert boxes == ([pytest.approx((32, 56, 48, 64), abs=0.1)] if kind == "scrfd" else [])


def test_yunet_through_the_library(networks: Path, yunet_file: Path) -> None:
    """It is known by its outputs, and finds nothing in a plain picture."""
    found = FaceAlignmentDetector(yunet_file, networks / "landmarks.pth")
    assert found.kind == "yunet" and found.detect(Image.new("RGB", (100, 80))) == []


def test_wrong_files_are_one_line(networks: Path, tmp_path: Path) -> None:
    """Missing, damaged and swapped files, and one with code in it, are named; nothing of them is run."""
    (tmp_path / "page.pth").write_text("<html>not found</html>")
    (tmp_path / "half.pth").write_bytes((networks / "landmarks.pth").read_bytes()[:100_000])
    torch.save({"conv1_1.weight": Path("anything")}, tmp_path / "code.pth")
    (tmp_path / "plain.pth").write_bytes(b"\x80\x04N.")
    s3fd, fan = networks / "detector.pth", networks / "landmarks.pth"
    wrong = {
        "absent.pth is missing": (tmp_path / "absent.pth", fan),
        "pretrained.landmarks; then run": (s3fd, tmp_path / "absent.pth"),
        "a web page": (tmp_path / "page.pth", fan),
        "damaged torch file": (tmp_path / "half.pth", fan),
        "code and not weights": (tmp_path / "code.pth", fan),
        "half.pth is a damaged": (s3fd, tmp_path / "half.pth"),
        "plain.pth is a plain pickle": (tmp_path / "plain.pth", fan),
        "plain.pth is a plain pickle, no torch file: it was not read; give 2DFAN4": (s3fd, tmp_path / "plain.pth"),
        "page.pth is a web page, neither a torch file": (s3fd, tmp_path / "page.pth"),
        "does not hold FAN: missing": (s3fd, s3fd),
        "holds FAN of 1 modules, not of 4": (s3fd, fan_files.write(fan_files.network(1), tmp_path / "one.pth")),
        "none of face-alignment's detectors": (fan, fan),
        "align.detector to insightface": (write(iresnet(), tmp_path / "rec.onnx"), fan),
    }
    for reason, files in wrong.items():
        with pytest.raises(StyleBlendError, match=reason) as caught:
            FaceAlignmentDetector(*files)
        assert "\n" not in str(caught.value)


def test_landmarks_must_be_fans(tmp_path: Path) -> None:
    """A folder whose landmarks are this project's own small network says what to set."""
    with pytest.raises(StyleBlendError, match="needs FAN's landmarks.*set pretrained.landmarks to 2DFAN4"):
        loader.load("face_alignment", tmp_path, 0.6)


def test_the_stage_align_uses_it(networks: Path, tmp_path: Path) -> None:
    """Three dots are no face, for two eyes fall together in one; it says so, as of a picture where nothing was seen."""
    (tmp_path / "photos").mkdir()
    planted().save(tmp_path / "photos/dots.png")
    Image.new("RGB", (64, 64), "gray").save(tmp_path / "photos/plain.png")
    raw = enumerate_folder(tmp_path / "photos", tmp_path / "raw")
    cfg = Align(detector="face_alignment", workers=1, size_px=32)
    with pytest.raises(StyleBlendError, match=r"dots\.png: not a face: points fall together"):
        align_faces(raw, networks, tmp_path / "faces", cfg)
