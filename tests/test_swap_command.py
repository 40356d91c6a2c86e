"""`styleblend swap` on folders, several faces, transparency: what is written, kept, refused and said."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from styleblend import model, provenance
from styleblend.commands import cli
from styleblend.commands.swap import in_options
from styleblend.errors import StyleBlendError
from styleblend.face_detector.detection import Detection
from styleblend.swapping import batch, errors
from styleblend.swapping.batch import Task
from tiny_model import MODEL


@pytest.fixture
def project(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The committed settings, an untrained model in `model` and a source, in the current folder."""
    shutil.copy(root / "params.yaml", tmp_path)
    torch.manual_seed(0)
    (tmp_path / "model").mkdir()
    model.save(model.build(MODEL), MODEL, tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    picture(Path("source.png"))
    return tmp_path


def picture(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def swap(*arguments: object) -> None:
    """Without a detector: it is other tests' part."""
    cli.main(["swap", "source.png", *map(str, arguments), "--aligned", "--model", "model"])


def refused(*arguments: object) -> str:
    with pytest.raises(SystemExit) as caught:
        swap(*arguments)
    assert isinstance(caught.value.code, str), "a string as code is printed and means exit code 1"
    assert "\n" not in caught.value.code
    return caught.value.code


def test_a_folder_becomes_a_folder(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every picture of any nesting is swapped and marked under its own name; the rest of the folder is not read."""
    for name in ("a.png", "deep/er/b.jpg", "c.tif", "c.webp", "d.JPEG"):
        picture(Path("in") / name)
    (project / "in/notes.txt").write_text("no picture")
    swap("in", "-o", "out")
    made = {path.relative_to("out").as_posix() for path in Path("out").rglob("*") if path.is_file()}
    assert made == {"a.png", "deep/er/b.jpg", "c.tif.png", "c.webp.png", "d.JPEG"}
    for name in made:
        assert provenance.read_marks(Path("out") / name)["kind"] == "swap"
    passed_over = "in: 1 passed over that are no pictures by their endings (1 .txt)\n"
    assert capsys.readouterr().out == f"{passed_over}out: 5 pictures by model folder model, marked as synthetic\n"


def test_failures_are_told_at_the_end_and_the_rest_goes_on(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A line for each with its reason on stderr, exit code 1, no file for what failed, all others there."""
    picture(Path("in/a.png"))
    picture(Path("in/z.png"))
    Path("in/broken.png").write_text("no picture")
    message = refused("in", "absent.png", "-o", "out")
    assert message.startswith("styleblend swap: 2 of 4 pictures failed")
    heard = capsys.readouterr()
    lines = [line for line in heard.err.splitlines() if "it/s" not in line]
    assert len(lines) == 2
    assert lines[0].startswith("in/broken.png: cannot be decoded") and lines[1].startswith("absent.png")
    assert "out: 2 pictures by model folder model" in heard.out
    assert sorted(path.name for path in Path("out").iterdir()) == ["a.png", "z.png"]


def test_an_interrupted_batch_goes_on(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is there is kept to the byte, what is missing is made, and --overwrite makes all again."""
    for name in "abc":
        picture(Path(f"in/{name}.png"))
    swap("in", "-o", "out")
    Path("out/b.png").unlink()
    Path("out/a.png").write_bytes(b"kept")
    capsys.readouterr()
    swap("in", "-o", "out")
    assert Path("out/a.png").read_bytes() == b"kept" and Path("out/b.png").is_file()
    said = capsys.readouterr().out
    assert "out: 2 pictures are there already and stay (--overwrite makes them again)" in said
    assert "out: 1 pictures by model folder model" in said
    shutil.rmtree("model")
    swap("in", "-o", "out")  # nothing is left to do, so not even the model is looked for
    picture(Path("model/x.png"))
    assert "is no model folder" in refused("in", "-o", "out", "--overwrite")
    assert Path("out/a.png").read_bytes() == b"kept"


def test_overwrite_makes_all_again(project: Path) -> None:
    """Also what is there."""
    picture(Path("in/a.png"))
    Path("out").mkdir()
    Path("out/a.png").write_bytes(b"old")
    swap("in", "-o", "out", "--overwrite")
    assert provenance.read_marks(Path("out/a.png"))["kind"] == "swap"


def test_one_picture_into_an_existing_folder(project: Path) -> None:
    """It keeps its name there."""
    Path("out").mkdir()
    swap(picture(Path("b.png")), "-o", "out")
    assert [path.name for path in Path("out").iterdir()] == ["b.png"]


def test_inputs_are_never_written_over(project: Path) -> None:
    """Neither targets nor source nor the folder that is read; nothing is made before that is clear."""
    before = picture(Path("in/a.png")).read_bytes()
    picture(Path("in/deep/source.png"))
    assert "lies in in, whose pictures are read" in refused("in", "-o", "in/out")
    assert "lies in in, whose pictures are read" in refused("in", "-o", "in", "--overwrite")
    assert "is one of the pictures that are read" in refused("in/a.png", "-o", "in/a.png")
    assert "is one of the pictures that are read" in refused("in/a.png", "-o", "source.png")
    assert "is one of the pictures that are read" in refused("in/deep", "-o", ".")
    assert Path("in/a.png").read_bytes() == before and not Path("in/out").exists()


def test_wrong_places_are_one_line(project: Path) -> None:
    """Outputs that would fall together, a file in the place of the folder, an empty folder, a wrong ending."""
    one, two = picture(Path("x/a.png")), picture(Path("y/a.png"))
    assert "x/a.png and y/a.png would both become out/a.png" in refused(one, two, "-o", "out")
    Path("out").write_text("a file")
    assert "out is a file: for several pictures name a folder" in refused("x", "-o", "out")
    assert "out/a.png cannot be written" in refused(one, "-o", "out/a.png")
    Path("empty").mkdir()
    assert "empty and its sub-folders hold no picture" in refused("empty", "-o", "elsewhere")
    assert ".png or .jpg" in refused(one, "-o", "a.gif")
    assert "notacolour is no colour" in refused(one, "-o", "a.jpg", "--background", "notacolour")
    assert "--source-face chooses one" in refused(one, "-o", "a.jpg", "--source-face", "0")


def test_a_target_that_is_named_twice_is_made_once() -> None:
    """As in `swap s.png photos/*.png photos/a.png`."""
    tasks = batch.plan([Path("a.png"), Path("b.png"), Path("a.png")], Path("out"), [], {})
    assert tasks == [Task(Path("a.png"), Path("out/a.png")), Task(Path("b.png"), Path("out/b.png"))]


def test_two_ways_to_choose_are_a_wrong_command_line(project: Path) -> None:
    """As everywhere, exit code 2."""
    with pytest.raises(SystemExit) as caught:
        swap("a.png", "-o", "b.png", "--all-faces")
    assert caught.value.code == 2


BOX = Detection((10.0, 20.0, 30.0, 40.0), np.zeros((5, 2)), 1.0)
PLACE = "30x40 px at x 10 y 20"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (errors.NoFace("source"), "no face found in the source picture: give one where the face is larger or clearer"),
        (
            errors.NoFace("target_like"),
            "no face found in the picture of --target-like: give one where the face is larger or clearer",
        ),
        (
            errors.SeveralFaces("source", [BOX, BOX]),
            f"which of the 2 faces in the source picture (0: {PLACE}, 1: {PLACE})? give --source-face NUMBER",
        ),
        (
            errors.SeveralFaces("target", [BOX, BOX]),
            f"which of the 2 faces in the target picture (0: {PLACE}, 1: {PLACE})? "
            "give --target-face NUMBER, --target-like PICTURE or --all-faces",
        ),
        (
            errors.SeveralFaces("target_like", [BOX, BOX]),
            "the picture of --target-like has 2 faces: give one with that person alone",
        ),
        (
            errors.FaceNumberOutOfRange("target", 3, 3),
            "--target-face 3: the target picture has 3 faces, counted from 0",
        ),
        (errors.FaceNumberOutOfRange("source", -1, 1), "--source-face -1: the source picture has 1 face, number 0"),
        (
            errors.NotAlike(1, BOX, 0.2, 0.45),
            "no face in the target picture is like the wanted person's (nearest is 1: "
            f"{PLACE}, likeness 0.20, under swap.min_likeness 0.45): "
            "give another picture of that person, or --target-face NUMBER",
        ),
        (
            errors.AmbiguousLikeness([(1, BOX, 0.9), (0, BOX, 0.85)], 0.1),
            f"two faces in the target picture are about equally like the wanted person's (1: {PLACE}, 0.90 and 0: "
            f"{PLACE}, 0.85; swap.likeness_margin is 0.1): "
            "give another picture of that person, or --target-face NUMBER",
        ),
        (StyleBlendError("another matter: mend it"), "another matter: mend it"),
    ],
)
def test_remedies_are_options(error: StyleBlendError, message: str) -> None:
    """What the core says in types and fields, a person reads as options of this command."""
    assert in_options(error) == message


@pytest.mark.parametrize(
    ("arguments", "remedies"),
    [
        (("swap", "source.png", "source.png", "-o", "out.png"), r"name it with --detector-weights, or .*--aligned$"),
        (("serve", "--model", "model"), r"name it with --detector-weights$"),
    ],
)
def test_without_a_detector_the_remedy_is_named(
    project: Path, arguments: tuple[str, ...], remedies: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No file, no mirror and no network: one line with the ways out that the command has."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(SystemExit, match=remedies) as caught:
        cli.main([*arguments])
    assert "\n" not in str(caught.value.code)


def test_first_of_several_frames_is_said(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In a batch and for a single picture, with the file's name."""
    frames = [Image.new("RGB", (48, 48), colour) for colour in ("red", "blue")]
    Path("in").mkdir()
    frames[0].save("in/a.tif", save_all=True, append_images=frames[1:])
    note = "in/a.tif: it has several frames or pages, of which the first is used"
    swap("in/a.tif", "-o", "out.png")
    assert note in capsys.readouterr().out.splitlines()
    swap("in", "-o", "out")
    assert note in capsys.readouterr().out.splitlines()


@pytest.fixture
def photographed(project: Path, yunet_file: Path, root: Path) -> tuple[str, ...]:
    """A rendered face as photograph `face.png` (192 px); options that find it by a real detector."""
    from styleblend.faces.pixels import to_8bit
    from styleblend.synthetic import factors, renderer

    made = to_8bit(renderer.render(factors.sample(3, [0, 1], [0, 0]), 192).images).permute(0, 2, 3, 1).numpy()
    Image.fromarray(made[0]).save("face.png")
    Image.fromarray(np.concatenate([made[1], made[0]], axis=1)).save("two.png")
    shutil.copytree(root / "data/pretrained/small", project / "data/pretrained/small")
    return ("--model", "model", "--detector-weights", str(yunet_file))


def test_transparency_is_kept_in_png_and_said_in_jpeg(
    photographed: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """PNG keeps alpha and every pixel outside the face; in JPEG the colour that was asked for stands there."""
    alpha = np.full((192, 192), 255, dtype=np.uint8)
    alpha[:20] = 0
    with Image.open("face.png") as image:
        cut_out = image.convert("RGB")
    cut_out.putalpha(Image.fromarray(alpha))
    cut_out.save("cut_out.png")
    cli.main(["swap", "face.png", "cut_out.png", "-o", "out.png", *photographed])
    with Image.open("out.png") as after:
        assert after.mode == "RGBA"
        same = (np.asarray(after) == np.asarray(cut_out)).all(-1)
    assert same[:20].all() and 0.05 < (~same).mean() < 0.8
    cli.main(["swap", "face.png", "cut_out.png", "-o", "out.jpg", "--background", "#00ff00", *photographed])
    assert "out.jpg: JPEG has no transparency, so transparent parts are #00ff00" in capsys.readouterr().out
    with Image.open("out.jpg") as after:
        assert after.mode == "RGB" and np.abs(np.asarray(after)[:16].astype(int) - (0, 255, 0)).mean() < 3


def test_several_faces_on_the_command_line(photographed: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    """A question first; then likeness finds the right one of two people, and all means both."""
    with pytest.raises(SystemExit, match=r"which of the 2 faces .*--target-face .*--target-like .*--all-faces"):
        cli.main(["swap", "face.png", "two.png", "-o", "out.png", *photographed])
    assert not Path("out.png").exists()
    with Image.open("two.png") as image:
        before = np.asarray(image.convert("RGB"))

    def changed(*options: str) -> list[bool]:
        cli.main(["swap", "face.png", "two.png", "-o", "out.png", *options, *photographed])
        with Image.open("out.png") as image:
            differs = (np.asarray(image) != before).any(-1)
        return [bool(differs[:, :192].any()), bool(differs[:, 192:].any())]

    assert changed("--target-like", "face.png") == [False, True]
    assert changed("--target-face", "0") == [True, False]
    assert changed("--all-faces") == [True, True]
    with pytest.raises(SystemExit, match="the picture of --target-like has 2 faces"):
        changed("--target-like", "two.png")


@pytest.mark.photos
def test_a_batch_of_real_photographs(photographed: tuple[str, ...], photos: Path) -> None:
    """Photographs with one face are swapped and keep their size and corners; the one of two people is a question."""
    wild = photos / "in_the_wild"
    chosen = [wild / name for name in ("img25.jpg", "img51.jpg", "couple.jpg")]
    with pytest.raises(SystemExit, match="1 of 3 pictures failed"):
        cli.main(["swap", "face.png", *map(str, chosen), "-o", "out", *photographed])
    assert sorted(path.name for path in Path("out").iterdir()) == ["img25.jpg", "img51.jpg"]
    for name in ("img25.jpg", "img51.jpg"):
        with Image.open(wild / name) as before, Image.open(Path("out") / name) as after:
            assert after.size == before.size
            # JPEG is not exact: outside the face only its own error is there.
            differs = np.abs(np.asarray(after, dtype=int) - np.asarray(before.convert("RGB"))).max(-1)
        assert differs[:8, :8].max() < 25 and differs.max() > 25
    cli.main(["swap", "face.png", *map(str, chosen), "-o", "out", "--all-faces", *photographed])
    assert len(list(Path("out").iterdir())) == 3
