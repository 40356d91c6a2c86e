"""The starter: written in half precision, read back, refused where it is not whole, used first and begun from."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from styleblend import model
from styleblend.config.model import Model
from styleblend.config.params import Config, load_params, parse_params
from styleblend.config.pretrained import Pretrained
from styleblend.errors import StyleBlendError
from styleblend.registry.versions import LEARNED_FROM, RENDERED, Version
from styleblend.swapping import find_model, loaders
from styleblend.training import steps
from styleblend.weights import run_folder, starter
from styleblend.weights.starter import STATED, read_starter, write_starter
from tiny_model import MODEL, randomised
from tiny_training import training

CARD = dict.fromkeys(STATED, "as a test says") | {"commercial": False, "licence": "research only"}
WARPED = MODEL.model_copy(update={"prior": "warp", "join": "mask", "fine_levels": 2, "prior_width": 4})


def written(folder: Path, sizes: Model = MODEL) -> Path:
    torch.manual_seed(0)
    swapper, judge = randomised(model.build(sizes)), model.build_discriminator(sizes)
    write_starter(folder, swapper, judge, sizes, CARD)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("starter") / "faces")


@pytest.fixture
def cfg(root: Path) -> Config:
    return load_params(root / "params.yaml")


@pytest.mark.parametrize("sizes", [MODEL, WARPED])
def test_half_the_digits_come_back_as_float32(tmp_path: Path, sizes: Model) -> None:
    """Files hold fp16, networks get the same numbers as float32, with sizes and card; any loader of models reads it."""
    torch.manual_seed(0)
    swapper, judge = randomised(model.build(sizes)), randomised(model.build_discriminator(sizes))
    write_starter(tmp_path / "faces", swapper, judge, sizes, CARD)
    for file in ("swapper.safetensors", "discriminator.safetensors"):
        assert {value.dtype for value in load_file(tmp_path / "faces" / file).values()} == {torch.float16}
    again = read_starter(tmp_path / "faces")
    assert (again.model, again.card) == (sizes, CARD)
    for one, other in ((swapper, again.swapper), (judge, again.discriminator)):
        for name, value in other.state_dict().items():
            assert value.dtype == torch.float32
            assert torch.equal(value, one.state_dict()[name].half().float()), name
    loaded = model.load(tmp_path / "faces")
    assert torch.equal(loaded.encoder.mean_code, again.swapper.encoder.mean_code)


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def _other_template(file: Path) -> None:
    described = json.loads(file.read_text())
    described["alignment"]["template"] = "another"
    file.write_text(json.dumps(described))


@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        ("swapper.safetensors", _cut, "holds no usable model"),
        ("swapper.safetensors", Path.unlink, "swapper.safetensors is missing"),
        ("discriminator.safetensors", _cut, "discriminator.safetensors is damaged"),
        ("discriminator.safetensors", Path.unlink, "discriminator.safetensors is missing"),
        ("model.json", Path.unlink, "holds no starter: restore it with"),
        ("model.json", lambda file: file.write_text("{}"), "model.json has no sizes"),
        ("model.json", _other_template, "another"),
        ("card.json", lambda file: file.write_text("no card"), "card.json cannot be read"),
        ("card.json", lambda file: file.write_text("{}"), "does not state licence, commercial"),
        ("extra", lambda file: file.write_bytes(bytes(starter.LIMIT_BYTES)), "a starter has 60 MB at most"),
    ],
)
def test_what_is_not_whole_is_refused_in_one_line(tmp_path: Path, name: str, spoil: Any, message: str) -> None:
    """Damaged, missing, of another template, without terms, or too large."""
    folder = written(tmp_path / "faces")
    spoil(folder / name)
    with pytest.raises(StyleBlendError, match=message) as caught:
        read_starter(folder)
    assert "\n" not in str(caught.value)


def test_what_may_not_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A weight beyond fp16, a card without terms, too many bytes: one line, and the folder stays as it was."""
    folder = written(tmp_path / "faces")
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    swapper, judge = model.build(MODEL), model.build_discriminator(MODEL)
    with pytest.raises(StyleBlendError, match="does not state consequence"):
        write_starter(folder, swapper, judge, MODEL, {key: CARD[key] for key in STATED if key != "consequence"})
    monkeypatch.setattr(starter, "LIMIT_BYTES", 1000)
    with pytest.raises(StyleBlendError, match="at most: a smaller section model"):
        write_starter(folder, swapper, judge, MODEL, CARD)
    with torch.no_grad():
        swapper.decoder.rgb_bias.fill_(1e6)
    with pytest.raises(StyleBlendError, match=r"decoder.rgb_bias is not finite in fp16 \(largest 1e\+06\)"):
        write_starter(folder, swapper, judge, MODEL, CARD)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["faces"]


