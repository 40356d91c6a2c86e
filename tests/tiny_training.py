"""A training job of the smallest size, on disk as the stages leave it: noise for faces, untrained networks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from styleblend import model
from styleblend.config.model import Model
from styleblend.config.training import LossWeights, Training
from styleblend.perception import attributes, identity, landmarks, shape
from styleblend.synthetic.renderer import average_shape
from styleblend.training import loop, steps
from styleblend.training.batches import Batch, Faces, read_faces
from styleblend.training.generated import Perception
from styleblend.training.steps import Learner, Stage
from styleblend.training.stream import Batches
from tiny_model import MODEL, SIDE_PX

__all__ = ["MODEL", "SIDE_PX"]


class Lines(loop.Recorder):
    """Keeps what was said to people, in `said`."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def line(self, text: str) -> None:
        self.said.append(text)


NEEDS_MORE = ("mask", "mesh", "identity_second", "chroma")
"""Terms that need more than the smallest job has: a mask, a mesh, a second identity network, a prior."""

NETWORKS: dict[str, tuple[Any, dict[str, Any]]] = {
    "identity": (
        identity.IdentityNetwork,
        {"name": "tiny", "trunk": "plain", "widths": [8, 8], "blocks": [], "embedding": 8, "side_px": SIDE_PX},
    ),
    "landmarks": (landmarks.LandmarkNetwork, {"name": "tiny", "widths": [8, 8], "side_px": SIDE_PX}),
    "landmarks_3d": (shape.ShapeNetwork, {"name": "tiny", "widths": [8, 8], "side_px": SIDE_PX}),
    "attributes": (
        attributes.AttributeNetwork,
        {"name": "tiny", "trunk": "plain", "widths": [8, 8], "blocks": [], "coefficients": 4, "side_px": SIDE_PX},
    ),
    "identity_judge": (
        identity.IdentityNetwork,
        {"name": "tiny judge", "trunk": "plain", "widths": [8, 16], "blocks": [], "embedding": 8, "side_px": SIDE_PX},
    ),
}


def training(**changes: Any) -> Training:
    """Settings of a few tiny steps, every loss term on but those that need more than the smallest job has."""
    weights = {name: float(name not in NEEDS_MORE) for name in LossWeights.model_fields}
    settings: dict[str, Any] = {
        "steps": 4,
        "batch_size": 4,
        "workers": 1,
        "learning_rate": 1e-3,
        "curriculum_steps": 4,
        "curriculum_end": 0.3,
        "same_person": 0.5,
        "negatives": 3,
        "probe_every": 2,
        "checkpoint_every": 1,
        "log_every": 1,
        "loss": weights,
    }
    return Training.model_validate(settings | changes)


def write_inputs(folder: Path) -> dict[str, Path]:
    """Splits, faces, perceived and networks below `folder`; returns their paths by name."""
    random = np.random.default_rng(0)
    rows, known = [], []
    for person in range(6):
        colour = random.uniform(60, 200, 3)
        for picture in range(3):
            face_id = f"tiny-{person}-{picture}"
            file = folder / "faces" / "images" / f"{face_id}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            pixels = (colour + random.normal(0, 30, (SIDE_PX, SIDE_PX, 3))).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(file)
            points = 0.5 + 0.3 * np.stack([np.cos(np.arange(68.0)), np.sin(np.arange(68.0))], axis=1)
            points[27], points[33] = (0.5, 0.4), (0.5, 0.55)
            rows.append({"face_id": face_id, "path": f"images/{file.name}", "person": f"p{person}"})
            embedding, judged = random.normal(size=(2, 8))
            known.append(
                {
                    "face_id": face_id,
                    "identity": (embedding / np.linalg.norm(embedding)).astype(np.float32),
                    "judge": (judged / np.linalg.norm(judged)).astype(np.float32),
                    "landmarks": (points + random.normal(0, 0.01, points.shape)).astype(np.float32).ravel(),
                }
            )
    table = pd.DataFrame(rows)
    table.assign(weight=1.0)[["face_id", "path", "weight"]].to_parquet(folder / "faces" / "manifest.parquet")
    pd.DataFrame(known).to_parquet(folder / "perceived.parquet")
    splits = folder / "splits"
    splits.mkdir()
    in_val = table["person"].isin(["p4", "p5"])
    table.loc[~in_val, ["face_id", "person"]].to_parquet(splits / "train.parquet")
    table.loc[in_val, ["face_id", "person"]].to_parquet(splits / "val.parquet")
    pairs = [(f"tiny-4-{k}", f"tiny-5-{k}") for k in range(3)] + [("tiny-5-0", "tiny-4-1")]
    pd.DataFrame(pairs, columns=["source_id", "target_id"]).to_parquet(splits / "val_pairs.parquet")
    write_networks(folder / "networks")
    return {
        "splits": splits,
        "faces": folder / "faces",
        "perceived": folder / "perceived.parquet",
        "networks": folder / "networks",
    }


