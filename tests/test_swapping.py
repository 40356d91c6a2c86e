"""From photographs to one: finding and choosing faces, and what of the target stays as it was."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from aligned_points import from_aligned
from local_servers import wait_for
from styleblend import model, swapping
from styleblend.config.data import Align
from styleblend.config.params import Config, load_params
from styleblend.config.product import Follow, Swap
from styleblend.config.sources import Download, FolderSource, RenderedSource
from styleblend.data import sources
from styleblend.data.align import align_faces
from styleblend.errors import StyleBlendError
from styleblend.face_detector.detection import Detection, Yunet, annotated
from styleblend.face_detector.finder import Found
from styleblend.faces.alignment import quad_from_landmarks
from styleblend.faces.pictures import Picture, as_picture, open_picture
from styleblend.perception import identity
from styleblend.registry import runs, versions
from styleblend.swapping import FaceSwapper, ReferenceSelector, SwapError, errors, swap_faces
from styleblend.swapping.loaders import follow_model
from styleblend.synthetic import factors, renderer
from tiny_model import MODEL

SIDE = 192

Render = tuple[Image.Image, Detection]


class Annotations:
    """Finds the faces of pictures whose landmarks are known: what a detector is to a photograph."""

    def __init__(self, *known: tuple[Image.Image, list[Detection]]) -> None:
        self.known = {(image.size, image.tobytes()): faces for image, faces in known}

    def detect(self, image: Image.Image) -> list[Detection]:
        # A picture that is turned, as the check of faces turns one without any, has none either.
        return self.known.get((image.size, image.tobytes()), [])


def moved(face: Detection, x: float, y: float = 0, scale: float = 1) -> Detection:
    return annotated((face.points_px + 0.5) * scale - 0.5 + (x, y))


@pytest.fixture(scope="module")
def swapper() -> model.Swapper:
    torch.manual_seed(0)
    return model.build(MODEL).eval()


@pytest.fixture(scope="module")
def cfg(root: Path) -> Config:
    return load_params(root / "params.yaml")


@pytest.fixture(scope="module")
def renders() -> list[Render]:
    """Rendered photographs with their annotated faces: persons 0, 1, 2, then another picture of each."""
    made = renderer.render(factors.sample(3, [0, 1, 2, 0, 1, 2], [0, 0, 0, 1, 1, 1]), SIDE)
    pixels = made.images.add(1).mul(127.5).round().byte().permute(0, 2, 3, 1).numpy()
    return [(Image.fromarray(rgb), annotated(points)) for rgb, points in zip(pixels, made.landmarks_px, strict=True)]


@pytest.fixture(scope="module")
def group(renders: list[Render]) -> tuple[Image.Image, list[Detection]]:
    """A photograph of persons 0, 1 and 2 from left to right; their faces as a detector gives them, in any order."""
    picture = Image.new("RGB", (3 * SIDE, SIDE))
    for place, (image, _) in enumerate(renders[:3]):
        picture.paste(image, (place * SIDE, 0))
    faces = [moved(face, place * SIDE) for place, (_, face) in enumerate(renders[:3])]
    return picture, [faces[1], faces[2], faces[0]]


def changed_thirds(before: Image.Image, after: Image.Image) -> list[int]:
    """Which of the three persons differ."""
    differs = (np.asarray(before) != np.asarray(after)).any(-1)
    return [place for place in range(3) if differs[:, place * SIDE : (place + 1) * SIDE].any()]


def test_swap_keeps_size_and_surroundings_and_repeats(
    swapper: model.Swapper, renders: list[Render], cfg: Config
) -> None:
    """The result has the target's size, differs only in the face, and is the same each time."""
    (source, source_face), (target, target_face) = renders[:2]
    big = target.resize((400, 400), Image.Resampling.BICUBIC)
    scaled = moved(target_face, 0, scale=400 / SIDE)
    detector = Annotations((source, [source_face]), (big, [scaled]))
    once, again = (swap_faces(source, big, model=swapper, detector=detector, settings=cfg) for _ in range(2))
    assert once.size == (400, 400) and once.mode == "RGB"
    assert np.array_equal(np.asarray(once), np.asarray(again))
    changed = (np.asarray(once) != np.asarray(big)).any(-1)
    quad = quad_from_landmarks(scaled.points_px)
    corners = np.rint(from_aligned([[0.5, 0.56], [0.01, 0.01], [0.99, 0.99]], quad)).astype(int).clip(0, 399)
    assert changed[corners[0, 1], corners[0, 0]]
    assert not changed[corners[1:, 1], corners[1:, 0]].any()


