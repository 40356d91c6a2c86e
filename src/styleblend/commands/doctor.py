"""Whether a run with the current settings would go through: what is there, what lacks, and what to do about it.

Nothing is made, fetched or changed. What is not looked at: a Ray cluster elsewhere, and whether the pictures are faces.
"""

from __future__ import annotations

import math
import os
import shutil
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import psutil
import torch

from styleblend.commands import describe
from styleblend.config.catalogue import Entry
from styleblend.config.model import sizes_of
from styleblend.config.params import Config
from styleblend.config.pretrained import Pretrained
from styleblend.config.provenance import Provenance
from styleblend.config.sources import CelebaHqSource, FfhqSource, Source
from styleblend.config.tracking import Tracking
from styleblend.config.training import Training
from styleblend.data import licences, published
from styleblend.data.folders import pictures_below
from styleblend.data.published import CELEBA_LICENCE, CELEBA_TERMS, FFHQ_LICENCE, FFHQ_TERMS
from styleblend.errors import StyleBlendError
from styleblend.provenance import credentials
from styleblend.registry import lineage, mlflow_store
from styleblend.weights import frozen, weight_files

Verdict = Literal["ok", "note", "FAIL"]

BESIDE = ("metadata", "mapping", "identities")
"""Keys of sources that name a file beside the pictures."""
ANSWER_SECONDS = 5
_GIB = 2**30
_FACE_BYTES_PER_PIXEL = 2.0
"""Of an aligned face's PNG; 1.5 to 2 on photographs."""
_PICTURE_BYTES = 1.4e6
"""Of an archived picture whose size is not known yet: FFHQ's at 1024 px are about that."""
_CHECKPOINTS = 3
_WORKER_BYTES = 1.0 * _GIB
"""Python, torch and Ray in a worker, before any network is loaded."""


@dataclass(frozen=True)
class Finding:
    """One line of the examination; FAIL: a run would fail."""

    part: str
    verdict: Verdict
    text: str


def examine(cfg: Config, project: Path) -> list[Finding]:
    """All findings about a run of `cfg` in the folder `project`, in the order of its stages."""
    return [
        *data(cfg, project),
        *networks(cfg.pretrained, project),
        *beginning(cfg, project),
        *machine(cfg, project),
        *store(mlflow_store.resolved(cfg.tracking, project)),
        *signing(cfg.provenance),
        *history(project),
    ]


def text(findings: list[Finding]) -> str:
    """One screen: findings by part, and the sum of them."""
    width = max(len(finding.part) for finding in findings)
    lines = []
    before = ""
    for finding in findings:
        lines.append(f"{finding.part if finding.part != before else '':{width}}  {finding.verdict:4}  {finding.text}")
        before = finding.part
    failures = sum(finding.verdict == "FAIL" for finding in findings)
    verdict = "a run would go through" if not failures else f"a run would fail: {failures} to mend, see FAIL"
    return "\n".join([*lines, verdict])


def data(cfg: Config, project: Path) -> Iterator[Finding]:
    """Sources: are they there, how many pictures, and what their licences allow."""
    known, total = True, 0
    for source in cfg.download.sources:
        if source.kind == "rendered":
            count = source.identities * source.pictures_per_identity
            total += count
            yield Finding("data", "ok", f"{source.name}: {count} faces are rendered here; no person's likeness")
            continue
        lacking = [
            f"{name} {file}"
            for name in BESIDE
            if (file := getattr(source, name, None)) is not None and not (project / file).is_file()
        ]
        if lacking:
            yield Finding("data", "FAIL", f"{source.name}: {lacking[0]} is missing: put it there, or name another")
        licence = _licence(source)
        if source.path is None:
            known = False
            yield Finding("data", "note", f"{source.name}: is fetched from {getattr(source, 'url', None)}; {licence}")
            continue
        place = project / source.path
        if place.is_dir():
            try:
                count = len(_pictures(source, project, place))
            except StyleBlendError as error:
                known = False
                yield Finding("data", "FAIL", f"{source.name}: {error}")
                continue
            total += count
            verdict: Verdict = "ok" if count else "FAIL"
            remedy = licence if count else "put the pictures there, or correct download.sources"
            yield Finding("data", verdict, f"{source.name}: {count} pictures in {source.path}; {remedy}")
        elif place.is_file():
            known = False
            yield Finding("data", "ok", f"{source.name}: {source.path} is unpacked by the run; {licence}")
        else:
            known = False
            yield Finding(
                "data", "FAIL", f"{source.name}: {source.path} is missing: put the data set there, or correct the path"
            )
    if known and total < cfg.validate_.min_faces:
        yield Finding(
            "data",
            "FAIL",
            f"{total} pictures in all, validate.min_faces wants {cfg.validate_.min_faces} faces: add pictures, or"
            " lower it",
        )
    if not (project / cfg.download.origin).exists():
        yield Finding("data", "FAIL", f"download.origin {cfg.download.origin} is missing: name the pictures' folder")


