"""Stage `contact_sheet`: what rendered people look like, for a person to judge the renderer by."""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

from styleblend.faces.pixels import to_8bit
from styleblend.provenance import save_picture
from styleblend.stages.entry import Config, run
from styleblend.synthetic.factors import Factors, joined, sample, swap
from styleblend.synthetic.renderer import render
from styleblend.system.files import whole_folder

SIDE_PX = 128


def sheet(faces: Factors, columns: int) -> Image.Image:
    """Renders of `faces`, row by row."""
    images = render(faces, SIDE_PX).images
    rows = images.reshape(-1, columns, 3, SIDE_PX, SIDE_PX).permute(0, 3, 1, 4, 2)
    pixels = to_8bit(rows).reshape(-1, columns * SIDE_PX, 3)
    return Image.fromarray(pixels.numpy())


def contact_sheet(seed: int, out: Path) -> None:
    """Write three sheets: identities alone, people in several pictures, and true swaps."""
    people = sample(seed, list(range(40)), [0] * 40)
    # One stranger lends all of them skin, hair, pose, light and background: what is left to tell them is identity.
    lender = sample(seed, [0], [1])
    alike = Factors(people.identity, lender.looks.expand(40, -1), (lender.attributes * 0.25).expand(40, -1))
    pictures = sample(seed, [person for person in range(5) for _ in range(8)], list(range(8)) * 5)
    # Rows: the source whose identity is taken. Columns: the target that gives all else. In front: themselves.
    sources, targets = sample(seed, list(range(9, 14)), [0] * 5), sample(seed, list(range(20, 27)), [0] * 7)
    others = [sources[number : number + 1] for number in range(1, 5)]
    swaps = joined(sources[:1], targets, *(joined(one, swap(one[[0] * 7], targets)) for one in others))
    with whole_folder(out) as partial:
        for name, faces in (("identities", alike), ("people", pictures), ("true_swaps", swaps)):
            save_picture(sheet(faces, 8), partial / f"{name}.png", model="StyleBlend renderer", kind="rendered")


def main(given: argparse.Namespace, cfg: Config) -> None:
    """Stage `contact_sheet`: what rendered people look like, for a person to judge the renderer by."""
    contact_sheet(1, given.out)


if __name__ == "__main__":
    run("contact_sheet", main, "out")
