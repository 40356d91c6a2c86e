"""Rendered faces: deterministic, consistent in 3-D, with truth that agrees with the pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from styleblend.face_detector.detection import Yunet
from styleblend.faces.alignment import crop, quad_from_landmarks
from styleblend.synthetic import factors
from styleblend.synthetic.factors import ATTRIBUTES, Factors
from styleblend.synthetic.raster import rasterize
from styleblend.synthetic.renderer import landmarks_3d, photograph_landmarks, pose_deg, render


def as_bytes(images: Tensor) -> np.ndarray:
    return ((images + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()


def with_attributes(face: Factors, **values: float) -> Factors:
    """The face with some attributes set, in [-1, 1]."""
    attributes = face.attributes.clone()
    for column, (name, _, _) in enumerate(ATTRIBUTES):
        if name in values:
            attributes[:, column] = values[name]
    return Factors(face.identity, face.looks, attributes)


def test_a_sample_depends_on_seed_person_and_picture_alone() -> None:
    """Row (seed, person, picture) is the same in any company and order."""
    many = factors.sample(3, [5, 9, 9, 7], [0, 1, 2, 7])
    alone = factors.sample(3, [7], [7])
    for block in ("identity", "looks", "attributes"):
        assert torch.equal(getattr(many, block)[3], getattr(alone, block)[0])
    assert torch.equal(many.identity[1], many.identity[2])
    assert torch.equal(many.looks[1], many.looks[2])
    assert not torch.equal(many.attributes[1], many.attributes[2])
    assert not torch.equal(factors.sample(4, [7], [7]).identity, alone.identity)


def test_a_picture_does_not_depend_on_its_batch() -> None:
    """Rendered alone or among others, a face has the same pixels."""
    faces = factors.sample(1, [0, 1, 2], [0, 0, 0])
    together = render(faces, 48).images
    assert np.array_equal(as_bytes(render(faces[1:2], 48).images)[0], as_bytes(together)[1])


def test_factors_stay_in_their_range() -> None:
    """All factors are in [-1, 1], also the ones that crowd around the middle."""
    faces = factors.sample(0, list(range(200)), [0] * 200)
    for block in (faces.identity, faces.looks, faces.attributes):
        assert block.abs().max() <= 1


def test_the_true_swap_takes_identity_and_nothing_else() -> None:
    """Swap has the source's identity block and the target's looks, attributes, pose and expression."""
    source, target = factors.sample(1, [0], [0]), factors.sample(1, [1], [4])
    swapped = factors.swap(source, target)
    assert torch.equal(swapped.identity, source.identity)
    assert torch.equal(swapped.looks, target.looks)
    assert torch.equal(swapped.yaw_pitch_roll_deg(), target.yaw_pitch_roll_deg())
    assert torch.equal(swapped.expression(), target.expression())
    # The background is the target's to the pixel where neither head is.
    pictures = as_bytes(render(factors.swap(target, target), 64).images), as_bytes(render(swapped, 64).images)
    assert np.array_equal(pictures[0][0, :4, :4], pictures[1][0, :4, :4])


def test_rasterizer_agrees_with_a_loop_over_pixels_and_triangles() -> None:
    """Nearest triangle and perspective-correct weights equal those of the obvious double loop."""
    random = torch.Generator().manual_seed(0)
    size = 12
    points = torch.rand(1, 30, 2, generator=random) * size
    depth = 1 + 4 * torch.rand(1, 30, generator=random)
    triangles = torch.randint(0, 30, (40, 3), generator=random)
    two_sided = torch.rand(40, generator=random) < 0.5
    seen = rasterize(points, depth, triangles, two_sided, size)
    found = {int(p): (int(t), w) for p, t, w in zip(seen.pixel, seen.triangle, seen.barycentric, strict=True)}
    for row in range(size):
        for column in range(size):
            nearest: tuple[float, int, np.ndarray] | None = None
            for number, corners in enumerate(triangles.tolist()):
                a, b, c = (points[0, k].double().numpy() for k in corners)
                matrix = np.array([[a[0], b[0], c[0]], [a[1], b[1], c[1]], [1, 1, 1]])
                area = np.linalg.det(matrix)
                if abs(area) < 1e-6 or (area < 0 and not two_sided[number]):
                    continue
                weight = np.linalg.solve(matrix, [column + 0.5, row + 0.5, 1])
                if weight.min() < 0:
                    continue
                inverse = weight / depth[0, corners].double().numpy()
                if nearest is None or 1 / inverse.sum() < nearest[0]:
                    nearest = (1 / inverse.sum(), number, inverse / inverse.sum())
            pixel = row * size + column
            assert (pixel in found) == (nearest is not None)
            if nearest is not None:
                assert found[pixel][0] == nearest[1]
                np.testing.assert_allclose(found[pixel][1].numpy(), nearest[2], atol=1e-4)


def test_rendering_into_a_crop_is_cropping_the_photograph() -> None:
    """Straight into the quad, or photograph first and then the aligner's crop: the same picture, softness apart."""
    faces = factors.sample(2, [3, 4], [0, 0])
    units = photograph_landmarks(faces).numpy()
    quads = np.stack([quad_from_landmarks(points) for points in units])
    direct = as_bytes(render(faces, 64, 3, torch.from_numpy(quads).float()).images).astype(float)
    photographs = as_bytes(render(faces, 256, 2).images)
    for number in range(2):
        cut = crop(Image.fromarray(photographs[number]), quads[number] * 256 - 0.5, 64)
        assert np.abs(np.asarray(cut, dtype=float) - direct[number]).mean() < 5
        # A shift by one pixel would be seen.
        moved = crop(Image.fromarray(photographs[number]), quads[number] * 256 + 6, 64)
        assert np.abs(np.asarray(moved, dtype=float) - direct[number]).mean() > 5


