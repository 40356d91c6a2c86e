"""perception.mesh, mesh_attributes and blendshapes: on files of MediaPipe's form, whose points a test plants.

With the published files in the store, and photographs, they are also held against the runtime itself.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial.transform import Rotation
from torch import Tensor

import tflite_files
import tiny_training as tiny
from styleblend import model
from styleblend.config import catalogue
from styleblend.config.data import Align
from styleblend.config.sources import Download, RenderedSource
from styleblend.config.training import LossWeights
from styleblend.data.align import align_faces
from styleblend.errors import StyleBlendError
from styleblend.face_detector.detection import Yunet
from styleblend.faces.alignment import align_face
from styleblend.faces.pixels import from_8bit
from styleblend.perception import attributes, blendshapes, landmarks, mesh, shape
from styleblend.perception.blendshapes import BLENDSHAPES, SEEN, BlendshapeAttributes
from styleblend.perception.mesh import POINTS, POINTS_WITH_IRISES, FaceMesh, MeshLandmarks, to_68
from styleblend.perception.mesh_attributes import (
    AVERAGE,
    EXPRESSION,
    MeshAttributes,
    MeshShape,
    angles_deg,
    expression_of,
)
from styleblend.perception.shape import EXPRESSIVE, RIGID
from styleblend.pretraining.data import draw
from styleblend.stages.download import download
from styleblend.synthetic.renderer import average_shape, landmarks_3d, pose_deg
from styleblend.system.files import sha256
from styleblend.training.generated import Perception
from styleblend.training.steps import choose_what_learns, generator_terms
from styleblend.weights.formats import tflite_graph
from styleblend.weights.formats.tflite_graph import TfliteError
from styleblend.weights.store import CACHE

ROOT = Path(__file__).parents[1]
LONDON = ROOT / "../shared/faces/london"
YUNET = ROOT / "../shared/weights/yunet_n_dynamic.onnx"

MIRRORED = (
    *range(16, -1, -1), *range(26, 16, -1), *range(27, 31), *range(35, 30, -1),
    45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40,
    54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65,
)  # fmt: skip
"""iBUG's points of a mirrored face."""


def planted(points: int, seed: int = 0) -> np.ndarray:
    """Points in pixels of the network's view."""
    return np.random.default_rng(seed).uniform(20, 170, (points, 3)).astype(np.float32)


def placed(points: int = POINTS) -> np.ndarray:
    """Points in pixels of a view of 192 px, of which the 68 of iBUG are the average face."""
    found = planted(points)
    found[list(mesh.TO_68)] = np.array(AVERAGE) * 70 + [96, 77, 0]
    return found


def written(path: Path, points: int = POINTS, side_px: int = 192, at: np.ndarray | None = None) -> Path:
    path.write_bytes(tflite_files.mesh(planted(points) if at is None else at, side_px))
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> FaceMesh:
    return mesh.load(written(tmp_path_factory.mktemp("mesh") / "face_landmark.tflite"))


def grey(*levels: float, side: int = 192) -> Tensor:
    """Pictures of one colour, in [-1, 1]."""
    return torch.tensor(levels, dtype=torch.float32)[:, None, None, None].expand(-1, 3, side, side).clone()


@pytest.mark.parametrize(("points", "side_px"), [(POINTS, 192), (POINTS_WITH_IRISES, 256)])
def test_points_come_back_to_the_picture(tmp_path: Path, points: int, side_px: int) -> None:
    """x, y and z of the view are shares of the picture's side; the view lies a tenth of the side lower."""
    network = mesh.load(written(tmp_path / "x.tflite", points, side_px))
    found = network(grey(-1, -1, side=64))
    wanted = planted(points) / side_px + [0, round(side_px / 10) / side_px, 0]
    np.testing.assert_allclose(found.numpy(), np.stack([wanted, wanted]), atol=1e-6)
    assert network.points == points and network.name == "x"


def test_the_view_is_the_picture_moved_up(small: FaceMesh) -> None:
    """Its rows begin a tenth of the side below the picture's, in [0, 1], and the last one goes on below."""
    picture = torch.linspace(-1, 1, 192).view(1, 1, 192, 1).expand(1, 3, 192, 192)
    seen = []
    hook = small.network.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    small(picture)
    hook.remove()
    rows = np.minimum(np.arange(192) + 19, 191) / 191
    np.testing.assert_allclose(seen[0][0, :, 5, 1].numpy(), rows, atol=1e-6)


