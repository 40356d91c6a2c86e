"""The recipe of the starter: end to end on rendered faces, with networks made here, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file

import dlib_files
import tflite_files
import tiny_training as tiny
from styleblend.config.base import ConfigError
from styleblend.config.face_pretraining import PretrainFaces
from styleblend.config.params import parse_params
from styleblend.config.training import LossWeights
from styleblend.data.forgotten import Forgotten
from styleblend.data.manifest import read_manifest
from styleblend.errors import StyleBlendError
from styleblend.model import load
from styleblend.pretraining import photographs, sittings, starter
from styleblend.pretraining.photographs import named_by_hash, part_of, person_of
from styleblend.system.lock import hold
from styleblend.weights.formats import dlib_resnet
from test_mesh import placed

MODEL = tiny.MODEL.model_copy(update={"prior": "warp", "join": "mask", "prior_width": 4}).model_dump(mode="json")
FACE_BODY = {"encoder_body": "dlib_resnet", "encoder_blocks": [1, 3, 4, 7], "encoder_widths": [32, 32, 64, 640]}
LOSS = dict.fromkeys(LossWeights.model_fields, 0.0) | {
    "pixels": 4, "edges": 4, "perceptual_maps": 2, "identity": 2, "identity_second": 1, "target_margin": 0.5,
    "mesh": 200, "mask": 0.2, "outside": 2, "adversarial": 0.3,
}  # fmt: skip
TRAINING: dict[str, Any] = {
    "steps": 4, "batch_size": 4, "workers": 1, "learning_rate": 1e-3, "decoder_learning_rate": 4e-3, "clip_norm": 20,
    "curriculum_start": 0.55, "curriculum_end": 0.55, "curriculum_steps": 0, "worn_faces": 0.8, "same_person": 1,
    "colour_jitter": 0.1, "negatives": 3, "identity_from": 0, "identity_ramp": 2, "adversarial_from": 1,
    "probe_every": 4, "checkpoint_every": 1, "log_every": 1, "loss": LOSS,
}  # fmt: skip
SOURCE = {
    "kind": "rendered", "name": "rendered", "identities": 12, "pictures_per_identity": 2, "size_px": 48,
    "supersample": 1, "seed": 5,
}  # fmt: skip
TERMS = {"licence": "MIT", "commercial": True, "consequence": "any use"}


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mesh and a second identity network of the smallest form, with the catalogue that names them."""
    folder = tmp_path_factory.mktemp("mirror")
    # Whatever it is shown it takes for a face.
    (folder / "mesh.tflite").write_bytes(tflite_files.mesh(placed(), 192, threshold=-1.0))
    dlib_files.write(dlib_files.Net(), folder / "second.dat")
    networks = {
        "a_mesh": {"roles": ["landmarks"], "file": "mesh.tflite", "format": "tflite", **TERMS},
        "a_second": {"roles": ["identity_second"], "file": "second.dat", "format": "dlib", **TERMS},
    }
    (folder / "own.yaml").write_text(yaml.safe_dump({"networks": networks}))
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder as the current one: what the recipe keeps lies in it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def settings(mirror: Path, **changes: Any) -> dict[str, Any]:
    chosen = {"landmarks": "a_mesh", "identity_second": "a_second", "catalogue": str(mirror / "own.yaml")}
    values = {
        "sources": [SOURCE],
        "workers": 1,
        "held_out": {"rendered": 0.25},
        "val": 0.4,
        "val_pairs": 3,
        "networks": chosen | {"mirror": str(mirror)},
        "align": {"detector": "annotations", "size_px": 32, "workers": 1, "min_face_px": 8},
        "model": MODEL,
        "training": TRAINING,
    }
    return values | changes


def recipe(mirror: Path, **changes: Any) -> PretrainFaces:
    return PretrainFaces.model_validate(settings(mirror, **changes), context={"folder": Path()})


def of_steps(mirror: Path, steps: int, **changes: Any) -> PretrainFaces:
    return recipe(mirror, training=TRAINING | {"steps": steps}, **changes)


