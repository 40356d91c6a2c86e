"""params.yaml at the door: what is wrong is said in one line that names the key and the value."""

from __future__ import annotations

import json
import traceback
from copy import deepcopy
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from styleblend.config import catalogue, figures
from styleblend.config.base import ConfigError
from styleblend.config.model import sizes_of
from styleblend.config.params import load_params, parse_params
from styleblend.config.pretrained import ROLES, Pretrained
from styleblend.evaluation.metrics import METRICS
from styleblend.experiments import isolated_run

BAD: list[tuple[str, Any, str]] = [
    ("train_encoder.stepz", 5, r"train_encoder\.stepz: unknown key"),
    ("nosuch", {}, r"nosuch: unknown key"),
    ("train_encoder.steps", 0, r"train_encoder\.steps: .*greater than or equal to 1, got 0"),
    ("train_encoder.steps", "many", r"train_encoder\.steps: .*integer.*got 'many'"),
    ("train_encoder.learning_rate", -1.0, r"train_encoder\.learning_rate: .*greater than 0, got -1\.0"),
    ("train_encoder.loss.identity", -1, r"train_encoder\.loss\.identity: .*got -1"),
    ("train_encoder.loss.identitty", 1, r"train_encoder\.loss\.identitty: unknown key"),
    ("train_encoder.batch_size", 15, r"batch_size 15 does not divide evenly over 2 workers"),
    ("train_encoder.accumulate", 3, r"accumulate is 3, but each of 2 workers has 4 pictures of batch_size 8: .* of 4"),
    ("finetune_decoder.tf32", True, r"finetune_decoder\.tf32 is true, but gpus_per_worker is 0, .*: set it to false"),
    ("train_encoder.same_person", 1.5, r"train_encoder\.same_person: .*less than or equal to 1, got 1\.5"),
    ("finetune_decoder.precision", "float16", r"finetune_decoder\.precision: .*'float32' or 'bfloat16'"),
    ("model.resolution", 100, r"model\.resolution is 100: it must be a power of two"),
    ("model.decoder_widths", {4: 8}, r"model\.decoder_widths has blocks \[4\]"),
    ("model.blending_heads", 7, r"model\.blending_heads is 7: it must divide style_dim 128"),
    ("model.pathway_resolutions", [8, 128], r"\[128\] are no decoder blocks"),
    ("model.input_px", 16, r"model\.input_px is 16: it must be a power of two, at least 32"),
    ("model.encoder_blocks", [0, 1, 2, 2], r"model\.encoder_blocks is \[0, 1, 2, 2\]: .* at least 1"),
    ("model.encoder_widths", [16, 32, 60, 96], r"model\.encoder_widths is \[16, 32, 60, 96\]: .* multiple of 8"),
    ("model.encoder_body", "resnet", r"model\.encoder_body: .*'se_resnet', 'ir_se50' or 'dlib_resnet', got 'resnet'"),
    ("model.stem_stride", 3, r"model\.stem_stride: .*1 or 2, got 3"),
    ("model.blending_layers", 0, r"model\.blending_layers is 0: give at least 1"),
    ("model.blending_weights", "style", r"model\.blending_weights: .*'channel' or 'element', got 'style'"),
    ("model.blending_pace", 50, r"model\.blending_pace: unknown key; it is train_encoder.blending_lr_factor now"),
    ("model.decoder_variant", "nvidia", r"model\.decoder_variant: unknown key"),
    ("model.decoder_widths", {4: 8, 8: 8, 16: 0, 32: 8, 64: 8}, r"model\.decoder_widths is \{.*16: 0.*at least 1"),
    ("model.discriminator_scales", 4, r"model\.discriminator_scales is 4: .* of 64 px at most 3"),
    ("model.discriminator_scales", 0, r"model\.discriminator_scales is 0: give at least 1"),
    ("train_encoder.blending_lr_factor", 0.5, r"blending_lr_factor: .*greater than or equal to 1, got 0\.5"),
    ("align.size_px", 32, r"align\.size_px 32 and model\.input_px 64 differ"),
    ("align.detector", "yunet", r"pretrained\.detector is 'none': choose one of yunet"),
    ("align.detector", "insightface", r"'insightface' but pretrained\.detector is 'none'"),
    ("align.detector", "mediapipe", r"pretrained\.detector is 'none': choose one of mediapipe_face_detector"),
    ("model.prior", "warp", r"model\.prior is 'warp', which needs a face mesh: set pretrained\.landmarks to mediapipe"),
    ("model.join", "none", r"train_encoder\.loss\.mask is 0\.02, but model\.join is 'none': set it to 'mask'"),
    ("split.true_swaps", False, r"train_encoder\.known_swaps is 1, but split\.true_swaps is false: set it to true"),
    ("train_encoder.encoder_start", "starter", r"'starter', but pretrained\.starter is 'none': set them to 'starter'"),
    ("pretrained.starter", "faces", r"encoder_start is 'pretrained', but pretrained\.starter is 'faces'"),
    ("align.detector", "eyes", r"align\.detector: .*got 'eyes'"),
    ("split.val", 0.6, r"split\.val: .*less than 0\.5, got 0\.6"),
    ("download.sources", [], r"download\.sources: .*at least 1"),
    ("register.alias", "my alias!", r"register\.alias: .*got 'my alias!'"),
    ("retrain.promote", "yes", r"retrain\.promote: .*'manual' or 'auto'"),
    ("provenance.certificate", "mine.pem", r"'mine\.pem' and provenance\.private_key is 'None': give both, or neither"),
    ("provenance.algorithm", "rsa", r"provenance\.algorithm: .*got 'rsa'"),
    ("provenance.timestamp_url", "ftp://x", r"provenance\.timestamp_url: .*got 'ftp://x'"),
    ("retrain.timezone", "Mars/Base", r"retrain\.timezone 'Mars/Base' is not known"),
    ("register.gate", {"min": {"id_retrieval_top": 0.5}}, "'id_retrieval_top' in min, .* mean .*id_retrieval_top1"),
    ("register.gate", {"max": {"warp_blendd/pose_error_deg": 5}}, "'warp_blendd/pose_error_deg' in max, which is no"),
    ("register.gate", {"champion": ["id_similarity_target"]}, "'id_similarity_target' in champion, .*did you mean"),
    ("register.gate", {"baselines": {"x": ["copy_target"]}}, "'x' in baselines, .*: choose from id_retrieval_top1, "),
    ("register.gate", {"baselines": {"pose_error_deg": ["copy"]}}, "the method 'copy' for pose_error_deg"),
    ("retrain.promote", "auto", r"retrain\.promote is 'auto' but register\.gate has no limit.*'manual'"),
    ("tracking", None, r"tracking: "),
    ("train_encoder.ray_address", "auto", r"ray_address is 'auto', but train_encoder\.storage is null"),
    ("train_encoder.storage", "data/state", r"storage 'data/state' is neither a whole path, .*, nor a URL of s3://"),
    ("train_encoder.storage", "ftp://host/x", r"storage 'ftp://host/x' is neither"),
    ("train_encoder.storage", "s3://key:secret@bucket/x", r"storage holds a name or password"),
    ("train_encoder.storage", "s3://bucket/x?access_key=k&secret_key=s", r"storage holds a name or password"),
    ("finetune_decoder.min_workers", 3, r"min_workers 3 is more than workers 2: lower it"),
]


