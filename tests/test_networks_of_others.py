"""A run on networks that others made: StyleGAN's decoder, two ArcFaces, IR-SE50's body, Inception. Self-made files."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

import arcface_files
import stylegan_files
import tiny_project
import tiny_training as tiny
from ir_se50_files import REAL_BLOCKS, REAL_WIDTHS, SMALL_BLOCKS, SMALL_WIDTHS, face_network
from styleblend import model
from styleblend.config.base import ConfigError
from styleblend.config.data import Perceive, Split
from styleblend.config.evaluation import Evaluate
from styleblend.config.model import Model
from styleblend.config.params import parse_params
from styleblend.config.product import Swap
from styleblend.config.provenance import Provenance
from styleblend.config.tracking import Tracking
from styleblend.config.training import LossWeights
from styleblend.errors import StyleBlendError
from styleblend.evaluation import baselines
from styleblend.evaluation.benchmark import Inputs
from styleblend.face_detector.detection import Detection
from styleblend.face_detector.finder import Found
from styleblend.model import Blending, Encoder, Swapper
from styleblend.perception import identity
from styleblend.perception.identity import ArcFace
from styleblend.registry import mlflow_store, runs
from styleblend.stages.evaluate import evaluate
from styleblend.stages.perceive import perceive
from styleblend.stages.split import split
from styleblend.swapping import ReferenceSelector, find_identity
from styleblend.system.files import sha256
from styleblend.training import loop, ray_trainer
from styleblend.training.batches import Batch
from styleblend.training.generated import load_perception
from styleblend.training.steps import choose_what_learns, generator_terms
from styleblend.weights.formats.stylegan import load_stylegan
from styleblend.weights.start import start
from torchscript_files import Metric, scripted

PAPER_TERMS = dict.fromkeys(LossWeights.model_fields, 0.0) | {
    "adversarial": 1, "identity": 10, "contrastive": 5, "reconstruction": 1, "landmarks": 100, "swap_consistency": 1,
}  # fmt: skip
NAMES = {
    "identity": ("identity.onnx", "recogniser.onnx"),
    "identity_judge": ("identity_judge.onnx", "other_recogniser.onnx"),
    "decoder": ("decoder.pt", "stylegan.pt"),
    "inception": ("inception.pt", "inception-2015-12-05.pt"),
    "encoder_body": ("encoder_body.pth", "model_ir_se50.pth"),
}


def enter(networks: Path, **added: dict[str, str]) -> None:
    """What stands in the folder, in its networks.json: others' files under their own names, and the small ones."""
    entries: dict[str, dict[str, str]] = {}
    for file in sorted(networks.glob("*.safetensors")):
        entries[file.stem] = {"file": file.name, "format": "safetensors", "origin": "made by this project"}
    for role, (file_name, name) in NAMES.items():
        if (networks / file_name).is_file():
            entries[role] = {"file": file_name, "name": name, "format": "other", "origin": "https://example.org"}
    for entry in entries.values():
        entry |= {"sha256": sha256(networks / entry["file"]), "licence": "non-commercial"}
    (networks / "networks.json").write_text(json.dumps(entries | added))


def stylegan(path: Path) -> stylegan_files.Built:
    """A generator of lernapparat's form, everything in it random, in its file."""
    torch.manual_seed(3)
    built = stylegan_files.lernapparat(tiny.MODEL.decoder_widths, tiny.MODEL.style_dim)
    torch.save(built.tensors, path)
    return built


def write_networks(networks: Path) -> stylegan_files.Built:
    """The folder of a run that has others' networks in five roles and small ones for landmarks and attributes."""
    tiny.write_networks(networks)
    # What others' networks replace, and what no term of the paper looks through.
    for role in ("identity", "encoder", "decoder", "landmarks_3d"):
        (networks / f"{role}.safetensors").unlink()
        (networks / f"{role}.json").unlink(missing_ok=True)
    arcface_files.write(arcface_files.iresnet(embedding=16, seed=1), networks / "identity.onnx")
    arcface_files.write(arcface_files.mobilefacenet(embedding=12, seed=2), networks / "identity_judge.onnx")
    built = stylegan(networks / "decoder.pt")
    enter(networks)
    return built