def _pictures(source: Source, project: Path, place: Path) -> list[Path]:
    """Below a source's folder, those that a run would take: of a published set, as the files beside it say.

    Raises:
        StyleBlendError: a published set does not lie there in one of its forms, or a file beside it is another.
    """
    if not isinstance(source, FfhqSource | CelebaHqSource):
        return pictures_below(place)
    folder = published.pictures_folder(source, place)
    beside = {name: project / file for name in BESIDE if (file := getattr(source, name, None)) is not None}
    own = source.model_copy(update=beside)
    listed = published.ffhq(own, folder) if isinstance(own, FfhqSource) else published.celeba_hq(own, folder)
    return [(folder / each.relative).relative_to(place) for each in listed]


def _licence(source: Source) -> str:
    published = {"ffhq": (FFHQ_LICENCE, FFHQ_TERMS), "celeba_hq": (CELEBA_LICENCE, CELEBA_TERMS)}
    licence, terms = published.get(source.kind) or (getattr(source, "licence", ""), getattr(source, "terms", ""))
    limited = licences.forbids(f"{licence} | {terms}")
    return f"{licence}{' (not for commercial use)' if limited else ''}"


def networks(cfg: Pretrained, project: Path) -> Iterator[Finding]:
    """Pretrained networks: here, in the mirror, to be fetched, or missing and where to put them; what they allow."""
    small = weight_files.SMALL
    lacking = [role for role in cfg.small() if not (project / small / f"{role}.safetensors").is_file()]
    if lacking:
        yield Finding("networks", "FAIL", f"{', '.join(lacking)}: missing in {small}: `git checkout {small}`")
    elif cfg.small():
        yield Finding("networks", "ok", f"small: {', '.join(cfg.small())}; {small}, any use")
    try:
        store = weight_files.store_of(cfg, project=project)
        entries = {role: store.catalogue.get(name) for role, name in cfg.chosen().items()}
    except StyleBlendError as error:
        yield Finding("networks", "FAIL", str(error))
        return
    missing = 0
    for role, entry in entries.items():
        verdict, place = _found(entry, store)
        missing += verdict == "FAIL"
        yield Finding("networks", verdict, f"{role}: {entry.name} {place}; {entry.consequence}")
    if missing:
        remedy = "put their files, or the zip files that hold them, into a folder and name it in pretrained.mirror"
        yield Finding(
            "networks", "note", f"{missing} are missing, and no server answers that would give them: {remedy}"
        )


def beginning(cfg: Config, project: Path) -> Iterator[Finding]:
    """Whether the small networks that training begins with have the sizes of the section `model`."""
    parts: dict[str, tuple[str, ...]] = {}
    if cfg.pretrained.decoder == "small":
        parts["decoder"] = ("resolution", "style_dim", "decoder_widths")
    if cfg.train_encoder.encoder_start == "pretrained":
        parts["encoder"] = (
            "input_px", "encoder_blocks", "encoder_widths", "stem_stride", "pyramid_width", "head_width",
        )  # fmt: skip
    for role, keys in parts.items():
        if not (project / weight_files.SMALL / f"{role}.safetensors").is_file():  # which `networks` says
            continue
        try:
            card = frozen.read_card(project / weight_files.SMALL, role)
        except StyleBlendError as error:
            yield Finding("networks", "FAIL", str(error))
            continue
        made = sizes_of(card["architecture"])
        other = [key for key in keys if getattr(made, key) != getattr(cfg.model, key)]
        if other:
            yield Finding(
                "networks",
                "FAIL",
                f"{role}: the small one has model.{other[0]} {getattr(made, other[0])}, the settings have"
                f" {getattr(cfg.model, other[0])}: {_OTHER_SIZES[role]}",
            )


