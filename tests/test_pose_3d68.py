"""Pose and expression from three-dimensional landmarks, through insightface on a file in its form."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from insightface.data import get_object
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

import tiny_project
from arcface_files import iresnet, write
from insightface_files import landmark_3d68, regression
from styleblend.config.data import Perceive
from styleblend.data import perceived
from styleblend.errors import StyleBlendError
from styleblend.evaluation import baselines, protocol
from styleblend.evaluation.judges import Judges
from styleblend.faces.mean_box import MEAN_BOX
from styleblend.faces.pixels import to_8bit
from styleblend.perception import attributes, identity, landmarks
from styleblend.perception.pose_3d68 import COEFFICIENTS, Attributes3d68, expression_of, pose_of
from styleblend.perception.shape import GROUPS, RIGID
from styleblend.synthetic import renderer

AVERAGE: NDArray[np.float64] = np.asarray(get_object("meanshape_68.pkl"), dtype=np.float64)
LOWER_LIP = (55, 56, 57, 58, 59, 65, 66, 67)


def turned(points: NDArray[np.float64], yaw: float, pitch: float, roll: float) -> NDArray[np.float64]:
    """Points as the renderer of this project would turn a head."""
    angles = {name: torch.tensor([[value]]) for name, value in (("yaw", yaw), ("pitch", pitch), ("roll", roll))}
    turn = renderer._rotation({f"{name}_deg": value.double() for name, value in angles.items()}, 1.0)[0].numpy()
    upwards = np.array([1, -1, 1])  # the renderer's y points up
    return (points * upwards) @ turn.T * upwards


def smiling() -> NDArray[np.float64]:
    """A face with an expression and proportions that no stretch describes."""
    return AVERAGE + np.random.default_rng(0).normal(0, 0.03, AVERAGE.shape)


@pytest.mark.parametrize("pose", [(0, 0, 0), (30, 0, 0), (0, 20, 0), (0, 0, 25), (-45, 15, -20), (60, -25, 10)])
def test_pose_is_recovered(pose: tuple[float, float, float]) -> None:
    """Angles are those by which this project's renderer turns a head, whatever the size and the place."""
    assert pose_of(80 * turned(AVERAGE, *pose) + (96, 90, 3)) == pytest.approx(pose, abs=1e-6)


def test_signs_are_the_projects() -> None:
    """A head with positive angles looks to the picture's right, up, and leans clockwise."""
    nose, eyes = AVERAGE[30] - AVERAGE[27], [36, 45]
    right, up, leaning = (turned(AVERAGE, *pose) for pose in ((20, 0, 0), (0, 20, 0), (0, 0, 20)))
    assert (right[30] - right[27])[0] > nose[0] + 0.02
    assert (up[30] - up[27])[1] < nose[1] - 0.02
    assert leaning[eyes[1]][1] > leaning[eyes[0]][1] + 0.1
    for points, place in ((right, 0), (up, 1), (leaning, 2)):
        assert pose_of(points)[place] == pytest.approx(20)


def test_faces_of_other_proportions_keep_their_pose() -> None:
    """Heads a tenth longer or narrower than the average, and uneven ones, err by a few degrees."""
    for stretch in ((1, 1.1, 1), (0.9, 1, 1), (1, 1, 0.9)):
        assert pose_of(turned(AVERAGE * stretch, 25, 10, 5)) == pytest.approx((25, 10, 5), abs=3)
    assert pose_of(turned(smiling(), 25, 10, 5)) == pytest.approx((25, 10, 5), abs=4)


def test_expression_is_that_of_the_face_from_wherever_it_is_seen() -> None:
    """Turning, moving, scaling and stretching a face leave its expression; that of the average face is none."""
    expression = expression_of(smiling())
    assert expression.shape == (COEFFICIENTS,) and np.abs(expression).max() > 3
    for changed in (
        turned(smiling(), -50, 20, 30),
        90 * smiling() + (96, 80, -4),
        smiling() * (1.1, 0.95, 1.05),
        turned(smiling() * (0.9, 1.1, 1), 30, -15, 8),
    ):
        assert expression_of(changed) == pytest.approx(expression, abs=1e-8)
    assert expression_of(turned(70 * AVERAGE, 40, 10, 0)) == pytest.approx(0, abs=1e-8)


def expression_columns(group: str) -> slice:
    """Where the coefficients of a group (mouth, lids, brows, chin) stand: x, y and z of each of its points in turn."""
    before = 0
    for name, points in GROUPS.items():
        if name == group:
            return slice(before, before + 3 * len(points))
        before += 3 * len(points)
    raise ValueError(f"there is no group '{group}': choose one of {', '.join(GROUPS)}")