class Run(NamedTuple):
    """Where a run left what."""

    data: Path
    models: tuple[Path, Path]
    metrics: dict[str, Any]

    @property
    def networks(self) -> Path:
        return self.data / "networks"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """perceive, split, both training stages and evaluate, by their own functions, on 12 rendered faces."""
    root = tmp_path_factory.mktemp("run")
    tiny_project.make(root)
    data = root / "data"
    faces, networks = data / "faces", data / "networks"
    pd.read_parquet(faces / "manifest.parquet").assign(weight=1.0).to_parquet(faces / "manifest.parquet")
    networks.rename(data / "small")
    write_networks(networks)
    for ending in ("json", "safetensors"):
        shutil.copy(data / f"small/attributes_judge.{ending}", networks)
    scripted(Metric(), networks / "inception.pt")
    enter(networks)
    before = Path.cwd()
    os.chdir(root)
    try:
        return _run(data)
    finally:
        os.chdir(before)


def _run(data: Path) -> Run:
    faces, networks, perceived, splits = (data / name for name in ("faces", "networks", "perceived.parquet", "splits"))
    perceive(faces, networks, perceived, Perceive(batch_size=5))
    split(faces, perceived, data / "selection.parquet", splits, Split(val=0.3, test=0.3, test_pairs=6, val_pairs=4))
    store = mlflow_store.resolved(Tracking())
    parent = runs.start_pipeline(store, "test", {})
    folders: list[Path] = []
    settings = tiny.training(steps=2, loss=PAPER_TERMS | {"perceptual": 1}, encoder_start="new", same_person=0)
    for stage in ("train_encoder", "finetune_decoder"):
        job = ray_trainer.Job(
            stage=stage,  # type: ignore[arg-type]
            fingerprint="0" * 16,
            model=tiny.MODEL,
            training=settings,
            tracking=store,
            parent_run_id=parent,
            state=data / stage,
            splits=splits,
            faces=faces,
            perceived=perceived,
            networks=networks,
            encoder=folders[0] if folders else None,
        )
        ray_trainer.train_job(job, loop.Worker())
        folders.append(job.state / ray_trainer.RESULT)
    cfg = Evaluate(bootstrap=100, grid_rows=2, batch_size=4, inception_sha256=sha256(networks / "inception.pt"))
    inputs = Inputs(splits, faces, perceived, networks, folders[1], (tiny_project.SOURCE,), "new")
    metrics = evaluate(inputs, data / "evaluate", data / "metrics.json", cfg, Tracking(), Provenance())
    return Run(data, (folders[0], folders[1]), metrics)


def pictures(count: int, side: int = tiny.SIDE_PX, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_perceive_sees_people_through_both_files(run: Run) -> None:
    """Each face's row has what the training's file and the judge's file say of it, of their own sizes."""
    manifest = pd.read_parquet(run.data / "faces/manifest.parquet")
    perceived = pd.read_parquet(run.data / "perceived.parquet")
    seen = np.stack([np.array(Image.open(run.data / "faces" / path)) for path in manifest["path"]])
    images = torch.from_numpy(seen).permute(0, 3, 1, 2).float() / 127.5 - 1
    for column, role, size in (("identity", "identity", 16), ("judge", "identity_judge", 12)):
        wanted = identity.load_arcface(run.networks / f"{role}.onnx")(images)
        found = torch.from_numpy(np.stack(perceived[column].to_list()))
        assert found.shape == (12, size)
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)


def test_the_first_stage_keeps_stylegan_and_the_second_goes_on_from_it(run: Run) -> None:
    """D's synthesis leaves stage 1 bit for bit as it was loaded, stage 2 changes D alone; all weights are finite."""
    first, second = (load_file(folder / "swapper.safetensors") for folder in run.models)
    loaded = load_stylegan(run.networks / "decoder.pt", tiny.MODEL)
    for name, value in loaded.decoder.items():
        assert torch.equal(first[f"decoder.{name}"], value), name
    assert any(value.any() for name, value in first.items() if name.startswith("decoder.pathway."))
    assert torch.equal(second["encoder.mean_code"], loaded.mean_code.expand(tiny.MODEL.n_styles, -1))
    assert {name.split(".")[0] for name, value in second.items() if not torch.equal(value, first[name])} == {"decoder"}
    assert all(value.isfinite().all() for value in second.values())
    for folder in run.models:
        history = json.loads((folder / "history.json").read_text())
        assert all(np.isfinite(value) for row in history for value in row.values())


