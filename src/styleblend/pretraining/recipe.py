"""The recipe of this project's own small networks, learned from rendered faces alone.

They stand where a production run has ArcFace, FAN, StyleGAN and Inception weights. Every network sees pictures
whose looks (skin tone, hair, beard) and framing are drawn anew, so that identity is shape and marks and not colour.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from styleblend.config.model import Model
from styleblend.config.pretraining import Pretrain
from styleblend.faces.alignment import quad_from_landmarks
from styleblend.faces.pixels import from_8bit, to_8bit
from styleblend.model.swapper import build_decoder, build_encoder
from styleblend.perception import attributes, identity, landmarks, shape
from styleblend.pretraining.prior import Generator, Inverter, Judges, drawing_loss, framing
from styleblend.synthetic.factors import EXPRESSION, IDENTITY, Factors, sample
from styleblend.synthetic.renderer import average_shape, landmarks_3d, photograph_landmarks, pose_deg, render
from styleblend.system.atomic import whole_file
from styleblend.system.hashes import sha256

Network = TypeVar("Network", bound=nn.Module)

SIDE_PX = 64
CHUNK = 64
# Seeds of the renderer: the judges learn from other people than the training networks, and all are tested on others.
SEEDS = {"identity": 101, "judge": 202, "test": 303, "profile": 404, "profile_judge": 505, "profile_test": 606}
PROFILE_DEG = 60.0
"""Faces of the profile sets are seen from anywhere between this and its negative, evenly."""


@dataclass(frozen=True)
class Faces:
    """Aligned rendered faces in memory with their truth.

    images: [N, 3, 64, 64] uint8; person: [N]; factors: [N, F], identity first, then looks, attributes and framing;
    landmarks: [N, 68, 2] in [0, 1]; landmarks_3d: [N, 68, 3], see renderer.landmarks_3d; pose_deg: [N, 3] in the
    crop; expression: [N, 7]
    """

    images: Tensor
    person: Tensor
    factors: Tensor
    landmarks: Tensor
    landmarks_3d: Tensor
    pose_deg: Tensor
    expression: Tensor

    @property
    def identity(self) -> Tensor:
        """Identity factors [N, I]."""
        return self.factors[:, : len(IDENTITY)]


def draw(
    seed: int, persons: int, pictures: int, start: int, stop: int, own_looks: bool, even_yaw_deg: float | None = None
) -> tuple[Factors, Tensor]:
    """Factors and crop quads of rows start..stop of a set of `persons` x `pictures`.

    Unless `own_looks`, each picture takes its looks from a stranger, and half of the crops are where a stranger's
    face would have been, as in a swap, where the frame is the target's.
    """
    rows = np.arange(start, stop)
    own = sample(seed, (rows // pictures).tolist(), (rows % pictures).tolist(), even_yaw_deg)
    if own_looks:
        return own, _quads(own)
    random = np.random.default_rng([seed, start])
    stranger = sample(seed, random.integers(0, persons, len(rows)).tolist(), [0] * len(rows))
    drawn = Factors(own.identity, stranger.looks, own.attributes)
    framed_by = torch.from_numpy(random.random(len(rows)) < 0.5)[:, None]
    framing = Factors(torch.where(framed_by, stranger.identity, own.identity), stranger.looks, own.attributes)
    quads = _quads(framing)
    centre = quads.mean(1, keepdim=True)
    side = (quads[:, 3] - quads[:, 0]).norm(dim=1)[:, None, None]
    zoom = torch.from_numpy(random.uniform(0.95, 1.05, (len(rows), 1, 1))).float()
    shift = torch.from_numpy(random.uniform(-0.02, 0.02, (len(rows), 1, 2))).float()
    return drawn, centre + (quads - centre) * zoom + shift * side


def _quads(framing: Factors) -> Tensor:
    points = photograph_landmarks(framing).double().numpy()
    return torch.from_numpy(np.stack([quad_from_landmarks(face) for face in points])).float()


def everything(drawn: Factors, quads: Tensor) -> Tensor:
    """All that determines the pictures [N, F]. Framing is told against the crop of the average face.

    So it does not depend on whose face it is, and a swap keeps the target's.
    """
    average = Factors(torch.zeros_like(drawn.identity), drawn.looks, drawn.attributes)
    return torch.cat([drawn.identity, drawn.looks, drawn.attributes, framing(quads, _quads(average))], dim=1)


def faces(
    cache: Path,
    seed: int,
    persons: int,
    pictures: int,
    own_looks: bool = False,
    even_yaw_deg: float | None = None,
) -> Faces:
    """Render a pretraining set, or read what an earlier, interrupted call has rendered of it."""
    cache.mkdir(parents=True, exist_ok=True)
    total = persons * pictures
    images, truths = [], []
    started = time.monotonic()
    for start in range(0, total, CHUNK):
        stop = min(start + CHUNK, total)
        drawn, quads = draw(seed, persons, pictures, start, stop, own_looks, even_yaw_deg)
        kind = ("-own" if own_looks else "") + (f"-{even_yaw_deg:g}deg" if even_yaw_deg else "")
        file = cache / f"{seed}-{persons}x{pictures}{kind}-{start}.npz"
        if not file.exists():
            made = render(drawn, SIDE_PX, 2, quads)
            pixels = to_8bit(made.images).numpy()
            with whole_file(file) as partial:
                np.savez(partial, images=pixels, landmarks=((made.landmarks_px + 0.5) / SIDE_PX).numpy())
        with np.load(file) as stored:
            images.append(torch.from_numpy(stored["images"]))
            truths.append(
                {
                    "factors": everything(drawn, quads),
                    "landmarks": torch.from_numpy(stored["landmarks"]),
                    "landmarks_3d": landmarks_3d(drawn, quads),
                    "pose_deg": pose_deg(drawn, quads),
                    "expression": drawn.expression(),
                }
            )
        if start // CHUNK % 20 == 0:
            print(f"faces of seed {seed}: {stop} of {total}, {time.monotonic() - started:.0f} s", flush=True)
    return Faces(
        torch.cat(images),
        torch.arange(total) // pictures,
        **{name: torch.cat([truth[name] for truth in truths]) for name in truths[0]},
    )


def augmented(pixels: Tensor, random: torch.Generator) -> Tensor:
    """Bytes [N, 3, S, S] as pictures in [-1, 1] with another exposure, tint and sharpness."""
    n = len(pixels)
    images = from_8bit(pixels)
    gain = (
        1
        + 0.30 * (torch.rand(n, 1, 1, 1, generator=random) - 0.5)
        + 0.30 * (torch.rand(n, 3, 1, 1, generator=random) - 0.5)
    )
    images = ((images + 1) * gain - 1 + 0.2 * (torch.rand(n, 1, 1, 1, generator=random) - 0.5)).clamp(-1, 1)
    # What is looked at later was resampled once or drawn by a decoder, so it is softer than a fresh render.
    blurred = functional.avg_pool2d(functional.pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1)
    return torch.lerp(images, blurred, torch.rand(n, 1, 1, 1, generator=random))


def joined(*parts: Faces) -> Faces:
    """The faces of several sets; persons of different sets stay different."""
    first = torch.tensor([0, *(int(part.person.max()) + 1 for part in parts)]).cumsum(0)
    person = torch.cat([part.person + shift for part, shift in zip(parts, first, strict=False)])
    rest = {
        name: torch.cat([getattr(part, name) for part in parts])
        for name in ("images", "factors", "landmarks", "landmarks_3d", "pose_deg", "expression")
    }
    return Faces(person=person, **rest)


def learn(
    name: str,
    network: nn.Module,
    loss_of: Callable[[Tensor, Tensor, torch.Generator], Tensor],
    faces_of: Faces,
    steps: int,
    batch_size: int,
    learning_rate: float,
    state: Path,
    seed: int,
    as_they_are: bool = False,
    momentum: bool = True,
) -> None:
    """Minimise `loss_of(pictures, rows, random)` with AdamW and a one-cycle rate; continues after an interruption.

    Args:
        network: everything that learns. The batch of a step is a pure function of (seed, step).
        as_they_are: pictures are not augmented. momentum: without it, betas are StyleGAN's (0, 0.99).
    """
    optimizer = torch.optim.AdamW(
        network.parameters(),
        learning_rate,
        betas=(0.9, 0.999) if momentum else (0.0, 0.99),
        weight_decay=1e-4 if momentum else 0,
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, learning_rate, total_steps=steps + 1, pct_start=0.1 if momentum else 0.02, cycle_momentum=momentum
    )
    checkpoint = state / f"{name}.pt"
    first = 0
    if checkpoint.exists():
        stored = torch.load(checkpoint, weights_only=True)
        network.load_state_dict(stored["network"])
        optimizer.load_state_dict(stored["optimizer"])
        schedule.load_state_dict(stored["schedule"])
        first = stored["step"]
    network.train()
    started = time.monotonic()
    for step in range(first, steps):
        random = torch.Generator().manual_seed(seed * 1_000_003 + step)
        rows = torch.randint(len(faces_of.images), (batch_size,), generator=random)
        pixels = faces_of.images[rows]
        loss = loss_of(from_8bit(pixels) if as_they_are else augmented(pixels, random), rows, random)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        if (step + 1) % 200 == 0 or step + 1 == steps:
            pace = (time.monotonic() - started) / (step + 1 - first)
            print(f"{name}: step {step + 1} of {steps}, loss {loss.item():.4f}, {pace:.3f} s a step", flush=True)
            with whole_file(checkpoint) as partial:
                torch.save(
                    {"network": network.state_dict(), "optimizer": optimizer.state_dict(),
                     "schedule": schedule.state_dict(), "step": step + 1},
                    partial,
                )  # fmt: skip
    network.eval()


class IdentityLearner(nn.Module):
    """An identity network with what only its training needs: class centres (CosFace) and a factor regression."""

    def __init__(self, network: identity.IdentityNetwork, persons: int, margin: float) -> None:
        super().__init__()
        width = network.projection.out_features
        self.network = network
        self.centres = nn.Parameter(torch.randn(persons, width) * 0.1)
        self.factors = nn.Linear(width, len(IDENTITY))
        self.scale, self.margin = 24.0, margin

    def loss(self, images: Tensor, person: Tensor, factors: Tensor) -> Tensor:
        """CosFace over the persons plus the squared error of the renderer's identity factors.

        The factors teach most at first: each picture gives as many numbers as there are factors, where thousands
        of persons with a few pictures each give a network little to hold on to.
        """
        embedding = self.network(images)
        logits = embedding @ functional.normalize(self.centres, dim=1).T
        logits = logits - self.margin * functional.one_hot(person, logits.shape[1])
        # Factors come from the unit vector, so that its angles tell differences of shape.
        regression = functional.mse_loss(self.factors(embedding * embedding.shape[1] ** 0.5), factors)
        return functional.cross_entropy(self.scale * logits, person) + 60 * regression


@torch.no_grad()
def rank1(network: identity.IdentityNetwork, test: Faces, gallery_size: int) -> float:
    """Share of pictures whose nearest first picture, among `gallery_size` unseen persons, is of the same person."""
    embeddings = torch.cat([network(from_8bit(chunk)) for chunk in test.images.split(200)])
    hits: list[Tensor] = []
    persons = int(test.person.max()) + 1
    for first in range(0, persons - gallery_size + 1, gallery_size):
        own = (test.person >= first) & (test.person < first + gallery_size)
        vectors, person = embeddings[own], test.person[own]
        is_first = torch.cat([torch.tensor([True]), person[1:] != person[:-1]])
        found = (vectors[~is_first] @ vectors[is_first].T).argmax(1)
        hits.append((person[is_first][found] == person[~is_first]).float())
    return torch.cat(hits).mean().item()


def train_identity(
    role: str, architecture: dict[str, Any], learned_from: Faces, steps: int, margin: float, state: Path, seed: int
) -> identity.IdentityNetwork:
    """An identity network learned from `learned_from`."""
    torch.manual_seed(seed)
    learner = IdentityLearner(identity.build(architecture), int(learned_from.person.max()) + 1, margin)

    def loss_of(images: Tensor, rows: Tensor, random: torch.Generator) -> Tensor:
        return learner.loss(images, learned_from.person[rows], learned_from.identity[rows])

    learn(role, learner, loss_of, learned_from, steps, 64, 3e-3, state, seed)
    return learner.network


class GeometryLearner(nn.Module):
    """Landmark and attribute network side by side: they share batches, nothing else."""

    def __init__(self, points: landmarks.LandmarkNetwork, attributes_: attributes.AttributeNetwork) -> None:
        super().__init__()
        self.points = points
        self.attributes = attributes_


def train_geometry(
    points: dict[str, Any], attribute: dict[str, Any], learned_from: Faces, steps: int, state: Path, seed: int
) -> GeometryLearner:
    """The landmark network and the attribute network."""
    torch.manual_seed(seed)
    learner = GeometryLearner(landmarks.build(points), attributes.build(attribute))

    def loss_of(images: Tensor, rows: Tensor, random: torch.Generator) -> Tensor:
        placed = functional.l1_loss(learner.points(images), learned_from.landmarks[rows])
        return 20 * placed + attribute_loss(learner.attributes, images, learned_from, rows)

    learn("geometry", learner, loss_of, learned_from, steps, 64, 2e-3, state, seed)
    return learner


def train_landmarks_3d(
    architecture: dict[str, Any], learned_from: Faces, steps: int, state: Path, seed: int
) -> shape.ShapeNetwork:
    """The network of landmarks in three dimensions."""
    torch.manual_seed(seed)
    network = shape.build(architecture)
    network.average.copy_(average_shape())

    def loss_of(images: Tensor, rows: Tensor, random: torch.Generator) -> Tensor:
        return 20 * functional.l1_loss(network(images), learned_from.landmarks_3d[rows])

    learn("landmarks_3d", network, loss_of, learned_from, steps, 64, 2e-3, state, seed)
    return network


def attribute_loss(network: attributes.AttributeNetwork, images: Tensor, truth: Faces, rows: Tensor) -> Tensor:
    """Squared errors of pose, in units of POSE_SCALE_DEG, and of expression."""
    pose, expression = network(images)
    posed = functional.mse_loss(pose, truth.pose_deg[rows]) / attributes.POSE_SCALE_DEG**2
    return 4 * posed + functional.mse_loss(expression, truth.expression[rows])


def train_attributes_judge(
    architecture: dict[str, Any], learned_from: Faces, steps: int, state: Path, seed: int
) -> attributes.AttributeNetwork:
    """The attribute network of the evaluation: no training looks through it."""
    torch.manual_seed(seed)
    network = attributes.build(architecture)

    def loss_of(images: Tensor, rows: Tensor, random: torch.Generator) -> Tensor:
        return attribute_loss(network, images, learned_from, rows)

    learn("attributes_judge", network, loss_of, learned_from, steps, 64, 3e-3, state, seed)
    return network


@torch.no_grad()
def landmark_errors(network: landmarks.LandmarkNetwork, test: Faces) -> dict[str, float]:
    """Mean landmark error as a share of the eye distance."""
    points = torch.cat([network(from_8bit(chunk)) for chunk in test.images.split(200)])
    truth = test.landmarks
    eyes = (truth[:, 36:42].mean(1) - truth[:, 42:48].mean(1)).norm(dim=1)
    return {"landmark_nme": ((points - truth).norm(dim=2).mean(1) / eyes).mean().item()}


@torch.no_grad()
def shape_errors(network: shape.ShapeNetwork, test: Faces) -> dict[str, float]:
    """Mean error of a landmark as a share of the eye distance, and of the unposed rigid points in their own unit."""
    points = torch.cat([network(from_8bit(chunk)) for chunk in test.images.split(200)])
    truth = test.landmarks_3d
    eyes = (truth[:, 36:42].mean(1) - truth[:, 42:48].mean(1)).norm(dim=1)
    unposed, truly = (shape.unposed(each, network.turn(each)) for each in (points, truth))
    return {
        "landmark_nme": ((points - truth).norm(dim=2).mean(1) / eyes).mean().item(),
        "unposed_error": (unposed - truly).norm(dim=2).mean().item(),
    }


@torch.no_grad()
def attribute_errors(network: attributes.AttributeNetwork, test: Faces) -> dict[str, float]:
    """Mean absolute pose error in degrees, and R2 of each expression coefficient."""
    pose, expression = zip(*(network(from_8bit(chunk)) for chunk in test.images.split(200)), strict=True)
    measured = {}
    for k, name in enumerate(("yaw", "pitch", "roll")):
        measured[f"{name}_error_deg"] = (torch.cat(pose)[:, k] - test.pose_deg[:, k]).abs().mean().item()
    residual = (torch.cat(expression) - test.expression).var(0) / test.expression.var(0)
    measured |= {f"{name}_r2": 1 - residual[k].item() for k, name in enumerate(EXPRESSION)}
    return measured


def train_decoder(model: Model, judges: Judges, learned_from: Faces, steps: int, state: Path, seed: int) -> Generator:
    """A decoder that draws rendered faces, with the mapping from factors to style codes (W+)."""
    torch.manual_seed(seed)
    decoder = build_decoder(model.model_copy(update={"pathway_resolutions": ()}))
    learner = Generator(decoder, len(IDENTITY), learned_from.factors.shape[1] - len(IDENTITY))

    def loss_of(images: Tensor, rows: Tensor, random: torch.Generator) -> Tensor:
        return drawing_loss(learner(learned_from.factors[rows]), images, learned_from.landmarks[rows], judges)

    learn("decoder", learner, loss_of, learned_from, steps, 16, 4e-2, state, seed, as_they_are=True, momentum=False)
    return learner


def train_inverter(
    model: Model,
    generator: Generator,
    judges: Judges,
    learned_from: Faces,
    steps: tuple[int, int],
    state: Path,
    seed: int,
) -> Inverter:
    """The encoder that finds the style codes of a face for a decoder that is done.

    Args:
        steps: first with the codes' error alone, which is quick, then with what is drawn from them, too
    """
    torch.manual_seed(seed)
    learner = Inverter(build_encoder(model), generator)
    learner.centre(learned_from.factors)

    def codes_of(images: Tensor, rows: Tensor, random: torch.Generator) -> Tensor:
        return learner.code_loss(learner.encoder(images).codes, learned_from.factors[rows])

    def loss_of(images: Tensor, rows: Tensor, random: torch.Generator) -> Tensor:
        codes = learner.encoder(images).codes
        drawn = drawing_loss(generator.decoder(codes), images, learned_from.landmarks[rows], judges)
        return learner.code_loss(codes, learned_from.factors[rows]) + drawn

    learn("encoder_codes", learner.encoder, codes_of, learned_from, steps[0], 32, 2e-3, state, seed, as_they_are=True)
    learn("encoder", learner.encoder, loss_of, learned_from, steps[1], 16, 1e-3, state, seed + 1, as_they_are=True)
    return learner


@torch.no_grad()
def drawing_accuracy(draw_: Callable[[Tensor, Tensor], Tensor], judges: Judges, test: Faces) -> dict[str, float]:
    """How well pictures drawn by `draw_(images, factors)` show the test faces.

    Returns:
        psnr_db of the whole picture in [-1, 1], identity_cosine of the training network, pose_error_deg (mean of the
        three angles' absolute differences as the attribute network sees them)
    """
    values: dict[str, list[Tensor]] = {"psnr_db": [], "identity_cosine": [], "pose_error_deg": []}
    for pixels, factors in zip(test.images.split(200), test.factors.split(200), strict=True):
        images = from_8bit(pixels)
        drawn = draw_(images, factors).clamp(-1, 1)
        values["psnr_db"].append(10 * torch.log10(4 / (drawn - images).square().mean((1, 2, 3))))
        values["identity_cosine"].append((judges.identity(drawn) * judges.identity(images)).sum(1))
        values["pose_error_deg"].append((judges.attributes(drawn)[0] - judges.attributes(images)[0]).abs().mean(1))
    return {name: torch.cat(parts).mean().item() for name, parts in values.items()}


def as_written(network: Network) -> Network:
    """The network with weights rounded as they are stored, so that accuracy is measured on what is shipped."""
    return network.half().float()


ARCHITECTURES: dict[str, dict[str, Any]] = {
    "identity": {
        "name": "small_identity", "trunk": "residual", "embedding": 128, "widths": [32, 48, 96, 160],
        "blocks": [1, 1, 2, 2], "side_px": SIDE_PX,
    },
    "identity_judge": {
        "name": "small_judge", "trunk": "plain", "embedding": 96, "widths": [32, 64, 96, 128], "blocks": [],
        "side_px": SIDE_PX,
    },
    "landmarks": {"name": "small_landmarks", "widths": [16, 32, 64, 128], "side_px": SIDE_PX},
    "landmarks_3d": {"name": "small_landmarks_3d", "widths": [16, 32, 64, 128], "side_px": SIDE_PX},
    "attributes": {
        "name": "small_attributes", "trunk": "plain", "widths": [24, 48, 96, 128], "blocks": [],
        "coefficients": len(EXPRESSION), "side_px": SIDE_PX,
    },
    "attributes_judge": {
        "name": "small_attributes_judge", "trunk": "residual", "widths": [32, 48, 96, 128], "blocks": [1, 1, 1, 1],
        "coefficients": len(EXPRESSION), "side_px": SIDE_PX,
    },
}  # fmt: skip


def write(network: nn.Module, role: str, architecture: dict[str, Any], card: dict[str, Any], folder: Path) -> None:
    """Weights, in half precision, and card of one network."""
    weights = folder / f"{role}.safetensors"
    state = {name: value.half() if value.is_floating_point() else value for name, value in network.state_dict().items()}
    with whole_file(weights) as partial:
        save_file({name: value.contiguous() for name, value in state.items()}, partial)
    facts = {
        "role": role,
        "architecture": architecture,
        "format": "safetensors",
        "sha256": sha256(weights),
        "licence": "MIT",
        "data": "faces rendered by this project; no photograph of a person",
        "limits": "learned from rendered faces alone: says little about real ones",
        **card,
    }
    with whole_file(folder / f"{role}.json") as partial:
        partial.write_text(json.dumps(facts, indent=2) + "\n")


class People(NamedTuple):
    """The sets of faces of a recipe. The `_own` ones wear their own looks; profile sets are seen from the side, too."""

    learned: Faces
    judged: Faces
    test: Faces
    test_own: Faces
    profile: Faces
    profile_judged: Faces
    profile_test_own: Faces


def people(cfg: Pretrain, cache: Path) -> People:
    """Render every set, or read what is rendered."""

    def seen(name: str, persons: int, own_looks: bool = False, even_yaw_deg: float | None = None) -> Faces:
        return faces(cache, SEEDS[name], persons, cfg.pictures_per_identity, own_looks, even_yaw_deg)

    return People(
        seen("identity", cfg.identities),
        seen("judge", cfg.judge_identities),
        seen("test", cfg.test_identities),
        seen("test", cfg.test_identities, own_looks=True),
        seen("profile", cfg.profile_identities, even_yaw_deg=PROFILE_DEG),
        seen("profile_judge", cfg.profile_identities, even_yaw_deg=PROFILE_DEG),
        seen("profile_test", cfg.test_identities, own_looks=True, even_yaw_deg=PROFILE_DEG),
    )


class Shelf:
    """Writes networks with their cards into a folder and remembers their accuracy."""

    def __init__(self, cfg: Pretrain, known: People, out: Path) -> None:
        self.measured: dict[str, dict[str, float]] = {}
        self._cfg, self._people, self._out = cfg, known, out

    def keep(
        self, network: nn.Module, role: str, architecture: dict[str, Any], seed: int, steps: int, **accuracy: float
    ) -> None:
        """Write one network. accuracy: measured on people whom no network has learned from."""
        numbers = {"identities", "judge_identities", "profile_identities", "pictures_per_identity"}
        recipe = {"seed": seed, "steps": steps, **self._cfg.model_dump(include=numbers)}
        write(network, role, architecture, {"recipe": recipe, "accuracy": accuracy}, self._out)
        self.measured[role] = accuracy
        print(f"{role}: {accuracy}", flush=True)

    def keep_measured(
        self, network: Network, role: str, seed: int, steps: int, measure: Callable[[Network, Faces], dict[str, float]]
    ) -> None:
        """Write one network of ARCHITECTURES with what `measure` finds on usual faces and on those to 60 degrees."""
        aside = {f"{name}_to_60_deg": value for name, value in measure(network, self._people.profile_test_own).items()}
        accuracy = measure(network, self._people.test_own) | aside
        self.keep(network, role, ARCHITECTURES[role], seed, steps, **accuracy)


def pretrain(cfg: Pretrain, model: Model, state: Path, out: Path) -> dict[str, dict[str, float]]:
    """Run the whole recipe, or what an interrupted call has left of it, and write networks and cards into `out`.

    Returns:
        The measured accuracy of each role on people whom no network has learned from.
    """
    known = people(cfg, state / "faces")
    shelf = Shelf(cfg, known, out)

    # Identity: the networks learn without profiles, for what is asked of them are faces that look ahead or nearly so.
    recognisers: dict[str, identity.IdentityNetwork] = {}
    for role, learned_from, steps, margin, seed in (
        ("identity", known.learned, cfg.identity_steps, 0.15, cfg.seed),
        ("identity_judge", known.judged, cfg.judge_steps, 0.0, cfg.seed + 1),
    ):
        network = as_written(train_identity(role, ARCHITECTURES[role], learned_from, steps, margin, state, seed))
        recognisers[role] = network
        shelf.keep(network, role, ARCHITECTURES[role], seed, steps,
                   rank1_of_100=rank1(network, known.test_own, 100),
                   rank1_of_100_with_a_strangers_looks_and_frame=rank1(network, known.test, 100),
                   rank1_of_100_to_60_deg=rank1(network, known.profile_test_own, 100))  # fmt: skip

    # Geometry: landmarks, pose and expression.
    points, look = ARCHITECTURES["landmarks"], ARCHITECTURES["attributes"]
    learned_from, seed, steps = joined(known.judged, known.profile), cfg.seed + 2, cfg.geometry_steps
    geometry = as_written(train_geometry(points, look, learned_from, steps, state, seed))
    shelf.keep_measured(geometry.points, "landmarks", seed, steps, landmark_errors)
    shelf.keep_measured(geometry.attributes, "attributes", seed, steps, attribute_errors)
    seed, steps = cfg.seed + 7, cfg.landmarks_3d_steps
    solid = as_written(train_landmarks_3d(ARCHITECTURES["landmarks_3d"], learned_from, steps, state, seed))
    shelf.keep_measured(solid, "landmarks_3d", seed, steps, shape_errors)
    # The judge of pose and expression learns from the people that the training's attribute network did not see.
    learned_from, seed, steps = joined(known.learned, known.profile_judged), cfg.seed + 5, cfg.attributes_judge_steps
    seer = as_written(train_attributes_judge(ARCHITECTURES["attributes_judge"], learned_from, steps, state, seed))
    shelf.keep_measured(seer, "attributes_judge", seed, steps, attribute_errors)

    # The prior: a decoder, and the encoder that inverts it.
    judges = Judges(recognisers["identity"].requires_grad_(False), geometry.attributes.requires_grad_(False))
    learned_from, sizes = joined(known.learned, known.judged, known.profile), model.model_dump(mode="json")
    generator = train_decoder(model, judges, learned_from, cfg.decoder_steps, state, cfg.seed + 3)
    as_written(generator.decoder)
    accuracy = drawing_accuracy(lambda images, factors: generator(factors), judges, known.test_own)
    shelf.keep(generator.decoder, "decoder", sizes, cfg.seed + 3, cfg.decoder_steps, **accuracy)
    both = (cfg.encoder_code_steps, cfg.encoder_steps)
    inverter = train_inverter(model, generator, judges, learned_from, both, state, cfg.seed + 6)
    as_written(inverter.encoder)
    accuracy = drawing_accuracy(lambda images, factors: inverter(images), judges, known.test_own)
    shelf.keep(inverter.encoder, "encoder", sizes, cfg.seed + 6, sum(both), **accuracy)
    return shelf.measured
