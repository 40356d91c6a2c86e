"""A training step as one writes it down: what the product's step is compared with in step.py.

The networks of the equations are called where an equation has them, so that Eq. 12 encodes its pictures again and each
term looks through its network itself; pictures are read, noise drawn and the mask filled when they are needed; identity
vectors of sources and targets are computed; the averaged weights follow one by one, V judges real and swapped pictures
in two passes, and each gradient is asked whether it is finite. All of it is float32, and none of it compiled.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from step_cases import Case
from torch import Tensor

from styleblend.faces import resize
from styleblend.faces.regions import face_region
from styleblend.perception.landmarks import to_19
from styleblend.training import losses, samples, steps
from styleblend.training.batches import draw
from styleblend.training.steps import Learner


def plain_step(case: Case, learner: Learner, step: int) -> dict[str, Tensor]:
    """One step of G and one of V with nothing shared between terms; returns the terms."""
    cfg, faces, perception, device = case.training, case.faces, case.perception, case.device
    swapper, judge, side = learner.swapper, learner.discriminator, case.model.input_px
    drawn = draw(cfg, faces.persons, step, range(cfg.batch_size))
    seen = samples.pictures(faces, drawn, prior=False)
    source, target = seen.source.to(device), seen.target.to(device)
    same, negatives = torch.from_numpy(drawn.same_person).to(device), faces.identity[drawn.negatives].to(device)
    points = faces.landmarks[drawn.target].to(device)

    def swap(of: Tensor, on: Tensor) -> Tensor:
        return resize.area(swapper(of, on, swapper.decoder.make_noise(drawn.noise_seeds, device)), side)

    def vectors(images: Tensor) -> Tensor:
        with torch.no_grad():
            return perception.identity(images)

    def contrastive() -> Tensor:
        faced = (perception.identity(swapped), vectors(source), vectors(target))
        return losses.contrastive(*faced, negatives, ~same, cfg.temperature)

    def attributes() -> Tensor:
        with torch.no_grad():
            pose, expression = perception.attributes(target)
        found = perception.attributes(swapped)
        return losses.attributes(found[0], pose, found[1], expression)

    terms: dict[str, Callable[[], Tensor]] = {
        "swap_consistency": lambda: losses.swap_consistency(
            swap(swapped, source), source, swap(target, swapped), target
        ),
        "adversarial": lambda: losses.adversarial(judge(swapped)),
        "identity": lambda: losses.identity(perception.identity(swapped), vectors(source)),
        "contrastive": contrastive,
        "reconstruction": lambda: losses.reconstruction(swapped, target, same),
        "edges": lambda: losses.edges(swapped, target, same),
        "landmarks": lambda: losses.landmarks(to_19(perception.landmarks(swapped)), to_19(points)),  # type: ignore[misc]
        "attributes": attributes,
        "outside": lambda: losses.outside(swapped, target, face_region(points, side, soften_px=side / 64)),
    }
    due = {name for name, _ in cfg.loss if cfg.weight(name, step)}
    if step % cfg.swap_every:
        due.discard("swap_consistency")
    if unknown := due - set(terms):
        raise SystemExit(f"the plain step has no {', '.join(sorted(unknown))}: set these weights to 0")
    judge.requires_grad_(False).eval()
    swapped = swap(source, target)
    found = {name: term() for name, term in terms.items() if name in due}
    learner.swapper_optimiser.zero_grad()
    sum(cfg.weight(name, step) * value for name, value in found.items()).backward()  # type: ignore[union-attr]
    for group in learner.swapper_optimiser.param_groups:
        group["lr"] = steps.learning_rate(cfg, step) * group["lr_factor"]
    for parameter in (each for group in learner.swapper_optimiser.param_groups for each in group["params"]):
        assert parameter.grad is None or parameter.grad.isfinite().all()
    learner.swapper_optimiser.step()
    decay = min(cfg.ema_decay, (1 + step) / (10 + step))
    with torch.no_grad():
        for mean, now in zip(learner.averaged.parameters(), swapper.parameters(), strict=True):
            if now.requires_grad:
                mean.lerp_(now, 1 - decay)

    judge.requires_grad_(True).train()
    real = judge(source.requires_grad_(cfg.r1_gamma > 0))
    # The power iteration of the step was the first pass's.
    found["discriminator"] = losses.discriminator_hinge(real, judge.eval()(swapped.detach()))
    total = found["discriminator"]
    if cfg.r1_gamma:
        found["r1"] = losses.r1(source, real)
        total = total + cfg.r1_gamma * found["r1"]
    learner.discriminator_optimiser.zero_grad()
    total.backward()
    assert all(parameter.grad.isfinite().all() for parameter in judge.parameters() if parameter.grad is not None)
    learner.discriminator_optimiser.step()
    judge.train()
    return {name: value.detach() for name, value in found.items()}