def test_presence_is_the_sigmoid_of_the_second_output(small: FaceMesh) -> None:
    """Of each picture by itself; the made network sees a face where red is above 0.3."""
    red = torch.tensor([0.0, 0.25, 0.35, 1.0])
    presence = small.look(grey(*(red * 2 - 1).tolist()))[1]
    torch.testing.assert_close(presence, torch.sigmoid(20 * (red - 0.3)), atol=1e-5, rtol=0)


def test_gradients_reach_the_pixels(small: FaceMesh) -> None:
    """A tenth of a colour's mean is added to x, y or z in pixels: of red in [0, 1] for x, wherever the pixel is."""
    pictures = grey(0.2, -0.3).requires_grad_()
    small(pictures)[:, 7, 0].sum().backward()
    assert pictures.grad is not None
    # The top 19 rows are not seen, the last one is seen 20 times.
    rows = torch.ones(192).index_fill(0, torch.arange(19), 0).index_fill(0, torch.tensor([191]), 20)
    wanted = 0.1 / 192 / 192**2 / 2 * rows[None, :, None].expand(2, 192, 192)
    torch.testing.assert_close(pictures.grad[:, 0], wanted, rtol=1e-3, atol=1e-12)
    assert not pictures.grad[:, 1:].any()
    assert not list(small.parameters()) and not small.train().training


def test_68_points_are_of_the_skin_and_symmetric() -> None:
    """Each is a point of its own, both meshes have them, and other numbers of points are refused."""
    assert len(set(mesh.TO_68)) == 68 and max(mesh.TO_68) < POINTS
    numbers = torch.arange(POINTS_WITH_IRISES).float()[None, :, None]
    assert to_68(numbers)[0, :, 0].tolist() == list(mesh.TO_68) == to_68(numbers[:, :POINTS])[0, :, 0].tolist()
    with pytest.raises(ValueError, match=r"\[N, 468 or 478, D\], got \(1, 68, 2\)"):
        to_68(torch.zeros(1, 68, 2))


def test_the_average_face_is_symmetric() -> None:
    """Its mirror image is itself, with the outer corners of the eyes 1 apart, above the mouth."""
    average = np.array(AVERAGE)
    np.testing.assert_allclose(average[list(MIRRORED)] * [-1, 1, 1], average, atol=2e-3)
    assert np.linalg.norm(average[45] - average[36]) == pytest.approx(1, abs=2e-3)
    assert average[36, 1] < average[30, 1] < average[48, 1] < average[8, 1]
    assert average[30, 2] < average[36, 2] < average[0, 2], "the nose is nearest"


def test_angles_are_those_of_another_solver() -> None:
    """Rolled after pitched after yawed, in a picture with y downwards and z away."""
    wanted = np.random.default_rng(0).uniform(-70, 70, (50, 3))
    head = Rotation.from_euler("yxz", wanted * [1, -1, -1], degrees=True).as_matrix()
    flip = np.diag([1.0, -1.0, -1.0])
    np.testing.assert_allclose(angles_deg(torch.from_numpy(flip @ head @ flip)).numpy(), wanted, atol=1e-9)


def test_pose_of_true_points_is_the_renderers() -> None:
    """Up to 60 degrees of yaw, with the renderer's own average face; people's shapes differ by a few degrees."""
    faces, quads = draw(7, 30, 2, 0, 60, own_looks=False, even_yaw_deg=60)
    points, truth = landmarks_3d(faces, quads).double(), pose_deg(faces, quads).double()
    rigid = list(RIGID)
    average = average_shape().double()[rigid]
    turn = shape.rotation((average - average.mean(0))[None], points[:, rigid] - points[:, rigid].mean(1, keepdim=True))
    error = (angles_deg(turn) - truth).abs().mean(0)
    assert truth[:, 0].abs().max() > 50 and error.max() < 4


def turned(points: Tensor, yaw_pitch_roll: tuple[float, float, float]) -> tuple[Tensor, Tensor]:
    flip = np.diag([1.0, -1.0, -1.0])
    head = Rotation.from_euler("yxz", np.array(yaw_pitch_roll) * [1, -1, -1], degrees=True).as_matrix()
    turn = torch.from_numpy(flip @ head @ flip)
    return points @ turn.T, turn[None]


