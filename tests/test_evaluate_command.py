"""`styleblend evaluate`: others' swaps get the figures that the same pictures get as baselines; and several seeds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml
from PIL import Image

import tiny_project
from styleblend.commands import cli
from styleblend.config.params import load_params
from styleblend.errors import StyleBlendError
from styleblend.experiments import seeds

BASELINES = ("copy_source", "copy_target", "warp_blend", "dense_warp")


@pytest.fixture
def project(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Networks, faces as aligned pictures, and a list of five pairs."""
    tiny_project.make(tmp_path)
    params = yaml.safe_load((root / "params.yaml").read_text())
    params["align"]["size_px"], params["model"] = 32, tiny_project.MODEL.model_dump(mode="json")
    # The tiny model joins nothing by a mask.
    for stage in ("train_encoder", "finetune_decoder"):
        params[stage]["loss"]["mask"] = 0
    params["evaluate"] |= {"bootstrap": 100, "grid_rows": 2, "batch_size": 3}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    faces = pd.read_parquet(tmp_path / "data/faces/manifest.parquet")[["path", "person"]]
    pairs = pd.DataFrame({
        "source": faces["path"][:5].to_list(), "target": faces["path"][4:9].to_list(),
        "source_person": faces["person"][:5].to_list(), "target_person": faces["person"][4:9].to_list(),
    })  # fmt: skip
    pairs.to_csv(tmp_path / "pairs.csv", index=False)
    for name in ("source", "target"):
        (tmp_path / name).mkdir()
        for row in pairs.to_dict("records"):
            own = f"{Path(row['source']).stem}_{Path(row['target']).stem}.png"
            shutil.copy(tmp_path / "data/faces" / row[name], tmp_path / name / own)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def evaluate(*more: str) -> None:
    cli.main(["evaluate", "--pairs", "pairs.csv", "--pictures", "data/faces", "--networks", "data/networks", *more])


