"""insightface's detector through the library itself, on files in its form that see a red square as a face."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto
from PIL import Image

import insightface_files
from arcface_files import iresnet, write
from insightface_files import BOX, FIVE, SCORE, scrfd
from styleblend.config.data import Align
from styleblend.config.params import load_params
from styleblend.data.align import align_faces
from styleblend.errors import StyleBlendError
from styleblend.face_detector import canvas, loader
from styleblend.face_detector.detection import Detection, Yunet
from styleblend.face_detector.finder import FaceFinder
from styleblend.face_detector.scrfd import Scrfd
from styleblend.swapping import find_detector
from test_manifest import enumerate_folder


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with SCRFD as its detector."""
    folder = tmp_path_factory.mktemp("networks")
    write(scrfd(), folder / "detector.onnx")
    return folder


@pytest.fixture(scope="module")
def detector(networks: Path) -> Scrfd:
    found = loader.load("insightface", networks, 0.6)
    assert isinstance(found, Scrfd)
    return found


def red(size: tuple[int, int], *squares: tuple[int, int, int]) -> Image.Image:
    """Black with red squares (left, top, side)."""
    image = Image.new("RGB", size)
    for left, top, side in squares:
        image.paste((255, 0, 0), (left, top, left + side, top + side))
    return image


def check(face: Detection, x: float, y: float, stride: float) -> None:
    """The planted face, whose anchor lies at x, y of the window, in a picture where a stride has that many pixels."""
    left, top, right, bottom = np.array(BOX) * stride
    assert face.box == pytest.approx((x - left, y - top, left + right, top + bottom), abs=0.01)
    shift = (stride / 32 - 1) / 2  # pixel centres
    assert face.five_px == pytest.approx((x, y) + np.array(FIVE) * stride + shift, abs=0.01)
    assert face.score == pytest.approx(SCORE, abs=1e-3)
    assert face.landmarks_px is None


def test_planted_faces_are_decoded(detector: Scrfd) -> None:
    """Box, points and score are those of the cell that fires; two faces come the same from left and right."""
    faces = detector.detect(red((640, 640), (96, 160, 32), (416, 320, 32)))
    assert len(faces) == 2
    for face, (x, y) in zip(sorted(faces, key=lambda face: face.box), ((96, 160), (416, 320)), strict=True):
        check(face, x, y, 32)


@pytest.mark.parametrize("scale", [2, 0.5])
def test_coordinates_are_the_pictures(detector: Scrfd, scale: float) -> None:
    """The same scene of another size gives the same face, scaled, with points at pixel centres."""
    side = round(640 * scale)
    # Two pixels wider than the cell, whose edges are blurred where the picture is enlarged.
    faces = detector.detect(red((side, side), (round(94 * scale), round(158 * scale), round(36 * scale))))
    check(max(faces, key=lambda face: face.box[2]), 96 * scale, 160 * scale, 32 * scale)


def test_a_picture_that_is_not_square_keeps_its_shape(detector: Scrfd) -> None:
    """Wide and high pictures are not stretched into the square that the network sees."""
    for size in ((640, 352), (352, 640)):
        (face,) = detector.detect(red(size, (96, 160, 32)))
        check(face, 96, 160, 32)


def test_a_face_that_fills_the_picture_and_a_small_one_of_a_large_picture_are_found(detector: Scrfd) -> None:
    """The copies of 128 and of 1,920 px show what the one of 640 does not: no cell of it is all red."""
    (large,) = detector.detect(red((128, 128), (64, 32, 32)))
    check(large, 64, 32, 32)
    (small,) = detector.detect(red((1920, 1280), (320, 640, 32)))
    check(small, 320, 640, 32)


