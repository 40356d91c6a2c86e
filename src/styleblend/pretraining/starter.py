"""The recipe of the starter for photographs: E, SBM, D, pathway and prior learn together, in one process, in sittings.

The training is the pipeline's own loop with its losses, checkpoints and probe; what is its own is the joint stage, and
where it begins. Nothing here needs Ray or MLflow.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from styleblend.config.face_pretraining import PretrainFaces
from styleblend.config.training import PACE, Training
from styleblend.data import licences
from styleblend.data.forgotten import Forgotten
from styleblend.data.splits import Splits
from styleblend.errors import StyleBlendError
from styleblend.model import build, build_discriminator, load
from styleblend.pretraining import sittings
from styleblend.pretraining.photographs import Photographs, chosen, deal, named_by_hash, prepare
from styleblend.pretraining.sittings import STATE
from styleblend.provenance import save_picture
from styleblend.system.files import fingerprint
from styleblend.system.process import exit_on_sigterm
from styleblend.training import inputs, loop
from styleblend.training.repeatable import repeatable
from styleblend.training.steps import Learner, new_learner
from styleblend.weights import frozen
from styleblend.weights.start import fill, fill_body
from styleblend.weights.starter import DISCRIMINATOR_FILE, write_starter

FIGURES = "figures.jsonl"
"""In the folder of a training: a line each time that something was measured, of all sittings."""

_SINCE = {
    "discriminator_clip_norm", "continue_from", "tf32", "channels_last", "compile", "accumulate", "deterministic",
    "known_swaps", "warped_swaps",
}  # fmt: skip
"""Settings that came when there were sittings already, by their defaults: where they are off they are no part."""

_FIXED = {"workers", "ray_address", "gpus_per_worker"}
"""Of PACE, those that have one value in this recipe; sittings are named with them."""

NOT_VERIFIED = (
    "what the frozen networks learned from, and whether people of these pictures are among it; that pictures without a"
    " label show different people; that what owners state of licence and terms is right, and everybody shown agreed"
)


@dataclass(frozen=True)
class Sitting(loop.Recorder):
    """Lines to the console, figures to FIGURES and grids of the probe to pictures beside it."""

    folder: Path

    def metrics(self, step: int, values: dict[str, float]) -> None:
        with (self.folder / FIGURES).open("a") as stream:
            stream.write(json.dumps({"step": step, **values}) + "\n")

    def picture(self, step: int, pixels: Tensor) -> None:
        file = self.folder / f"step-{step:07d}.png"
        save_picture(Image.fromarray(pixels.numpy()), file, model="styleblend pretrain_faces", kind="grid")

    def line(self, text: str) -> None:
        print(f"pretrain_faces: {text}", flush=True)


def pretrain_faces(
    cfg: PretrainFaces, small: Path, out: Path, state: Path = STATE, without: Forgotten | None = None
) -> dict[str, Any]:
    """Run the recipe, or the rest of it, and write the starter with its card to `out`; returns the card.

    A sitting that was ended goes on from its last checkpoint, also with more steps; other photographs, sizes, losses or
    rates begin anew, beside what there was; so does a training that saw a face which is not used any more.

    Args:
        small: folder of this project's own networks. without: pictures and persons that are left out.
    Raises:
        StyleBlendError: see photographs.prepare and loop.train; another process is at it; cfg.start is no starter of
            these sizes.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with sittings.alone(state), exit_on_sigterm():
        photographs = prepare(cfg, small, state, device.type, without)
        faces = chosen(cfg, photographs)
        dealt = deal(cfg, faces)
        folder = _folder(cfg, photographs, dealt, state)
        dealt.write(folder / "splits")
        learner = _train(cfg, photographs, folder, device)
        card = _card(cfg, photographs, faces, dealt.test["person"], last_probe(folder))
        write_starter(out, learner.averaged, learner.discriminator, cfg.model, card)
    return card


def _key(cfg: PretrainFaces, photographs: Photographs) -> str:
    """Names the training that a sitting goes on with. Code is no part: a training of days survives a mended message."""
    unset = {name for name in _SINCE if getattr(cfg.training, name) == Training.model_fields[name].default}
    rest = cfg.training.model_dump_json(exclude=set(PACE - _FIXED) | unset)
    return fingerprint(photographs.key, cfg.model.model_dump_json(), rest, json.dumps(cfg.held_out), f"{cfg.val:g}")