def test_metrics_are_finite_and_name_the_networks(run: Run) -> None:
    """The judge by its own file's name, and Inception's distance as the FID."""
    written = json.loads((run.data / "metrics.json").read_text())
    assert written == run.metrics
    assert written["network_judge"] == "other_recogniser.onnx" and written["network_frechet"] == "inception"
    assert {"fid", "untrained_mixing/fid", "id_retrieval_top1", "true_swap/id_similarity_source"} <= set(written)
    assert all(np.isfinite(value) for value in written.values() if not isinstance(value, str))


def test_use_tells_people_apart_with_the_runs_network(run: Run, tmp_path: Path) -> None:
    """--target-like takes ArcFace where the run has it, the committed network where it has none, and finds a face."""
    network = find_identity(run.networks, run.data / "small")
    assert isinstance(network, ArcFace) and network.name == "recogniser.onnx"
    tiny.write_networks(tmp_path / "small")
    assert isinstance(find_identity(tmp_path / "none", tmp_path / "small"), identity.IdentityNetwork)
    people = [Image.fromarray(np.uint8(255 * np.random.default_rng(seed).random((64, 64, 3)))) for seed in (0, 1)]
    group = Image.new("RGB", (128, 64))
    for place, person in enumerate(people):
        group.paste(person, (64 * place, 0))
    points = np.array([[27, 28], [37, 28], [32, 33], [28, 38], [36, 38]], np.float32)
    here, there = (
        Detection((64.0 * place, 0.0, 64.0, 64.0), points + np.float32([64 * place, 0]), 1.0) for place in (0, 1)
    )
    likeness = ReferenceSelector.from_picture(
        people[1], Found([here], []), network, Swap(min_likeness=0.9, likeness_margin=0)
    )
    assert likeness(group, [here, there]) == [there]


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, stylegan_files.Built]:
    folder = tmp_path_factory.mktemp("others") / "networks"
    return folder, write_networks(folder)


def test_training_begins_with_what_stylegan_draws(tmp_path: Path) -> None:
    """For the same codes and noise, with any target's features: the pathway adds nothing yet, the mean code is set."""
    torch.manual_seed(4)
    swapper = model.build(tiny.MODEL)
    source, target = pictures(2), pictures(2, seed=1)
    noise = swapper.decoder.make_noise([5, 6])
    built = stylegan(tmp_path / "decoder.pt")
    enter(tmp_path)
    start(swapper, tiny.MODEL, tmp_path, "new")
    assert torch.equal(swapper.encoder.mean_code[0], load_stylegan(tmp_path / "decoder.pt", tiny.MODEL).mean_code)
    with torch.no_grad():
        encoding = swapper.encoder(target)
        codes = swapper.blending(swapper.encoder(source).codes, encoding.codes)
        drawn = swapper(source, target, noise)
        wanted = stylegan_files.original_picture(built, codes, noise)
        assert torch.equal(drawn, swapper.decoder(codes, None, noise))
    assert (drawn - wanted).abs().max() < 1e-3 * wanted.abs().mean()


def batch_of(size: int, embedding: int, side: int = tiny.SIDE_PX) -> Batch:
    def unit(*shape: int) -> Tensor:
        return torch.nn.functional.normalize(torch.randn(*shape), dim=-1)

    return Batch(
        pictures(size, side), pictures(size, side, 1), unit(size, embedding), unit(size, embedding),
        torch.rand(size, 68, 2), torch.zeros(size, dtype=torch.bool), unit(size, 3, embedding), tuple(range(size)),
        pictures(size, side, 1), torch.zeros(size, dtype=torch.bool),
    )  # fmt: skip


def test_gradients_of_arcface_reach_the_encoder(networks: tuple[Path, stylegan_files.Built]) -> None:
    """With the identity term alone every weight of the path from the pictures to the codes learns, StyleGAN's none."""
    torch.manual_seed(0)
    swapper, judge = model.build(tiny.MODEL), model.build_discriminator(tiny.MODEL)
    start(swapper, tiny.MODEL, networks[0], "new")
    choose_what_learns(swapper, "train_encoder")
    cfg = tiny.training(loss=dict.fromkeys(PAPER_TERMS, 0.0) | {"identity": 1.0})
    perception = load_perception(networks[0], cfg.loss, torch.device("cpu"))
    assert perception.landmarks is None and perception.landmarks_3d is None
    terms, _ = generator_terms(swapper, judge, perception, batch_of(3, 16), cfg, 0)
    assert set(terms) == {"identity"}
    terms["identity"].backward()
    for name, value in swapper.encoder.named_parameters():
        assert value.grad is not None and value.grad.isfinite().all() and value.grad.any(), name
    assert all(value.grad is None for value in swapper.decoder.synthesis_parameters())
    assert all(value.grad is None for value in perception.identity.parameters())