def test_several_faces_are_a_question(
    swapper: model.Swapper, renders: list[Render], group: tuple[Image.Image, list[Detection]], cfg: Config
) -> None:
    """One line names each face by number and place, and the ways to answer; the exception carries the faces."""
    source, face = renders[3]
    detector = Annotations((source, [face]), group)
    with pytest.raises(swapping.SeveralFaces) as caught:
        swap_faces(source, group[0], model=swapper, detector=detector, settings=cfg)
    message = str(caught.value)
    assert "\n" not in message and "which of the 3 faces in the target picture" in message
    assert "target_face=NUMBER, target_like=PICTURE or all_faces=True" in message
    assert [each.box[0] for each in caught.value.faces] == sorted(each.box[0] for each in group[1])
    for number, each in enumerate(caught.value.faces):
        assert f"{number}: {each.box[2]:.0f}x{each.box[3]:.0f} px at x {each.box[0]:.0f} y {each.box[1]:.0f}" in message
    with pytest.raises(swapping.SeveralFaces, match=r"in the source picture .*give source_face=NUMBER$"):
        swap_faces(group[0], source, model=swapper, detector=detector, settings=cfg)


def test_a_number_chooses_from_the_left(
    swapper: model.Swapper, renders: list[Render], group: tuple[Image.Image, list[Detection]], cfg: Config
) -> None:
    """In source and target; a number that no face has is refused."""
    source, face = renders[3]
    detector = Annotations((source, [face]), group)
    tools = {"model": swapper, "detector": detector, "settings": cfg}
    for number in range(3):
        assert changed_thirds(group[0], swap_faces(source, group[0], target_face=number, **tools)) == [number]
    alone = Annotations((source, [face]), (renders[1][0], [renders[1][1]]), group)
    tools["detector"] = alone
    from_group = swap_faces(group[0], source, source_face=1, **tools)
    from_picture = swap_faces(renders[1][0], source, **tools)
    difference = np.abs(np.asarray(from_group, dtype=int) - np.asarray(from_picture))
    assert difference.mean() < 0.5, "face 1 of the group is person 1"
    with pytest.raises(SwapError, match=r"^target_face 3: the target picture has 3 faces, counted from 0"):
        swap_faces(source, group[0], target_face=3, **tools)
    with pytest.raises(SwapError, match=r"^source_face -1: the source picture has 1 face, number 0"):
        swap_faces(source, group[0], source_face=-1, target_face=0, **tools)
    with pytest.raises(SwapError, match="exclude one another"):
        swap_faces(source, group[0], target_face=0, all_faces=True, **tools)


def test_all_faces_can_be_swapped(
    swapper: model.Swapper, renders: list[Render], group: tuple[Image.Image, list[Detection]], cfg: Config
) -> None:
    """Each face changes as it would alone."""
    source, face = renders[3]
    tools = {"model": swapper, "detector": Annotations((source, [face]), group), "settings": cfg}
    everybody = np.asarray(swap_faces(source, group[0], all_faces=True, **tools))
    for number in range(3):
        alone = np.asarray(swap_faces(source, group[0], target_face=number, **tools))
        third = slice(number * SIDE, (number + 1) * SIDE)
        assert np.array_equal(everybody[:, third], alone[:, third])


