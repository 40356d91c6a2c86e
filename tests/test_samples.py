"""training.samples: mirrored and recoloured sources, targets that wear another's face."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import tiny_training as tiny
from mesh_faces import picture, template, turned
from styleblend.errors import StyleBlendError
from styleblend.faces import warp
from styleblend.faces.pixels import to_8bit
from styleblend.training import samples
from styleblend.training.batches import Draw, Faces, draw

SIDE = 48


@pytest.fixture
def faces(tmp_path: Path) -> Faces:
    """Four pictures of two persons, with meshes turned by 0, 10, 20 and 30 degrees."""
    files = []
    for number in range(4):
        Image.fromarray(picture(SIDE, number)).save(tmp_path / f"{number}.png")
        files.append(tmp_path / f"{number}.png")
    return Faces(
        face_ids=tuple("abcd"),
        files=tuple(files),
        persons=np.array([0, 0, 1, 1]),
        identity=torch.zeros(4, 8),
        landmarks=torch.zeros(4, 68, 2),
        size_px=SIDE,
        mesh=np.stack([turned(10 * number) for number in range(4)]),
    )


def drawn(**changes: object) -> Draw:
    """Two samples: face 1 of person 0 as source and target, and faces 2 and 3 of person 1."""
    plain = Draw(
        source=np.array([1, 2]),
        target=np.array([1, 3]),
        same_person=np.array([True, True]),
        negatives=np.zeros((2, 1), np.int64),
        noise_seeds=(0, 1),
        mirrored=np.array([False, False]),
        worn=np.array([-1, -1]),
        answered=np.array([True, True]),
        colours=np.zeros((2, 6), np.float32),
        bent=np.array([False, False]),
    )
    return plain._replace(**changes)


def test_plain_samples_are_the_files(faces: Faces) -> None:
    """Nothing asked for: sources and targets as stored, the truth is the target, and nothing is bent."""
    made = samples.pictures(faces, drawn(), prior=False)
    assert torch.equal(made.source, faces.images([1, 2])) and torch.equal(made.target, faces.images([1, 3]))
    assert torch.equal(made.truth, made.target) and made.warped is None


def test_a_worn_face_hides_the_targets_own_alone(faces: Faces) -> None:
    """The truth is the photograph; the target differs from it inside the mesh and nowhere else, and is the other's face
    in the photograph's colours there."""
    made = samples.pictures(faces, drawn(worn=np.array([2, -1])), prior=False)
    assert torch.equal(made.truth, faces.images([1, 3])) and torch.equal(made.target[1], made.truth[1])
    bent = warp.match_colours(warp.warp(picture(SIDE, 2), turned(20), turned(10), SIDE), picture(SIDE, 1))
    differs = (made.target[0] != made.truth[0]).any(0).numpy()
    assert differs.any() and not differs[bent[..., 3] == 0].any()
    whole = bent[..., 3] == 1
    shown = to_8bit(made.target[0]).permute(1, 2, 0).numpy()
    assert whole.any() and np.abs(shown[whole].astype(float) - bent[whole][:, :3]).max() <= 0.51


def test_a_bent_answer_is_the_target_wearing_the_source(faces: Faces) -> None:
    """The swap's answer is the picture that a worn face gives; its target stays the photograph, the self pair its own
    answer."""
    both = drawn(same_person=np.array([True, False]))
    made = samples.pictures(faces, both._replace(bent=np.array([False, True])), prior=False)
    worn = samples.pictures(faces, drawn(worn=np.array([-1, 2])), prior=False)
    assert torch.equal(made.truth[1], worn.target[1]) and not torch.equal(made.truth[1], made.target[1])
    assert torch.equal(made.target, faces.images([1, 3])) and torch.equal(made.truth[0], made.target[0])


def test_the_prior_follows_what_the_source_has_become(faces: Faces) -> None:
    """A mirrored source is bent by its mirrored mesh, in its mirrored pixels, onto what the target wears."""
    made = samples.pictures(faces, drawn(mirrored=np.array([True, False]), worn=np.array([2, -1])), prior=True)
    assert torch.equal(made.source[0], faces.images([1])[0].flip(2))
    worn = to_8bit(made.target[0]).permute(1, 2, 0).numpy()
    mirrored = np.ascontiguousarray(picture(SIDE, 1)[:, ::-1])
    assert made.warped is not None
    assert torch.equal(made.warped[0], warp.prior(mirrored, warp.mirrored(turned(10)), worn, turned(10)))


def test_colours_change_within_their_limits() -> None:
    """Against the formula, in 8 bits: gain and shift of each colour, clipped."""
    pixels = picture(SIDE)[None]
    changes = np.array([[0.2, -0.2, 0, 0.1, 0, -0.3]], np.float32)
    found = samples.recoloured(pixels, changes)
    wanted = (pixels * [1.2, 0.8, 1.0] + 127.5 * np.array([0.1, 0, -0.3])).clip(0, 255)
    assert found.dtype == np.uint8 and np.abs(found - wanted).max() <= 0.51


def test_new_choices_leave_the_old_draws_alone() -> None:
    """Who meets whom, with which negatives and noise, is the same with all new settings on."""
    persons = np.repeat(np.arange(6), 3)
    plain, busy = (
        draw(tiny.training(batch_size=64, **more), persons, 3, range(64))
        for more in ({}, {"mirrored": 1.0, "worn_faces": 1.0, "colour_jitter": 0.2, "warped_swaps": 1.0})
    )
    for name in ("source", "target", "same_person", "negatives", "noise_seeds"):
        assert np.array_equal(getattr(plain, name), getattr(busy, name))
    assert not plain.mirrored.any() and (plain.worn == -1).all() and not plain.colours.any()
    assert not plain.bent.any() and np.array_equal(plain.answered, plain.same_person)
    assert np.array_equal(busy.bent, ~busy.same_person) and busy.bent.any() and busy.answered.all()
    self_pairs = busy.source == busy.target
    assert np.array_equal(busy.mirrored, self_pairs) and self_pairs.any()
    assert np.array_equal(busy.worn >= 0, busy.same_person)
    wearers = busy.worn >= 0
    assert (persons[busy.worn[wearers]] != persons[busy.target[wearers]]).all()
    assert 0.1 < np.abs(busy.colours).max() <= 0.2


def test_without_a_mesh_nothing_is_bent(faces: Faces) -> None:
    """The message names the settings that need one, and the remedy."""
    blind = Faces(**{**vars(faces), "mesh": None})
    for more, prior in (({"worn": np.array([2, -1])}, False), ({"bent": np.array([True, False])}, False), ({}, True)):
        with pytest.raises(StyleBlendError, match=r"have no mesh, which .* need: choose a mesh"):
            samples.pictures(blind, drawn(**more), prior)


def test_the_templates_faces_are_of_one_kind() -> None:
    """The helper's turned mesh of 0 degrees is the template itself."""
    assert np.allclose(turned(0), template(), atol=1e-6)