@pytest.fixture(scope="session")
def params(root: Path) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load((root / "params.yaml").read_text())
    return values


SECRET = [
    "https://me:s3cret@mlflow.example.com",
    "https://s3cret@mlflow.example.com",
    "postgresql://me:s3cret@db.example.com/mlflow",
    "postgresql://db.example.com/mlflow?user=me&password=s3cret",
    "https://me:s3cret@[mlflow",
]


@pytest.mark.parametrize("uri", SECRET)
def test_a_store_s_password_is_refused_and_not_shown(params: dict[str, Any], uri: str) -> None:
    """The line names the variables that take it, and does not repeat it."""
    with pytest.raises(ConfigError, match="tracking.uri holds .*MLFLOW_TRACKING_PASSWORD") as caught:
        parse_params(with_value(params, "tracking.uri", uri), "params.yaml")
    assert "s3cret" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("uri", ["http://127.0.0.1:5000", "sqlite:////a@b/c:d.db", "postgresql://me@db/mlflow"])
def test_a_store_without_a_password_is_taken(params: dict[str, Any], uri: str) -> None:
    """A database's user alone is no secret."""
    assert parse_params(with_value(params, "tracking.uri", uri), "params.yaml").tracking.uri == uri


def with_value(params: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    changed = deepcopy(params)
    *sections, name = key.split(".")
    place = changed
    for section in sections:
        place = place[section]
    place[name] = value
    return changed


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("provenance.timestamp_url", "http://me:s3cret@time.example.com"),
        ("provenance.timestamp_url", "ftp://me:s3cret@time.example.com"),
        (
            "download.sources",
            [
                {
                    "kind": "archive",
                    "url": "https://me:s3cret@example.com/a.zip",
                    "sha256": "0" * 64,
                    "licence": "own",
                    "terms": "own",
                }
            ],
        ),
    ],
)  # fmt: skip
def test_a_password_in_an_address_is_refused_and_not_shown(params: dict[str, Any], key: str, value: Any) -> None:
    """DVC, MLflow and every version keep settings; the line says which setting and nothing of the secret."""
    with pytest.raises(ConfigError, match=r"holds a name or password|me:\*\*\*@time") as caught:
        parse_params(with_value(params, key, value), "params.yaml")
    assert "s3cret" not in str(caught.value)