def test_expression_knows_neither_pose_nor_place_nor_size_nor_proportions() -> None:
    """And is 0 at rest; a corner of the mouth that moves by a tenth of the eye distance moves its own number by 1."""
    average = torch.tensor(AVERAGE, dtype=torch.float64)
    proportions = torch.tensor([1.1, 0.95, 1.2], dtype=torch.float64)
    middle = average[list(RIGID)].mean(0)
    stretched = (average - middle) * proportions
    face, turn = turned(stretched * 37, (30, -10, 5))
    rest = expression_of(face[None] + 5, turn, average)
    assert rest.shape == (1, EXPRESSION) and rest.abs().max() < 1e-9
    moved = average.clone()
    moved[48, 0] -= 0.1
    face, turn = turned(moved, (0, 20, 0))
    wanted = torch.zeros(len(EXPRESSIVE), 3, dtype=torch.float64)
    wanted[EXPRESSIVE.index(48), 0] = -1
    found = expression_of(face[None], turn, average).reshape(-1, 3)
    torch.testing.assert_close(found, wanted, atol=5e-3, rtol=0)


def test_attributes_of_a_planted_face(tmp_path: Path) -> None:
    """The average face itself: looking ahead, at rest, in every picture of a batch; with gradients that are finite."""
    network = MeshAttributes(mesh.load(written(tmp_path / "x.tflite", at=placed())))
    pictures = grey(-1, -1).requires_grad_()
    pose, expression = network(pictures)
    assert pose.shape == (2, 3) and pose.abs().max() < 0.1
    assert expression.shape == (2, EXPRESSION) and expression.abs().max() < 0.05
    (pose.sum() + expression.square().sum()).backward()
    assert pictures.grad is not None and pictures.grad.isfinite().all()


def weights() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(52, 292)).astype(np.float32)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    members = {
        "face_landmarks_detector": tflite_files.mesh(planted(POINTS_WITH_IRISES), 256),
        "face_blendshapes": tflite_files.blendshapes(weights()),
    }
    return tflite_files.task(tmp_path_factory.mktemp("task") / "face_landmarker.task", **members)


def test_blendshapes_are_of_their_points(bundle: Path) -> None:
    """x and y of 146 of the 478 points, in order and each face by itself, go into the second network."""
    network = blendshapes.load(bundle)
    pose, found = network(grey(-1, 1, side=64))
    points = planted(POINTS_WITH_IRISES) + np.array([0, 26, 0]) + np.array([[[0.0]], [[0.1]]])
    raw = (points[:, list(SEEN), :2] / 256).reshape(2, -1) @ weights().T
    np.testing.assert_allclose(found.numpy(), 1 / (1 + np.exp(-raw)), atol=1e-5)
    assert pose.shape == (2, 3) and network.name == "face_landmarker"
    assert len(SEEN) == len(set(SEEN)) == 146 and len(BLENDSHAPES) == len(set(BLENDSHAPES)) == 52


def test_roles_lead_to_the_meshes(bundle: Path, tmp_path: Path) -> None:
    """networks.json names a mesh for three roles and the bundle for the judge; a lost file is named."""
    roles = ("landmarks", "landmarks_3d", "attributes")
    for role in roles:
        written(tmp_path / f"{role}.tflite", at=placed())
    (tmp_path / "attributes_judge.task").write_bytes(bundle.read_bytes())
    named = {role: {"file": f"{role}.tflite", "name": "a_mesh"} for role in roles}
    judge = {"attributes_judge": {"file": "attributes_judge.task", "name": "a_judge"}}
    (tmp_path / "networks.json").write_text(json.dumps(named | judge))
    seen = landmarks.load(tmp_path)
    assert isinstance(seen, MeshLandmarks) and seen.name == "a_mesh"
    expected = torch.tensor(placed()[list(mesh.TO_68), :2] + [0, 19]) / 192
    torch.testing.assert_close(seen(grey(-1))[0].double(), expected.double(), atol=1e-5, rtol=0)
    solid = shape.load(tmp_path)
    assert isinstance(solid, MeshShape) and solid(grey(-1)).shape == (1, 68, 3)
    torch.testing.assert_close(solid.turn(solid(grey(-1))), torch.eye(3)[None], atol=2e-3, rtol=0)
    assert isinstance(attributes.load(tmp_path, "attributes"), MeshAttributes)
    found = attributes.load(tmp_path, "attributes_judge")
    assert isinstance(found, BlendshapeAttributes) and found.name == "a_judge"
    (tmp_path / "landmarks_3d.tflite").unlink()
    with pytest.raises(StyleBlendError, match="network 'landmarks_3d' is missing"):
        shape.load(tmp_path)