def test_two_sittings_make_what_one_makes(mirror: Path, root: Path, here: Path, monkeypatch, capsys) -> None:
    """A sitting of two steps, then one that asks for four, and one of four: the same weights, and pictures are prepared
    once for both. The starter says what it learned from, whom it never saw, and what may be done with it."""
    small = root / "data/pretrained/small"
    starter.pretrain_faces(of_steps(mirror, 2), small, here / "faces", here / "state")
    prepared = (here / "state").glob("data-*/perceived.parquet")
    before = {file: file.stat().st_mtime_ns for file in prepared}
    card = starter.pretrain_faces(of_steps(mirror, 4), small, here / "faces", here / "state")
    assert "pretrain_faces: resumed at step 2 of 4" in capsys.readouterr().out
    assert len(before) == 1 and all(file.stat().st_mtime_ns == made for file, made in before.items())
    assert len(list((here / "state").glob("training-*"))) == 1

    # The training of one sitting, on the same pictures.
    (training,) = (here / "state").glob("training-*")
    training.rename(here / "two-sittings")
    starter.pretrain_faces(of_steps(mirror, 4), small, here / "at-once", here / "state")
    for file in ("swapper.safetensors", "discriminator.safetensors"):
        one, other = (load_file(here / folder / file) for folder in ("faces", "at-once"))
        assert all(value.dtype == torch.half for value in one.values()) and one.keys() == other.keys()
        assert all(value.equal(other[name]) for name, value in one.items()), file

    (table,) = (here / "state").glob("data-*/faces/manifest.parquet")
    manifest = pd.read_parquet(table)
    persons = {person_of("rendered", label, "") for label in manifest["person"]}
    unseen = {person for person in persons if part_of(person, 0.25, 0.4) == "test"}
    assert unseen and card["held_out"]["persons_sha256"] == named_by_hash(unseen)
    dealt = {name: pd.read_parquet(here / f"two-sittings/splits/{name}.parquet") for name in ("train", "val", "test")}
    of_part = {name: set(each["person"]) for name, each in dealt.items()}
    assert of_part["test"] == unseen and sum(map(len, of_part.values())) == len(persons)
    assert set.union(*of_part.values()) == persons
    assert json.loads((here / "faces/card.json").read_text()) == card
    assert card["commercial"] and card["data"][0]["persons"] == 12 and card["last_probe"]["step"] == 4
    assert card["networks"]["identity_second"]["name"] == "a_second"

    # Another recipe begins as the starter.
    begun = starter._new_learner(recipe(mirror, start=here / "faces"), small, torch.device("cpu"))
    wanted = load(here / "faces").state_dict()
    assert all(value.equal(wanted[name]) for name, value in begun.swapper.state_dict().items())
    assert all(each.requires_grad for each in begun.swapper.parameters())
    wider = recipe(mirror, start=here / "faces", model=MODEL | {"prior_width": 8})
    with pytest.raises(StyleBlendError, match="faces does not fit pretrain_faces.model .*: set the sizes") as caught:
        starter._new_learner(wider, small, torch.device("cpu"))
    assert "\n" not in str(caught.value)