def test_a_gate_can_name_every_figure_that_is_measured() -> None:
    """Figures with a better direction for comparisons, all of them, of groups and methods too, for limits."""
    known = {name for name, metric in METRICS.items() if metric.averaged}
    assert known <= set(figures.FIGURES)
    assert {name for name, metric in METRICS.items() if metric.words} <= set(figures.COMPARED)
    for name in known:
        for given in (name, f"{name}_low", f"{name}_yaw_0_15", f"{name}_yaw_1.5_up", f"copy_target/{name}"):
            assert figures.is_figure(given), given
    assert figures.is_figure("fid") and figures.is_figure("true_swap/frechet_small_judge")
    assert not figures.is_figure("n_pairs_low") and not figures.is_figure(f"nobody/{name}")


def test_the_committed_parameters_are_valid(root: Path) -> None:
    """A fresh clone runs."""
    assert load_params(root / "params.yaml").train_encoder.steps > 0


def test_a_training_on_a_cluster_needs_what_its_machines_reach(params: dict[str, Any]) -> None:
    """With a storage alone MLflow's file is refused, in one line with both; with a server all is well."""
    values = deepcopy(params)
    values["train_encoder"] |= {"ray_address": "auto", "storage": "s3://bucket/x"}
    with pytest.raises(ConfigError) as caught:
        parse_params(values, "params.yaml")
    said = "params.yaml: train_encoder.ray_address is 'auto', but tracking.uri 'sqlite:///mlflow.db' is a file of one"
    assert str(caught.value).startswith(said) and "\n" not in str(caught.value)
    values["tracking"]["uri"] = "http://127.0.0.1:5000"
    assert parse_params(values, "params.yaml").train_encoder.fewest_workers == 2


