"""The command line as a person meets it: real processes, exit codes, one line for a mistake."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from styleblend import model, provenance
from styleblend.commands import cli
from styleblend.system.lock import only_one
from tiny_model import MODEL


@pytest.fixture
def project(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The committed settings in an otherwise empty folder, which is the current one."""
    shutil.copy(root / "params.yaml", tmp_path)
    shutil.copytree(root / "presets", tmp_path / "presets")
    (tmp_path / "src/styleblend/synthetic").mkdir(parents=True)
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".git").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    folder = tmp_path / "model"
    folder.mkdir()
    model.save(model.build(MODEL), MODEL, folder)
    return folder


def picture(path: Path, seed: int = 0, side: int = 64) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "styleblend.commands.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


def refused(*arguments: object) -> str:
    """The one line that ends a command with exit code 1."""
    with pytest.raises(SystemExit) as caught:
        cli.main([str(argument) for argument in arguments])
    assert isinstance(caught.value.code, str), "a string as code is printed and means exit code 1"
    assert "\n" not in caught.value.code
    return caught.value.code


def test_a_mistake_is_one_line_and_exit_code_1(project: Path) -> None:
    """As a process: nothing on stdout, one line on stderr, no traceback."""
    done = run("check", "--params", "absent.yaml")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines() == [
        "styleblend check: absent.yaml does not exist: run in the project's folder, or name a file"
    ]


def test_a_wrong_command_line_is_exit_code_2(project: Path) -> None:
    """As everywhere on the command line."""
    for arguments in ([], ["nosuch"], ["swap", "a.png"]):
        with pytest.raises(SystemExit) as caught:
            cli.main(arguments)
        assert caught.value.code == 2