_OTHER_SIZES = {
    "decoder": "set it as it was, or name a StyleGAN in pretrained.decoder",
    "encoder": "set it as it was, or train_encoder.encoder_start to 'new'",
}


def _found(entry: Entry, store: weight_files.Store) -> tuple[Verdict, str]:
    if weight_files.is_right(store.place(entry), entry, store):
        return "ok", "is here"
    if store.place(entry).is_file():
        return "note", f"in {store.place(entry)} has another sha256 than recorded: the run obtains it again"
    if (found := weight_files.in_mirror(entry, store)) is not None:
        try:
            weight_files.expect(found, entry, store)
        except StyleBlendError as error:
            return "FAIL", f"would be taken from the mirror, but {error}"
        return "ok", f"is in {found}"
    urls = (*entry.urls, *(url for archive in weight_files.archives_of(entry, store) for url in archive.urls))
    if urls and _answers(urls[0]):
        return "ok", f"is fetched by the run from {urlsplit(urls[0]).hostname}"
    return "FAIL", f"is missing: {entry.file} from {entry.page or next(iter(urls), entry.project)}"


def _answers(url: str) -> bool:
    """Whether a server's machine can be reached at all; what it would say is not asked."""
    parts = urlsplit(url)
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        with socket.create_connection((parts.hostname or "", port), ANSWER_SECONDS):
            return True
    # A port that is none, or a host that has no such form, is told by a ValueError.
    except (OSError, ValueError):
        return False


def machine(cfg: Config, project: Path) -> Iterator[Finding]:
    """GPUs, memory and disk against what both training stages and the data ask for."""
    needs = {need.stage: need for need in describe.describe(cfg).stages}
    for stage, need in needs.items():
        training: Training = getattr(cfg, stage)
        if training.ray_address is not None:
            yield Finding("machine", "note", f"{stage}: trains on Ray's cluster {training.ray_address}: not looked at")
        elif training.gpus_per_worker:
            yield from _gpus(stage, training, need)
        else:
            yield memory(stage, training, need)
    yield _disk(cfg, project, max(needs.values(), key=lambda need: need.optimiser))


def _gpus(stage: str, training: Training, need: describe.Needs) -> Iterator[Finding]:
    wanted, there = math.ceil(training.workers * training.gpus_per_worker), torch.cuda.device_count()
    if there < wanted:
        yield Finding(
            "machine",
            "FAIL",
            f"{stage}: {wanted} GPUs wanted, {there} here: lower {stage}.workers, or set gpus_per_worker to 0",
        )
        return
    smallest = min(torch.cuda.get_device_properties(number).total_memory for number in range(wanted))
    share = smallest * training.gpus_per_worker
    enough = need.memory <= share
    yield Finding(
        "machine",
        "ok" if enough else "FAIL",
        f"{stage}: {wanted} of {there} GPUs, {need.memory / _GIB:.1f} of {share / _GIB:.1f} GiB on each, beside the"
        f" networks of the losses{'' if enough else f': lower {stage}.batch_size'}",
    )


def memory(stage: str, training: Training, need: describe.Needs) -> Finding:
    """The machine's free memory against what a stage's workers ask for that train on its CPU."""
    wanted = training.workers * (need.memory + _WORKER_BYTES)
    there = psutil.virtual_memory().available
    enough = wanted <= there
    remedy = "" if enough else f": lower {stage}.batch_size or workers"
    return Finding(
        "machine",
        "ok" if enough else "FAIL",
        f"{stage}: no GPU asked for; {training.workers} workers need about {wanted / _GIB:.1f} of {there / _GIB:.1f}"
        f" GiB of memory{remedy}",
    )