@pytest.mark.parametrize(("key", "value", "message"), BAD, ids=lambda value: str(value)[:40])
def test_a_bad_value_is_one_line_with_key_and_value(params: dict[str, Any], key: str, value: Any, message: str) -> None:
    """The line begins with the file's name, says what is wrong and has no line break."""
    params = with_value(params, "register.gate", {})
    with pytest.raises(ConfigError, match=message) as caught:
        parse_params(with_value(params, key, value), "params.yaml")
    assert str(caught.value).startswith("params.yaml: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("section", ["tracking", "model", "download", "align", "train_encoder", "retrain"])
def test_a_missing_section_is_named(params: dict[str, Any], section: str) -> None:
    """Every section is required, so that params.yaml says what a run does."""
    with pytest.raises(ConfigError, match=f"{section}: missing"):
        parse_params({key: value for key, value in params.items() if key != section}, "params.yaml")


def test_several_mistakes_are_all_named(params: dict[str, Any]) -> None:
    """A user mends them in one go."""
    wrong = with_value(with_value(params, "evaluate.seed", -1), "perceive.batch", 3)
    with pytest.raises(ConfigError, match=r"perceive\.batch.*evaluate\.seed|evaluate\.seed.*perceive\.batch"):
        parse_params(wrong, "params.yaml")


def test_photographs_cannot_be_aligned_by_annotations(params: dict[str, Any]) -> None:
    """A folder has no landmarks: the error names the source and the remedy."""
    source = {"kind": "folder", "name": "mine", "path": "pictures", "licence": "own", "terms": "own"}
    wrong = with_value(with_value(params, "download.sources", [source]), "download.origin", "pictures")
    with pytest.raises(ConfigError, match=r"'annotations' cannot serve \['mine'\]: set it to 'yunet'"):
        parse_params(wrong, "params.yaml")


def test_photographs_that_dvc_would_not_watch_are_refused(params: dict[str, Any]) -> None:
    """Pictures outside download.origin could change without a stage running again."""
    source = {"kind": "folder", "name": "mine", "path": "pictures", "licence": "own", "terms": "own"}
    with pytest.raises(ConfigError, match=r"download\.origin.*does not hold 'pictures'"):
        parse_params(with_value(params, "download.sources", [source]), "params.yaml")


def start_of(params: dict[str, Any], start: str, **pretrained: str) -> dict[str, Any]:
    """The settings with an encoder that could be of either kind, as far as sizes go."""
    changed = with_value(params, "train_encoder.encoder_start", start)
    changed["model"] |= {"encoder_body": "ir_se50", "stem_stride": 1, "encoder_blocks": [3, 4, 14, 3]}
    changed["model"] |= {"encoder_widths": [64, 128, 256, 512]}
    # half_mask is measured with the small decoder and its inversion alone.
    return with_value(changed, "register.gate.baselines", {}) | {"pretrained": pretrained}


@pytest.mark.parametrize(
    ("method", "changes", "why"),
    [
        ("half_mask", {"train_encoder.encoder_start": "new"}, "train_encoder.encoder_start 'new'"),
        ("starter", {}, "train_encoder.encoder_start 'pretrained'"),
        ("prior_alone", {}, "model.prior 'none'"),
        ("shuffled_codes", {}, "model.prior 'none'"),
        ("untrained_mixing", {}, None),
        ("half_mask", {}, None),
    ],
)
def test_a_gate_compares_with_what_is_measured(
    params: dict[str, Any], method: str, changes: dict[str, Any], why: str | None
) -> None:
    """A method that the evaluation of these settings has not is refused before anything runs, and others are named."""
    values = with_value(params, "register.gate.baselines", {"outside_l1": [method]})
    for key, value in changes.items():
        values = with_value(values, key, value)
    if why is None:
        assert parse_params(values, "params.yaml").register_.gate.baselines == {"outside_l1": (method,)}
        return
    message = (
        f"gate.baselines.outside_l1 names '{method}', which is not measured with {why}: take it out, or choose from"
    )
    with pytest.raises(ConfigError, match=message):
        parse_params(values, "params.yaml")


FOREIGN = yaml.safe_dump(
    {
        "networks": {
            "gan64": {
                "roles": ["decoder"], "file": "gan.pt", "format": "torch", "resolution": 64, "licence": "own",
                "commercial": True, "consequence": "any use",
            }
        }
    }
)  # fmt: skip


@pytest.mark.parametrize(
    ("start", "pretrained", "message"),
    [
        ("pretrained", {"decoder": "gan64"}, "decoder is 'gan64': set encoder_start to 'body' or 'new'"),
        ("new", {"encoder": "none"}, "pretrained.encoder is 'none', .* mean code stands there: set it to 'small'"),
        ("body", {}, "pretrained.encoder_body is 'none': choose ir_se50, or set encoder_start to 'new'"),
        ("body", {"decoder": "gan64", "encoder": "none"}, "pretrained.encoder_body is 'none': choose ir_se50"),
        ("pretrained", {}, None),
        ("new", {}, None),
        ("new", {"decoder": "gan64", "encoder": "none"}, None),
        ("body", {"encoder_body": "ir_se50"}, None),
        ("body", {"encoder_body": "ir_se50", "decoder": "gan64", "encoder": "none"}, None),
    ],
)
def test_an_encoder_that_could_not_start_is_refused(
    params: dict[str, Any], tmp_path: Path, start: str, pretrained: dict[str, str], message: str | None
) -> None:
    """What training would refuse after hours of data is refused when params.yaml is read, and nothing else is."""
    (tmp_path / "own.yaml").write_text(FOREIGN)
    values = start_of(params, start, catalogue=str(tmp_path / "own.yaml"), **pretrained)
    if message is None:
        assert parse_params(values, "params.yaml").train_encoder.encoder_start == start
        return
    with pytest.raises(ConfigError, match=message) as caught:
        parse_params(values, "params.yaml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("start", "pretrained", "message"),
    [
        ("body", {}, "pretrained.encoder_body is 'none': choose dlib_resnet, or set"),
        ("body", {"encoder_body": "ir_se50"}, "pretrained.encoder_body is 'ir_se50': choose dlib_resnet, or set"),
        ("new", {"encoder_body": "dlib_resnet"}, "'dlib_resnet' is frozen, .*encoder_start 'new' gives it no weights"),
        ("body", {"encoder_body": "dlib_resnet"}, None),
    ],
)
def test_a_frozen_body_needs_its_own_weights(
    params: dict[str, Any], start: str, pretrained: dict[str, str], message: str | None
) -> None:
    """An encoder of dlib's network starts from dlib's file and from nothing else."""
    values = start_of(params, start, **pretrained)
    values["model"] |= {"encoder_body": "dlib_resnet", "stem_stride": 2, "encoder_blocks": [1, 3, 4, 7]}
    values["model"] |= {"encoder_widths": [32, 32, 64, 640]}
    if message is None:
        assert parse_params(values, "params.yaml").model.encoder_body == "dlib_resnet"
        return
    with pytest.raises(ConfigError, match=message):
        parse_params(values, "params.yaml")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"resolution": 128}, "pretrained.decoder 'gan64' draws 128 px, model.resolution is 64"),
        ({"format": "onnx"}, "format onnx does not fit the role decoder: its loader reads torch or pickle"),
        ({"resolution": 64}, None),
    ],
)
def test_a_decoder_that_could_not_be_drawn_is_refused(
    params: dict[str, Any], tmp_path: Path, entry: dict[str, Any], message: str | None
) -> None:
    """Resolution and format of a catalogue's decoder are held against the section `model` at the door."""
    catalogue = yaml.safe_load(FOREIGN)
    catalogue["networks"]["gan64"] |= entry
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(catalogue))
    own = str(tmp_path / "own.yaml")
    values = start_of(params, "new", catalogue=own, decoder="gan64", encoder="none", encoder_body="none")
    if message is None:
        assert parse_params(values, "params.yaml").pretrained.decoder == "gan64"
        return
    with pytest.raises(ConfigError, match=message):
        parse_params(values, "params.yaml")