def test_a_training_step_learns_through_meshes_alone(tmp_path: Path) -> None:
    """Landmarks, attributes and shape, all three of meshes: each term pulls at every parameter of the encoder."""
    inputs = tiny.write_inputs(tmp_path)
    folder = tmp_path / "meshes"
    folder.mkdir()
    roles = ("landmarks", "landmarks_3d", "attributes")
    spread = np.random.default_rng(2).normal(size=(POINTS, 3, 3)) * 30
    for role in roles:
        (folder / f"{role}.tflite").write_bytes(tflite_files.mesh(placed(), 192, spread))
    (folder / "networks.json").write_text(json.dumps({role: {"file": f"{role}.tflite"} for role in roles}))
    seeing = {
        "landmarks": landmarks.load(folder),
        "landmarks_3d": shape.load(folder),
        "attributes": attributes.load(folder, "attributes"),
    }
    perception = Perception(**tiny.perception()._asdict() | seeing)
    for term in ("landmarks", "attributes", "shape_3d"):
        weights = {name: float(name == term) for name in LossWeights.model_fields}
        cfg = tiny.training(batch_size=2, loss=weights)
        batch = tiny.first_batch(inputs, cfg)
        torch.manual_seed(0)
        swapper, discriminator = model.build(tiny.MODEL), model.build_discriminator(tiny.MODEL)
        choose_what_learns(swapper, "train_encoder")
        terms, _ = generator_terms(swapper, discriminator, perception, batch, cfg, 0)
        assert set(terms) == {term} and terms[term] > 0
        terms[term].backward()
        for name, parameter in swapper.encoder.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), name


def test_other_networks_are_refused(tmp_path: Path) -> None:
    """A graph of another form, a mesh without irises for blendshapes, pictures that are not square: one line each."""
    with pytest.raises(
        TfliteError, match="x.tflite reads .1, 192, 192, 3. and gives .30, 1. numbers: it is no face mesh"
    ):
        mesh.load(written(tmp_path / "x.tflite", 10))
    expression = tflite_graph.read(tflite_files.blendshapes(weights()), "e")
    whole = mesh.load(written(tmp_path / "y.tflite"))
    with pytest.raises(TfliteError, match="y has 468 points, blendshapes need 478"):
        BlendshapeAttributes("z", whole, expression)
    fewer = tflite_graph.read(tflite_files.blendshapes(np.zeros((52, 20)), 10), "e")
    with pytest.raises(TfliteError, match=r"e reads \[1, 10, 2\] and gives .* blendshapes read \[1, 146, 2\]"):
        BlendshapeAttributes("z", whole, fewer)
    with pytest.raises(StyleBlendError, match=r"\(1, 3, 16, 8\): expected \[N, 3, S, S\]"):
        whole(torch.zeros(1, 3, 16, 8))


def test_a_crop_without_a_face_goes_into_quarantine(tmp_path: Path) -> None:
    """What the run's mesh sees no face in is no face, and the quarantine says so; the others are kept as they were."""
    source = RenderedSource(kind="rendered", identities=6, pictures_per_identity=2, size_px=64, supersample=1, seed=1)
    cfg = Download(sources=(source,), workers=1, origin=ROOT / "src/styleblend/synthetic")
    download(tmp_path / "raw", cfg, tmp_path / "state")
    crop = Align(detector="annotations", size_px=32, min_face_px=16, workers=1)
    before, _ = align_faces(tmp_path / "raw", tmp_path, tmp_path / "all", crop)
    pictures = torch.stack(
        [from_8bit(torch.from_numpy(np.array(Image.open(tmp_path / "all" / path)))) for path in before["path"]]
    )
    red = (pictures[..., 0].flatten(1).mean(1) + 1) / 2
    # The mesh sees a cut of its own side, a little redder or less red: the threshold keeps away from all of them.
    ordered = red.sort().values
    place = int(ordered.diff().argmax())
    between = float(ordered[place : place + 2].mean())
    networks = tmp_path / "networks"
    networks.mkdir()
    file = networks / "landmarks.tflite"
    file.write_bytes(tflite_files.mesh(planted(POINTS), 192, threshold=between))
    (networks / "networks.json").write_text(json.dumps({"landmarks": {"file": file.name}}))
    presence = mesh.load(file).look(pictures.permute(0, 3, 1, 2))[1]
    there = set(before["face_id"][(presence >= 0.5).numpy()])
    kept, refused = align_faces(tmp_path / "raw", networks, tmp_path / "some", crop)
    assert 0 < len(kept) < len(before) and set(kept["face_id"]) == there
    assert len(refused) == len(before) - len(kept)
    assert (
        refused["reason"]
        .str.fullmatch(
            r"not a face: the landmark network sees no face in the aligned picture, presence 0\.\d\d, at least 0\.5 is "
            r"needed \(\d+x\d+ px at x \d+ y \d+\)"
        )
        .all()
    )
    file.write_bytes(tflite_files.mesh(planted(POINTS), 192, threshold=2.0))
    with pytest.raises(StyleBlendError, match="no face found in any .*the landmark network sees no face"):
        align_faces(tmp_path / "raw", networks, tmp_path / "none", crop)
    assert not (tmp_path / "none").exists()