def body_swapper(side: int = 32) -> Swapper:
    """The tiny model with an encoder that has the face network's layers, fewer of them."""
    sizes = tiny.MODEL
    encoder = Encoder(
        side, sizes.n_styles, sizes.style_dim, SMALL_BLOCKS, SMALL_WIDTHS, sizes.pyramid_width, 8, body="ir_se50"
    )
    return Swapper(encoder, Blending(sizes.n_styles, sizes.style_dim, 2, 2), model.build_decoder(sizes))


def test_the_body_starts_from_the_face_network_around_stylegans_mean(
    networks: tuple[Path, stylegan_files.Built], tmp_path: Path
) -> None:
    """encoder_start `body`: the file's weights, new heads, and the mean code of the decoder that is there."""
    folder = shutil.copytree(networks[0], tmp_path / "networks")
    state = face_network(SMALL_BLOCKS, SMALL_WIDTHS)
    torch.save(state, folder / "encoder_body.pth")
    enter(folder)
    swapper = body_swapper()
    before = swapper.encoder.heads[0].linear.weight.clone()
    start(swapper, tiny.MODEL, folder, "body")
    assert torch.equal(swapper.encoder.stem[0].weight, state["input_layer.0.weight"])
    assert torch.equal(swapper.encoder.stages[3][1].residual[4].running_var, state["body.7.res_layer.4.running_var"])
    assert torch.equal(swapper.encoder.heads[0].linear.weight, before)
    mean = load_stylegan(folder / "decoder.pt", tiny.MODEL).mean_code
    assert torch.equal(swapper.encoder.mean_code, mean.expand(tiny.MODEL.n_styles, -1)) and mean.any()


def test_the_body_starts_around_the_small_decoders_mean(tmp_path: Path) -> None:
    """Without a StyleGAN the mean code is the small inversion's, whose other weights fit another encoder."""
    tiny.write_networks(tmp_path / "networks")
    stored = model.build_encoder(tiny.MODEL)
    stored.mean_code.normal_()
    save_file(stored.state_dict(), tmp_path / "networks/encoder.safetensors")
    torch.save(face_network(SMALL_BLOCKS, SMALL_WIDTHS), tmp_path / "networks/encoder_body.pth")
    enter(tmp_path / "networks")
    swapper = body_swapper()
    start(swapper, tiny.MODEL, tmp_path / "networks", "body")
    assert torch.equal(swapper.encoder.mean_code, stored.mean_code)


def test_the_paper_encoder_takes_a_step_from_the_published_layout(tmp_path: Path) -> None:
    """All 24 blocks from a file of the published size: one step's terms are finite and their gradients reach the stem.

    The baseline of the evaluation begins from the same body.
    """
    body = {"encoder_blocks": REAL_BLOCKS, "encoder_widths": REAL_WIDTHS, "stem_stride": 1, "encoder_body": "ir_se50"}
    sizes = Model.model_validate(tiny.MODEL.model_dump() | body)
    folder = tmp_path / "networks"
    write_networks(folder)
    state = face_network(REAL_BLOCKS, REAL_WIDTHS)
    torch.save(state, folder / "encoder_body.pth")
    enter(folder)
    swapper = baselines.untrained_mixing(sizes, folder, 0, "body")
    assert torch.equal(swapper.encoder.stages[3][2].residual[4].weight, state["body.23.res_layer.4.weight"])
    choose_what_learns(swapper, "train_encoder")
    cfg = tiny.training(loss=PAPER_TERMS)
    perception = load_perception(folder, cfg.loss, torch.device("cpu"))
    terms, _ = generator_terms(swapper, model.build_discriminator(sizes), perception, batch_of(2, 16), cfg, 0)
    total = torch.stack(list(terms.values())).sum()
    total.backward()
    reached = swapper.encoder.stem[0].weight.grad
    assert total.isfinite() and reached is not None and reached.isfinite().all() and reached.any()