@pytest.mark.parametrize("person", [0, 1, 2])
def test_likeness_finds_the_person(
    swapper: model.Swapper, renders: list[Render], group: tuple[Image.Image, list[Detection]], cfg: Config,
    person: int, root: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Another picture of the same person, with other pose and light, points at that person's face."""
    monkeypatch.chdir(root)
    source, face = renders[3]
    like, like_face = renders[3 + person]
    detector = Annotations((source, [face]), (like, [like_face]), group)
    after = swap_faces(source, group[0], target_like=like, model=swapper, detector=detector, settings=cfg)
    assert changed_thirds(group[0], after) == [person]


def test_unclear_likeness_is_refused(
    renders: list[Render], group: tuple[Image.Image, list[Detection]], root: Path
) -> None:
    """Nobody near enough, two about equally near, and a picture of several people: a line each."""
    network = identity.load(root / "data/pretrained/small", "identity")
    limits = Swap()
    like, face = renders[3]
    faces = sorted(group[1], key=lambda each: each.box[0])
    likeness = ReferenceSelector.from_picture(like, Found([face], []), network, limits)
    assert likeness(group[0], faces) == [faces[0]]
    with pytest.raises(SwapError, match=r"nearest is \d: \d+x\d+ px at .*under swap.min_likeness 0.45") as caught:
        likeness(group[0], faces[1:])
    assert "\n" not in str(caught.value) and "target_face=NUMBER" in str(caught.value)
    twins = Image.new("RGB", (2 * SIDE, SIDE))
    for place in range(2):
        twins.paste(renders[0][0], (place * SIDE, 0))
    with pytest.raises(SwapError, match=r"two faces .* are about equally like .*0: .* and 1: |1: .* and 0: "):
        likeness(twins, [renders[0][1], moved(renders[0][1], SIDE)])
    with pytest.raises(SwapError, match="the picture of target_like has 3 faces"):
        ReferenceSelector.from_picture(group[0], Found(group[1], []), network, limits)
    with pytest.raises(SwapError, match="no face found in the picture of target_like"):
        ReferenceSelector.from_picture(like, Found([], []), network, limits)


def test_messages_of_the_python_interface_name_its_parameters(
    swapper: model.Swapper, renders: list[Render], group: tuple[Image.Image, list[Detection]], cfg: Config,
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Every refusal of swap_faces is one line that names no option of the command line, and has its type and fields."""
    (tmp_path / "data/pretrained").mkdir(parents=True)
    (tmp_path / "data/pretrained/small").symlink_to(root / "data/pretrained/small")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    (source, face), (other, other_face) = renders[3], renders[4]
    blank, pair = Image.new("RGB", (9, 9)), Image.new("RGB", (2 * SIDE, SIDE))
    for place in range(2):
        pair.paste(renders[0][0], (place * SIDE, 0))
    twins = [renders[0][1], moved(renders[0][1], SIDE)]
    detector = Annotations((source, [face]), (other, [other_face]), (blank, []), (pair, twins), group)
    refusals: list[tuple[type[SwapError], dict[str, object], dict[str, object]]] = [
        (errors.NoFace, {"source": blank}, {"role": "source"}),
        (errors.NoFace, {"target": blank}, {"role": "target"}),
        (errors.NoFace, {"target_like": blank}, {"role": "target_like"}),
        (errors.SeveralFaces, {"source": group[0]}, {"role": "source"}),
        (errors.SeveralFaces, {"target": group[0]}, {"role": "target"}),
        (errors.SeveralFaces, {"target_like": group[0]}, {"role": "target_like"}),
        (errors.FaceNumberOutOfRange, {"target_face": 1}, {"role": "target", "number": 1, "count": 1}),
        (errors.NotAlike, {"target_like": other}, {"number": 0, "minimum": 0.45}),
        (errors.AmbiguousLikeness, {"target": pair, "target_like": source}, {"margin": 0.1}),
        (errors.ConflictingChoice, {"target_face": 0, "all_faces": True}, {"given": ("target_face", "all_faces")}),
        (errors.DetectorMissing, {"detector": None}, {}),
        (SwapError, {"detector": Path("absent.onnx")}, {}),
        (SwapError, {"target": "absent.png"}, {}),
        (SwapError, {"target": Image.new("F", (9, 9))}, {}),
    ]
    usual = {"source": source, "target": source, "model": swapper, "detector": detector, "settings": cfg}
    for kind, given, fields in refusals:
        with pytest.raises(SwapError) as caught:
            swap_faces(**(usual | given))
        message = str(caught.value)
        assert type(caught.value) is kind, message
        assert "--" not in message and "\n" not in message
        assert {name: getattr(caught.value, name) for name in fields} == fields


def test_training_and_use_cut_the_same_face(swapper: model.Swapper, tmp_path: Path) -> None:
    """The face that the network gets from a photograph is, bit for bit, the one that the stage align writes."""
    source = RenderedSource(kind="rendered", identities=6, pictures_per_identity=2, size_px=64, seed=1)
    settings = Download(sources=(source,), workers=1, origin=Path("src/styleblend/synthetic"))
    sources.gather(settings, tmp_path / "raw", tmp_path / "state")
    annotations = Align(detector="annotations", workers=1, min_face_px=16, size_px=MODEL.input_px)
    faces, _ = align_faces(tmp_path / "raw", tmp_path, tmp_path / "faces", annotations)
    index = sources.read_index(tmp_path / "raw").set_index("path")
    for row in faces.head(4).itertuples():
        photograph = open_picture(tmp_path / "raw" / row.raw_path, 10**6)
        detector = Annotations((photograph.rgb, [annotated(index.loc[row.raw_path, "landmarks"])]))
        used = FaceSwapper.from_source(photograph, swapper, detector).face
        with Image.open(tmp_path / "faces" / row.path) as trained:
            assert np.array_equal(np.asarray(used), np.asarray(trained))


def test_training_and_use_read_the_same_pixels(
    swapper: model.Swapper, renders: list[Render], yunet_file: Path, tmp_path: Path
) -> None:
    """The same with a real detector on files that lie on their side, are transparent, of 16 bit, or CMYK."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "networks").mkdir()
    (tmp_path / "networks/detector.onnx").write_bytes(yunet_file.read_bytes())
    image = renders[0][0]
    exif = Image.Exif()
    exif[0x0112] = 6
    image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "photos/turned.png", exif=exif)
    cut_out = image.copy()
    cut_out.putalpha(Image.fromarray(np.tri(SIDE, k=120, dtype=np.uint8) * 255))
    cut_out.save(tmp_path / "photos/cut_out.png")
    Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) << 8).save(tmp_path / "photos/deep.png")
    image.convert("CMYK").save(tmp_path / "photos/press.tif")
    source = FolderSource(kind="folder", path=tmp_path / "photos", licence="mine", terms="agreed")
    settings = Download(sources=(source,), workers=1, origin=tmp_path / "photos")
    sources.gather(settings, tmp_path / "raw", tmp_path / "state")
    detected = Align(detector="yunet", workers=1, size_px=MODEL.input_px)
    faces, quarantine = align_faces(tmp_path / "raw", tmp_path / "networks", tmp_path / "faces", detected)
    assert len(faces) == 4 and quarantine.empty
    detector = Yunet(yunet_file, detected.min_score)
    for row in faces.itertuples():
        used = FaceSwapper.from_source(open_picture(tmp_path / "raw" / row.raw_path, 10**6), swapper, detector).face
        with Image.open(tmp_path / "faces" / row.path) as trained:
            assert np.array_equal(np.asarray(used), np.asarray(trained)), row.raw_path