def test_relative_paths_begin_at_the_folder_of_the_settings(
    params: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An own catalogue beside params.yaml is found from any current folder, and stays as it was written."""
    project, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    project.mkdir()
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    (project / "own.yaml").write_text(FOREIGN)
    values = start_of(params, "new", catalogue="own.yaml", decoder="gan64", encoder="none")
    (project / "params.yaml").write_text(yaml.safe_dump(values))
    assert load_params(project / "params.yaml").pretrained.catalogue == Path("own.yaml")
    assert isolated_run.checked(project, {"evaluate": {"seed": 5}}).evaluate.seed == 5
    (project / "own.yaml").unlink()
    with pytest.raises(ConfigError, match="project/own.yaml cannot be read"):
        load_params(project / "params.yaml")


def test_a_role_is_of_this_projects_networks_or_of_the_catalogues() -> None:
    """Every role that a network of others may fill is a setting, and the rest can be this project's alone: no network
    is offered that no loader takes."""
    listed = set(get_args(catalogue.Role))
    assert set(ROLES) - listed == {"encoder", "discriminator"} and listed < set(ROLES)
    with pytest.raises(
        ValueError, match=r"pretrained.attributes cannot be '1k3d68': choose small or mediapipe_face_mesh \["
    ):
        Pretrained(attributes="1k3d68")


@pytest.mark.parametrize("role", ["decoder", "encoder", "discriminator"])
def test_the_cards_of_the_small_networks_hold_the_committed_sizes(root: Path, role: str) -> None:
    """But for what only a training learns: finer maps, the mask and the pathway."""
    card = json.loads((root / f"data/pretrained/small/{role}.json").read_text())
    committed = load_params(root / "params.yaml").model
    new = {"fine_levels": 0, "join": "none", "pathway_resolutions": ()}
    assert sizes_of(card["architecture"]) == committed.model_copy(update=new)


def test_sections_cannot_be_changed(root: Path) -> None:
    """What was checked stays as it was checked."""
    with pytest.raises(ValueError, match="frozen"):
        load_params(root / "params.yaml").evaluate.seed = 3


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [1", "is not valid YAML"), ("- 1", "expected sections with keys, found list"), ("", "found NoneType")],
)
def test_a_file_that_is_no_table_is_refused(tmp_path: Path, text: str, message: str) -> None:
    """Broken YAML, a list and an empty file are each named as such, in one line."""
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_params(tmp_path / "params.yaml")
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """The error says where to run."""
    with pytest.raises(ConfigError, match=r"does not exist: run in the project's folder"):
        load_params(tmp_path / "params.yaml")


def test_what_a_mesh_makes_possible_is_possible(root: Path) -> None:
    """With a mesh as landmark network the prior, worn faces and MediaPipe's detector are accepted; Eq. 12 is not."""
    values = yaml.safe_load((root / "params.yaml").read_text())
    values["model"] |= {"prior": "warp", "join": "mask"}
    values["split"]["true_swaps"] = False
    values["train_encoder"]["loss"]["swap_consistency"] = 2
    values["pretrained"] |= {"landmarks": "mediapipe_face_mesh", "detector": "mediapipe_face_detector"}
    values["align"]["detector"] = "mediapipe"
    with pytest.raises(ConfigError, match=r"train_encoder\.loss\.swap_consistency is 2, but Eq\. 12 .*: set it to 0"):
        parse_params(values, "params.yaml")
    for stage in ("train_encoder", "finetune_decoder"):
        values[stage]["loss"] |= {"swap_consistency": 0, "mask": 0.2}
        values[stage] |= {"worn_faces": 0.5, "known_swaps": 0}
    assert parse_params(values, "params.yaml").model.prior == "warp"
    values["pretrained"]["landmarks"] = "small"
    with pytest.raises(ConfigError, match="needs a face mesh"):
        parse_params(values, "params.yaml")
    values["model"]["prior"], values["align"]["detector"] = "none", "annotations"
    with pytest.raises(ConfigError, match=r"train_encoder\.worn_faces is 0\.5, which needs a face mesh"):
        parse_params(values, "params.yaml")
    for stage in ("train_encoder", "finetune_decoder"):
        values[stage] |= {"worn_faces": 0, "warped_swaps": 0.5}
    with pytest.raises(ConfigError, match=r"train_encoder\.warped_swaps is 0\.5, which needs a face mesh"):
        parse_params(values, "params.yaml")
