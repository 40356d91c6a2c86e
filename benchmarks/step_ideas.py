"""Single ideas for a faster step, one against another on this machine: ratios of CPU time, interleaved.

    OMP_NUM_THREADS=1 python benchmarks/step_ideas.py --size demo [--compile]

noise, mask: what threads that read ahead take from a step. adam: a step of all that learns by torch's plain loop, by
its calls for many tensors and by its fused kernel, and how far the fused one ends from the plain one. average: one lerp
after the other and one call for all. channels_last, compile: forward and backward of G with weights and pictures as
NHWC, and taken apart by torch.compile (--compile, for minutes). Prints one JSON object; seconds are medians of the CPU
time of the calling thread.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from step_cases import SIZES, settings

from styleblend.model import build
from styleblend.model.decoder import draw_noise
from styleblend.model.swapper import Swapper
from styleblend.training.ready import soft_face
from styleblend.training.steps import choose_what_learns, compile_parts


def seconds(ways: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median CPU seconds of each, one after the other in turn, after one call of each."""
    for work in ways.values():
        work()
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, work in ways.items():
            began = time.thread_time()
            work()
            times[name].append(time.thread_time() - began)
    return {name: median(each) for name, each in times.items()}


def adams(swapper: Swapper, repeats: int) -> dict[str, float]:
    """Seconds of a step of each way, and the largest distance of a weight after all of them."""
    learning = choose_what_learns(swapper, "train_encoder")
    ways = {"plain": {}, "foreach": {"foreach": True}, "fused": {"fused": True}}
    weights = {name: [each.detach().clone().requires_grad_() for each in learning] for name in ways}
    optimisers = {name: torch.optim.Adam(weights[name], 1e-4, (0.9, 0.99), **way) for name, way in ways.items()}
    for several in zip(*weights.values(), strict=True):
        gradient = torch.randn_like(several[0])
        for weight in several:
            weight.grad = gradient.clone()
    found = seconds({name: each.step for name, each in optimisers.items()}, repeats)
    apart = max(float((a - b).detach().abs().max()) for a, b in zip(weights["plain"], weights["fused"], strict=True))
    return {**{f"adam_{name}_s": value for name, value in found.items()}, "adam_fused_differs_by": apart}


def averages(swapper: Swapper, repeats: int) -> dict[str, float]:
    """Seconds of moving the averaged weights."""
    weights = [each.detach() for each in choose_what_learns(swapper, "train_encoder")]
    means = [torch.zeros_like(each) for each in weights]

    def loop() -> None:
        for mean, now in zip(means, weights, strict=True):
            mean.lerp_(now, 0.01)

    ways = {"average_loop_s": loop, "average_foreach_s": lambda: torch._foreach_lerp_(means, weights, 0.01)}
    return seconds(ways, repeats)


def passes(swapper: Swapper, batch: int, compiled: bool, repeats: int) -> dict[str, float]:
    """Seconds of forward and backward of G, in each layout and compiled."""
    side = swapper.encoder.input_px
    # As pictures come from files, where the colours of a pixel lie together.
    pictures = [(torch.rand(batch, side, side, 3) * 2 - 1).permute(0, 3, 1, 2) for _ in range(2)]
    noise = swapper.decoder.make_noise(range(batch))
    nhwc = copy.deepcopy(swapper).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def both(network: Swapper) -> Callable[[], None]:
        def work() -> None:
            network(*pictures, noise).square().mean().backward()

        return work

    ways = {"g_plain_s": both(swapper), "g_channels_last_s": both(nhwc)}
    if compiled:
        apart = copy.deepcopy(swapper)
        compile_parts(apart)
        ways["g_compiled_s"] = both(apart)
    return seconds(ways, repeats)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="demo")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--small-only", action="store_true", help="leave the passes of G out, which take memory")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, training = settings(given.size, "train_encoder", given.params, {})
    batch, resolutions, points = (
        training.batch_size,
        sorted(model.decoder_widths),
        torch.rand(training.batch_size, 68, 2),
    )
    found: dict[str, object] = {"size": given.size, "batch": batch}
    ways: dict[str, Callable[[], object]] = {
        "noise_s": lambda: draw_noise(resolutions, range(batch)),
        "mask_s": lambda: soft_face(points, None, model.input_px),
    }
    found |= seconds(ways, given.repeats)
    swapper = build(model).train()
    found |= adams(swapper, given.repeats)
    found |= averages(swapper, given.repeats)
    if not given.small_only:
        found |= passes(swapper, batch, given.compile, given.repeats)
    print(json.dumps({name: round(value, 6) if isinstance(value, float) else value for name, value in found.items()}))


if __name__ == "__main__":
    main()