@pytest.mark.parametrize(("group", "moved"), [("mouth", LOWER_LIP), ("lids", (37, 38)), ("brows", (17, 18, 19))])
def test_each_group_has_coefficients_of_its_own(group: str, moved: tuple[int, ...]) -> None:
    """An open mouth changes the mouth's coefficients alone, and neither pose nor any other; so do lids and brows."""
    changed = AVERAGE.copy()
    changed[list(moved), 1] += 0.1
    changed = turned(changed, 20, 10, 5)
    place = expression_columns(group)
    expression = expression_of(changed)
    # 0.1 downwards, in hundredths of the distance between the outer corners of the eyes.
    unit = float(np.linalg.norm(AVERAGE[45] - AVERAGE[36])) / 100
    wanted = np.array([[0, 0.1 / unit * (point in moved), 0] for point in GROUPS[group]]).flatten()
    assert expression[place] == pytest.approx(wanted, abs=1e-8)
    assert np.delete(expression, np.r_[place]) == pytest.approx(0, abs=1e-8)
    assert pose_of(changed) == pytest.approx((20, 10, 5), abs=1e-6)


def test_groups_are_all_points_that_move() -> None:
    """Each of the 68 points is either rigid or in one group; unknown groups are refused."""
    assert sorted((*RIGID, *(point for points in GROUPS.values() for point in points))) == list(range(68))
    assert expression_columns("chin").stop == COEFFICIENTS
    with pytest.raises(ValueError, match="'nose': choose one of mouth"):
        expression_columns("nose")


