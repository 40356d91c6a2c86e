"""One forward and backward pass of the paper-size generator step on the CPU: seconds and peak memory.

    OMP_NUM_THREADS=1 python benchmarks/paper_step.py [--stage train_encoder] [--batch 1]

It is the step of training itself, with the settings of the paper preset: the decoder draws 1024 px, all losses see
256 px. New weights and noise for pictures: time and memory do not depend on them. The frozen networks are the small
ones of the project, which bring pictures to their own 64 px; full-size ones would come on top. It needs about 7 GiB of
memory and minutes. There is no optimiser step and there are no averaged weights, so neither Adam's state nor the
average is in the figure.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
import yaml
from peak_memory import peak_gib

from styleblend.config.model import Model
from styleblend.config.params import parse_params
from styleblend.config.training import Training
from styleblend.experiments import presets
from styleblend.model import build, build_discriminator
from styleblend.perception import attributes, identity, landmarks, shape
from styleblend.training.batches import Batch
from styleblend.training.generated import Perception
from styleblend.training.steps import choose_what_learns, generator_terms


def random_batch(model: Model, cfg: Training, size: int, embedding: int) -> Batch:
    """Noise in the place of `size` pairs of faces and of what `perceive` knows of them.

    Half of the pairs, the first among them, are one person, so that every loss term has something to do.
    """
    pictures = torch.rand(2, size, 3, model.input_px, model.input_px) * 2 - 1
    same = torch.arange(size) % 2 == 0
    target = torch.where(same[:, None, None, None], pictures[0], pictures[1])
    return Batch(
        source=pictures[0],
        target=target,
        truth=target,
        answered=same,
        source_identity=torch.nn.functional.normalize(torch.randn(size, embedding), dim=1),
        target_identity=torch.nn.functional.normalize(torch.randn(size, embedding), dim=1),
        target_landmarks=torch.rand(size, 68, 2),
        same_person=same,
        negatives=torch.nn.functional.normalize(torch.randn(size, cfg.negatives, embedding), dim=2),
        noise_seeds=tuple(range(size)),
    )


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--preset", type=Path, default=Path("presets/paper.yaml"))
    parser.add_argument("--networks", type=Path, default=Path("data/pretrained/small"))
    parser.add_argument("--stage", choices=("train_encoder", "finetune_decoder"), default="train_encoder")
    parser.add_argument("--batch", type=int, default=1, help="pairs of pictures")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    values = presets.merged(yaml.safe_load(args.params.read_text()), yaml.safe_load(args.preset.read_text()))
    cfg = parse_params(values, f"{args.params} with {args.preset}")
    training = cfg.train_encoder if args.stage == "train_encoder" else cfg.finetune_decoder

    found: dict[str, object] = {"stage": args.stage, "batch": args.batch, "threads": args.threads}
    found["peak_gib_before_building"] = peak_gib()
    who = identity.load(args.networks, "identity")
    perception = Perception(
        who, landmarks.load(args.networks), attributes.load(args.networks, "attributes"), shape.load(args.networks)
    )
    batch = random_batch(cfg.model, training, args.batch, who(torch.zeros(1, 3, 64, 64)).shape[1])
    swapper, discriminator = build(cfg.model).train(), build_discriminator(cfg.model)
    learning = choose_what_learns(swapper, args.stage)
    # As in training: V judges, it does not learn here.
    discriminator.requires_grad_(False).eval()
    found["parameters"] = sum(parameter.numel() for parameter in swapper.parameters())
    found["learning_parameters"] = sum(parameter.numel() for parameter in learning)
    found["peak_gib_after_building"] = peak_gib()

    start = time.perf_counter()
    terms, swapped = generator_terms(swapper, discriminator, perception, batch, training, step=0)
    total = torch.stack([getattr(training.loss, name) * value for name, value in terms.items()]).sum()
    found["forward_s"] = time.perf_counter() - start
    found["peak_gib_after_forward"] = peak_gib()
    start = time.perf_counter()
    total.backward()
    found["backward_s"] = time.perf_counter() - start
    found["peak_gib"] = peak_gib()

    found["loss_side_px"], found["decoder_side_px"] = swapped.shape[-1], cfg.model.resolution
    found["terms"] = {name: round(value.item(), 4) for name, value in terms.items()}
    gradients = [parameter.grad for parameter in learning]
    found["every_learning_parameter_has_a_finite_gradient"] = all(
        gradient is not None and bool(torch.isfinite(gradient).all()) for gradient in gradients
    )
    shown = {name: round(value, 3) if isinstance(value, float) else value for name, value in found.items()}
    print(json.dumps(shown, indent=1))


if __name__ == "__main__":
    main()