@pytest.fixture
def passes(detector: Scrfd, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Size (width, height) of what the network sees in each of its passes from now on."""
    seen: list[tuple[int, int]] = []
    plain = detector._network.forward

    def spied(pixels: NDArray[np.uint8], *given: Any) -> Any:
        seen.append((pixels.shape[1], pixels.shape[0]))
        return plain(pixels, *given)

    monkeypatch.setattr(detector._network, "forward", spied)
    return seen


@pytest.mark.parametrize(
    ("size", "sides"), [((300, 150), (640, 128)), ((700, 1000), (1024, 640, 128)), ((3000, 2000), (1920, 640, 128))]
)
def test_all_sizes_of_a_picture_are_seen_in_one_pass(
    detector: Scrfd, passes: list[tuple[int, int]], size: tuple[int, int], sides: tuple[int, ...]
) -> None:
    """Copies whose longer sides are those of SIDES_PX, none beyond 640 px larger than the picture's, rounded up to
    SCRFD's stride, lie on one canvas that is little larger than they are."""
    detector.detect(Image.new("RGB", size))
    ((width, height),) = passes
    copies = [np.array(size) * side / max(size) for side in sides]
    assert max(*copies[0]) <= max(width, height)
    assert sum(float(np.prod(copy)) for copy in copies) < width * height < 2 * sum(side**2 for side in sides)


def test_a_found_face_is_looked_at_in_all_turns_at_once() -> None:
    """The picture, the face in eight turns, and again in the turn that was seen: three looks at an upright face."""
    looks: list[int] = []
    face = Detection((50, 40, 100, 130), np.array([(70.0, 80), (130, 80), (100, 115), (78, 145), (122, 145)]), 0.8)
    seen = Detection((76, 65, 72, 93), (face.five_px - (100, 105)) * 224 / 312 + 112, 0.8)

    class OfMany:
        def detect(self, image: Image.Image) -> list[Detection]:
            looks.append(1)
            return [face]

        def detect_each(self, images: Sequence[Image.Image]) -> list[list[Detection]]:
            looks.append(len(images))
            return [[seen], *([] for _ in images[1:])]

    (found,) = FaceFinder(OfMany()).detect(Image.new("RGB", (200, 200)))
    assert found is face and looks == [1, 8, 1]


def test_several_pictures_are_seen_apart(detector: Scrfd, passes: list[tuple[int, int]]) -> None:
    """Each has its own faces, as if it were looked at alone, whatever lies beside it on the canvas."""
    pictures = [red((224, 224), (32 * n, 64, 32)) if n != 2 else Image.new("RGB", (224, 224)) for n in range(7)]
    found = detector.detect_each(pictures)
    assert len(passes) == 1 and detector.detect_each([]) == []
    assert [len(faces) for faces in found] == [1, 1, 0, 1, 1, 1, 1]
    for number, faces in enumerate(found):
        for face in faces:
            check(face, 32 * number, 64, 32)


def test_a_canvas_is_taken_as_it_is() -> None:
    """Pictures of any sizes stand apart, inside, and the library does not scale the canvas, whatever its rounding."""
    random = np.random.default_rng(0)
    for longest in (40, 300, 700, 1300) * 10:
        count = random.integers(1, 9)
        sizes = [(int(width), int(height)) for width, height in random.integers(1, longest, (count, 2))]
        places = canvas.placed(sizes)
        covered = np.zeros(places.size[::-1], np.uint8)
        for number, ((left, top), (width, height)) in enumerate(zip(places.corners, sizes, strict=True)):
            covered[top : top + height, left : left + width] += 1
            assert left % 32 == top % 32 == 0 and places.of(left, top) == number
            assert places.of(left + width, top) != number
        assert covered.sum() == sum(width * height for width, height in sizes) and covered.max() == 1
    for width in range(128, 4000, 128):
        for height in range(128, 4000, 128):
            wide, high = canvas.placed([(width, height)]).size
            assert wide == width and height <= high < height + 256 and int(wide * (high / wide)) == high


def test_one_face_is_given_once_and_the_largest_first(detector: Scrfd) -> None:
    """A square that fires in two copies is one face, and faces are sorted by the area of their boxes."""
    # 96 px of the large copy are 32 of the middle one, whose one face covers those of the large one's nine cells.
    faces = detector.detect(red((1920, 1920), (960, 960, 32), (0, 480, 96)))
    assert [round(face.box[2]) for face in faces] == [288, 96]
    check(faces[0], 0, 480, 96)
    check(faces[1], 960, 960, 32)


def test_where_nothing_is_nothing_is_found(networks: Path, detector: Scrfd) -> None:
    """Noise, one pixel, very long pictures, and faces under the lowest score: an empty list."""
    noise = np.random.default_rng(0).integers(0, 255, (300, 400, 3), dtype=np.uint8)
    plain = (Image.new("RGB", (1, 1)), Image.new("RGB", (1, 3000)), Image.new("L", (9, 9)))
    for image in (Image.fromarray(noise), *plain):
        assert detector.detect(image) == []
    assert loader.load("insightface", networks, 0.9).detect(red((640, 640), (96, 160, 32))) == []


@pytest.mark.parametrize("form", ["batched", "fixed", "bytes"])
def test_other_forms_of_the_file(tmp_path: Path, form: str) -> None:
    """Files with a batch axis, with one fixed size, and of packs that normalise inside the graph find the same."""
    options = {"batched": {"batched": True}, "fixed": {"side_px": 640}, "bytes": {"read": TensorProto.UINT8}}
    found = Scrfd(write(scrfd(**options[form]), tmp_path / "det.onnx")).detect(red((640, 640), (96, 160, 32)))
    assert len(found) == 1
    check(found[0], 96, 160, 32)


def test_wrong_files_are_one_line(tmp_path: Path) -> None:
    """A missing, truncated, foreign or pointless file is named with what to get, before any picture is read."""
    folder = tmp_path / "absent"
    wrong = {
        "missing: name one of insightface's": folder / "detector.onnx",
        "a web page": tmp_path / "page.onnx",
        "truncated": tmp_path / "half.onnx",
        "is no SCRFD detector": write(iresnet(), tmp_path / "rec.onnx"),
        "without the five points": write(scrfd(points=False), tmp_path / "boxes.onnx"),
    }
    (tmp_path / "page.onnx").write_text("<!DOCTYPE html><html>not found</html>")
    (tmp_path / "half.onnx").write_bytes(write(scrfd(), tmp_path / "whole.onnx").read_bytes()[:-100])
    for reason, path in wrong.items():
        with pytest.raises(StyleBlendError, match=reason) as caught:
            loader.load("insightface", folder, 0.6, path)
        assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_insightface_refuses_yunets_file(yunet_file: Path, tmp_path: Path) -> None:
    """It is an ONNX detector, too, but of another kind."""
    with pytest.raises(StyleBlendError, match="no SCRFD detector.*set align.detector to yunet"):
        loader.load("insightface", tmp_path, 0.6, yunet_file)


def test_yunet_refuses_insightfaces_file(networks: Path) -> None:
    """The reverse mistake is named as well, and how to use the file."""
    with pytest.raises(StyleBlendError, match="another network than YuNet.*align.detector to insightface") as caught:
        loader.load("yunet", networks, 0.6)
    assert "\n" not in str(caught.value)
    with pytest.raises(StyleBlendError, match="another network than YuNet"):
        Yunet(networks / "detector.onnx")


def test_the_stage_align_uses_it(networks: Path, tmp_path: Path) -> None:
    """The stage looks with it, behind the check of turned faces; a picture without a face is named."""
    found = loader.load_finder("insightface", networks, 0.6, min_face_px=40)
    assert isinstance(found.detector, Scrfd) and found.min_face_px == 40
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (64, 64), "gray").save(tmp_path / "photos/plain.png")
    raw = enumerate_folder(tmp_path / "photos", tmp_path / "raw")
    cfg = Align(detector="insightface", workers=1, size_px=32)
    with pytest.raises(StyleBlendError, match=r"plain\.png: no face found with a score of at least 0\.6"):
        align_faces(raw, networks, tmp_path / "faces", cfg)