def _folder(cfg: PretrainFaces, photographs: Photographs, dealt: Splits, state: Path) -> Path:
    """Where the training lies that learns from just these faces, or has begun to."""
    faces, key = sittings.ids((dealt.train, dealt.val, dealt.test)), _key(cfg, photographs)
    folder, earlier = state / f"training-{fingerprint(key, *faces)}", state / f"training-{key}"
    # Earlier versions, which left nothing out, did not name the faces.
    return folder if folder.exists() or sittings.dealt_in(earlier) != faces else earlier


def _train(cfg: PretrainFaces, photographs: Photographs, folder: Path, device: torch.device) -> Learner:
    learner = _new_learner(cfg, photographs.networks, device)
    places = (photographs.networks, folder / "splits", photographs.faces, photographs.perceived)
    read = inputs.read(cfg.training, learner, *places, device)
    worker, recorder = loop.Worker(device=device), Sitting(folder)
    with repeatable(cfg.training.deterministic):
        loop.train(cfg.training, learner, *read, folder / "checkpoints", worker, recorder)
    return learner


def last_probe(folder: Path) -> dict[str, float]:
    """The figures of the probe's last look in the folder of a training, of whichever sitting, with their step."""
    rows = [json.loads(line) for line in (folder / FIGURES).read_text().splitlines()]
    looks: list[dict[str, float]] = [row for row in rows if any(name.startswith("probe/") for name in row)]
    return looks[-1]


def _new_learner(cfg: PretrainFaces, networks: Path, device: torch.device) -> Learner:
    torch.manual_seed(cfg.training.seed)
    swapper, discriminator = build(cfg.model), build_discriminator(cfg.model)
    if (body := frozen.foreign(networks, "encoder_body")) is not None:
        fill_body(swapper.encoder, body)
    if cfg.start is not None:
        begun = load(cfg.start)
        try:
            swapper.load_state_dict(begun.state_dict())
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise StyleBlendError(
                f"{cfg.start} does not fit pretrain_faces.model ({reason}): set the sizes of its model.json, or start"
                " from another"
            ) from None
        fill(discriminator, cfg.start / DISCRIMINATOR_FILE, new=())
    return new_learner(swapper.to(device), discriminator.to(device), "pretrain", cfg.training)


def _card(
    cfg: PretrainFaces, photographs: Photographs, faces: pd.DataFrame, held_out: pd.Series, seen: dict[str, float]
) -> dict[str, Any]:
    """What the starter is made of, what may be done with it, and what nobody checked."""
    networks = frozen.listed(photographs.networks)
    verdict = licences.of(networks, faces)
    return {
        "name": "starter",
        "use": "a beginning for training on photographs of one's own, and a first swap without training",
        "licence": verdict.licence,
        "commercial": verdict.licence != licences.NON_COMMERCIAL,
        "consequence": verdict.text(),
        "not_verified": NOT_VERIFIED,
        "data": [_described(str(name), rows, cfg) for name, rows in faces.groupby("source")],
        "held_out": {
            "rule": "crc32 of 'source/person' modulo 100 below 100 times the share; without a label the face's id",
            "shares": cfg.held_out,
            "persons_sha256": named_by_hash(held_out),
        },
        "networks": {role: {key: entry.get(key) for key in _OF_NETWORKS} for role, entry in networks.items()},
        "training": cfg.training.model_dump(mode="json"),
        "start": None if cfg.start is None else cfg.start.name,
        "last_probe": seen,
    }


_OF_NETWORKS = ("name", "sha256", "licence", "not_verified")


def _described(name: str, rows: pd.DataFrame, cfg: PretrainFaces) -> dict[str, Any]:
    said = {key: sorted(set(rows[key].dropna())) for key in ("licence", "terms")}
    persons = rows["person"].fillna(rows["face_id"]).nunique()
    return {"source": name, "faces": len(rows), "persons": persons, "held_out": cfg.held_out.get(name, 0.0), **said}
