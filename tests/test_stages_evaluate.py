"""Stages evaluate and register, end to end on a tiny project with real files, DVC-style paths and real
MLflow.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

import tiny_project
from pipeline import markdown as result_markdown
from styleblend import model, provenance
from styleblend.commands import cli
from styleblend.config.evaluation import Evaluate
from styleblend.config.figures import BASELINES
from styleblend.config.params import load_params
from styleblend.config.provenance import Provenance
from styleblend.config.registry import Gate, Register, expect_measured
from styleblend.config.sources import RenderedSource
from styleblend.config.tracking import Tracking
from styleblend.config.training import EncoderStart
from styleblend.errors import StyleBlendError
from styleblend.evaluation import benchmark, protocol
from styleblend.perception import bending
from styleblend.provenance import credentials, verification
from styleblend.registry import mlflow_store, versions
from styleblend.reporting import alarms as reporting_alarms
from styleblend.reporting import model_card
from styleblend.reporting.charts import blending_chart
from styleblend.reporting.figures import KEY_FIGURES
from styleblend.reporting.summary import closing_lines
from styleblend.stages.evaluate import evaluate
from styleblend.stages.register import register
from styleblend.system.files import fingerprint, sha256
from styleblend.training import alarms, record
from styleblend.weights.starter import STATED, write_starter
from tiny_model import MODEL
from torchscript_files import Metric, scripted

CFG = Evaluate(bootstrap=100, grid_rows=3, yaw_bins_deg=(1, 85), batch_size=4)


def signing() -> Provenance:
    """A person's own certificate, in the current folder; `own_authority` tells it from any other."""
    credentials.of_this_machine(Path("own"))
    return Provenance(certificate=Path("own/certificate.pem"), private_key=Path("own/private_key.pem"))


def own_authority(project: Path) -> Path:
    """The file of the authority that issued the project's own certificate: nothing else is trusted by it."""
    chain = (project / "own/certificate.pem").read_text()
    file = project / "own_authority.pem"
    file.write_text(chain[chain.rindex("-----BEGIN") :])
    return file


def inputs_of(data: Path, *sources: RenderedSource) -> benchmark.Inputs:
    """What the stage evaluate reads; without `sources` those of the tiny project."""
    return benchmark.Inputs(
        data / "splits", data / "faces", data / "perceived.parquet", data / "networks", data / "swapper",
        sources or (tiny_project.SOURCE,),
    )  # fmt: skip


def run_evaluate(root: Path, cfg: Evaluate = CFG) -> dict[str, object]:
    """The stage with the paths of a project; relative ones, as DVC gives them."""
    reports = Path("reports")
    return evaluate(inputs_of(Path("data")), reports / "evaluate", reports / "metrics.json", cfg, Tracking(), signing())


def run_register(cfg: Register, track: Tracking | None = None) -> dict[str, object]:
    """The stage with the paths of a project."""
    data, reports = Path("data"), Path("reports")
    inputs = model_card.Inputs(
        data / "swapper", reports / "evaluate", reports / "metrics.json", data / "faces", data / "networks",
        Path("params.yaml"),
    )  # fmt: skip
    out, card = reports / "registered.json", reports / "model_card.md"
    return register(inputs, out, card, cfg, track or Tracking(), signing())