def test_a_swap_uses_the_detector_of_the_run(networks: Path, root: Path, tmp_path: Path) -> None:
    """`styleblend swap` and `serve` look with what align.detector names: in the run's folder, or in the given file."""
    cfg = load_params(root / "params.yaml")
    cfg = cfg.model_copy(update={"align": cfg.align.model_copy(update={"detector": "insightface"})})
    for found in (
        find_detector(cfg, None, networks, tmp_path),
        find_detector(cfg, networks / "detector.onnx", tmp_path / "absent", tmp_path),
    ):
        (face,) = found.detector.detect(red((640, 640), (96, 160, 32)))
        check(face, 96, 160, 32)
    with pytest.raises(StyleBlendError, match="detector.onnx is missing"):
        find_detector(cfg, None, tmp_path / "absent", tmp_path)


# Of scikit-image, about a call inside insightface.
@pytest.mark.filterwarnings("ignore:`estimate` is deprecated:FutureWarning")
def test_a_whole_pack_is_taken_for_what_it_is(tmp_path: Path) -> None:
    """insightface's FaceAnalysis on a folder of such files: each is routed to its task, and all of them see a face."""
    from insightface.app import FaceAnalysis

    folder = insightface_files.write_pack(tmp_path / "models" / "buffalo_l", np.zeros((68, 3)))
    pack = FaceAnalysis(name="buffalo_l", root=str(tmp_path), providers=["CPUExecutionProvider"])
    assert set(pack.models) == {"detection", "recognition", "landmark_3d_68", "landmark_2d_106", "genderage"}
    assert {Path(model.model_file).parent for model in pack.models.values()} == {folder}
    pack.prepare(0)
    (face,) = pack.get(np.asarray(red((640, 640), (96, 160, 32)))[:, :, ::-1])
    assert face.bbox == pytest.approx((64, 112, 160, 240), abs=0.01)
    assert face.embedding.shape == (16,)
    assert face.landmark_3d_68.shape == (68, 3) and face.landmark_2d_106.shape == (106, 2)