def test_transparency_profile_and_colours_of_the_target_stay(
    swapper: model.Swapper, renders: list[Render], cfg: Config
) -> None:
    """RGBA gives RGBA with the same alpha and, below it, the same colours outside the face; the profile is kept."""
    (source, source_face), (target, face) = renders[:2]
    alpha = Image.fromarray(np.tri(SIDE, k=100, dtype=np.uint8) * 255)
    target = target.copy()
    target.putalpha(alpha)
    target.info["icc_profile"] = b"whatever it says"
    given = Picture(target.convert("RGB"), alpha)
    detector = Annotations((source, [source_face]), (given.opaque(), [face]))
    after = FaceSwapper.from_source(as_picture(source, 10**6), swapper, detector).swap_into(given)
    assert after.mode == "RGBA" and after.info == given.rgb.info
    assert np.array_equal(np.asarray(after.getchannel("A")), np.asarray(alpha))
    same = (np.asarray(after)[..., :3] == np.asarray(given.rgb)).all(-1)
    assert same[:8].all() and same[-8:].all() and 0.05 < (~same).mean() < 0.8


def test_a_grey_photograph_stays_grey(swapper: model.Swapper, renders: list[Render], cfg: Config) -> None:
    """No coloured face appears in a picture that was stored without colour."""
    (source, source_face), (target, face) = renders[:2]
    grey = target.convert("L")
    detector = Annotations((source, [source_face]), (grey.convert("RGB"), [face]))
    after = np.asarray(swap_faces(source, grey, model=swapper, detector=detector, settings=cfg))
    assert (after == after[..., :1]).all()
    assert (after != np.asarray(grey)[..., None]).any()


