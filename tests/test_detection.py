"""face_detector.detection: YuNet on real photographs, and the landmarks that a data set ships."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from styleblend.errors import StyleBlendError
from styleblend.face_detector.detection import Detection, Yunet, annotated
from styleblend.faces.alignment import quad_from_landmarks, side_px

SHARED = Path(__file__).parents[2] / "shared"
YUNET = SHARED / "weights" / "yunet_n_dynamic.onnx"
PHOTOS = sorted((SHARED / "photos").glob("*/*.jpg"))

needs_yunet = pytest.mark.skipif(not YUNET.is_file(), reason="no YuNet file in ../shared/weights")
needs_photos = pytest.mark.skipif(not PHOTOS, reason="no photographs in ../shared/photos")


def photo(name: str) -> Image.Image:
    return Image.open(next(path for path in PHOTOS if path.name == name)).convert("RGB")


@pytest.fixture(scope="module")
def found() -> dict[Path, list[Detection]]:
    """The faces of every photograph."""
    detector = Yunet(YUNET)
    return {path: detector.detect(Image.open(path).convert("RGB")) for path in PHOTOS}


@pytest.mark.photos
@needs_photos
@needs_yunet
def test_every_photograph_has_a_face(found: dict[Path, list[Detection]]) -> None:
    """A face is found in each real photograph, with points inside its box and the eyes above the mouth."""
    for path, faces in found.items():
        assert faces, path.name
        x, y, width, height = faces[0].box
        five = faces[0].five_px
        assert ((five > (x, y)) & (five < (x + width, y + height))).all(), path.name
        assert five[0, 0] < five[1, 0] and five[:2, 1].max() < five[3:, 1].min(), path.name


@pytest.mark.photos
@needs_photos
@needs_yunet
def test_aligned_pictures_are_found_aligned(found: dict[Path, list[Detection]]) -> None:
    """In pictures that were published aligned there is one face, and its quad is the whole picture within 8 %."""
    corners = np.array([(0, 0), (0, 1024), (1024, 1024), (1024, 0)])
    aligned = {path: faces for path, faces in found.items() if path.parent.name == "celeba_hq"}
    assert aligned
    for path, faces in aligned.items():
        assert len(faces) == 1, path.name
        assert np.abs(quad_from_landmarks(faces[0].points_px) - corners).mean() < 82, path.name


@pytest.mark.photos
@needs_photos
@needs_yunet
def test_the_largest_face_comes_first(found: dict[Path, list[Detection]]) -> None:
    """Two people are two faces, and faces are ordered by their area."""
    assert [len(faces) for path, faces in found.items() if path.name == "couple.jpg"] == [2]
    for faces in found.values():
        areas = [face.box[2] * face.box[3] for face in faces]
        assert areas == sorted(areas, reverse=True)


@pytest.mark.photos
@needs_photos
@needs_yunet
@pytest.mark.parametrize("scale", [0.3, 3.0])
def test_size_of_the_photograph_does_not_matter(scale: float) -> None:
    """A photograph scaled down or up gives the same points, scaled, to 4 % of the face."""
    detector = Yunet(YUNET)
    image = photo("img15.jpg")
    scaled = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)
    one, other = detector.detect(image)[0], detector.detect(scaled)[0]
    assert other.five_px / scale == pytest.approx(one.five_px, abs=0.04 * one.side_px)


@pytest.mark.photos
@needs_photos
@needs_yunet
def test_small_faces_of_a_large_photograph_are_found() -> None:
    """A face of 60 px in a picture of 3,000 px is found in the larger copy that is looked at."""
    canvas = Image.new("RGB", (3000, 2000), "gray")
    face = photo("img15.jpg")
    box = Yunet(YUNET).detect(face)[0].box
    ratio = 60 / max(box[2:])
    canvas.paste(
        face.resize((round(face.width * ratio), round(face.height * ratio)), Image.Resampling.LANCZOS), (700, 800)
    )
    found = Yunet(YUNET).detect(canvas)
    assert len(found) == 1
    assert found[0].side_px == pytest.approx(60, rel=0.25)


@needs_yunet
def test_noise_and_plain_pictures_have_no_face() -> None:
    """Nothing is found where nothing is, also in pictures of one pixel."""
    noise = np.random.default_rng(0).integers(0, 255, (300, 400, 3), dtype=np.uint8)
    detector = Yunet(YUNET)
    for image in (Image.fromarray(noise), Image.new("RGB", (640, 480), "white"), Image.new("RGB", (1, 1))):
        assert detector.detect(image) == []


def test_a_missing_or_wrong_file_is_one_line(tmp_path: Path) -> None:
    """A detector file that is not there or no network is named, with what to do."""
    with pytest.raises(StyleBlendError, match=r"detector\.onnx is missing: set pretrained\.detector") as missing:
        Yunet(tmp_path / "detector.onnx")
    (tmp_path / "detector.onnx").write_text("<html>not found</html>")
    with pytest.raises(StyleBlendError, match="no face detector") as wrong:
        Yunet(tmp_path / "detector.onnx")
    assert "\n" not in str(missing.value) + str(wrong.value)


def test_shipped_landmarks_are_a_sure_face() -> None:
    """Annotations score 1, keep all points for the alignment, and their box holds the points."""
    points = np.random.default_rng(0).uniform(10, 90, (68, 2))
    found = annotated(points.flatten())
    x, y, width, height = found.box
    assert found.score == 1 and (found.points_px == points).all()
    assert ((points >= (x, y)) & (points <= (x + width + 1e-9, y + height + 1e-9))).all()
    assert side_px(quad_from_landmarks(found.five_px)) == pytest.approx(side_px(quad_from_landmarks(points)))
