"""face_detector.finder: faces at any turn with their own points, and a word for what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from styleblend.config.data import Align
from styleblend.data.align import align_faces
from styleblend.face_detector import geometry
from styleblend.face_detector.detection import Detection, Yunet, annotated, five_of
from styleblend.face_detector.finder import SURE_SCORE, FaceFinder, confirmed
from styleblend.face_detector.geometry import between_deg, roll_rad
from styleblend.face_detector.mediapipe import MediapipeDetector
from styleblend.faces.pictures import Picture
from styleblend.swapping import errors
from styleblend.swapping.face_selector import left_to_right
from styleblend.synthetic import factors, renderer
from test_manifest import enumerate_folder

SIDE = 256
FRONTAL = np.array([(70.0, 80.0), (130.0, 80.0), (100.0, 115.0), (78.0, 145.0), (122.0, 145.0)])


@pytest.fixture(scope="module")
def rendered() -> tuple[Image.Image, NDArray[np.float64]]:
    """A rendered face in a picture of 256 px, one that YuNet is sure of, with its true five points."""
    return render(8)


@pytest.fixture(scope="module")
def small() -> Image.Image:
    """A face of about 30 px, one that YuNet sees."""
    picture = Image.new("RGB", (SIDE, SIDE), "gray")
    picture.paste(render(1)[0].resize((40, 40), Image.Resampling.BOX), (100, 100))
    return picture


def render(person: int) -> tuple[Image.Image, NDArray[np.float64]]:
    made = renderer.render(factors.sample(5, [person], [0]), SIDE)
    pixels = made.images[0].add(1).mul(127.5).round().byte().permute(1, 2, 0).numpy()
    return Image.fromarray(pixels), five_of(np.asarray(made.landmarks_px[0], dtype=np.float64))


@pytest.fixture(scope="module")
def finder(yunet_file: Path) -> FaceFinder:
    return FaceFinder(Yunet(yunet_file), sure_score=SURE_SCORE["yunet"], min_face_px=40)


def turned(image: Image.Image, points: NDArray[np.float64], degrees: float) -> tuple[Image.Image, NDArray[np.float64]]:
    """The picture turned clockwise about its middle, all of it kept, and its points there."""
    result = image.rotate(-degrees, Image.Resampling.BICUBIC, expand=True, fillcolor=(128, 128, 128))
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    middles = [(np.array(each.size) - 1) / 2 for each in (image, result)]
    return result, (points - middles[0]) @ np.array([[cos, sin], [-sin, cos]]) + middles[1]


def error(face: Detection, wanted: NDArray[np.float64]) -> float:
    """Mean distance of the five points over that between the eyes."""
    return float(np.hypot(*(face.five_px - wanted).T).mean() / np.hypot(*(wanted[1] - wanted[0])))


@pytest.mark.parametrize("degrees", [0, 60, 90, 180, 225])
def test_a_turned_face_has_its_own_points(
    finder: FaceFinder, rendered: tuple[Image.Image, NDArray[np.float64]], degrees: float
) -> None:
    """At any turn the five points are the face's own, within a quarter of the eyes' distance, and so is its turn."""
    picture, wanted = turned(*rendered, degrees)
    (face,) = finder.detect(picture)
    assert error(face, wanted) < 0.25
    assert between_deg(roll_rad(face.five_px), np.radians(degrees)) < 20
    x, y, width, height = face.box
    assert ((wanted > (x, y)) & (wanted < (x + width, y + height))).all()


def test_an_upright_face_is_what_the_detector_sees(
    finder: FaceFinder, rendered: tuple[Image.Image, NDArray[np.float64]]
) -> None:
    """Other looks confirm an upright face; they do not move its points."""
    (face,), (seen,) = finder.detect(rendered[0]), finder.detector.detect(rendered[0])
    assert face.box == seen.box and np.array_equal(face.five_px, seen.five_px)


def test_a_face_beyond_the_border_or_too_small_is_refused_by_its_word(
    finder: FaceFinder, rendered: tuple[Image.Image, NDArray[np.float64]], small: Image.Image
) -> None:
    """A face whose mouth the picture's edge cuts off is no face to use, nor is one of 30 px, and the word says why."""
    picture, five = rendered
    found = finder.find(small)
    assert found.faces == [] and found.refused[0].problem == "too small"
    assert "under align.min_face_px 40" in str(found.refused[0])
    half = Image.new("RGB", (SIDE, SIDE), "gray")
    half.paste(picture, (0, SIDE - round(float(five[3:, 1].min()) - 3)))
    cut = finder.find(half)
    assert cut.faces == [] and {each.problem for each in cut.refused} <= {"cut by the border", "not a face", "turned"}