def test_inner_landmarks_lie_on_the_face() -> None:
    """Brows, nose, eyes and mouth of nearly frontal faces are inside the mask of the face."""
    faces = with_attributes(factors.sample(5, list(range(12)), [0] * 12), yaw_deg=0.1, pitch_deg=0, glasses=-1)
    made = render(faces, 128, 1)
    inside = [
        float(made.face_mask[n, 0, int(y + 0.5), int(x + 0.5)])
        for n in range(12)
        for x, y in made.landmarks_px[n, 27:].tolist()
    ]
    assert np.mean(inside) > 0.97


def test_pose_signs() -> None:
    """Yaw takes the nose to the right of the picture, pitch upwards; roll turns clockwise."""
    face = with_attributes(factors.sample(5, [0], [0]), yaw_deg=0, pitch_deg=0, roll_deg=0)

    def nose(**values: float) -> Tensor:
        points = photograph_landmarks(with_attributes(face, **values))[0]
        return points[30] - points[36:48].mean(0)

    assert nose(yaw_deg=0.8)[0] > nose()[0] + 0.01
    assert nose(pitch_deg=0.9)[1] < nose()[1]
    eyes = photograph_landmarks(with_attributes(face, roll_deg=0.8))[0]
    assert eyes[42:48].mean(0)[1] > eyes[36:42].mean(0)[1] + 0.01


def test_a_turned_crop_shows_the_head_turned_the_other_way() -> None:
    """Roll is told in the crop: none is left where the crop turns with the head, and yaw and pitch stay."""
    face = with_attributes(factors.sample(5, [0], [0]), roll_deg=0.5)
    angle = torch.deg2rad(face.yaw_pitch_roll_deg()[0, 2])
    across, down = torch.stack([angle.cos(), angle.sin()]), torch.stack([-angle.sin(), angle.cos()])
    corners = torch.stack([-across - down, -across + down, across + down, across - down])[None] * 0.3 + 0.5
    pose = pose_deg(face, corners)
    assert pose[0, 2].abs() < 1e-4 and pose[0, :2].equal(face.yaw_pitch_roll_deg()[0, :2])
    # The picture says the same: in the turned crop the eyes of a face that looks ahead are level.
    ahead = with_attributes(face, yaw_deg=0, pitch_deg=0)
    eyes = render(ahead, 48, quads=corners).landmarks_px[0]
    assert (eyes[36:42].mean(0) - eyes[42:48].mean(0))[1].abs() < 0.5
    photograph = render(ahead, 48).landmarks_px[0]
    assert (photograph[36:42].mean(0) - photograph[42:48].mean(0))[1].abs() > 1.5