def test_copies_get_the_figures_of_the_baselines_that_copy(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The way over files and lists changes no figure, in any batch; beside them stand intervals and a model."""
    evaluate("--aligned", "--swaps", "mine=source", "--swaps", "theirs=target", "--model", "data/swapper")
    metrics = json.loads(Path("reports/others/metrics.json").read_text())
    numbers = {name: value for name, value in metrics.items() if not isinstance(value, str)}
    figures = [name.removeprefix("copy_source/") for name in numbers if name.startswith("copy_source/")]
    assert {"id_retrieval_top1", "landmark_error", "detail_inside", "judge_gap", "frechet_judge_tiny"} <= set(figures)
    for name in figures:
        assert numbers[f"mine/{name}"] == pytest.approx(numbers[f"copy_source/{name}"])
        assert numbers[f"theirs/{name}"] == pytest.approx(numbers[f"copy_target/{name}"])
        assert name in numbers
    assert numbers["mine/id_similarity_source"] == pytest.approx(1) and numbers["theirs/outside_l1"] == 0
    assert metrics["theirs/pose_error_deg_low"] <= metrics["theirs/pose_error_deg"]
    assert metrics["n_pairs"] == 5 and metrics["network_judge"] == "judge-tiny"
    table = Path("reports/others/table.md").read_text()
    assert "| Figure | mine | theirs | model | copy_target |" in table and "learned from rendered faces" in table
    assert "similarity to the source" in capsys.readouterr().out
    assert set(pd.read_parquet("reports/others/pairs.parquet")["method"]) == {"mine", "theirs", "model", *BASELINES}


def test_wrong_swaps_are_one_line_and_nothing_is_written(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Another size, gaps, missing pictures, unreadable files, names that are taken: each names the value and remedy."""
    first = sorted(Path("source").iterdir())[0]

    def refused(message: str, *more: str) -> None:
        with pytest.raises(SystemExit, match=message) as caught:
            evaluate("--aligned", *more)
        assert "\n" not in str(caught.value) and not Path("reports/others").exists()

    refused("the name 'copy_source' is taken", "--swaps", "copy_source=source")
    refused("the name 'a' is taken", "--swaps", "a=source", "--swaps", "a=target")
    refused("give NAME=DIR", "--swaps", "source")
    refused("give --pairs FILE with --swaps")
    with Image.open(first) as image:
        image.resize((40, 32)).save(first)
    refused("1 of 5 pictures have not the size of their targets: .* 40x32 for 32x32", "--swaps", "mine=source")
    first.write_bytes(b"no picture")
    refused("cannot be read as a picture", "--swaps", "mine=source")
    first.unlink()
    refused("swaps 'mine': 1 of 5 swapped pictures are not in source", "--swaps", "mine=source")
    with pytest.raises(SystemExit, match="pictures that are not in source"):
        evaluate("--aligned", "--pictures", "source", "--swaps", "mine=target")
    with pytest.raises(SystemExit, match="--seeds trains .* give one of them"):
        evaluate("--seeds", "2", "--swaps", "mine=target")


def test_photographs_are_aligned_by_their_own_faces(
    project: Path, photos: Path, yunet_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A swap that is the target itself has the target's pose and outside, wherever in the photograph the face is; a
    photograph without a face is named."""
    files = sorted(file for file in photos.rglob("*.jpg"))[:3]
    Path("photos").mkdir()
    Path("same").mkdir()
    for number, file in enumerate(files):
        shutil.copy(file, f"photos/{number}.jpg")
    Path("list.txt").write_text("0.jpg 1.jpg\n1.jpg 2.jpg\n")
    for pair in ("0_1", "1_2"):
        shutil.copy(f"photos/{pair[2]}.jpg", f"same/{pair}.jpg")
    given = ["evaluate", "--pairs", "list.txt", "--pictures", "photos", "--networks", "data/networks"]
    given += ["--swaps", "same=same", "--detector-weights", str(yunet_file)]
    cli.main(given)
    metrics = json.loads(Path("reports/others/metrics.json").read_text())
    assert metrics["same/outside_l1"] == metrics["copy_target/outside_l1"] == 0
    assert metrics["same/pose_error_deg"] == pytest.approx(0, abs=1e-3)
    assert "same/judge_gap" not in metrics, "nobody has two pictures"
    Image.new("RGB", (200, 200), "grey").save("photos/0.jpg")
    with pytest.raises(SystemExit, match=r"1 of 3 pictures give no face: 0.jpg \(no face found\)"):
        cli.main(given)


class Trainer:
    """In the place of `dvc repro`: figures that follow from the seed, and a note of what ran."""

    def __init__(self, fails: int | None = None) -> None:
        self.ran: list[int] = []
        self.fails = fails

    def __call__(self, folder: Path, seed: int, lock: int) -> None:
        if seed == self.fails:
            raise StyleBlendError("killed")
        cfg = load_params(folder / "params.yaml")
        assert cfg.train_encoder.seed == cfg.finetune_decoder.seed == seed and cfg.split.seed == 0
        self.ran.append(seed)
        figures = {"pose_error_deg": 3.0 + seed, "pose_error_deg_low": 2.0 + seed, "pose_error_deg_high": 4.0 + seed}
        text = json.dumps(figures | {"frechet_judge": 0.5, "copy_target/pose_error_deg": 0.0, "network_judge": "j"})
        (folder / "reports").mkdir(exist_ok=True)
        (folder / "reports/metrics.json").write_text(text)


def test_seeds_give_the_spread_between_runs_and_go_on_after_a_kill(root: Path, tmp_path: Path) -> None:
    """Mean and standard deviation are numpy's; what is done is kept; changed code runs again; one seed is refused."""
    (tmp_path / "src").mkdir()
    (tmp_path / "src/code.py").write_text("1\n")
    shutil.copy(root / "params.yaml", tmp_path)
    with pytest.raises(StyleBlendError, match="killed"):
        seeds.over_seeds(tmp_path, 3, Trainer(fails=2))
    assert not (tmp_path / "reports/seeds.json").exists()
    again = Trainer()
    report = seeds.over_seeds(tmp_path, 3, again)
    assert again.ran == [2]
    found = json.loads((tmp_path / "reports/seeds.json").read_text())
    pose = found["figures"]["pose_error_deg"]
    assert found["seeds"] == [0, 1, 2] and pose["values"] == [3, 4, 5] and pose["mean"] == 4 and pose["std"] == 1
    assert (pose["pairs_low"], pose["pairs_high"]) == (3, 5) and found["figures"]["frechet_judge"]["std"] == 0
    assert set(found["figures"]) == {"pose_error_deg", "frechet_judge"}
    assert "| pose error, degrees (lower is better) | 4 | 1 | 3 to 5 | 3 to 5 |" in report.read_text()
    (tmp_path / "src/code.py").write_text("2\n")
    changed = Trainer()
    seeds.over_seeds(tmp_path, 2, changed)
    assert changed.ran == [0, 1]
    with pytest.raises(StyleBlendError, match="--seeds is 1: a spread needs 2"):
        seeds.over_seeds(tmp_path, 1, changed)