def test_points_outside_are_cut_by_the_border() -> None:
    """Annotated points are judged as a detector's are: one that lies outside is named."""

    class Given:
        def detect(self, image: Image.Image) -> list[Detection]:
            return [Detection((50, 40, 100, 130), FRONTAL, 1.0)]

    found = FaceFinder(Given()).find(Image.new("RGB", (125, 200)))
    assert found.faces == [] and found.refused[0].problem == "cut by the border"
    assert "1 of the points of eyes, nose and mouth lies outside or at its edge" in str(found.refused[0])
    assert len(FaceFinder(Given()).detect(Image.new("RGB", (200, 200)))) == 1


@pytest.mark.parametrize("degrees", [0, 37, 90, 180, 300])
def test_points_of_a_face_fit_at_every_turn(degrees: float) -> None:
    """Frontal and in profile; the turn is what it was turned by. The same points mixed up fit at no turn."""
    _, frontal = turned(Image.new("RGB", (200, 200)), FRONTAL, degrees)
    aside = FRONTAL * (0.35, 1) + (60, 0)
    aside[2, 0] -= 25
    profile = turned(Image.new("RGB", (200, 200)), aside, degrees)[1]
    assert geometry.misfit(frontal) is None and geometry.misfit(profile) is None
    assert between_deg(roll_rad(frontal), np.radians(degrees)) < 1e-6
    for order, why in (
        ((1, 0, 2, 3, 4), "other's side"),
        ((0, 1, 2, 4, 3), "other's side"),
        ((2, 1, 0, 3, 4), ""),
        ((0, 1, 3, 2, 4), ""),
    ):
        misfit = geometry.misfit(frontal[list(order)])
        assert misfit is not None and why in misfit
    assert geometry.misfit(np.full((5, 2), 3.0)) == "points fall together"
    assert geometry.misfit(np.full((5, 2), np.nan)) == "a point is not a number"
    nose = frontal.copy()
    nose[2] += 3 * (frontal[1] - frontal[0])
    assert geometry.misfit(nose) == "the nose lies beside the face"


def test_the_refusal_of_a_swap_has_the_word(finder: FaceFinder, small: Image.Image) -> None:
    """No usable face: one line with the word and the place, and the refused faces as a field."""
    with pytest.raises(
        errors.NoFace, match=r"^no usable face in the target picture \(too small: .* px at x \d+ y \d+\)"
    ):
        left_to_right(finder.find(small), "target")
    with pytest.raises(errors.NoFace, match="^no face found in the source picture"):
        left_to_right(finder.find(Image.new("RGB", (64, 64))), "source")


def test_the_stage_align_turns_faces_upright(
    rendered: tuple[Image.Image, NDArray[np.float64]], small: Image.Image, yunet_file: Path, tmp_path: Path
) -> None:
    """Turned pictures give the crops of the upright one; one with a face that is too small is in the quarantine."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "networks").mkdir()
    (tmp_path / "networks/detector.onnx").write_bytes(yunet_file.read_bytes())
    for degrees in (0, 90, 180):
        turned(*rendered, degrees)[0].save(tmp_path / f"photos/{degrees:03}.png")
    small.save(tmp_path / "photos/small.png")
    raw = enumerate_folder(tmp_path / "photos", tmp_path / "raw")
    cfg = Align(detector="yunet", workers=1, size_px=64)
    faces, quarantine = align_faces(raw, tmp_path / "networks", tmp_path / "faces", cfg)
    paths = faces.sort_values("raw_path")["path"]
    crops = [np.asarray(Image.open(tmp_path / "faces" / path), dtype=float) for path in paths]
    assert len(crops) == 3
    for crop in crops[1:]:
        upright, head_down = (np.corrcoef(each.ravel(), crops[0].ravel())[0, 1] for each in (crop, crop[::-1]))
        assert upright > 0.8 and upright > head_down + 0.15
    assert quarantine["reason"].str.startswith("too small: ").tolist() == [True]


def test_without_a_mesh_annotations_are_taken_as_they_are() -> None:
    """There is no second opinion to ask."""
    face = annotated(np.random.default_rng(0).uniform(10, 90, (68, 2)))
    assert confirmed(None, Image.new("RGB", (100, 100)), [face]).faces == [face]


@pytest.mark.photos
@pytest.mark.parametrize("kind", ["yunet", "mediapipe"])
def test_turned_photographs(kind: str, photos: Path, yunet_file: Path, fetched: Callable[[str], Path]) -> None:
    """Two real faces, on their sides, upside down and askew, have their own points, with either detector."""
    detector = (
        Yunet(yunet_file)
        if kind == "yunet"
        else MediapipeDetector(fetched("mediapipe_face_detector"), fetched("mediapipe_face_mesh"))
    )
    finder = FaceFinder(detector, sure_score=SURE_SCORE[kind])
    for file in sorted((photos / "celeba_hq").glob("*.jpg"))[:2]:
        with Image.open(file) as opened:
            image = Picture(opened.convert("RGB").resize((384, 384), Image.Resampling.BOX)).opaque()
        upright = detector.detect(image)[0].five_px
        for degrees in (60, 180, 270):
            picture, wanted = turned(image, upright, degrees)
            assert error(finder.detect(picture)[0], wanted) < 0.25, (file.name, degrees)