def in_network(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Points as the network gives them, in the crop of a face."""
    return 0.5 * points


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Attributes3d68:
    """A face that looks to the left; the redder the picture, the more open its mouth."""
    opened = np.zeros((68, 3))
    opened[list(LOWER_LIP), 1] = 0.1
    model = landmark_3d68(in_network(turned(AVERAGE, -25, 10, 5)), in_network(turned(opened, -25, 10, 5)))
    return Attributes3d68("planted", write(model, tmp_path_factory.mktemp("files") / "1k3d68.onnx"))


def test_pictures_stand_alone_in_their_batch(network: Attributes3d68) -> None:
    """Pose and mouth are those that the file gives for each picture, whatever stands beside it in the batch."""
    images = torch.full((3, 3, 32, 32), -1.0)
    images[1, 0] = 1.0  # red
    images[2, 2] = 1.0  # blue
    angles, expression = network(images)
    assert angles.shape == (3, 3) and expression.shape == (3, COEFFICIENTS) and angles.dtype == torch.float32
    for row in angles:
        assert row.numpy() == pytest.approx((-25, 10, 5), abs=1e-3)
    lips = expression[:, expression_columns("mouth")].reshape(3, 20, 3)[:, [7, 8, 9], 1].mean(1)
    assert lips[1] > lips[0] + 10 and abs(lips[2] - lips[0]) < 1e-2
    for place in (0, 1):
        alone = network(images[place : place + 1])
        assert torch.equal(alone[0][0], angles[place]) and torch.equal(alone[1][0], expression[place])


def test_pose_at_rest_is_what_the_library_says(network: Attributes3d68) -> None:
    """For a face at rest, insightface's own face.pose means the same rotation."""
    from insightface.app.common import Face

    face = Face(bbox=np.array([8.0, 8.0, 40.0, 40.0]))
    network._network.get(np.zeros((48, 48, 3), np.uint8), face)
    theirs = Rotation.from_euler("ZYX", face.pose[::-1].astype(float).tolist(), degrees=True)
    yaw, pitch, roll = pose_of(face.landmark_3d_68)
    ours = Rotation.from_euler("ZXY", [roll, pitch, yaw], degrees=True)
    # The planted mouth of this picture is open by a little.
    assert np.rad2deg((ours * theirs.inv()).magnitude()) < 5


@pytest.mark.parametrize("batched", [True, False])
def test_a_batch_has_the_librarys_points(batched: bool, tmp_path: Path) -> None:
    """One call for all pictures gives what insightface's own `get` gives for each; so do files of one picture."""
    from insightface.app.common import Face

    opened = np.zeros((68, 3))
    opened[list(LOWER_LIP), 1] = 0.1
    model = landmark_3d68(in_network(turned(AVERAGE, -25, 10, 5)), in_network(opened))
    if not batched:
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
        model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 1
    network = Attributes3d68("planted", write(model, tmp_path / "1k3d68.onnx"))
    images = torch.rand(5, 3, 40, 40, generator=torch.Generator().manual_seed(0)) * 2 - 1
    box = 40.0 * np.array([MEAN_BOX.x, MEAN_BOX.y] * 2)
    half = max(MEAN_BOX.width, MEAN_BOX.height) / 2 * 40
    box += (-half, -half, half, half)
    theirs = []
    for picture in to_8bit(images).permute(0, 2, 3, 1).flip(3).numpy():
        theirs.append(network._network.get(np.ascontiguousarray(picture), Face(bbox=box)))
    assert np.abs(np.diff(theirs, axis=0)).max() > 1e-3
    np.testing.assert_allclose(network.landmarks(images), theirs, atol=1e-4)


def test_landmarks_lie_in_the_face_of_an_aligned_picture(network: Attributes3d68) -> None:
    """What the network gives in its crop comes back in pixels of the picture, and of a copy where that is large."""
    for side, copy in ((64, 64), (512, 256)):
        points = network.landmarks(torch.zeros(1, 3, side, side))[0, :, :2] / copy
        wanted = (0.5, 0.551) + 0.5 * turned(AVERAGE, -25, 10, 5)[:, :2] * 0.744 * 1.5 / 2
        assert points[list(RIGID)] == pytest.approx(wanted[list(RIGID)], abs=0.01)


def test_a_batch_of_none_and_devices(network: Attributes3d68) -> None:
    """No pictures give no rows; the module can be moved and frozen like the others."""
    angles, expression = network.to("cpu").eval().requires_grad_(False)(torch.zeros(0, 3, 8, 8))
    assert angles.shape == (0, 3) and expression.shape == (0, COEFFICIENTS)


def test_gradients_are_refused(network: Attributes3d68) -> None:
    """Asked for them, it says so, and does not give zeros; pictures that are not square are refused as well."""
    images = torch.zeros(1, 3, 16, 16, requires_grad=True)
    with pytest.raises(StyleBlendError, match="'planted' has no gradients"):
        network(images)
    with torch.no_grad():
        assert network(images)[0].shape == (1, 3)
    with pytest.raises(StyleBlendError, match=r"\(1, 3, 16, 8\): expected \[N, 3, S, S\]"):
        network(torch.zeros(1, 3, 16, 8))


def test_networks_json_leads_to_it(tmp_path: Path) -> None:
    """The judge of a run may be this one, under its published name; the network of the training may not."""
    for role in ("attributes", "attributes_judge"):
        write(landmark_3d68(in_network(AVERAGE)), tmp_path / f"{role}.onnx")
    entries = {role: {"file": f"{role}.onnx", "name": "1k3d68.onnx"} for role in ("attributes", "attributes_judge")}
    (tmp_path / "networks.json").write_text(json.dumps(entries))
    judge = attributes.load(tmp_path, "attributes_judge")
    assert isinstance(judge, Attributes3d68) and judge.name == "1k3d68"
    with pytest.raises(
        StyleBlendError, match="no gradients to train with: set pretrained.attributes to small"
    ) as caught:
        attributes.load(tmp_path, "attributes")
    assert "\n" not in str(caught.value)


def test_wrong_files_are_one_line(tmp_path: Path) -> None:
    """Missing, damaged or of another network: named, with the file to get."""
    (tmp_path / "page.onnx").write_text("<html>not found</html>")
    whole = write(landmark_3d68(AVERAGE), tmp_path / "whole.onnx")
    (tmp_path / "half.onnx").write_bytes(whole.read_bytes()[:-50])
    wrong = {
        "cannot be read": tmp_path / "absent.onnx",
        "a web page": tmp_path / "page.onnx",
        "truncated": tmp_path / "half.onnx",
        "get 1k3d68.onnx": write(regression(192, np.zeros(212)), tmp_path / "2d106det.onnx"),
        "68 landmarks in three dimensions": write(iresnet(), tmp_path / "rec.onnx"),
    }
    for reason, path in wrong.items():
        with pytest.raises(StyleBlendError, match=reason) as caught:
            Attributes3d68("x", path)
        assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_it_perceives_and_judges(tmp_path: Path) -> None:
    """The stages perceive and evaluate use it in the place of this project's own: the target itself has no error."""
    tiny_project.make(tmp_path)
    data = tmp_path / "data"
    opened = np.zeros((68, 3))
    opened[list(LOWER_LIP), 1] = 0.1
    write(landmark_3d68(in_network(turned(AVERAGE, -25, 10, 5)), in_network(opened)), data / "networks/3d68.onnx")
    (data / "networks/networks.json").write_text(
        json.dumps({"attributes_judge": {"file": "3d68.onnx", "name": "1k3d68"}})
    )
    judge = identity.load(data / "networks", "identity_judge")
    seer = attributes.load(data / "networks", "attributes_judge")
    points = landmarks.LandmarkNetwork("points", [8, 8], 32)
    seen = perceived.perceive_faces(
        data / "faces", perceived.Networks(judge, judge, points, seer), data / "perceived.parquet", Perceive()
    )
    assert seen["yaw_deg"].to_numpy() == pytest.approx(-25, abs=1) and len(seen["expression"][0]) == COEFFICIENTS
    pairs = protocol.read_pairs(data / "splits", data / "faces", data / "perceived.parquet")
    methods = {"copy_target": baselines.copy_target, "copy_source": baselines.copy_source}
    measured = protocol.measure(pairs, methods, Judges(judge, seer, judge), 10)
    assert seer.name == "1k3d68"
    assert measured["copy_target"].table["expression_error"].max() < 1e-3
    assert measured["copy_source"].table["expression_error"].max() > 0.1
