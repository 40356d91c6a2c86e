"""Very small FFHQ and CelebA-HQ in exactly the form in which their authors publish them, as folders and as archives."""

from __future__ import annotations

import hashlib
import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

from PIL import Image

from styleblend.synthetic import factors, renderer

LICENCES = ("Attribution License", "Attribution-NonCommercial License", "Public Domain Mark")
PERSONS = ("celeba-17", "celeba-2880", "celeba-2880")
"""Of CelebA-HQ's pictures 0, 1 and 2."""


def picture(seed: int, side: int) -> tuple[Image.Image, list[list[float]]]:
    """A face with its 68 landmarks."""
    made = renderer.render(factors.sample(seed, [0], [0]), side, supersample=1)
    pixels = ((made.images[0] + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    return Image.fromarray(pixels), made.landmarks_px[0].tolist()


def md5(file: Path) -> str:
    return hashlib.md5(file.read_bytes()).hexdigest()


def ffhq(root: Path) -> Path:
    """Pictures 0, 1 and 1000 as in the release: a folder a thousand, and the JSON keyed by number."""
    entries: dict[str, Any] = {}
    for place, number in enumerate((0, 1, 1000)):
        image, marks = picture(number, 96)
        shown = {}
        for folder in ("images1024x1024", "in-the-wild-images"):
            file = root / folder / f"{number // 1000 * 1000:05d}" / f"{number:05d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            image.save(file)
            shown[folder] = {"file_path": str(file.relative_to(root)), "file_size": 1, "file_md5": md5(file)}
        entries[str(number)] = {
            "category": "training",
            "metadata": {
                "photo_url": f"https://www.flickr.com/photos/x/{number}/", "photo_title": "", "country": "",
                "author": f"author {number}", "license": LICENCES[place], "license_url": "https://x",
                "date_uploaded": "2007-08-16", "date_crawled": "2018-10-10",
            },
            "image": {**shown["images1024x1024"], "pixel_size": [1024, 1024], "face_landmarks": marks},
            "thumbnail": {"file_path": ""},
            "in_the_wild": {
                **shown["in-the-wild-images"], "face_rect": [0, 0, 9, 9], "face_landmarks": marks,
                "face_quad": [[0, 0], [0, 9], [9, 9], [9, 0]],
            },
        }  # fmt: skip
    (root / "ffhq-dataset-v2.json").write_text(json.dumps(entries))
    return root


def celeba_mask_hq(root: Path) -> Path:
    """What CelebAMask-HQ.zip holds below its one folder, and CelebA's identities beside it."""
    (root / "CelebA-HQ-img").mkdir(parents=True)
    for number in (0, 1, 2):
        Image.new("RGB", (16, 16), (80 * number, 0, 0)).save(root / f"CelebA-HQ-img/{number}.jpg")
    masks = root / "CelebAMask-HQ-mask-anno/0"
    masks.mkdir(parents=True)
    for part in ("hair", "l_eye"):
        Image.new("L", (8, 8)).save(masks / f"00000_{part}.png")
    (root / "CelebA-HQ-to-CelebA-mapping.txt").write_text(
        "idx    orig_idx    orig_file\n0    119613    119614.jpg\n1    99094    099095.jpg\n2    200121    200122.jpg\n"
    )
    (root / "CelebAMask-HQ-attribute-anno.txt").write_text("30000\n")
    (root / "identity_CelebA.txt").write_text("099095.jpg 2880\n119614.jpg 17\n200122.jpg 2880\n")
    return root


def packed(folder: Path, file: Path, top: str, leave_out: tuple[str, ...] = ()) -> Path:
    """The folder's files in a zip or tar file, below the folder `top`; `file`'s ending says which kind."""
    members = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in leave_out]
    names = {path: f"{top}/{path.relative_to(folder)}" for path in members}
    if file.suffix == ".zip":
        with zipfile.ZipFile(file, "w") as archive:
            for path in members:
                archive.write(path, names[path])
    else:
        with tarfile.open(file, "w:gz" if file.suffix == ".gz" else "w") as tar:
            for path in members:
                tar.add(path, names[path])
    return file