BIG = """
import json, resource, sys
import numpy as np
from PIL import Image, ImageChops
sys.path.insert(0, sys.argv[1])
from test_swapping import moved
from tiny_model import MODEL
from styleblend import model
from styleblend.faces.pictures import Picture
from styleblend.faces.alignment import quad_from_landmarks, to_aligned
from styleblend.face_detector.detection import annotated
from styleblend.swapping import FaceSwapper, paste_back

face = annotated(np.array(json.loads(sys.argv[2])))
source = Image.effect_noise((192, 192), 60).convert("RGB")
target = Image.effect_noise((6000, 4000), 60).convert("RGB")

class Places:
    def detect(self, image):
        return [large if image is target else face]

swapper = FaceSwapper.from_source(Picture(source), model.build(MODEL).eval(), Places())
swapper.swap_into(Picture(source))  # what is loaded once is loaded now
for left in (1500, -700):
    large = moved(face, left, 400, scale=16)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    after = swapper.swap_into(Picture(target))
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    quad = quad_from_landmarks(large.points_px).astype(np.float32)
    difference = ImageChops.difference(after, target)
    box = difference.getbbox()
    x, y = np.arange(box[0], box[2]), np.arange(box[1], box[3])
    place = to_aligned(np.stack(np.meshgrid(x, y), -1), quad)
    radius = np.hypot(*np.moveaxis((place - paste_back.CENTRE) / paste_back.RADII, -1, 0))
    differs = np.asarray(difference.crop(box)).any(-1)
    print(json.dumps({"used_mb": used / 1024, "size": after.size, "inside": int(differs[radius < 1].sum()),
                      "outside": int(differs[radius >= 1].sum())}))
    del difference, place, radius, after
"""


