"""Every pretrained file that a run may need: where it comes from, its SHA-256, its licence, its format.

A file is taken from a local mirror folder if one is named and holds it, else from its url. Its content is
checked before it gets its final name, so that a file which is there is the right one.
"""

from __future__ import annotations

import json
import shutil
import urllib.error
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

from tqdm import tqdm

from styleblend.config import Pretrained
from styleblend.errors import StyleBlendError, TransientError
from styleblend.files import sha256, whole_file, whole_folder
from styleblend.perception.judge import require_another_judge

SMALL_ROLES = (
    "identity", "identity_judge", "landmarks", "landmarks_3d", "attributes", "attributes_judge", "encoder", "decoder",
)  # fmt: skip
TIMEOUT_S = 30


@dataclass(frozen=True)
class WeightFile:
    """One published file. `name` is the name it has at its origin and in a mirror folder."""

    role: str
    name: str
    url: str
    sha256: str
    size_bytes: int
    licence: str
    format: str

    @property
    def file(self) -> str:
        """Name in the folder of a run's networks: the role, with the origin's ending."""
        return self.role + Path(self.name).suffix


YUNET = WeightFile(
    role="detector",
    name="yunet_n_dynamic.onnx",
    url="https://raw.githubusercontent.com/ShiqiYu/libfacedetection.train/master/onnx/yunet_n_dynamic.onnx",
    sha256="104ee26c71d5c270ce79a6b3dced91c91013260d29a6bf18f9296c5b8c4c2b12",
    size_bytes=322906,
    # The repository's LICENSE file; its README still shows a BSD badge.
    licence="Apache-2.0",
    format="onnx",
)


def obtain(entry: WeightFile, folder: Path, mirror: Path | None = None) -> Path:
    """Put the file into `folder` and return its path; a right file that is there already is kept.

    Raises:
        StyleBlendError: neither mirror nor url gives the file (a TransientError), or it has another SHA-256.
    """
    path = folder / entry.file
    if path.is_file() and sha256(path) == entry.sha256:
        return path
    if mirror is not None and not mirror.is_dir():
        raise StyleBlendError(f"pretrained.mirror {mirror} is no folder: name one that holds {entry.name}, or null")
    with whole_file(path) as partial:
        if mirror is not None and (mirror / entry.name).is_file():
            shutil.copyfile(mirror / entry.name, partial)
            _check(partial, entry, str(mirror / entry.name))
        else:
            try:
                _download(entry, partial)
            except (OSError, HTTPException) as error:
                if isinstance(error, urllib.error.HTTPError):
                    error.close()
                looked = f"not in the mirror {mirror} and " if mirror is not None else ""
                reason = getattr(error, "reason", None) or error
                raise TransientError(
                    f"{entry.name} is {looked}not to be had from {entry.url} ({reason}): put the file into a "
                    "folder and name that folder in pretrained.mirror"
                ) from None
            _check(partial, entry, entry.url)
    return path


def _download(entry: WeightFile, path: Path) -> None:
    with (
        urllib.request.urlopen(entry.url, timeout=TIMEOUT_S) as answer,
        path.open("wb") as stream,
        tqdm(total=entry.size_bytes, unit="B", unit_scale=True, desc=entry.name, disable=None) as bar,
    ):
        while block := answer.read(1 << 20):
            stream.write(block)
            bar.update(len(block))


def _check(path: Path, entry: WeightFile, origin: str) -> None:
    found = sha256(path)
    if found == entry.sha256:
        return
    with path.open("rb") as stream:
        begins = stream.read(512).lstrip().lower()
    size = path.stat().st_size
    what = "a web page" if begins.startswith((b"<!doctype html", b"<html")) else f"a file of {size} bytes"
    raise StyleBlendError(
        f"{origin} gives {what} with sha256 {found}, wanted {entry.size_bytes} bytes with {entry.sha256}: "
        f"get {entry.name} again from {entry.url}"
    )


def collect(small: Path, out: Path, cfg: Pretrained) -> dict[str, dict[str, str]]:
    """Fill `out` with every frozen network of a run, and networks.json with what each is.

    networks.json maps a role to its file, format, sha256, licence and origin.

    Raises:
        StyleBlendError: a file is missing, its content is not what its card or the catalogue says, or one
            network would both train and judge.
    """
    with whole_folder(out) as partial:
        networks = {role: _copy_small(role, small, partial) for role in SMALL_ROLES}
        require_another_judge(networks["identity"], networks["identity_judge"], cfg.same_judge)
        if cfg.detector == "yunet":
            obtain(YUNET, partial, cfg.mirror)
            networks[YUNET.role] = {
                "file": YUNET.file,
                "format": YUNET.format,
                "sha256": YUNET.sha256,
                "licence": YUNET.licence,
                "origin": YUNET.url,
            }
        (partial / "networks.json").write_text(json.dumps(networks, indent=2) + "\n")
    return networks


def _copy_small(role: str, small: Path, folder: Path) -> dict[str, str]:
    name = f"{role}.safetensors"
    card = _read_card(small / f"{role}.json")
    if not (small / name).is_file():
        raise StyleBlendError(f"{name} is missing in {small}: {_RESTORE}")
    found = sha256(small / name)
    if found != card.get("sha256"):
        raise StyleBlendError(
            f"{small / name} has sha256 {found}, its card says {card.get('sha256')}: one was changed; {_RESTORE}"
        )
    shutil.copyfile(small / name, folder / name)
    shutil.copyfile(small / f"{role}.json", folder / f"{role}.json")
    return {
        "file": name,
        "format": "safetensors",
        "sha256": found,
        "licence": str(card.get("licence", "MIT")),
        "origin": "made by this project, see its card",
    }


_RESTORE = "restore it with `git checkout data/pretrained/small`, or make it again by the stage pretrain"


def _read_card(path: Path) -> dict[str, Any]:
    try:
        card = json.loads(path.read_text())
    except FileNotFoundError:
        raise StyleBlendError(f"{path.name} is missing in {path.parent}: {_RESTORE}") from None
    except ValueError as error:
        raise StyleBlendError(f"{path} is not valid JSON ({error}): {_RESTORE}") from None
    if not isinstance(card, dict):
        raise StyleBlendError(f"{path} is no card but {type(card).__name__}: {_RESTORE}")
    return card
