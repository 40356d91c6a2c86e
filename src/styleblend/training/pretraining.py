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
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from styleblend.config import Model, Pretrain
from styleblend.files import sha256, whole_file
from styleblend.model.decoder import Decoder
from styleblend.model.encoder import Encoder
from styleblend.model.swapper import build_decoder, build_encoder
from styleblend.perception import attributes, identity, landmarks
from styleblend.perception.alignment import quad_from_landmarks
from styleblend.perception.layers import central
from styleblend.synthetic.factors import EXPRESSION, IDENTITY, Factors, sample
from styleblend.synthetic.renderer import photograph_landmarks, render

Network = TypeVar("Network", bound=nn.Module)

SIDE_PX = 64
CHUNK = 64
# Seeds of the renderer: the judge learns from other people than the training network, and both are tested on others.
SEEDS = {"identity": 101, "judge": 202, "test": 303}


@dataclass(frozen=True)
class Faces:
    """Aligned rendered faces in memory with their truth.

    images: [N, 3, 64, 64] uint8; person: [N]; identity: [N, I]; landmarks: [N, 68, 2] in [0, 1];
    pose_deg: [N, 3]; expression: [N, 7]
    """

    images: Tensor
    person: Tensor
    identity: Tensor
    landmarks: Tensor
    pose_deg: Tensor
    expression: Tensor


def draw(seed: int, persons: int, pictures: int, start: int, stop: int, own_looks: bool) -> tuple[Factors, Tensor]:
    """Factors and crop quads of rows start..stop of a set of `persons` x `pictures`.

    Unless `own_looks`, each picture takes its looks from a stranger, and half of the crops are where a stranger's
    face would have been, as in a swap, where the frame is the target's.
    """
    rows = np.arange(start, stop)
    own = sample(seed, (rows // pictures).tolist(), (rows % pictures).tolist())
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


def faces(cache: Path, seed: int, persons: int, pictures: int, own_looks: bool = False) -> Faces:
    """Render a pretraining set, or read what an earlier, interrupted call has rendered of it."""
    cache.mkdir(parents=True, exist_ok=True)
    total = persons * pictures
    images, truths = [], []
    started = time.monotonic()
    for start in range(0, total, CHUNK):
        stop = min(start + CHUNK, total)
        drawn, quads = draw(seed, persons, pictures, start, stop, own_looks)
        file = cache / f"{seed}-{persons}x{pictures}{'-own' if own_looks else ''}-{start}.npz"
        if not file.exists():
            made = render(drawn, SIDE_PX, 2, quads)
            pixels = ((made.images + 1) * 127.5).round().clamp(0, 255).byte().numpy()
            with whole_file(file) as partial:
                np.savez(partial, images=pixels, landmarks=((made.landmarks_px + 0.5) / SIDE_PX).numpy())
        with np.load(file) as stored:
            images.append(torch.from_numpy(stored["images"]))
            truths.append((drawn, torch.from_numpy(stored["landmarks"])))
        if start // CHUNK % 20 == 0:
            print(f"faces of seed {seed}: {stop} of {total}, {time.monotonic() - started:.0f} s", flush=True)
    return Faces(
        torch.cat(images),
        torch.arange(total) // pictures,
        torch.cat([drawn.identity for drawn, _ in truths]),
        torch.cat([points for _, points in truths]),
        torch.cat([drawn.yaw_pitch_roll_deg() for drawn, _ in truths]),
        torch.cat([drawn.expression() for drawn, _ in truths]),
    )


def augmented(pixels: Tensor, random: torch.Generator) -> Tensor:
    """Bytes [N, 3, S, S] as pictures in [-1, 1] with another exposure, tint and sharpness."""
    n = len(pixels)
    images = pixels.float() / 127.5 - 1
    gain = (
        1
        + 0.30 * (torch.rand(n, 1, 1, 1, generator=random) - 0.5)
        + 0.30 * (torch.rand(n, 3, 1, 1, generator=random) - 0.5)
    )
    images = ((images + 1) * gain - 1 + 0.2 * (torch.rand(n, 1, 1, 1, generator=random) - 0.5)).clamp(-1, 1)
    # What is looked at later was resampled once or drawn by a decoder, so it is softer than a fresh render.
    blurred = functional.avg_pool2d(functional.pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1)
    return torch.lerp(images, blurred, torch.rand(n, 1, 1, 1, generator=random))


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
) -> None:
    """Minimise `loss_of(pictures, rows, random)` with AdamW and a one-cycle rate; continues after an interruption.

    `network` holds everything that learns. The batch of a step is a pure function of (seed, step).
    """
    optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps + 1, pct_start=0.1)
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
        loss = loss_of(augmented(faces_of.images[rows], random), rows, random)
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
    embeddings = torch.cat([network(chunk.float() / 127.5 - 1) for chunk in test.images.split(200)])
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
        pose, expression = learner.attributes(images)
        posed = functional.mse_loss(pose, learned_from.pose_deg[rows]) / attributes.POSE_SCALE_DEG**2
        return 20 * placed + 4 * posed + functional.mse_loss(expression, learned_from.expression[rows])

    learn("geometry", learner, loss_of, learned_from, steps, 64, 2e-3, state, seed)
    return learner