def kept(name: str) -> Path:
    """The published file in the store, as `styleblend weights fetch` leaves it."""
    entry = catalogue.built_in().get(name)
    path = ROOT / CACHE / f"{name}{entry.suffix}"
    if not path.is_file() or sha256(path) != entry.sha256:
        pytest.skip(f"no {name} in the store: `styleblend weights fetch {name}` gets it")
    return path


@pytest.fixture(scope="module")
def photographs() -> Tensor:
    """Twelve people, neutral and smiling in turn, aligned: [24, 3, 192, 192] in [-1, 1]."""
    files = [next(folder.glob(f"{mood}_*.jpg")) for folder in sorted(LONDON.glob("*"))[:12] for mood in "ns"]
    if not files or not YUNET.is_file():
        pytest.skip("no photographs in ../shared")
    detector = Yunet(YUNET, 0.5)
    faces = []
    for file in files:
        with Image.open(file) as opened:
            picture = opened.convert("RGB")
        faces.append(np.array(align_face(picture, detector.detect(picture)[0].points_px, 192).picture))
    return from_8bit(torch.from_numpy(np.stack(faces))).permute(0, 3, 1, 2)


@pytest.mark.photos
@pytest.mark.parametrize("name", ["mediapipe_face_mesh", "mediapipe_face_landmarker"])
def test_published_meshes_agree_with_the_runtime(name: str, photographs: Tensor) -> None:
    """A batch of photographs: within 0.002 px of the view; presence to 1e-5."""
    path = kept(name)
    if path.suffix == ".task":
        network = blendshapes.load(path).shape.mesh
        content = tflite_files.member(path, tflite_graph.MESH)
    else:
        network, content = mesh.load(path), path.read_bytes()
    views = []
    hook = network.network.register_forward_pre_hook(lambda module, given: views.append(given[0]))
    found, presence = network.look(photographs[:4])
    hook.remove()
    points, seen, *_ = tflite_files.run(content, views[0].contiguous().numpy())
    lower = np.array([0, round(network.side_px / 10), 0])
    np.testing.assert_allclose(found.numpy() * network.side_px - lower, points.reshape(4, -1, 3), atol=2e-3)
    np.testing.assert_allclose(presence.numpy(), 1 / (1 + np.exp(-seen[:, 0])), atol=1e-5)
    assert presence.min() > 0.99 and network.look(torch.rand(1, 3, 64, 64) * 2 - 1)[1].item() < 0.01


@pytest.mark.photos
def test_published_blendshapes_agree_with_the_runtime_and_see_smiles(photographs: Tensor) -> None:
    """Each number to 1e-4; of one person the smiling picture smiles more, for all but two of twelve at most."""
    path = kept("mediapipe_face_landmarker")
    network = blendshapes.load(path)
    with torch.no_grad():
        _, found = network(photographs)
        points = network.shape.mesh(photographs)
    content = tflite_files.member(path, tflite_graph.BLENDSHAPES)
    (theirs,) = tflite_files.run(content, points[:, list(SEEN), :2].contiguous().numpy() * 192)
    np.testing.assert_allclose(found.numpy(), theirs, atol=1e-4)
    smile = found[:, [BLENDSHAPES.index(f"mouthSmile{side}") for side in ("Left", "Right")]].mean(1)
    assert (smile[1::2] > smile[::2] + 0.1).sum() >= 10


@pytest.mark.photos
def test_mirrored_photographs_have_mirrored_points_and_angles(photographs: Tensor) -> None:
    """68 points within 3 % of the eye distance on average; yaw and roll change their signs and pitch does not."""
    network = mesh.load(kept("mediapipe_face_mesh"))
    seen, seer = MeshLandmarks(network), MeshAttributes(network)
    with torch.no_grad():
        plain, mirrored = seen(photographs), seen(photographs.flip(3))
        pose, other = seer(photographs)[0], seer(photographs.flip(3))[0]
    back = mirrored[:, list(MIRRORED)] * torch.tensor([-1, 1]) + torch.tensor([1, 0])
    eyes = (plain[:, 45] - plain[:, 36]).norm(dim=1)
    assert ((back - plain).norm(dim=2).mean(1) / eyes).max() < 0.03
    assert (pose * torch.tensor([-1, 1, -1]) - other).abs().mean() < 1.5
    assert pose.abs().mean(0).max() < 10, "studio photographs look ahead"