def read_splits(inputs: dict[str, Path]) -> tuple[Faces, Faces]:
    """The faces of the training and of the validation split of what `write_inputs` wrote."""
    tables = (inputs["splits"] / f"{name}.parquet" for name in ("train", "val"))
    train, val = (read_faces(table, inputs["faces"], inputs["perceived"], SIDE_PX) for table in tables)
    return train, val


def first_batch(inputs: dict[str, Path], cfg: Training) -> Batch:
    """The batch of step 0, for one worker."""
    batches = Batches(cfg, read_splits(inputs)[0], 0, 1)
    batch = batches.at(0, 0)
    batches.close()
    return batch


def write_networks(folder: Path) -> None:
    """Untrained networks in the files that the stage `pretrained` leaves."""
    folder.mkdir()
    torch.manual_seed(1)
    for role, (build, architecture) in NETWORKS.items():
        save_file(_built(build, architecture).state_dict(), folder / f"{role}.safetensors")
        (folder / f"{role}.json").write_text(json.dumps({"architecture": architecture}))
    save_file(model.build_encoder(MODEL).state_dict(), folder / "encoder.safetensors")
    without_pathway = model.build_decoder(MODEL.model_copy(update={"pathway_resolutions": ()}))
    save_file(without_pathway.state_dict(), folder / "decoder.safetensors")


def learner(
    cfg: Training,
    stage: Stage = "train_encoder",
    sizes: Model = MODEL,
    noise: float = 0,
    pathway: float = 0,
    fused: bool | None = None,
) -> Learner:
    """New networks with their optimisers, in training mode, as the stages have them.

    Args:
        noise, pathway: what the noise weights are, and the deviation of the pathway's weights, in place of zeros.
        fused: as of steps.new_learner; true is how a GPU learns.
    """
    torch.manual_seed(0)
    swapper, discriminator = model.build(sizes), model.build_discriminator(sizes)
    for layer in swapper.decoder.layers:
        nn.init.constant_(layer.noise_weight, noise)
    if pathway:
        for branch in swapper.decoder.pathway.values():
            nn.init.normal_(branch[2].weight, std=pathway)
    return steps.new_learner(swapper, discriminator, stage, cfg, fused)


def perception() -> Perception:
    """Untrained frozen networks."""
    torch.manual_seed(1)
    built = {role: _built(*recipe).eval().requires_grad_(False) for role, recipe in NETWORKS.items()}
    second = _built(*NETWORKS["identity"]).eval().requires_grad_(False)
    return Perception(**built, mesh=Mesh().requires_grad_(False), identity_second=second)  # type: ignore[arg-type]


class Mesh(nn.Module):
    """Pictures to 468 points, as FaceMesh gives them, by nothing but a linear map of a few of their pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * 8 * 8, 468 * 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        few = nn.functional.adaptive_avg_pool2d(images, 8).flatten(1)
        return 0.5 + 0.2 * self.linear(few).reshape(-1, 468, 3)


def meshes(count: int) -> torch.Tensor:
    """Points [count, 468, 3] all over the middle of a picture."""
    points = torch.rand(count, 468, 3, generator=torch.Generator().manual_seed(2))
    return 0.2 + 0.6 * points


def _built(build: Callable[[dict[str, Any]], nn.Module], architecture: dict[str, Any]) -> nn.Module:
    """Untrained; a network of shape has the average face, without which no pose is defined."""
    network = build(**architecture)
    if isinstance(network, shape.ShapeNetwork):
        network.average.copy_(average_shape())
    return network