def test_persons_are_dealt_by_their_names_alone() -> None:
    """Shares come out as asked for, a larger share keeps whom a smaller one held out, and nobody is in two parts."""
    people = [person_of("set", f"person {number}", "") for number in range(4000)]
    parts = {share: [part_of(person, share, 0.1) for person in people] for share in (0.0, 0.1, 0.3)}
    for share, dealt in parts.items():
        for part, wanted in (("test", share), ("val", 0.1), ("train", 0.9 - share)):
            # Four standard errors.
            assert abs(dealt.count(part) / 4000 - wanted) <= 4 * (wanted * (1 - wanted) / 4000) ** 0.5
    kept = [one == "test" for one in parts[0.3]]
    assert all(held for held, one in zip(kept, parts[0.1], strict=True) if one == "test")
    assert person_of("set", None, "face-1") != person_of("other", None, "face-1")


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"sources": []}, "pretrain_faces.sources is empty: name folders with photographs of your own"),
    (
        {"sources": [{"kind": "folder", "name": "mine", "path": "gone", "licence": "x", "terms": "x"}],
         "align": {"detector": "yunet", "size_px": 32},
         "held_out": {}},
        "gone of pretrain_faces.sources 'mine' is no folder: lay the photographs down there",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_a_recipe_without_pictures_is_refused_before_any_work(
    mirror: Path, root: Path, here: Path, changes: dict[str, Any], message: str
) -> None:
    """In one line, and nothing is written where the starter should be."""
    if "align" in changes:
        changes = changes | {"networks": settings(mirror)["networks"] | {"detector": "yunet"}}
    with pytest.raises(StyleBlendError) as caught:
        starter.pretrain_faces(
            recipe(mirror, **changes), root / "data/pretrained/small", here / "faces", here / "state"
        )
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert not (here / "faces").exists()


def test_two_recipes_at_once_are_refused(mirror: Path, root: Path, here: Path) -> None:
    """The second says who is at it, and leaves the state alone."""
    with (
        hold(here / "state" / "recipe.lock", "another process runs pretrain_faces", here),
        pytest.raises(StyleBlendError, match="another process runs pretrain_faces in .*: wait for its end"),
    ):
        starter.pretrain_faces(recipe(mirror), root / "data/pretrained/small", here / "faces", here / "state")


def test_too_few_persons_are_named(mirror: Path, tmp_path: Path) -> None:
    """A probe needs two persons: how many there are, and which shares decide, is said."""
    rows = pd.DataFrame({"face_id": ["a", "b", "c"], "source": "mine", "person": ["p", "q", None]})
    with pytest.raises(StyleBlendError, match="has 0 of 3 persons for val, 2 are needed: .* change val 0 and"):
        photographs.deal(recipe(mirror, val=0.0), rows)


def test_copies_and_forgotten_pictures_are_neither_dealt_nor_left_prepared(
    mirror: Path, root: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a picture under two persons one is dealt. What is forgotten leaves what a sitting prepared, the others stay,
    and their training is another; a list that names none of the pictures changes nothing."""
    few = SOURCE | {"identities": 6}
    cfg, state = recipe(mirror, sources=[few, few | {"name": "again"}], held_out={}), here / "state"

    def sitting(without: Forgotten) -> tuple[pd.DataFrame, Path]:
        made = photographs.prepare(cfg, root / "data/pretrained/small", state, "cpu", without)
        faces = photographs.chosen(cfg, made)
        dealt = photographs.deal(cfg, faces)
        folder = starter._folder(cfg, made, dealt, state)
        dealt.write(folder / "splits")
        return read_manifest(made.faces).set_index("face_id").loc[sittings.dealt_in(folder)], folder

    faces, folder = sitting(Forgotten())
    # The second source shows the same pictures under other names.
    assert len(faces) == 12 and faces["raw_sha256"].is_unique
    assert "pretrain_faces: 12 copies of one picture and 0 faces beyond limits left out" in capsys.readouterr().out
    (table,) = state.glob("data-*/perceived.parquet")
    before = table.stat().st_mtime_ns
    known, same = sitting(Forgotten().also(["0" * 64], ["nobody"]))
    assert known.equals(faces) and same == folder and table.stat().st_mtime_ns == before

    picture, person = faces["raw_sha256"].iloc[0], faces["person"].iloc[-1]
    others = [person, person.replace("rendered", "again"), person.replace("again", "rendered")]
    # Of the picture both copies go, of the person both names.
    removed = sittings.forget(state, Forgotten().also([picture], others))
    assert len(removed) == 6 and list(sittings.learned_from(state, removed)) == [state / folder.name]
    assert not list(state.glob("data-*/faces/images/*"))
    left, another = sitting(Forgotten().also([picture], others))
    assert len(left) == 9 and another.name != folder.name
    assert picture not in set(left["raw_sha256"]) and not set(others) & set(left["person"])
    assert len(list(state.glob("data-*/faces/images/*"))) == 18
    # Nor do kept results hold them.
    assert len(list((state / "align").rglob("*.png"))) == 9


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"held_out": {"lfw": 0.1}}, r"held_out names 'lfw', which is no source: choose from \['rendered'\]"),
    ({"held_out": {"rendered": 0.8}, "val": 0.2}, "held_out of 'rendered' 0.8 and val 0.2 leave no person"),
    ({"align": {"detector": "annotations", "size_px": 64}}, "size_px 64 and pretrain_faces.model.input_px 32 differ"),
    ({"align": {"detector": "yunet", "size_px": 32}}, "align.detector is 'yunet' but pretrained.detector is 'none'"),
    ({"training": TRAINING | {"workers": 2}}, "training.workers is 2, but the recipe learns in one process"),
    ({"networks": {}}, "pretrain_faces.training.loss.identity_second is 1, but pretrained.identity_second is 'none'"),
    ({"networks": {"identity_second": "mobileface"}}, "model.prior is 'warp', which needs a face mesh: set pretrained"),
    (
        {"model": MODEL | FACE_BODY},
        "model.encoder_body is 'dlib_resnet', but .* is 'none': set them to one face network",
    ),
    ({"model": MODEL | {"join": "none"}}, "training.loss.mask is 0.2, but model.join is 'none'"),
    ({"sources": [SOURCE, SOURCE]}, r"sources have the names \['rendered', 'rendered'\]: give each"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG)
def test_wrong_settings_are_refused_at_the_door(
    mirror: Path, root: Path, changes: dict[str, Any], message: str
) -> None:
    """Before any picture is read: the value, and what to set."""
    values = yaml.safe_load((root / "params.yaml").read_text())
    parse_params(values | {"pretrain_faces": settings(mirror)}, "params.yaml")
    with pytest.raises(ConfigError, match=message):
        parse_params(values | {"pretrain_faces": settings(mirror, **changes)}, "params.yaml")


def test_a_frozen_body_comes_from_its_file(mirror: Path, root: Path, here: Path) -> None:
    """E's body is the named face network before and after training, and everything else of E has moved."""
    file = dlib_files.write_full(here / "body.dat")
    own = yaml.safe_load((mirror / "own.yaml").read_text())
    own["networks"]["a_body"] = {"roles": ["encoder_body"], "file": str(file.name), "format": "dlib", **TERMS}
    (here / "own.yaml").write_text(yaml.safe_dump(own))
    for each in ("mesh.tflite", "second.dat"):
        (here / each).write_bytes((mirror / each).read_bytes())
    networks = settings(mirror)["networks"] | {"catalogue": str(here / "own.yaml"), "mirror": str(here)}
    sizes = MODEL | FACE_BODY | {"prior": "none"}
    asked = {"steps": 2, "loss": LOSS | {"identity_second": 0, "mesh": 0}, "probe_every": 2}
    cfg = recipe(here, model=sizes, networks=networks | {"encoder_body": "a_body"}, training=TRAINING | asked)
    card = starter.pretrain_faces(cfg, root / "data/pretrained/small", here / "faces", here / "state")
    assert card["networks"]["encoder_body"]["name"] == "a_body"
    body = dlib_resnet.load(file).state_dict()
    made = load(here / "faces").encoder.state_dict()
    held = {name: value for name, value in made.items() if name.startswith("frozen_body.")}
    # The starter's file has half precision.
    assert held and all(value.equal(body[name[12:]].half().float()) for name, value in held.items())


def test_a_second_identity_network_is_another_one(mirror: Path) -> None:
    """It would teach nothing new as the first, and judge itself as the judge."""
    chosen = settings(mirror)["networks"]
    for role in ("identity", "identity_judge"):
        with pytest.raises(ValueError, match=f"pretrained.identity_second and {role} are both 'mobileface'"):
            recipe(mirror, networks=chosen | {role: "mobileface", "identity_second": "mobileface"})