def test_a_photograph_of_24_million_pixels_needs_little_memory(renders: list[Render]) -> None:
    """6000 x 4000 px with a face of thousands, then one that leaves the picture: a copy of it and little else.

    Outside the ellipse not one pixel changes.
    """
    points = json.dumps(renders[0][1].points_px.tolist())
    done = subprocess.run(
        [sys.executable, "-c", BIG, str(Path(__file__).parent), points], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == 2
    for each in found:
        assert each["size"] == [6000, 4000]
        assert each["outside"] == 0 and each["inside"] > 10**6
    # Pillow holds RGB in four bytes a pixel: 96 MB for the result; the target is there before.
    assert found[0]["used_mb"] < 1.5 * 96, found


def test_one_call_from_paths_to_a_picture(
    renders: list[Render], swapper: model.Swapper, root: Path, yunet_file: Path, tmp_path: Path
) -> None:
    """Files, a model folder and a detector's file are enough; what Pillow opened serves as well as its path."""
    folder = tmp_path / "model"
    folder.mkdir()
    model.save(swapper, MODEL, folder)
    for name, (image, _) in zip("ab", renders, strict=False):
        image.save(tmp_path / f"{name}.png")
    tools = {"model": folder, "detector": yunet_file, "settings": root / "params.yaml"}
    after = swap_faces(str(tmp_path / "a.png"), tmp_path / "b.png", **tools)
    assert after.size == (SIDE, SIDE)
    with Image.open(tmp_path / "b.png") as opened:
        again = swap_faces(tmp_path / "a.png", opened, **tools)
    assert np.array_equal(np.asarray(after), np.asarray(again))
    with pytest.raises(SwapError, match="32 bit"):
        swap_faces(tmp_path / "a.png", Image.new("F", (9, 9)), **tools)


def test_importing_the_package_costs_nothing() -> None:
    """`import styleblend` loads neither torch nor Pillow nor numpy."""
    program = "import styleblend, sys; assert not {'torch', 'PIL', 'numpy', 'mlflow', 'cv2'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_unreadable_pictures_are_one_line(tmp_path: Path) -> None:
    """Missing, a folder, no picture, cut off, too large: each names the file."""
    whole = io.BytesIO()
    pixels = np.random.default_rng(1).integers(0, 256, (120, 140, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(whole, "PNG")
    (tmp_path / "cut.png").write_bytes(whole.getvalue()[:2000])
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "large.png").write_bytes(whole.getvalue())
    cases = {
        "absent.png": "does not exist",
        "": "is a folder",
        "cut.png": "cannot",
        "text.png": "cannot",
        "large.png": "140x120",
    }
    for name, reason in cases.items():
        with pytest.raises(StyleBlendError, match=reason) as caught:
            swapping.read_picture(tmp_path / name, 1000 if name == "large.png" else 10**6)
        assert "\n" not in str(caught.value)
        assert str(tmp_path / name) in str(caught.value)


def test_a_real_detector_finds_the_rendered_face(
    yunet_file: Path, swapper: model.Swapper, renders: list[Render], cfg: Config
) -> None:
    """With YuNet in place of annotations the whole way works, and the crop is nearly the annotated one."""
    (source, _), (target, face) = renders[:2]
    detector = Yunet(yunet_file)
    swapped = swap_faces(source, target, model=swapper, detector=detector, settings=cfg)
    assert swapped.size == target.size
    quad = quad_from_landmarks(detector.detect(target)[0].points_px)
    assert np.abs(quad - quad_from_landmarks(face.points_px)).max() < 0.12 * SIDE


def test_without_a_detector_the_remedy_is_named(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file, no mirror and no network: one line with all three ways out; a wrong file is named."""
    cfg = load_params(root / "params.yaml")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(StyleBlendError, match=r"name it as detector.*swap_aligned") as caught:
        swapping.find_detector(cfg, None, tmp_path / "networks", tmp_path / "state")
    assert "\n" not in str(caught.value)
    with pytest.raises(StyleBlendError, match=r"absent\.onnx does not exist"):
        swapping.find_detector(cfg, tmp_path / "absent.onnx", tmp_path, tmp_path)


def test_a_mirror_serves_the_detector(root: Path, yunet_file: Path, tmp_path: Path) -> None:
    """A machine without internet takes it from pretrained.mirror, and keeps it."""
    cfg = load_params(root / "params.yaml")
    pretrained = cfg.pretrained.model_copy(update={"mirror": yunet_file.parent})
    align = cfg.align.model_copy(update={"detector": "yunet"})
    mirrored = cfg.model_copy(update={"pretrained": pretrained, "align": align})
    swapping.find_detector(mirrored, None, tmp_path / "networks", tmp_path / "state")
    assert list((tmp_path / "state" / "weights").iterdir())


@pytest.mark.slow
def test_the_champion_is_used_and_else_the_candidate(
    swapper: model.Swapper,
    cfg: Config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Without a champion the candidate serves and a line says so; once promoted, the champion does."""
    monkeypatch.chdir(tmp_path)
    track = cfg.tracking
    with pytest.raises(StyleBlendError, match="run `dvc repro` first"):
        swapping.find_model(cfg, None)
    parent = runs.start_pipeline(track, "p", {})
    for key in ("first", "second"):
        folder = tmp_path / key
        folder.mkdir()
        with torch.no_grad():
            swapper.decoder.rgb_bias.fill_(0.5 if key == "first" else -0.5)
        model.save(swapper, MODEL, folder)
        with runs.child_run(track, parent, "register", key, {}) as run:
            versions.register_version(track, folder, {}, {}, {}, "candidate", run=run, key=key)
    found, name = swapping.find_model(cfg, None)
    assert "using the candidate, version 2" in capsys.readouterr().out
    assert (name, float(found.decoder.rgb_bias.detach()[0])) == ("styleblend version 2", -0.5)
    soon = cfg.model_copy(update={"follow": Follow(every_s=0.1)})
    with follow_model(soon, starter=tmp_path / "none") as live:
        said = capsys.readouterr().out
        assert said == "no version has the alias champion yet: the candidate, version 2, serves until one has\n"
        assert (live.current.name, float(live.current.model.decoder.rgb_bias.detach()[0])) == (name, -0.5)
        versions.point_alias(track, "champion", "1")
        wait_for(lambda: live.current.name == "styleblend version 1")
        assert float(live.current.model.decoder.rgb_bias.detach()[0]) == 0.5
    found, name = swapping.find_model(cfg, None)
    assert (name, float(found.decoder.rgb_bias.detach()[0])) == ("styleblend version 1", 0.5)
    found, name = swapping.find_model(cfg, str(tmp_path / "second"))
    assert (name, float(found.decoder.rgb_bias.detach()[0])) == ("model folder second", -0.5)
    with pytest.raises(StyleBlendError, match="no version or alias 'nosuch'"):
        swapping.find_model(cfg, "nosuch")