@pytest.fixture(scope="module")
def project(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluated project."""
    folder = tmp_path_factory.mktemp("project")
    tiny_project.make(folder)
    shutil.copy(root / "params.yaml", folder)
    before = Path.cwd()
    os.chdir(folder)
    try:
        run_evaluate(folder)
    finally:
        os.chdir(before)
    return folder


def test_metrics_are_flat_finite_and_beside_floor_and_ceiling(project: Path) -> None:
    """Every figure of the model has an interval, and each baseline and the true swap stands beside it."""
    metrics = json.loads((project / "reports/metrics.json").read_text())
    assert metrics["network_judge"] == "judge-tiny" and metrics["network_attributes"] == "attributes-tiny"
    numbers = {name: value for name, value in metrics.items() if not isinstance(value, str)}
    assert all(np.isfinite(value) for value in numbers.values())
    figures = {name.removesuffix("_low") for name in metrics if name.endswith("_low")}
    assert {name for name, _, _ in KEY_FIGURES} <= figures
    for name in figures:
        assert metrics[f"{name}_low"] <= metrics[name] <= metrics[f"{name}_high"]
        for method in ("copy_target", "copy_source", "warp_blend", "dense_warp", "untrained_mixing", "half_mask"):
            assert f"{method}/{name}" in metrics
    assert metrics["n_pairs"] == 10 == sum(metrics[f"n_pairs_{g}"] for g in ("yaw_0_1", "yaw_1_85"))
    assert metrics["n_pairs_yaw_85_up"] == 0 and "outside_l1_yaw_85_up" not in metrics
    assert "frechet_judge_tiny" in metrics and "true_swap/frechet_judge_tiny" in metrics


def test_a_frechet_distance_is_the_fid_with_inception_alone(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With Inception's features it is called `fid`, and that 10 and 12 pictures are few for them is said; without the
    file nothing is written."""
    for name in ("data", "reports"):
        shutil.copytree(project / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    cfg = CFG.model_copy(update={"inception_sha256": "0" * 64})
    with pytest.raises(StyleBlendError, match=r"inception.pt is missing"):
        run_evaluate(tmp_path, cfg)
    file = scripted(Metric(), tmp_path / "data/networks/inception.pt")
    figures = run_evaluate(tmp_path, CFG.model_copy(update={"inception_sha256": sha256(file)}))
    assert isinstance(figures["fid"], float) and figures["copy_source/fid"] != figures["fid"]
    assert figures["network_frechet"] == "inception" and not [name for name in figures if "frechet_" in name]
    (warning,) = json.loads(Path("reports/evaluate/protocol.json").read_text())["warnings"]
    assert "of 10 and 12 samples with 2048 features" in warning
    # A run that names it gets the FID without that line of params.yaml, by the hash that the catalogue states.
    listed = Path("data/networks/networks.json")
    networks = json.loads(listed.read_text())
    for stated, message in ((sha256(file), ""), ("0" * 64, "it is not run")):
        entry = {"file": "inception.pt", "name": "metric", "sha256": stated, "licence": "Apache-2.0", "origin": "there"}
        listed.write_text(json.dumps(networks | {"inception": entry}))
        if not message:
            assert run_evaluate(tmp_path, CFG)["fid"] == figures["fid"]
        else:
            with pytest.raises(StyleBlendError, match=message):
                run_evaluate(tmp_path, CFG)


def test_baselines_have_the_values_that_they_must_have(project: Path) -> None:
    """A copy of the target has its pose and is found as the target; a copy of the source is found as the
    source.
    """
    metrics = json.loads((project / "reports/metrics.json").read_text())
    assert metrics["copy_target/pose_error_deg"] == pytest.approx(0, abs=1e-3)
    assert metrics["copy_target/outside_l1"] == 0
    assert metrics["copy_target/target_retrieval_top1"] == metrics["copy_source/id_retrieval_top1"] == 1
    assert metrics["copy_target/pose_nearer_target"] == 1 and metrics["copy_source/pose_nearer_target"] == 0
    assert metrics["copy_source/psnr_true_swap_db"] < metrics["copy_target/psnr_true_swap_db"]
    assert "true_swap/psnr_true_swap_db" not in metrics


def test_report_folder_holds_tables_and_marked_pictures(project: Path) -> None:
    """The tables agree with the metrics and the grid says that it is synthetic."""
    reports = project / "reports/evaluate"
    metrics = json.loads((project / "reports/metrics.json").read_text())
    pairs = pd.read_parquet(reports / "pairs.parquet")
    own = pairs[pairs["method"] == "model"]
    assert len(own) == 10 and set(pairs["method"]) >= {"model", "true_swap", "warp_blend"}
    assert own["outside_l1"].mean() == pytest.approx(metrics["outside_l1"])
    assert (own["source_rank"] <= 1).mean() == pytest.approx(metrics["id_retrieval_top1"])
    assert provenance.read_marks(reports / "swap_grid.png")["kind"] == "grid"
    assert provenance.read_marks(reports / "inside.png")["kind"] == "grid"
    assert (reports / "figures.png").stat().st_size > 1000
    assert set(pd.read_csv(reports / "retrieval.csv")["method"]) == set(pairs["method"])
    protocol = json.loads((reports / "protocol.json").read_text())
    assert "gallery" in protocol["text"] and protocol["warnings"] == []
    beside_real, beside_half = protocol["remarks"]
    assert "copy_source" in beside_real.partition("nearer to real faces")[2] and "half_mask" in beside_half


def test_inside_shows_codes_and_shares(project: Path, tmp_path: Path) -> None:
    """Codes of a source are drawn as the decoder draws them alone, and the chart's numbers are shares of the source."""
    swapper = model.load(project / "data/swapper")
    torch.manual_seed(0)
    source, target = torch.rand(2, 2, 3, 32, 32) * 2 - 1
    inside = benchmark.look_inside(swapper, source, target)
    with torch.no_grad():
        assert inside.pictures["swapped"].equal(swapper(source, target))
        assert inside.pictures["decoded W_s"].equal(swapper.decoder(swapper.encoder(source).codes))
        swapper.blending.bias.fill_(-50)
    assert benchmark.look_inside(swapper, source, target).from_source.min() > 0.99
    again = benchmark.look_inside(swapper, source, target)
    torch.testing.assert_close(again.pictures["decoded W'"], again.pictures["decoded W_s"], atol=1e-3, rtol=0)
    blending_chart(inside.from_source, tmp_path / "blending.png")
    assert (tmp_path / "blending.png").stat().st_size > 1000


def test_second_evaluation_gives_the_same_file(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Metrics are a pure function of the inputs, and the run in MLflow is the same one."""
    monkeypatch.chdir(project)
    before = (project / "reports/metrics.json").read_text()
    run_evaluate(project)
    assert (project / "reports/metrics.json").read_text() == before
    from mlflow import MlflowClient

    client = MlflowClient(mlflow_store.resolved(Tracking()).uri)
    runs = client.search_runs(["1"], "tags.`styleblend.stage` = 'evaluate'")
    assert len(runs) == 1 and runs[0].info.status == "FINISHED"
    assert runs[0].data.metrics["outside_l1"] == pytest.approx(json.loads(before)["outside_l1"])
    assert runs[0].data.tags["network_judge"] == "judge-tiny"


def test_gate_decides_the_alias_and_the_version_loads_alone(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A failed gate registers without an alias; a passed one sets it; the fetched model is the trained one."""
    monkeypatch.chdir(project)
    closed = run_register(Register(gate=Gate(min={"id_retrieval_top1": 1.1})))
    assert closed["alias"] is None and closed["gate"] == "failed" and "below 1.1" in closed["reasons"][0]
    assert "gate failed: id_retrieval_top1" in capsys.readouterr().out
    with pytest.raises(StyleBlendError, match="no version or alias 'candidate'"):
        versions.find_version(Tracking(), "candidate")

    opened = run_register(Register(gate=Gate(max={"id_retrieval_top1": 1})))
    assert opened["alias"] == "candidate" and opened["version"] == closed["version"]
    version = versions.find_version(Tracking(), "candidate")
    assert version.tags["gate"] == "passed" and version.tags["data_licences"] == "CC0-1.0"

    fetched = model.load(versions.fetch_version(Tracking(), "candidate", tmp_path / "model"))
    trained = model.load(project / "data/swapper")
    for (name, value), other in zip(trained.state_dict().items(), fetched.state_dict().values(), strict=True):
        assert value.equal(other), name

    # In a fresh process, elsewhere, where this project is not installed, the version runs the code that it carries.
    code = f"""
import importlib.util, sys, warnings
warnings.simplefilter("ignore")
sys.path = [folder for folder in sys.path if folder and "site-packages" in folder or "lib/python" in folder]
assert importlib.util.find_spec("styleblend") is None
import mlflow, pandas as pd
from PIL import Image
mlflow.set_tracking_uri("sqlite:///{project}/mlflow.db")
face = open(r"{next((project / "data/faces/images").iterdir())}", "rb").read()
for name, settings in (("swapped.png", None), ("other.png", {{"provenance": {{}}}})):
    model = mlflow.pyfunc.load_model("models:/styleblend@candidate", model_config=settings)
    swapped = model.predict(pd.DataFrame({{"source": [face], "target": [face]}}))["swapped"][0]
    open(name, "wb").write(swapped)
    assert Image.open(name).size == (32, 32)
import styleblend
print(styleblend.__file__)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "/code/styleblend/" in done.stdout.splitlines()[-1]
    found = verification.verify(tmp_path / "swapped.png", own_authority(project))
    assert found.c2pa.model == f"styleblend run {version.run_id}", "it names the version, and no other has its run"
    assert found.c2pa.state == "valid" and found.c2pa.trusted, "the certificate of params.yaml signed it"
    other = verification.verify(tmp_path / "other.png", own_authority(project))
    assert other.c2pa.state == "valid" and not other.c2pa.trusted, "who loads it may say another certificate"

    card = (project / "reports/model_card.md").read_text()
    for part in ("CC0-1.0", "consent", "true_swap", "yaw_1_85", "judge", "git_revision", "The gate passed."):
        assert part in card, part
    lines = closing_lines(project / "reports")
    assert "version 1, alias candidate" in lines and "swap_grid.png" in lines


class Copies(model.Swapper):
    """Hands the picture at this place of its arguments back."""

    place = 0

    def forward(self, *pictures: torch.Tensor) -> torch.Tensor:
        return pictures[self.place]


class CopiesTarget(Copies):
    place = 1


class Overdrives(Copies):
    def forward(self, *pictures: torch.Tensor) -> torch.Tensor:
        return 20 * pictures[1]


def test_a_version_with_an_alarm_is_registered_without_an_alias(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Swappers that really copy or overdrive: the alarm is in the log and the figures, then on the card, in the
    version's tags and its page, and no limit is needed to keep the alias from it."""
    for name in ("data", "params.yaml"):
        (shutil.copytree if name == "data" else shutil.copy)(project / name, tmp_path / name)
    (tmp_path / "reports").mkdir()
    monkeypatch.chdir(tmp_path)
    load = bending.load
    for swapper, name, words in (
        (CopiesTarget, "copies_target", "similarity is 1.00 to the target"),
        (Overdrives, "saturated", "of the colour values are at their limits, "),
        (Copies, "copies_source", "the pose is nearer the target's in 0% of the pairs only"),
    ):

        def copying(folder: Path, kind: type[model.Swapper] = swapper) -> model.Swapper:
            loaded = load(folder)
            loaded.__class__ = kind
            return loaded

        monkeypatch.setattr(benchmark.bending, "load", copying)
        on = reporting_alarms.of_figures(benchmark.run(inputs_of(Path("data")), CFG).flat)
        assert words in on[name] and on[name].startswith(f"{alarms.WORDS[name]}: ")
    figures = run_evaluate(tmp_path)
    assert figures[f"alarm/{name}"] == 1 and name in str(figures["alarms"]).split(", ")
    (said,) = [line for line in capsys.readouterr().out.splitlines() if alarms.WORDS[name] in line]
    assert said == f"evaluate: ALARM, {on[name]}"
    registered = run_register(Register())
    assert registered["alias"] is None and registered["gate"] == "failed" and name in registered["alarms"]
    (reason,) = [text for text in registered["reasons"] if alarms.WORDS[name] in text]
    assert reason.startswith("alarm, ") and words in reason
    version = versions.find_version(Tracking(), "1")
    assert not version.aliases and name in version.tags["alarms"]
    assert f"- **{alarms.WORDS[name]}: " in Path("reports/model_card.md").read_text()
    assert f"missed: alarm, {alarms.WORDS[name]}" in closing_lines(Path("reports"))


def test_an_alarm_of_the_training_stays_with_its_model(project: Path, tmp_path: Path) -> None:
    """What training ended with is on after the evaluation, too, beside what that raises; a sound model has neither."""
    sound = json.loads((project / "reports/metrics.json").read_text())
    assert sound["alarms"] == "none" and not any(sound[f"alarm/{name}"] for name in alarms.WORDS)
    ended = record.Record(alarms={"discriminator_wins": "the discriminator wins"})
    copy = {name.removeprefix("copy_source/"): value for name, value in sound.items() if "copy_source/" in name}
    ends = {f"{name}_{end}": value for name, value in copy.items() for end in ("low", "high")}
    assert set(reporting_alarms.found(copy | ends, ended)) == {"discriminator_wins", "copies_source"}
    assert set(reporting_alarms.of_figures({"judge_gap": 0.3, "judge_gap_low": 0.21})) == {"judge_gap"}
    assert reporting_alarms.of_figures({"judge_gap": 0.3, "judge_gap_low": 0.19}) == {}
    assert set(reporting_alarms.of_figures({"pose_error_deg": float("nan")})) == {"non_finite"}


def artifacts_of(version: versions.Version) -> Path:
    """The version's folder in the local store."""
    import mlflow

    return Path(mlflow.artifacts.download_artifacts(artifact_uri=f"models:/{version.name}/{version.version}"))


def test_a_version_carries_what_made_it_and_no_pickle(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Code, settings, lock, packages, networks, card, figures, grid; every file is of a kind that runs nothing."""
    monkeypatch.chdir(project)
    (project / "dvc.lock").write_text("stages: {}\n")
    metrics = (project / "reports/metrics.json").read_text()
    (project / "reports/metrics.json").write_text(json.dumps(json.loads(metrics) | {"another": 1.0}))
    registered = run_register(Register(alias="carried"))
    (project / "reports/metrics.json").write_text(metrics)
    version = versions.find_version(Tracking(), "carried")
    assert version.version == registered["version"]
    folder = artifacts_of(version)
    files = [file for file in folder.rglob("*") if file.is_file()]
    names = {file.relative_to(folder).as_posix() for file in files}
    wanted = {"params.yaml", "dvc.lock", "environment.txt", "networks.json", "model_card.md", "metrics.json"}
    wanted |= {"evaluate/swap_grid.png", "evaluate/examples.safetensors", "swapper/swapper.safetensors"}
    assert {f"artifacts/{name}" for name in wanted} | {"code/styleblend/model/decoder.py"} <= names
    assert version.tags["params_sha256"] == sha256(folder / "artifacts/params.yaml")
    assert version.tags["dvc_lock_sha256"] == sha256(folder / "artifacts/dvc.lock")
    assert (folder / "artifacts/params.yaml").read_text() == (project / "params.yaml").read_text()
    assert version.tags["git_revision"] == version.tags["git_changes"] == "unknown"
    assert version.tags["data_terms"] == "none" and "identity_judge.safetensors 000000" in version.tags["networks"]
    harmless = {".py", ".json", ".yaml", ".txt", ".md", ".png", ".csv", ".parquet", ".safetensors", ".lock", ".html"}
    # MLflow writes the second of these, YAML as the first, when a version is downloaded.
    assert {name for name in names if Path(name).suffix not in harmless} <= {"MLmodel", "registered_model_meta"}
    for file in files:
        # A pickle begins with 0x80 and its protocol; torch's own files are zip archives.
        assert not file.read_bytes().startswith((b"\x80", b"PK")), file
    assert "cloudpickle" not in (folder / "requirements.txt").read_text()


def test_licences_travel_with_a_version(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that the model learned from and that forbids commercial use makes the version non-commercial, in the
    registry's tags and on the card; one that only measured it is named and does not."""
    monkeypatch.chdir(project)
    networks, metrics = Path("data/networks/networks.json"), Path("reports/metrics.json")
    before, measured = networks.read_text(), metrics.read_text()
    entry = {"file": "x.onnx", "sha256": "1" * 64, "licence": "their terms", "commercial": False, "origin": "there"}
    tags = []
    for number, role in enumerate(("identity", "identity_judge")):
        networks.write_text(json.dumps(json.loads(before) | {role: {**entry, "name": "w600k_r50"}}))
        metrics.write_text(json.dumps(json.loads(measured) | {"another": 50.0 + number}))
        run_register(Register(alias="licensed"), Tracking(model_name="licensed"))
        tags.append(versions.find_version(Tracking(model_name="licensed"), "licensed").tags)
        card = Path("reports/model_card.md").read_text()
        assert ("**Non-commercial.**" in card) == (role == "identity") and f"{role} w600k_r50 (their terms)" in card
        assert f"| {role} | w600k_r50 | x.onnx | their terms |" in card
    networks.write_text(before)
    metrics.write_text(measured)
    assert tags[0]["licence"] == "non-commercial" and tags[0]["licence_because"] == "identity w600k_r50 (their terms)"
    assert tags[1]["licence"] != "non-commercial" and "licence_because" not in tags[1]
    assert tags[1]["measured_with_non_commercial"] == "identity_judge w600k_r50 (their terms)"


def page(project: Path, track: Tracking, number: int) -> tuple[str, str, str]:
    """Register a version of its own for each number; its text on MLflow's page, the text's short form, and its run."""
    from mlflow import MlflowClient

    metrics = project / "reports/metrics.json"
    before = metrics.read_text()
    metrics.write_text(json.dumps(json.loads(before) | {"another": number}))
    made = run_register(Register(), track)
    metrics.write_text(before)
    found = MlflowClient(mlflow_store.resolved(track).uri).get_model_version(track.model_name, str(made["version"]))
    assert found.version == number
    return found.description, found.tags["comparison"], found.run_id


@pytest.fixture(scope="module")
def two_versions(project: Path) -> tuple[Tracking, list[tuple[str, str, str]]]:
    """A model with the versions 1, champion since before version 2 was registered, and 2; the pages of both."""
    track = Tracking(model_name="beside")
    before = Path.cwd()
    os.chdir(project)
    try:
        first = page(project, track, 1)
        versions.point_alias(track, "champion", "1")
        return track, [first, page(project, track, 2)]
    finally:
        os.chdir(before)


def test_a_new_version_stands_beside_the_champion_on_its_page(
    project: Path, two_versions: tuple[Tracking, list[tuple[str, str, str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a champion the page says so; with one it has the table, and the picture is among the run's files."""
    from mlflow import MlflowClient

    monkeypatch.chdir(project)
    track, ((text, short, _), (table, verdict, run_id)) = two_versions
    assert "nothing to compare" in text and short == "no champion yet"
    assert "| Figure, 95 % interval | version 2 | version 1 |" in table and "different test pairs" not in table
    assert verdict.startswith("against version 1: 0 figures clearly better, 0 clearly worse")
    assert f"get-artifact?path=comparison%2Fversion_2_and_1.png&run_uuid={run_id})" in table
    assert f"runs/{run_id}/artifacts/comparison/version_2_and_1.png)" in table
    (picture,) = MlflowClient(mlflow_store.resolved(track).uri).list_artifacts(run_id, "comparison")
    assert picture.path == "comparison/version_2_and_1.png"
    (file,) = Path("mlruns").glob(f"**/{run_id}/**/version_2_and_1.png")
    for drawn in (file, *(project / "reports/evaluate").glob("*.png")):
        if provenance.read_marks(drawn):
            assert verification.verify(drawn, own_authority(project)).c2pa.trusted, f"{drawn} has another signature"
    assert page(project, track, 1)[1] == "is the champion"


def test_prefects_page_has_the_table_of_the_version_page(
    project: Path, two_versions: tuple[Tracking, list[tuple[str, str, str]]], root: Path
) -> None:
    """The figures beside the champion's are those of one function, whichever tool shows them."""
    cfg = load_params(root / "params.yaml").model_copy(update={"tracking": two_versions[0]})
    registered = {"name": "beside", "version": "2", "gate": "passed", "reasons": []}
    shown = result_markdown(project, cfg, "headline", registered, "1")
    (on_page, wanted) = (
        [line for line in text.splitlines() if "is better) |" in line] for text in (shown, two_versions[1][1][0])
    )
    assert len(wanted) > 5 and on_page == wanted
    assert "| version 2 | champion, version 1 | clear difference |" in shown and "](data:image/jpeg;base64," in shown


def test_compare_prints_the_table_and_draws_both(
    project: Path,
    two_versions: tuple[Tracking, list[tuple[str, str, str]]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """By alias and by number; the same version twice, and one that is not there, are refused in one line."""
    monkeypatch.chdir(project)
    params = yaml.safe_load((project / "params.yaml").read_text())
    params["tracking"]["model_name"] = "beside"
    (project / "beside.yaml").write_text(yaml.safe_dump(params))
    versions.point_alias(two_versions[0], "candidate", "2")
    versions.point_alias(two_versions[0], "champion", "1")
    cli.main(["compare", "--params", "beside.yaml"])
    shown = capsys.readouterr().out
    assert "| Figure, 95 % interval | version 2 | version 1 |" in shown and "| alias |" in shown
    assert provenance.read_marks(project / "reports/comparison.png")["kind"] == "grid"
    cli.main(["compare", "1", "2", "-o", "other.png", "--params", "beside.yaml"])
    assert (project / "other.png").is_file() and "| version 1 | version 2 |" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="are both version 1: name two versions"):
        cli.main(["compare", "1", "champion", "--params", "beside.yaml"])
    with pytest.raises(SystemExit, match="no version or alias '99'"):
        cli.main(["compare", "99", "--params", "beside.yaml"])


def test_a_champion_that_lost_its_files_keeps_nobody_out(
    project: Path, two_versions: tuple[Tracking, list[tuple[str, str, str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new version is registered all the same, and its page says why there is no comparison."""
    monkeypatch.chdir(project)
    shutil.rmtree(artifacts_of(versions.find_version(two_versions[0], "champion")))
    text, short, _ = page(project, two_versions[0], 3)
    assert "Not compared with the champion: the champion, version 1, cannot be read" in text and short == "not compared"


def test_photographs_have_no_true_swap_and_a_plain_warning(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On photographs the figures come without a ceiling, and report and card say how little they mean."""
    tiny_project.make(tmp_path, photographs=True)
    shutil.copy(root / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    metrics = run_evaluate(tmp_path)
    assert not [name for name in metrics if "true_swap" in name]
    run_register(Register())
    assert "say little" in (tmp_path / "reports/model_card.md").read_text()
    assert "say little" in closing_lines(tmp_path / "reports")


def test_missing_input_is_one_line(project: Path, tmp_path: Path) -> None:
    """The command names the missing file, without a traceback."""
    arguments = ["--splits", "nowhere", "--faces", str(project / "data/faces"), "--perceived", "p.parquet"]
    arguments += ["--networks", "n", "--swapper", "s", "--out", str(tmp_path / "o"), "--metrics", str(tmp_path / "m")]
    params = Path(__file__).parents[1] / "params.yaml"
    done = subprocess.run(
        [sys.executable, "-m", "styleblend.stages.evaluate", "--params", str(params), *arguments],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "nowhere/test.parquet is missing" in done.stderr and not (tmp_path / "o").exists()


def test_a_folder_without_networks_json_is_one_line(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Missing or damaged: both stages that read it name the file and what makes it; nothing is written."""
    for name in ("data", "reports"):
        shutil.copytree(project / name, tmp_path / name)
    shutil.copy(project / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    listed = Path("data/networks/networks.json")
    before = fingerprint(Path("reports"))
    for content, message in ((None, "cannot be read"), ("{", "is not valid JSON"), ("[]", "names no networks")):
        listed.unlink(missing_ok=True)
        if content is not None:
            listed.write_text(content)
        for stage in (lambda: run_evaluate(tmp_path), lambda: run_register(Register())):
            with pytest.raises(StyleBlendError, match=f"{listed} {message}.*`dvc repro pretrained`") as caught:
                stage()
            assert "\n" not in str(caught.value)
    assert fingerprint(Path("reports")) == before


@pytest.mark.parametrize("start", ["pretrained", "new", "starter"])
def test_a_gate_may_name_what_an_evaluation_measures(start: EncoderStart, tmp_path: Path) -> None:
    """The door's list of a start's baselines, which is read before torch is there, is that of the evaluation."""
    tiny_project.make(tmp_path)
    data = tmp_path / "data"
    if start == "starter":
        begun = model.build(MODEL)
        card = dict.fromkeys(STATED, "as a test says")
        write_starter(data / "networks/starter", begun, model.build_discriminator(MODEL), MODEL, card)
    inputs = replace(inputs_of(data), encoder_start=start)
    pairs = protocol.read_pairs(inputs.splits, inputs.faces, inputs.perceived)
    measured = benchmark._methods(inputs, pairs, model.load(inputs.swapper), 0, "cpu").keys() - {
        protocol.MODEL,
        protocol.TRUE_SWAP,
    }
    assert measured == {name for name in BASELINES if _may_name(name, start)}


def _may_name(method: str, start: EncoderStart) -> bool:
    try:
        expect_measured({"pose_error_deg": [method]}, start, MODEL.prior)
    except ValueError:
        return False
    return True
