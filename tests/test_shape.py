"""Shape in three dimensions: what is left of a face when its pose is taken away."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from styleblend.perception import shape
from styleblend.pretraining.data import draw
from styleblend.synthetic import factors
from styleblend.synthetic.renderer import average_shape, landmarks_3d, pose_deg
from styleblend.training import losses


def rotations(count: int) -> Tensor:
    return torch.from_numpy(Rotation.random(count, random_state=0).as_matrix())


@pytest.fixture
def network() -> shape.ShapeNetwork:
    """Untrained, but with the average face that its weights file would hold."""
    torch.manual_seed(0)
    built = shape.ShapeNetwork("tiny", [8, 8], 16).double()
    built.average.copy_(average_shape())
    return built.eval()


def test_rotation_agrees_with_scipy() -> None:
    """With noise on the points, the rotation is the one that an independent solver finds."""
    random = np.random.default_rng(0)
    before = random.normal(size=(5, 9, 3))
    after = before @ rotations(5).numpy().transpose(0, 2, 1) + 0.1 * random.normal(size=before.shape)
    before, after = (points - points.mean(1, keepdims=True) for points in (before, after))
    found = shape.rotation(torch.from_numpy(before), torch.from_numpy(after)).numpy()
    for row in range(5):
        wanted, _ = Rotation.align_vectors(after[row], before[row])
        np.testing.assert_allclose(found[row], wanted.as_matrix(), atol=1e-9)


def test_rotation_never_mirrors() -> None:
    """Even a mirror image, which a reflection would fit without error, is met with a rotation."""
    points = torch.randn(1, 8, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    points = points - points.mean(1, keepdim=True)
    found = shape.rotation(points, points * torch.tensor([-1.0, 1, 1], dtype=torch.float64))
    torch.testing.assert_close(torch.linalg.det(found), torch.ones(1, dtype=torch.float64))


def test_unposed_points_know_neither_pose_nor_place_nor_size(network: shape.ShapeNetwork) -> None:
    """A shape that is turned, moved and scaled gives the same points; another shape gives others."""
    random = torch.Generator().manual_seed(1)
    face = network.average + 0.05 * torch.randn(68, 3, dtype=torch.float64, generator=random)
    turns = rotations(6)
    seen = 0.3 * face @ turns.transpose(1, 2) + torch.randn(6, 1, 3, dtype=torch.float64, generator=random)
    unposed = shape.unposed(seen, network.turn(seen))
    torch.testing.assert_close(unposed, unposed[:1].expand_as(unposed))
    torch.testing.assert_close(unposed.square().sum(2).mean(1), torch.ones(6, dtype=torch.float64))
    other = network.average[None] * torch.tensor([1.1, 1, 1], dtype=torch.float64)
    assert (shape.unposed(other, network.turn(other)) - unposed).abs().max() > 0.01


def test_turn_of_a_rendered_face_is_its_pose(network: shape.ShapeNetwork) -> None:
    """The turn of true landmarks is the head's to a few degrees, up to 60 degrees of yaw."""
    faces, quads = draw(7, 30, 2, 0, 60, own_looks=False, even_yaw_deg=60)
    pose = pose_deg(faces, quads)
    assert pose[:, 0].abs().max() > 50
    # Of a head with y upwards and z to the viewer: first yaw, then pitch, then roll. Pictures have y downwards, z away.
    head = Rotation.from_euler("yxz", pose.double().numpy() * [1, -1, -1], degrees=True).as_matrix()
    flip = np.diag([1.0, -1.0, -1.0])
    found = network.turn(landmarks_3d(faces, quads).double()).numpy()
    apart_deg = np.rad2deg(Rotation.from_matrix(found.transpose(0, 2, 1) @ (flip @ head @ flip)).magnitude())
    assert apart_deg.max() < 12 and apart_deg.mean() < 6


def test_shape_tells_people_apart_and_pictures_of_one_person_hardly(network: shape.ShapeNetwork) -> None:
    """From -60 to 60 degrees, unposed points of two pictures of a person differ less than those of two persons."""
    faces, quads = draw(8, 20, 2, 0, 40, own_looks=True, even_yaw_deg=60)
    points = landmarks_3d(faces, quads).double()
    unposed = shape.unposed(points, network.turn(points)).reshape(20, 2, -1)
    own = losses.shape_3d(unposed[:, 0], unposed[:, 1])
    others = losses.shape_3d(unposed[:, 0], unposed[:, 1].roll(1, 0))
    assert others > 2.5 * own


def test_term_wants_the_pose_of_the_target_and_the_shape_of_the_source(network: shape.ShapeNetwork) -> None:
    """It is 0 for the source's shape in the target's pose, and neither shape nor pose alone will do."""
    random = torch.Generator().manual_seed(2)
    shapes = network.average + 0.05 * torch.randn(2, 68, 3, dtype=torch.float64, generator=random)
    source, target = ((points @ turn.T)[None] for points, turn in zip(shapes, rotations(2), strict=True))
    wanted, turn = shape.unposed(source, network.turn(source)), network.turn(target)

    def term(swapped: Tensor) -> float:
        return losses.shape_3d(shape.unposed(swapped, turn), wanted).item()

    swapped = (source @ network.turn(source)[0]) @ turn[0].T
    assert term(swapped) < 1e-20
    assert term(source) > 0.01 and term(target) > 1e-4


def test_names_of_expression_do_not_move_rigid_points() -> None:
    """An open jaw, a smile, raised brows and a blink leave the rigid points nearly where they are."""
    face = factors.sample(6, [1], [0])
    columns = {name: k for k, (name, _, _) in enumerate(factors.ATTRIBUTES)}
    quads = torch.tensor([[[0.2, 0.2], [0.2, 0.8], [0.8, 0.8], [0.8, 0.2]]])
    for name in ("jaw_open", "smile", "brow_raise", "blink_left"):
        low, high = face.attributes.clone(), face.attributes.clone()
        low[:, columns[name]], high[:, columns[name]] = (-0.25 if name == "smile" else -1), 1
        before, after = (
            landmarks_3d(factors.Factors(face.identity, face.looks, each), quads)[0] for each in (low, high)
        )
        moved = (after - before).norm(dim=1)
        assert moved[list(shape.RIGID)].max() < 0.25 * moved.max(), name