def test_help_needs_no_torch(project: Path) -> None:
    """Asking for help takes no seconds: neither torch nor MLflow is imported for it."""
    program = (
        "import sys\nfrom styleblend.commands import cli\n"
        "try: cli.main(['--help'])\nexcept SystemExit: pass\n"
        "assert not {'torch', 'mlflow', 'pandas'} & set(sys.modules), 'slow'"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for word in ("check", "preset", "swap", "report"):
        assert word in done.stdout


def test_check_accepts_the_committed_settings(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A fresh clone is in order; a webhook that is written out in params.yaml gets a line, one that is named not."""
    for webhook, noted in ((None, False), ("https://h.example/${KEY}", False), ("https://h.example/s3cret", True)):
        values = yaml.safe_load((project / "params.yaml").read_text())
        values["retrain"]["webhook"] = webhook
        (project / "params.yaml").write_text(yaml.safe_dump(values))
        cli.main(["check"])
        out = capsys.readouterr().out
        assert "params.yaml is in order" in out and ("retrain.webhook" in out) == noted and "s3cret" not in out


def test_check_names_an_empty_folder(project: Path) -> None:
    """A folder without a picture is found before anything runs."""
    (project / "mine").mkdir()
    cli.main(["preset", "faces", "--folder", "mine"])
    assert "photographs there" in refused("check")
    (project / "mine").rmdir()
    assert "mine does not exist" in refused("check")


def test_preset_says_what_changed(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line a change, then what to do next; the second time nothing changes."""
    cli.main(["preset", "standard"])
    out = capsys.readouterr().out.splitlines()
    assert any(line.startswith("train_encoder.steps: ") for line in out)
    assert "dvc repro" in out[-1]
    cli.main(["preset", "standard"])
    assert "already" in capsys.readouterr().out
    assert "choose from" in refused("preset", "nosuch")


def test_report_before_a_run_says_what_to_do(project: Path) -> None:
    """Nothing was made yet."""
    assert "run `dvc repro`" in refused("report")


def test_swap_of_aligned_faces(project: Path, model_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two aligned faces of any size give the model's whole picture, marked as synthetic."""
    source, target = picture(project / "a.png", 1), picture(project / "b.png", 2, side=100)
    cli.main(["swap", str(source), str(target), "--aligned", "--model", str(model_folder), "-o", "out.png"])
    assert "marked as synthetic" in capsys.readouterr().out
    with Image.open("out.png") as image:
        assert image.size == (MODEL.resolution, MODEL.resolution)
    assert provenance.read_marks(Path("out.png"))["kind"] == "swap"


def test_swap_refuses_bad_input(project: Path, model_folder: Path) -> None:
    """Each mistake is named, and no output appears."""
    good = picture(project / "a.png")
    (project / "text.png").write_text("no picture")
    tail = ("--aligned", "--model", model_folder, "-o", "out.png")
    assert "text.png" in refused("swap", "text.png", good, *tail)
    assert "absent.png does not exist" in refused("swap", good, "absent.png", *tail)
    assert ".png or .jpg" in refused("swap", good, good, "--aligned", "--model", model_folder, "-o", "out.gif")
    assert "run `dvc repro` first" in refused("swap", good, good, "--aligned", "-o", "out.png")
    (model_folder / "swapper.safetensors").write_bytes(b"broken")
    assert "no usable model" in refused("swap", good, good, *tail)
    (model_folder / "swapper.safetensors").unlink()
    assert "is no model folder" in refused("swap", good, good, *tail)
    assert not (project / "out.png").exists()


def test_swap_signs_with_the_given_certificate_or_not_at_all(project: Path, model_folder: Path) -> None:
    """A certificate that is named but missing stops the swap before a picture is made."""
    settings = (project / "params.yaml").read_text()
    (project / "params.yaml").write_text(
        settings.replace("certificate: null", "certificate: mine.pem").replace(
            "private_key: null", "private_key: k.pem"
        )
    )
    good = picture(project / "a.png")
    message = refused("swap", good, good, "--aligned", "--model", model_folder, "-o", "out.png")
    assert message.startswith("styleblend swap: provenance.certificate mine.pem: ")
    assert not (project / "out.png").exists()


def test_verify_says_what_is_there_by_words_and_exit_code(
    project: Path, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """0 for a swap, 1 for a bare picture, 2 for no picture; --json holds the same."""
    source = picture(project / "a.png")
    cli.main(["swap", str(source), str(source), "--aligned", "--model", str(model_folder), "-o", "out.jpg"])
    (project / "text.png").write_text("no picture")
    capsys.readouterr()

    def code(*arguments: str) -> int:
        with pytest.raises(SystemExit) as caught:
            cli.main(["verify", *arguments])
        assert isinstance(caught.value.code, int)
        return caught.value.code

    assert code("out.jpg") == 0
    said = capsys.readouterr().out
    for words in ("IPTC/XMP:  composite", "C2PA:      valid", "model folder model", "test certificate", "too small"):
        assert words in said
    assert code("out.jpg", "--json") == 0
    assert json.loads(capsys.readouterr().out)["c2pa"]["state"] == "valid"
    assert code(str(source)) == 1
    assert "no manifest" in capsys.readouterr().out
    for unreadable in ("text.png", "absent.png"):
        assert code(unreadable) == 2
        out, err = capsys.readouterr()
        assert (out, len(err.splitlines())) == ("", 1)
        assert unreadable in err


def test_no_option_leaves_the_marks_out(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What `swap` offers is known by name: none of it has to do with marks."""
    with pytest.raises(SystemExit):
        cli.main(["swap", "--help"])
    offered = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
    assert not [option for option in offered if re.search("mark|sign|c2pa|xmp|provenance|metadata|raw", option)]


def test_swap_without_a_face_says_so(project: Path, model_folder: Path, yunet_file: Path) -> None:
    """Noise shows no face: the real detector finds none."""
    good = picture(project / "a.png")
    message = refused("swap", good, good, "--model", model_folder, "--detector-weights", yunet_file, "-o", "out.png")
    assert "no face found in the source picture" in message


@pytest.mark.photos
def test_swap_on_real_photographs(
    project: Path, model_folder: Path, yunet_file: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A photograph keeps its size, and around the face all but the faint watermark; two people are a question."""
    source, target = sorted((photos / "celeba_hq").glob("*.jpg"))[:2]
    options = ("--model", str(model_folder), "--detector-weights", str(yunet_file), "-o", "out.png")
    cli.main(["swap", str(source), str(target), *options])
    with Image.open(target) as before, Image.open("out.png") as after:
        assert after.size == before.size
        change = np.abs(np.asarray(before.convert("RGB"), dtype=int) - np.asarray(after)).max(-1)
    assert 0.05 < (change > 8).mean() < 0.8
    assert change[:8].max() <= 8
    couple = photos / "in_the_wild" / "couple.jpg"
    assert "which of the 2 faces in the target picture" in refused("swap", source, couple, *options)
    cli.main(["swap", str(source), str(couple), "--target-face", "1", *options])
    assert provenance.read_marks(Path("out.png"))["kind"] == "swap"


def test_a_reader_that_has_seen_enough_is_no_error(project: Path) -> None:
    """A pipe that is closed before the command has written, as by `head`, gives no traceback."""
    command = f"'{sys.executable}' -m styleblend.commands.cli check | true"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert done.stderr == ""


def test_a_preset_waits_for_nobody_and_spoils_nothing(project: Path) -> None:
    """While an ablation or a retraining is at work, a preset is refused and says by whom."""
    before = (project / "params.yaml").read_text()
    with only_one(project, "styleblend ablate"):
        held = sorted(project.iterdir())
        line = refused("preset", "standard")
        assert "styleblend ablate (process" in line and "is at work" in line
        assert sorted(project.iterdir()) == held and (project / "params.yaml").read_text() == before
