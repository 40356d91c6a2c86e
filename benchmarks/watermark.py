"""What the invisible watermark survives, and how often it is seen where none is.

    python benchmarks/watermark.py FOLDER [--sides 256 640] [--rendered 20] [--every 1]

Reads every photograph below FOLDER, brings it to each of the given shorter sides, marks it and changes it as
pictures are changed on their way; the table counts the marks that are still found, with the right version. Faces
that the project renders are measured beside the photographs, for they are smooth and hard to hide in. Nothing of
the photographs is written.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance
from tqdm import tqdm

from styleblend.provenance import watermark

VERSION = 7
Change = Callable[[Image.Image], Image.Image]


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    """Through a JPEG file with Pillow's usual subsampling of colour."""
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return Image.open(stream).convert("RGB")


def scaled(image: Image.Image, factor: float) -> Image.Image:
    """Resized by a factor along both axes."""
    size = (round(image.width * factor), round(image.height * factor))
    return image.resize(size, Image.Resampling.BICUBIC)


def cropped(image: Image.Image, share: float) -> Image.Image:
    """Without `share` of the width and height at each edge."""
    x, y = round(image.width * share), round(image.height * share)
    return image.crop((x, y, image.width - x, image.height - y))


def noisy(image: Image.Image) -> Image.Image:
    """With Gaussian noise of 5 levels, the same for every picture of a size."""
    noise = np.random.default_rng(0).normal(0, 5, (image.height, image.width, 3))
    return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))


def screenshot(image: Image.Image) -> Image.Image:
    """Shown at 80 % in a viewer with a border, cut out one pixel wrongly, kept as JPEG 85."""
    shown = scaled(image, 0.8)
    screen = Image.new("RGB", (shown.width + 40, shown.height + 40), "black")
    screen.paste(shown, (20, 20))
    return jpeg(screen.crop((21, 21, 20 + shown.width, 20 + shown.height)), 85)


CHANGES: dict[str, Change] = {
    "nothing": lambda image: image,
    "JPEG 95": lambda image: jpeg(image, 95),
    "JPEG 90": lambda image: jpeg(image, 90),
    "JPEG 75": lambda image: jpeg(image, 75),
    "JPEG 50": lambda image: jpeg(image, 50),
    "half size": lambda image: scaled(image, 0.5),
    "half size and back": lambda image: scaled(image, 0.5).resize(image.size, Image.Resampling.BICUBIC),
    "half size, then JPEG 75": lambda image: jpeg(scaled(image, 0.5), 75),
    "JPEG 75 twice, 70 % size between": lambda image: jpeg(scaled(jpeg(image, 75), 0.7), 75),
    "quarter size": lambda image: scaled(image, 0.25),
    "noise of 5 levels": noisy,
    "brightness + 2 %": lambda image: ImageEnhance.Brightness(image).enhance(1.02),
    "brightness + 10 %": lambda image: ImageEnhance.Brightness(image).enhance(1.1),
    "contrast + 10 %": lambda image: ImageEnhance.Contrast(image).enhance(1.1),
    "colours to grey": lambda image: image.convert("L").convert("RGB"),
    "screenshot": screenshot,
    "1 % cut off at each edge": lambda image: cropped(image, 0.01),
    "10 % cut off at each edge": lambda image: cropped(image, 0.1),
    "turned by 1 degree": lambda image: image.rotate(1, Image.Resampling.BICUBIC),
    "mirrored": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
}


def photographs(folder: Path, side_px: int, every: int) -> list[Image.Image]:
    """Every n-th photograph below a folder, in RGB, with a shorter side of `side_px`."""
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    return [at_side(Image.open(file).convert("RGB"), side_px) for file in files[::every]]


def rendered(count: int, side_px: int) -> list[Image.Image]:
    """Faces of `count` people from the project's renderer."""
    from styleblend.faces.pixels import to_8bit
    from styleblend.synthetic import factors, renderer

    faces = (factors.sample(0, [person], [0]) for person in range(count))
    images = (to_8bit(renderer.render(face, side_px, 1).images[0]) for face in faces)
    return [Image.fromarray(levels.permute(1, 2, 0).contiguous().numpy()) for levels in images]


def at_side(image: Image.Image, side_px: int) -> Image.Image:
    """The picture with a shorter side of `side_px`."""
    size = [round(length * side_px / min(image.size)) for length in image.size]
    return image.resize((size[0], size[1]), Image.Resampling.LANCZOS)


def psnr_db(first: Image.Image, second: Image.Image) -> float:
    """Peak signal-to-noise ratio between two RGB pictures."""
    error = np.mean((np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)) ** 2)
    return float(10 * np.log10(255**2 / error))


def measure(pictures: list[Image.Image], label: str) -> tuple[dict[str, str], list[float], list[float]]:
    """Marks found after each change, scores of the unmarked pictures, and PSNR of the marked ones, in dB."""
    found = dict.fromkeys(CHANGES, 0)
    unmarked, quality = [], []
    for picture in tqdm(pictures, desc=label, disable=None):
        marked = watermark.embed(picture, VERSION)
        quality.append(psnr_db(picture, marked))
        unmarked += [watermark.read(change(picture)).score for change in (CHANGES["nothing"], CHANGES["JPEG 75"])]
        for name, change in CHANGES.items():
            reading = watermark.read(change(marked))
            found[name] += reading.state == "found" and reading.version == VERSION
    return {name: f"{number}/{len(pictures)}" for name, number in found.items()}, unmarked, quality


def main() -> None:
    """Measure and print the table, in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sides", type=int, nargs="+", default=[256, 640], help="shorter sides in pixels")
    parser.add_argument("--rendered", type=int, default=20, help="how many rendered faces, of 256 px")
    parser.add_argument("--every", type=int, default=1, help="take every n-th photograph only")
    args = parser.parse_args()

    sets = {f"photographs, {side} px": photographs(args.folder, side, args.every) for side in args.sides}
    sets["rendered, 256 px"] = rendered(args.rendered, 256)
    measured = {name: measure(pictures, name) for name, pictures in sets.items()}

    print("| what happened to the picture | " + " | ".join(measured) + " |")
    print("|---|" + "---|" * len(measured))
    for change in CHANGES:
        print(f"| {change} | " + " | ".join(found[change] for found, _, _ in measured.values()) + " |")
    qualities = [np.array(quality) for _, _, quality in measured.values()]
    cells = [f"{quality.mean():.1f} ({quality.min():.1f})" for quality in qualities]
    print("| PSNR of the mark, dB: mean (least) | " + " | ".join(cells) + " |")
    scores = np.array([score for _, unmarked, _ in measured.values() for score in unmarked])
    wrong = int((scores >= watermark.THRESHOLD).sum())
    print(
        f"\nunmarked: {wrong} of {len(scores)} taken as marked; highest score {scores.max():.2f}, "
        f"threshold {watermark.THRESHOLD}"
    )


if __name__ == "__main__":
    main()
