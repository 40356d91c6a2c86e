"""MediaPipe's detector: on files of its form that plant a face, and on photographs where the published ones are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tflite_files
from styleblend import model
from styleblend.config.params import load_params
from styleblend.errors import StyleBlendError
from styleblend.face_detector import loader
from styleblend.face_detector.detection import Yunet, five_of
from styleblend.face_detector.mediapipe import MediapipeDetector
from styleblend.faces.alignment import quad_from_landmarks, side_px
from styleblend.perception import mesh
from styleblend.perception.mesh import POINTS, TO_68, FaceMesh
from styleblend.swapping import errors, find_detector, find_model, swap_faces
from styleblend.weights.starter import STATED, write_starter
from tiny_model import MODEL

LONDON = Path(__file__).parents[2] / "shared/faces/london"


def planted() -> np.ndarray:
    """Points [468, 3] in a view of 192 px; their box is 128 px around its middle, the eyes level: it stays in place."""
    points = np.random.default_rng(0).uniform(40, 150, (POINTS, 3))
    points[0], points[1] = (32, 32, 0), (160, 160, 0)
    points[[33, 263], 1] = 80
    points[33, 0], points[263, 0] = 60, 130
    return points


def files(folder: Path, threshold: float = 0.3) -> tuple[Path, Path]:
    """A detector that sees half of a red picture, around its middle, as a face, and a mesh with planted points."""
    detector, points = folder / "detector.tflite", folder / "landmarks.tflite"
    # The anchor's cell of the map of 16 begins at 64 px: its centre is 4 px further.
    row = [-4, -4, 64, 64, -20, -14, 12, -14, *[0] * 8]
    detector.write_bytes(tflite_files.blazeface([row], [2 * (8 * 16 + 8)]))
    points.write_bytes(tflite_files.mesh(planted(), 192, threshold=threshold))
    return detector, points


def red(width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height), (255, 0, 0))


@pytest.mark.parametrize("scale", [1, 2])
def test_a_planted_face_is_where_it_was_planted(tmp_path: Path, scale: int) -> None:
    """Its points are the mesh's, in pixels of the photograph whatever its size, and its box is theirs."""
    side = 128 * scale
    (face,) = MediapipeDetector(*files(tmp_path)).detect(red(side, side))
    # The mesh's square is 1.5 times the box of 64 of 128 px; a view's red moves x by a tenth of its pixels.
    wanted = (planted()[:, :2] + (0.1, 0)) / 192 * 96 * scale + 16 * scale - 0.5
    assert face.five_px == pytest.approx(five_of(wanted[list(TO_68)]), abs=0.2 * scale)
    low, high = wanted.min(0), wanted.max(0)
    assert face.box == pytest.approx((*low, *(high - low)), abs=0.2 * scale)
    assert face.score > 0.99 and face.landmarks_px is None


def test_what_neither_network_calls_a_face_is_none(tmp_path: Path) -> None:
    """A black picture gives nothing, and a face that the mesh does not see is none, whatever BlazeFace says."""
    assert MediapipeDetector(*files(tmp_path)).detect(Image.new("RGB", (128, 128))) == []
    assert MediapipeDetector(*files(tmp_path, threshold=2.0)).detect(red(128, 128)) == []


def test_a_wrong_file_is_one_line(tmp_path: Path) -> None:
    """Missing, or another network: named with what to do."""
    detector, points = files(tmp_path)
    for one, other, message in (
        (tmp_path / "absent.tflite", points, "absent.tflite is missing: align.detector mediapipe needs"),
        (detector, tmp_path / "absent.tflite", "absent.tflite is missing"),
        (points, points, "it is not BlazeFace of short range"),
        (detector, detector, "it is no face mesh"),
    ):
        with pytest.raises(StyleBlendError, match=message) as caught:
            MediapipeDetector(one, other)
        assert "\n" not in str(caught.value)


def test_a_run_and_a_first_use_find_it(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By align.detector in the run's folder; where nothing was run, from a mirror; else one line says what to do."""
    files(tmp_path)
    assert isinstance(loader.load("mediapipe", tmp_path, 0.6), MediapipeDetector)
    cfg = load_params(root / "params.yaml")
    assert isinstance(find_detector(cfg, None, tmp_path, tmp_path / "state").detector, MediapipeDetector)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(errors.DetectorMissing, match="mediapipe_face_detector is not to be had .*pretrained.mirror"):
        find_detector(cfg, None, tmp_path / "absent", tmp_path / "state")


def test_detector_and_second_opinion_share_a_mesh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is read once, whether the finder reads it or is given it."""
    _, file = files(tmp_path)
    read: list[Path] = []

    def load(path: Path) -> FaceMesh:
        read.append(path)
        return plain(path)

    plain = mesh.load
    monkeypatch.setattr(mesh, "load", load)
    found = loader.load_finder("mediapipe", tmp_path, 0.6, mesh_file=file)
    assert found.mesh is not None and read == [file]
    again = loader.load_finder("mediapipe", tmp_path, 0.6, mesh=found.mesh)
    assert again.mesh is found.mesh and read == [file]
    assert len(again.detect(red(128, 128))) == len(found.detect(red(128, 128)))


def _london(count: int) -> list[Path]:
    found = sorted(LONDON.glob("*/n_*.jpg"))[:count]
    if not found:
        pytest.skip("no photographs")
    return found


@pytest.mark.photos
@pytest.mark.parametrize("turn_deg", [0, 30])
def test_real_faces_are_cut_out_as_with_yunet(fetched: Callable[[str], Path], yunet_file: Path, turn_deg: int) -> None:
    """On studio photographs, upright and turned, one face each, whose crop differs by some percent of its side."""
    detector = MediapipeDetector(fetched("mediapipe_face_detector"), fetched("mediapipe_face_mesh"))
    for file in _london(3):
        with Image.open(file) as image:
            photograph = image.convert("RGB").rotate(turn_deg, Image.Resampling.BICUBIC)
        (face,), other = detector.detect(photograph), Yunet(yunet_file).detect(photograph)[0]
        quad, wanted = quad_from_landmarks(face.five_px), quad_from_landmarks(other.five_px)
        assert np.abs(quad - wanted).mean() < 0.06 * side_px(wanted)


@pytest.mark.photos
def test_the_first_use_on_two_photographs(
    fetched: Callable[[str], Path], root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No run, no version: a starter with a mesh by name swaps a face; outside of it the target's pixels stay."""
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    for name, file in (("mediapipe_face_detector", "face_detector"), ("mediapipe_face_mesh", "face_landmark")):
        (mirror / f"{file}.tflite").write_bytes(fetched(name).read_bytes())
    sizes = MODEL.model_copy(update={"prior": "warp", "join": "mask", "fine_levels": 2, "prior_width": 4})
    card = dict.fromkeys(STATED, "a test")
    write_starter(tmp_path / "data/pretrained/faces", model.build(sizes), model.build_discriminator(sizes), sizes, card)
    cfg = load_params(root / "params.yaml")
    cfg = cfg.model_copy(update={"pretrained": cfg.pretrained.model_copy(update={"mirror": mirror})})
    monkeypatch.chdir(tmp_path)
    source, target = _london(2)
    swapped = swap_faces(source, target, settings=cfg)
    with Image.open(target) as image:
        changed = (np.asarray(image.convert("RGB")) != np.asarray(swapped)).any(-1)
    assert swapped.size == image.size and 0.02 < changed.mean() < 0.8 and not changed[:8].any()
    assert find_model(cfg, None)[1].startswith("styleblend starter ")