def test_even_yaw_fills_its_range_and_changes_nothing_else() -> None:
    """Yaw is spread evenly over the range that is asked for; identity, looks and the other attributes stay."""
    persons = list(range(400))
    usual, even = factors.sample(3, persons, [0] * 400), factors.sample(3, persons, [0] * 400, even_yaw_deg=60)
    assert even.identity.equal(usual.identity) and even.looks.equal(usual.looks)
    assert even.attributes[:, 1:].equal(usual.attributes[:, 1:])
    yaw = even.yaw_pitch_roll_deg()[:, 0]
    assert yaw.abs().max() <= 60
    counts = torch.histc(yaw, 6, -60, 60)
    assert counts.min() > 40 and usual.yaw_pitch_roll_deg()[:, 0].abs().max() <= 45
    assert factors.sample(3, [7], [0], even_yaw_deg=60).attributes.equal(even.attributes[7:8])


def test_landmarks_in_three_dimensions_are_the_flat_ones_with_a_depth_that_turns_with_the_head() -> None:
    """x and y are those of the render; of a head that looks to the picture's right, the right half is farther away."""
    face = with_attributes(factors.sample(5, [0], [0]), yaw_deg=0.8, pitch_deg=0, roll_deg=0)
    quads = torch.tensor([[[0.2, 0.2], [0.2, 0.8], [0.8, 0.8], [0.8, 0.2]]])
    points = landmarks_3d(face, quads)
    flat = (render(face, 48, quads=quads).landmarks_px + 0.5) / 48
    torch.testing.assert_close(points[..., :2], flat, rtol=0, atol=1e-5)
    assert points[0, 45, 2] > points[0, 36, 2] + 0.05 and points[..., 2].mean().abs() < 1e-6
    assert points[0, 30, 2] < points[0, 0, 2]


def test_expression_moves_what_it_names() -> None:
    """An open jaw parts the lips, a smile lifts the corners, a blink closes the eye in the picture's left."""
    face = with_attributes(
        factors.sample(6, [1], [0]), yaw_deg=0, pitch_deg=0, roll_deg=0, jaw_open=-1, smile=-0.25, blink_left=-1
    )

    def points(**values: float) -> Tensor:
        return photograph_landmarks(with_attributes(face, **values))[0]

    assert points(jaw_open=1)[66, 1] - points(jaw_open=1)[62, 1] > points()[66, 1] - points()[62, 1] + 0.01
    assert points(smile=1)[48, 1] < points()[48, 1]
    opening = points()[41, 1] - points()[37, 1]
    assert points(blink_left=1)[41, 1] - points(blink_left=1)[37, 1] < 0.3 * opening
    assert torch.equal(points(blink_left=1)[42:48], points()[42:48])


def test_identity_moves_landmarks_and_looks_do_not() -> None:
    """Shape belongs to identity: changed looks leave all landmarks where they are."""
    first, second = factors.sample(1, [0], [0]), factors.sample(1, [1], [0])
    other_looks = Factors(first.identity, second.looks, first.attributes)
    assert torch.equal(photograph_landmarks(other_looks), photograph_landmarks(first))
    other_identity = Factors(second.identity, first.looks, first.attributes)
    assert (photograph_landmarks(other_identity) - photograph_landmarks(first)).norm(dim=-1).mean() > 0.005


@pytest.mark.photos
@pytest.mark.slow
def test_a_real_detector_finds_the_faces(yunet_file: Path) -> None:
    """YuNet, which nobody trained on these pictures, finds the face in at least 99 % of 500 renders at 256 px."""

    detector = Yunet(yunet_file)
    found = 0
    for first in range(0, 500, 25):
        persons = list(range(first, first + 25))
        for picture in as_bytes(render(factors.sample(11, persons, [0] * 25), 256, 1).images):
            found += any(face.score >= 0.6 for face in detector.detect(Image.fromarray(picture)))
    assert found >= 495