def test_wrong_starts_are_one_line_with_a_remedy(networks: tuple[Path, stylegan_files.Built], tmp_path: Path) -> None:
    """Each mistake names the setting or the file, what it is and what to set."""
    others, swapper = networks[0], model.build(tiny.MODEL)

    def refuse(message: str, folder: Path, way: Any, sizes: Model = tiny.MODEL, own: Swapper = swapper) -> None:
        with pytest.raises(StyleBlendError, match=message) as caught:
            start(own, sizes, folder, way)
        assert "\n" not in str(caught.value)

    refuse(
        "encoder_start is 'pretrained', .* the decoder is stylegan.pt: set it to 'body' or 'new'", others, "pretrained"
    )
    refuse("encoder_start is 'body', but .* has no encoder_body: name one in the section pretrained", others, "body")
    wider = tiny.MODEL.model_copy(update={"resolution": 64, "decoder_widths": {**tiny.MODEL.decoder_widths, 64: 8}})
    refuse("its largest block is of 32 px, model.resolution is 64", others, "new", wider, model.build(wider))

    with_body = shutil.copytree(others, tmp_path / "with_body")
    torch.save(face_network(SMALL_BLOCKS, SMALL_WIDTHS), with_body / "encoder_body.pth")
    enter(with_body)
    with pytest.raises(
        StyleBlendError, match="'se_resnet' cannot hold encoder_body.pth.* model.encoder_body to ir_se50"
    ):
        start(swapper, tiny.MODEL, with_body, "body")
    (with_body / "decoder.pt").unlink()
    refuse("network 'decoder' is missing: no .*decoder.pt; run `dvc repro pretrained`", with_body, "new")

    small = tmp_path / "small"
    tiny.write_networks(small)
    save_file({"mean_code": torch.zeros(3, 4)}, small / "encoder.safetensors")
    refuse(r"has a mean_code of \[3, 4\], .* needs \[8, 16\]", small, "new", own=model.build(tiny.MODEL))
    (small / "encoder.safetensors").write_bytes(b"cut")
    refuse("encoder.safetensors is damaged", small, "new")
    (small / "encoder.safetensors").unlink()
    refuse("encoder_start is 'pretrained', but .*encoder.safetensors is missing", small, "pretrained")


@pytest.mark.parametrize("content", ["[]", '{"identity": {"sha256": "ab"}}', '{"identity": "identity.onnx"}', "{"])
def test_a_damaged_catalogue_is_one_line(content: str, tmp_path: Path) -> None:
    """networks.json that says nothing usable of a role is named with the stage that writes it."""
    (tmp_path / "networks.json").write_text(content)
    with pytest.raises(StyleBlendError, match="networks.json .*: run `dvc repro pretrained` again") as caught:
        identity.load(tmp_path, "identity")
    assert "\n" not in str(caught.value)


def test_the_settings_are_refused_before_anything_runs(root: Path) -> None:
    """`body` without the body that takes its weights is found when params.yaml is read."""
    values = yaml.safe_load((root / "params.yaml").read_text())
    values["train_encoder"]["encoder_start"] = "body"
    with pytest.raises(ConfigError, match="encoder_start 'body' needs model.encoder_body 'ir_se50'") as caught:
        parse_params(values, "params.yaml")
    assert "\n" not in str(caught.value)


def test_the_hash_decides_whether_inception_is_run(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that came with the file is enough; where the settings state another, nothing is run."""
    monkeypatch.chdir(run.data.parent)
    inputs = Inputs(
        run.data / "splits", run.data / "faces", run.data / "perceived.parquet", run.networks, run.models[1],
        (tiny_project.SOURCE,), "new",
    )  # fmt: skip
    out, file = run.data / "other", run.data / "other.json"
    cfg = Evaluate(bootstrap=100, grid_rows=2, batch_size=4)
    flat = evaluate(inputs, out, file, cfg, Tracking(), Provenance())
    assert flat["fid"] == run.metrics["fid"] and flat["network_frechet"] == "inception"
    wrong = cfg.model_copy(update={"inception_sha256": "0" * 64})
    with pytest.raises(StyleBlendError, match="inception.pt has sha256 .*: it is not run"):
        evaluate(inputs, out, file, wrong, Tracking(), Provenance())
