"""The recipe of this project's own small networks, learned from rendered faces alone.

They stand where a production run has ArcFace, FAN, StyleGAN and Inception weights. Every network sees pictures
whose looks (skin tone, hair, beard) and framing are drawn anew, so that identity is shape and marks and not colour.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from safetensors.torch import save_file
from torch import nn

from styleblend.config.model import Model
from styleblend.config.pretraining import Pretrain
from styleblend.perception.identity import IdentityNetwork
from styleblend.pretraining import learners
from styleblend.pretraining.data import SIDE_PX, Faces, People, joined, people
from styleblend.pretraining.prior import Judges, drawing_accuracy, train_decoder, train_inverter
from styleblend.pretraining.sharpening import sharpen, told_apart
from styleblend.synthetic.factors import EXPRESSION
from styleblend.system.files import sha256, whole_file

Network = TypeVar("Network", bound=nn.Module)

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


def as_written(network: Network) -> Network:
    """The network with weights rounded as they are stored, so that accuracy is measured on what is shipped."""
    return network.half().float()


class Writer:
    """Writes networks with their cards into a folder and collects their measured accuracy by role."""

    def __init__(self, cfg: Pretrain, known: People, out: Path) -> None:
        self.measured: dict[str, dict[str, float]] = {}
        self._cfg, self._people, self._out = cfg, known, out

    def write(
        self, network: nn.Module, role: str, architecture: dict[str, Any], seed: int, steps: int, **accuracy: float
    ) -> None:
        """Write one network, in half precision; `accuracy` is measured on people that no network has learned from."""
        weights = self._out / f"{role}.safetensors"
        state = {
            name: (value.half() if value.is_floating_point() else value).contiguous()
            for name, value in network.state_dict().items()
        }
        with whole_file(weights) as partial:
            save_file(state, partial)
        numbers = {"identities", "judge_identities", "profile_identities", "pictures_per_identity"}
        card = {
            "role": role,
            "architecture": architecture,
            "format": "safetensors",
            "sha256": sha256(weights),
            "licence": "MIT",
            "data": "faces rendered by this project; no photograph of a person",
            "limits": "learned from rendered faces alone: says little about real ones",
            "recipe": {"seed": seed, "steps": steps, **self._cfg.model_dump(include=numbers)},
            "accuracy": accuracy,
        }
        with whole_file(self._out / f"{role}.json") as partial:
            partial.write_text(json.dumps(card, indent=2) + "\n")
        self.measured[role] = accuracy
        print(f"{role}: {accuracy}", flush=True)

    def write_measured(
        self, network: Network, role: str, seed: int, steps: int, measure: Callable[[Network, Faces], dict[str, float]]
    ) -> None:
        """Write one network of ARCHITECTURES with its accuracy on usual faces and on faces up to 60 degrees aside."""
        aside = {f"{name}_to_60_deg": value for name, value in measure(network, self._people.profile_test_own).items()}
        accuracy = measure(network, self._people.test_own) | aside
        self.write(network, role, ARCHITECTURES[role], seed, steps, **accuracy)


def pretrain(cfg: Pretrain, model: Model, state: Path, out: Path) -> dict[str, dict[str, float]]:
    """Run the whole recipe, or the rest of an interrupted call, and write networks and cards into `out`.

    Returns:
        The measured accuracy of each role on people whom no network has learned from.
    """
    known = people(cfg, state / "faces")
    writer = Writer(cfg, known, out)

    # Identity: learned without profiles, because these networks are asked about faces that look nearly ahead.
    recognisers: dict[str, IdentityNetwork] = {}
    for role, learned_from, steps, margin, seed in (
        ("identity", known.learned, cfg.identity_steps, 0.15, cfg.seed),
        ("identity_judge", known.judged, cfg.judge_steps, 0.0, cfg.seed + 1),
    ):
        network = as_written(
            learners.train_identity(role, ARCHITECTURES[role], learned_from, steps, margin, state, seed)
        )
        recognisers[role] = network
        accuracy = {
            "rank1_of_100": learners.rank1(network, known.test_own, 100),
            "rank1_of_100_with_a_strangers_looks_and_frame": learners.rank1(network, known.test, 100),
            "rank1_of_100_to_60_deg": learners.rank1(network, known.profile_test_own, 100),
        }
        writer.write(network, role, ARCHITECTURES[role], seed, steps, **accuracy)

    # Geometry: landmarks, pose and expression.
    points, look = ARCHITECTURES["landmarks"], ARCHITECTURES["attributes"]
    learned_from, seed, steps = joined(known.judged, known.profile), cfg.seed + 2, cfg.geometry_steps
    geometry = as_written(learners.train_geometry(points, look, learned_from, steps, state, seed))
    writer.write_measured(geometry.points, "landmarks", seed, steps, learners.landmark_errors)
    writer.write_measured(geometry.attributes, "attributes", seed, steps, learners.attribute_errors)
    seed, steps = cfg.seed + 7, cfg.landmarks_3d_steps
    solid = as_written(learners.train_landmarks_3d(ARCHITECTURES["landmarks_3d"], learned_from, steps, state, seed))
    writer.write_measured(solid, "landmarks_3d", seed, steps, learners.shape_errors)
    # The judge of pose and expression learns from people that the training's attribute network did not see.
    learned_from, seed, steps = joined(known.learned, known.profile_judged), cfg.seed + 5, cfg.attributes_judge_steps
    judge = as_written(
        learners.train_attributes_judge(ARCHITECTURES["attributes_judge"], learned_from, steps, state, seed)
    )
    writer.write_measured(judge, "attributes_judge", seed, steps, learners.attribute_errors)

    # The prior: a decoder, the encoder that inverts it, and a discriminator against which both learn on.
    judges = Judges(recognisers["identity"].requires_grad_(False), geometry.attributes.requires_grad_(False))
    # Finer maps, pathway and mask are learned by the training, not by the prior.
    model = model.model_copy(update={"fine_levels": 0, "pathway_resolutions": (), "join": "none"})
    learned_from, sizes = joined(known.learned, known.judged, known.profile), model.model_dump(mode="json")
    generator = train_decoder(model, judges, learned_from, cfg.decoder_steps, state, cfg.seed + 3)
    as_written(generator.decoder)
    both = (cfg.encoder_code_steps, cfg.encoder_steps)
    inverter = train_inverter(model, generator, judges, learned_from, both, state, cfg.seed + 6)
    as_written(inverter.encoder)
    last = sharpen(
        model, inverter.encoder, generator.decoder, judges, known.learned, cfg.sharpen_steps, state, cfg.seed + 8
    )
    for part in last:
        as_written(part)
    found = drawing_accuracy(lambda images, _: last.decoder(last.encoder(images).codes), judges, known.test_own)
    steps = cfg.decoder_steps + cfg.sharpen_steps
    writer.write(last.decoder, "decoder", sizes, cfg.seed + 3, steps, **found)
    writer.write(last.encoder, "encoder", sizes, cfg.seed + 6, sum(both) + cfg.sharpen_steps, **found)
    apart = told_apart(last, known.test_own)
    writer.write(last.discriminator, "discriminator", sizes, cfg.seed + 8, cfg.sharpen_steps, told_apart=apart)
    return writer.measured