def test_a_run_gets_it_with_its_terms(folder: Path, root: Path, tmp_path: Path) -> None:
    """The stage pretrained copies the folder and lists it, so its licence reaches card and tags; `none` has none."""
    small = root / "data/pretrained/small"
    listed = run_folder.collect(small, tmp_path / "out", Pretrained(starter="faces"), starter=folder)
    assert (listed["starter"]["file"], listed["starter"]["licence"]) == ("starter", "research only")
    assert listed["starter"]["commercial"] is False
    for file in folder.iterdir():
        assert (tmp_path / "out/starter" / file.name).read_bytes() == file.read_bytes()
    assert "starter" not in run_folder.collect(small, tmp_path / "without", Pretrained(), starter=folder)
    with pytest.raises(StyleBlendError, match="holds no starter"):
        run_folder.collect(small, tmp_path / "none", Pretrained(starter="faces"), starter=tmp_path / "absent")
    assert not (tmp_path / "none").exists()


def test_training_begins_as_the_starter(tmp_path: Path) -> None:
    """E, the SBM, D, the prior's encoder and V; another size is refused with its name and both values."""
    folder = written(tmp_path / "faces", WARPED)
    swapper, judge = model.build(WARPED), model.build_discriminator(WARPED)
    starter.fill(swapper, WARPED, folder)
    starter.fill_discriminator(judge, folder)
    wanted = read_starter(folder)
    for one, other in ((swapper, wanted.swapper), (judge, wanted.discriminator)):
        assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())
    other_sizes = WARPED.model_copy(update={"prior_width": 8})
    with pytest.raises(StyleBlendError, match=r"model.prior_width 4 and params.yaml 8"):
        starter.fill(model.build(other_sizes), other_sizes, folder)


def test_the_prior_learns_in_the_first_stage_alone() -> None:
    """It is read beside E, which is frozen in the second stage, too."""
    swapper = model.build(WARPED)
    assert swapper.prior is not None
    for stage, learns in (("train_encoder", True), ("finetune_decoder", False)):
        steps.choose_what_learns(swapper, stage)  # type: ignore[arg-type]
        assert {each.requires_grad for each in swapper.prior.parameters()} == {learns}