@torch.no_grad()
def geometry_errors(learner: GeometryLearner, test: Faces) -> dict[str, float]:
    """Landmark error as a share of the eye distance, pose error in degrees, R2 of each expression coefficient."""
    points, pose, expression = [], [], []
    for chunk in test.images.split(200):
        images = chunk.float() / 127.5 - 1
        points.append(learner.points(images))
        outcome = learner.attributes(images)
        pose.append(outcome[0])
        expression.append(outcome[1])
    truth = test.landmarks
    eyes = (truth[:, 36:42].mean(1) - truth[:, 42:48].mean(1)).norm(dim=1)
    measured = {"landmark_nme": ((torch.cat(points) - truth).norm(dim=2).mean(1) / eyes).mean().item()}
    for k, name in enumerate(("yaw", "pitch", "roll")):
        measured[f"{name}_error_deg"] = (torch.cat(pose)[:, k] - test.pose_deg[:, k]).abs().mean().item()
    residual = (torch.cat(expression) - test.expression).var(0) / test.expression.var(0)
    measured |= {f"{name}_r2": 1 - residual[k].item() for k, name in enumerate(EXPRESSION)}
    return measured


class Autoencoder(nn.Module):
    """Encoder and decoder, joined through the style codes alone: the pathway of target features stays out."""

    def __init__(self, encoder: Encoder, decoder: Decoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.decoder(self.encoder(images).codes)
        return out


def train_autoencoder(model: Model, learned_from: Faces, steps: int, state: Path, seed: int) -> Autoencoder:
    """A decoder that draws rendered faces and the encoder that inverts it into style codes (W+)."""
    torch.manual_seed(seed)
    decoder = build_decoder(model.model_copy(update={"pathway_resolutions": ()}))
    learner = Autoencoder(build_encoder(model), decoder)

    def loss_of(images: Tensor, rows: Tensor, random: torch.Generator) -> Tensor:
        drawn = learner(images)
        error = drawn - images
        # The face counts twice, and edges once more: squared errors alone leave eyes and mouths blurred.
        edges = (error[..., 1:] - error[..., :-1]).abs().mean() + (error[..., 1:, :] - error[..., :-1, :]).abs().mean()
        return error.abs().mean() + central(error, SIDE_PX).abs().mean() + 2 * error.square().mean() + edges

    learn("autoencoder", learner, loss_of, learned_from, steps, 32, 4e-3, state, seed)
    return learner


@torch.no_grad()
def reconstruction_psnr_db(learner: Autoencoder, test: Faces) -> float:
    """Mean PSNR of reconstructed test faces, in dB, pictures in [-1, 1]."""
    values = []
    for chunk in test.images.split(200):
        images = chunk.float() / 127.5 - 1
        squared = (learner(images).clamp(-1, 1) - images).square().mean((1, 2, 3))
        values.append(10 * torch.log10(4 / squared))
    return torch.cat(values).mean().item()


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
    "attributes": {
        "name": "small_attributes", "coefficients": len(EXPRESSION), "widths": [24, 48, 96, 128], "side_px": SIDE_PX,
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


def pretrain(cfg: Pretrain, model: Model, state: Path, out: Path) -> dict[str, dict[str, float]]:
    """Run the whole recipe, or what an interrupted call has left of it, and write networks and cards into `out`.

    Returns:
        The measured accuracy of each role on people whom no network has learned from.
    """
    cache = state / "faces"
    learned = faces(cache, SEEDS["identity"], cfg.identities, cfg.pictures_per_identity)
    judged = faces(cache, SEEDS["judge"], cfg.judge_identities, cfg.pictures_per_identity)
    test = faces(cache, SEEDS["test"], cfg.test_identities, cfg.pictures_per_identity)
    test_own = faces(cache, SEEDS["test"], cfg.test_identities, cfg.pictures_per_identity, own_looks=True)
    measured: dict[str, dict[str, float]] = {}

    def keep(
        network: nn.Module, role: str, architecture: dict[str, Any], seed: int, steps: int, **accuracy: float
    ) -> None:
        measured[role] = accuracy
        people = {"identities", "judge_identities", "pictures_per_identity"}
        recipe = {"seed": seed, "steps": steps, **cfg.model_dump(include=people)}
        write(network, role, architecture, {"recipe": recipe, "accuracy": accuracy}, out)
        print(f"{role}: {accuracy}", flush=True)

    for role, people, steps, margin, seed in (
        ("identity", learned, cfg.identity_steps, 0.15, cfg.seed),
        ("identity_judge", judged, cfg.judge_steps, 0.0, cfg.seed + 1),
    ):
        network = as_written(train_identity(role, ARCHITECTURES[role], people, steps, margin, state, seed))
        keep(network, role, ARCHITECTURES[role], seed, steps,
             rank1_of_100=rank1(network, test_own, 100),
             rank1_of_100_with_a_strangers_looks_and_frame=rank1(network, test, 100))  # fmt: skip
    geometry = as_written(
        train_geometry(
            ARCHITECTURES["landmarks"], ARCHITECTURES["attributes"], judged, cfg.geometry_steps, state, cfg.seed + 2
        )
    )
    errors = geometry_errors(geometry, test_own)
    points = {"landmark_nme": errors.pop("landmark_nme")}
    keep(geometry.points, "landmarks", ARCHITECTURES["landmarks"], cfg.seed + 2, cfg.geometry_steps, **points)
    keep(geometry.attributes, "attributes", ARCHITECTURES["attributes"], cfg.seed + 2, cfg.geometry_steps, **errors)
    autoencoder = as_written(train_autoencoder(model, judged, cfg.autoencoder_steps, state, cfg.seed + 3))
    psnr = reconstruction_psnr_db(autoencoder, test_own)
    sizes = model.model_dump(mode="json")
    for role, part in (("encoder", autoencoder.encoder), ("decoder", autoencoder.decoder)):
        keep(part, role, sizes, cfg.seed + 3, cfg.autoencoder_steps, reconstruction_psnr_db=psnr)
    return measured