def _disk(cfg: Config, project: Path, need: describe.Needs) -> Finding:
    copies = 0.0
    faces = 0
    for source in cfg.download.sources:
        if source.kind == "rendered":
            count = source.identities * source.pictures_per_identity
            copies += count * source.size_px**2 * _FACE_BYTES_PER_PIXEL
        elif source.path is not None and (project / source.path).is_dir():
            files = [project / source.path / file for file in _countable(source, project, project / source.path)]
            count = len(files)
            copies += sum(file.stat().st_size for file in files)
        elif source.path is not None and (project / source.path).is_file():
            # Unpacked once, copied once.
            size = (project / source.path).stat().st_size
            count = int(size / _PICTURE_BYTES)
            copies += 2 * size
        else:
            count = 0
        faces += count
    aligned = faces * cfg.align.size_px**2 * _FACE_BYTES_PER_PIXEL
    state = need.weights + need.average + need.optimiser
    # DVC's cache holds every output a second time where the disk cannot share its blocks.
    wanted = 2 * (copies + aligned) + 2 * _CHECKPOINTS * state
    there = shutil.disk_usage(project).free
    enough = wanted <= there
    return Finding(
        "machine",
        "ok" if enough else "FAIL",
        f"disk: at most {wanted / _GIB:.1f} GiB for the pictures that are here, their faces and checkpoints,"
        f" {there / _GIB:.1f} GiB free"
        f"{'' if enough else ': make room, or work on another disk'}",
    )


def _countable(source: Source, project: Path, place: Path) -> list[Path]:
    try:
        return _pictures(source, project, place)
    except StyleBlendError:  # which `data` says
        return []


def store(cfg: Tracking) -> Iterator[Finding]:
    """Whether MLflow's server answers, or its file can be written; a relative file begins at the current folder."""
    if cfg.uri.startswith("http"):
        try:
            with urllib.request.urlopen(f"{cfg.uri.rstrip('/')}/health", timeout=ANSWER_SECONDS):
                yield Finding("tracking", "ok", f"MLflow answers at {cfg.uri}")
        except (OSError, ValueError, HTTPException) as error:
            if isinstance(error, urllib.error.HTTPError):
                error.close()
            reason = " ".join(str(getattr(error, "reason", None) or error).split()) or type(error).__name__
            yield Finding("tracking", "FAIL", f"MLflow at {cfg.uri} does not answer ({reason}): start or correct it")
        return
    file = mlflow_store.local_file(cfg)
    if file is None:
        yield Finding("tracking", "note", f"MLflow's store {cfg.uri} was not tried")
        return
    folder = next(parent for parent in file.parents if parent.is_dir())
    writable = os.access(file if file.exists() else folder, os.W_OK)
    words = "is there" if file.exists() else "is made by the run"
    yield Finding(
        "tracking",
        "ok" if writable else "FAIL",
        f"MLflow's {file} {words}" if writable else f"MLflow's {file} cannot be written: correct tracking.uri",
    )


def signing(cfg: Provenance) -> Iterator[Finding]:
    """Whose certificate signs the pictures that leave."""
    if cfg.certificate is None:
        yield Finding("signing", "note", "a test certificate signs pictures: set provenance to use your own")
        return
    try:
        credentials.of(cfg)
    except StyleBlendError as error:
        yield Finding("signing", "FAIL", str(error))
    else:
        yield Finding("signing", "ok", f"{cfg.certificate} signs pictures")


def history(project: Path) -> Iterator[Finding]:
    """Whether a version could say what made it, and could be made again."""
    revision = lineage.git_revision(project)
    changed = lineage.changed_code(project)
    if revision == lineage.UNKNOWN:
        yield Finding("git", "note", "no commit: `styleblend reproduce` could not make a version again")
    elif changed:
        yield Finding("git", "note", f"{len(changed)} changed files, as {changed[0]}: commit, to reproduce a version")
    else:
        yield Finding("git", "ok", f"revision {revision[:12]}")
