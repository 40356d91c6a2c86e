"""faces.template: a model and this code agree on how faces are cut out, or the model is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny_training as tiny
from styleblend import model
from styleblend.errors import StyleBlendError
from styleblend.faces import alignment, template
from styleblend.faces.template import TEMPLATE, expect_template


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model.save(model.build(tiny.MODEL), tiny.MODEL, tmp_path)
    return tmp_path


def rewrite(folder: Path, alignment: Any) -> None:
    facts = json.loads((folder / "model.json").read_text())
    facts["alignment"] = alignment
    (folder / "model.json").write_text(json.dumps(facts))


def test_a_model_folder_keeps_name_constants_hash_and_size(folder: Path) -> None:
    """All that tells by which rule the faces were cut out, and how large they were."""
    kept = json.loads((folder / "model.json").read_text())["alignment"]
    assert kept == {
        "template": "ffhq",
        "constants": {"eye_factor": 2.0, "mouth_factor": 1.8, "centre_shift": 0.1},
        "sha256": TEMPLATE.identity()["sha256"],
        "size_px": tiny.SIDE_PX,
    }
    model.load(folder)


@pytest.mark.parametrize("change", [{"name": "arcface"}, {"eye_factor": 2.2}, {"mouth_factor": 2}, {"centre_shift": 0}])
def test_another_template_is_refused_by_name(folder: Path, change: dict[str, Any]) -> None:
    """Each constant counts, and so does the name; the line shows both templates and what to do."""
    other = replace(TEMPLATE, **change).identity()
    assert other["sha256"] != TEMPLATE.identity()["sha256"]
    rewrite(folder, other | {"size_px": tiny.SIDE_PX})
    with pytest.raises(template.TemplateError) as caught:
        model.load(folder)
    message = str(caught.value)
    assert "\n" not in message and str(folder) in message and "dvc repro" in message
    for identity in (other, TEMPLATE.identity()):
        assert f"'{identity['template']}' {identity['sha256'][:12]}" in message
    for value in change.values():
        assert str(value) in message


@pytest.mark.parametrize("kept", [None, "ffhq", {"template": "ffhq", "size_px": 32}, {"sha256": ""}])
def test_models_without_a_template_are_refused_with_the_remedy(folder: Path, kept: Any) -> None:
    """Folders of earlier versions named none, or named it without its hash."""
    rewrite(folder, kept)
    with pytest.raises(StyleBlendError, match=r"does not say by which alignment template.*'ffhq'.*dvc repro"):
        model.load(folder)


def test_a_hash_without_its_constants_is_refused() -> None:
    """A file that was edited by hand does not pass for the template whose hash it bears."""
    edited = TEMPLATE.identity() | {"constants": {"eye_factor": 3.0}}
    with pytest.raises(template.TemplateError, match="eye_factor 3.0"):
        expect_template(edited, "the model")


@pytest.mark.parametrize("name", ["eye_factor", "mouth_factor", "centre_shift"])
def test_the_constants_are_those_that_cut(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A changed constant moves the quad: no second copy of it decides. So a changed rule is a changed hash."""
    # Close eyes and a far mouth, or the reverse: each factor rules where its distance is the larger.
    points = np.array([(80.0, 85), (120, 85), (100, 100), (85, 130), (115, 130)])
    if name == "mouth_factor":
        points[:2] = (95, 85), (105, 85)
    before = alignment.quad_from_landmarks(points)
    monkeypatch.setattr(alignment, "TEMPLATE", replace(TEMPLATE, **{name: getattr(TEMPLATE, name) * 1.5}))
    assert np.abs(alignment.quad_from_landmarks(points) - before).max() > 1