def test_without_any_version_the_starter_is_used(
    folder: Path, cfg: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line says so, and its name has the digits of its weights; without a starter the old remedy stands."""
    monkeypatch.chdir(tmp_path)
    found, name = find_model(cfg, None, starter=folder)
    assert (
        capsys.readouterr().out == f"nothing is registered yet as champion or candidate: using the starter, {folder}\n"
    )
    assert torch.equal(found.encoder.mean_code, read_starter(folder).swapper.encoder.mean_code)
    assert name.startswith("styleblend starter ") and len(name.split()[-1]) == 8
    assert find_model(cfg, "starter", starter=folder)[1] == name and not capsys.readouterr().out
    with pytest.raises(StyleBlendError, match="run `dvc repro` first"):
        find_model(cfg, None, starter=tmp_path / "absent")
    with pytest.raises(StyleBlendError, match="holds no starter"):
        find_model(cfg, "starter", starter=tmp_path / "absent")
    with loaders.follow_model(cfg, folder) as live:
        assert live.current.name == name
    with pytest.raises(StyleBlendError, match="no model registry"):
        loaders.follow_model(cfg, tmp_path / "absent")


def test_a_mesh_that_is_not_to_be_had_is_one_line(cfg: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A starter with the prior `warp` sees faces by a mesh of the catalogue: the message says how to get it."""
    warped = written(tmp_path / "faces", WARPED)
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    mirrored = cfg.model_copy(update={"pretrained": cfg.pretrained.model_copy(update={"mirror": empty})})
    with pytest.raises(StyleBlendError, match="mediapipe_face_mesh is not in the mirror .*pretrained.mirror") as caught:
        find_model(mirrored, "starter", starter=warped, state=tmp_path / "state")
    assert "\n" not in str(caught.value)


def version(**tags: str) -> Version:
    return Version("styleblend", "3", "0" * 32, tags, ("champion",))


@pytest.mark.parametrize(
    ("tags", "photographs", "there", "said"),
    [
        ({LEARNED_FROM: RENDERED}, True, True, "learned from rendered faces only, .*`--model starter` takes"),
        ({LEARNED_FROM: RENDERED}, True, False, "learned from rendered faces only, and .* photographs$"),
        ({LEARNED_FROM: RENDERED}, False, True, None),
        ({LEARNED_FROM: f"{RENDERED}, photographs"}, True, True, None),
        ({}, True, True, None),
    ],
)
def test_a_version_of_rendered_faces_says_so_before_photographs(
    folder: Path, cfg: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    tags: dict[str, str], photographs: bool, there: bool, said: str | None,
) -> None:  # fmt: skip
    """It is used all the same; rendered faces that are cut out already, and versions that saw others, need none."""
    monkeypatch.setattr(loaders.versions, "find_version", lambda track, reference: version(**tags))
    monkeypatch.setattr(loaders.versions, "kept_version", lambda track, version, kept: folder)
    name = find_model(cfg, None, photographs, folder if there else tmp_path / "absent")[1]
    assert name == "styleblend version 3"
    out = capsys.readouterr().out
    assert re.search(said, out, re.MULTILINE) if said else not out


def test_the_presets_model_is_the_starters(root: Path) -> None:
    """What `styleblend preset faces` trains has the sizes of the committed starter."""
    if not starter.is_there(root / starter.STARTER):
        pytest.skip("no starter was made yet")
    preset = yaml.safe_load((root / "presets/faces.yaml").read_text())
    assert Model.model_validate(preset["model"]) == starter.sizes(root / starter.STARTER)


def test_a_committed_starter_is_whole(root: Path) -> None:
    """It can be read, its terms are stated, and a wrong file would not pass."""
    if not starter.is_there(root / starter.STARTER):
        pytest.skip("no starter was made yet")
    assert read_starter(root / starter.STARTER).card["not_verified"]


def test_one_weight_of_another_shape_is_refused(tmp_path: Path) -> None:
    """Strictly: nothing is left as it was built."""
    folder = written(tmp_path / "faces")
    state = load_file(folder / "swapper.safetensors")
    state.pop(next(iter(state)))
    save_file(state, folder / "swapper.safetensors")
    with pytest.raises(StyleBlendError, match="holds no usable model"):
        read_starter(folder)


def test_settings_of_a_start_agree(root: Path) -> None:
    """encoder_start 'starter' and pretrained.starter belong together."""
    values = yaml.safe_load((root / "params.yaml").read_text())
    values["train_encoder"]["encoder_start"], values["register"]["gate"] = "starter", {}
    with pytest.raises(StyleBlendError, match="encoder_start is 'starter', but pretrained.starter is 'none': set them"):
        parse_params(values, "params.yaml")
    values["pretrained"]["starter"] = "faces"
    with pytest.raises(StyleBlendError, match="discriminator is .small., but .* .starter., which has its own"):
        parse_params(values, "params.yaml")
    values["pretrained"]["discriminator"] = "none"
    assert parse_params(values, "params.yaml").pretrained.starter == "faces"
    assert training(encoder_start="starter").encoder_start == "starter"
