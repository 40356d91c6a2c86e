"""Whether a run with the current settings would go through: what is there, what lacks, and what to do about it.

Nothing is made, fetched or changed. What is not looked at: a Ray cluster elsewhere, and whether the pictures are faces.
"""

from __future__ import annotations

import os
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlsplit

from styleblend.commands.describe import STAGES
from styleblend.commands.findings import Finding, Verdict, data, listings, machine
from styleblend.config.catalogue import Entry
from styleblend.config.model import sizes_of
from styleblend.config.params import Config
from styleblend.config.pretrained import Pretrained
from styleblend.config.provenance import Provenance
from styleblend.config.tracking import Tracking
from styleblend.errors import StyleBlendError
from styleblend.provenance import credentials
from styleblend.registry import lineage, mlflow_store
from styleblend.system import dvc, environment
from styleblend.training import ray_cluster
from styleblend.weights import frozen, packages, starter, weight_files
from styleblend.weights.starter import STARTER
from styleblend.weights.store import SMALL, Store, archives_of, is_right, package_of, store_of

ANSWER_SECONDS = 5


def examine(cfg: Config, project: Path, settled: Sequence[environment.Change] = ()) -> list[Finding]:
    """All findings about a run of `cfg` in the folder `project`, in the order of its stages.

    Args:
        settled: what was changed of the person's environment for this process, as for any other of this project.
    """
    listed = listings(cfg, project)
    return [
        *data(cfg, project, listed),
        *networks(cfg.pretrained, project),
        *beginning(cfg, project),
        *machine(cfg, project, listed),
        *surroundings(cfg, settled),
        *store(cfg.tracking, project),
        *signing(cfg.provenance),
        *history(project),
    ]


def text(findings: list[Finding]) -> str:
    """One screen: findings by part, and the sum of them."""
    width = max(len(finding.part) for finding in findings)
    lines, before = [], ""
    for finding in findings:
        lines.append(f"{finding.part if finding.part != before else '':{width}}  {finding.verdict:4}  {finding.text}")
        before = finding.part
    failures = sum(finding.verdict == "FAIL" for finding in findings)
    verdict = "a run would go through" if not failures else f"a run would fail: {failures} to mend, see FAIL"
    return "\n".join([*lines, verdict])


def networks(cfg: Pretrained, project: Path) -> Iterator[Finding]:
    """Pretrained networks: here, in the mirror, to be fetched, or missing and where to put them; what they allow."""
    lacking = [role for role in cfg.small() if not (project / SMALL / f"{role}.safetensors").is_file()]
    if lacking:
        yield Finding("networks", "FAIL", f"{', '.join(lacking)}: missing in {SMALL}: `git checkout {SMALL}`")
    elif cfg.small():
        yield Finding("networks", "ok", f"small: {', '.join(cfg.small())}; {SMALL}, any use")
    try:
        store = store_of(cfg, project=project)
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
        lack = f"{missing} are missing, and no server answers that would give them"
        remedy = "put their files, or the zip files that hold them, into a folder and name it in pretrained.mirror"
        yield Finding("networks", "note", f"{lack}: {remedy}")


def beginning(cfg: Config, project: Path) -> Iterator[Finding]:
    """Whether the small networks that training begins with have the sizes of the section `model`."""
    parts: dict[str, tuple[str, ...]] = {}
    if cfg.pretrained.starter != "none":
        yield _starter(cfg, project)
    elif cfg.pretrained.decoder == "small":
        parts["decoder"] = ("resolution", "style_dim", "decoder_widths")
    if cfg.train_encoder.encoder_start == "pretrained":
        parts["encoder"] = (
            "input_px", "encoder_blocks", "encoder_widths", "stem_stride", "pyramid_width", "head_width",
        )  # fmt: skip
    if cfg.pretrained.discriminator == "small":
        parts["discriminator"] = ("discriminator_width", "discriminator_scales")
    for role, keys in parts.items():
        if not (project / SMALL / f"{role}.safetensors").is_file():  # which `networks` says
            continue
        try:
            card = frozen.read_card(project / SMALL, role)
        except StyleBlendError as error:
            yield Finding("networks", "FAIL", str(error))
            continue
        made = sizes_of(card["architecture"])
        other = [key for key in keys if getattr(made, key) != getattr(cfg.model, key)]
        if other:
            has, wants = (getattr(sizes, other[0]) for sizes in (made, cfg.model))
            found = f"{role}: the small one has model.{other[0]} {has}, the settings have {wants}"
            yield Finding("networks", "FAIL", f"{found}: {_OTHER_SIZES[role]}")


def _starter(cfg: Config, project: Path) -> Finding:
    """Whether the starter is there and has the sizes of the section `model`."""
    folder = project / STARTER
    try:
        card, has = starter.read_card(folder), starter.sizes(folder)
    except StyleBlendError as error:
        return Finding("networks", "FAIL", str(error))
    other = [key for key in type(has).model_fields if getattr(has, key) != getattr(cfg.model, key)]
    if other:
        found = (
            f"starter: it has model.{other[0]} {getattr(has, other[0])}, the settings {getattr(cfg.model, other[0])}"
        )
        return Finding("networks", "FAIL", f"{found}: set it as it was")
    return Finding("networks", "ok", f"starter: {STARTER}; {card['consequence']}")


_OTHER_SIZES = {
    "decoder": "set it as it was, or name a StyleGAN in pretrained.decoder",
    "encoder": "set it as it was, or train_encoder.encoder_start to 'new'",
    "discriminator": "set it as it was, or pretrained.discriminator to 'none'",
}


def _found(entry: Entry, store: Store) -> tuple[Verdict, str]:
    if is_right(store.place(entry), entry, store):
        return "ok", "is here"
    if store.place(entry).is_file():
        return "note", f"in {store.place(entry)} has another sha256 than recorded: the run obtains it again"
    if (found := weight_files.in_mirror(entry, store)) is not None:
        try:
            weight_files.expect(found, entry, store)
        except StyleBlendError as error:
            return "FAIL", f"would be taken from the mirror, but {error}"
        return "ok", f"is in {found}"
    urls = (*entry.urls, *(url for archive in archives_of(entry, store) for url in archive.urls))
    if urls and _answers(urls[0]):
        return "ok", f"is fetched by the run from {urlsplit(urls[0]).hostname}"
    if (package := package_of(entry, store)) is not None and packages.lacking(package) is None:
        return "ok", f"is fetched by the run: {package}"
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


def surroundings(cfg: Config, settled: Sequence[environment.Change]) -> Iterator[Finding]:
    """What of the environment a run sets or clears, and whether Ray finds a folder for its sockets."""
    for change in settled:
        if change.name == "USER":
            # DVC itself asks before it starts a stage, where nothing here can help.
            remedy = f"`export USER={change.value}` before dvc, which asks for it"
            yield Finding("environment", "FAIL", f"the user {os.getuid()} has no name: {remedy}")
    # One line for both spellings of no_proxy, and for all folders of one home.
    whys = dict.fromkeys(change.why for change in settled if change.name not in ("USER", "NO_PROXY"))
    if any(getattr(cfg, stage).ray_address is None for stage in STAGES):
        whys |= dict.fromkeys(change.why for change in environment.ray_changes(os.environ) if _leads_away(change.name))
        try:
            folder = environment.socket_folder(ray_cluster.SOCKET_NAME)
        except StyleBlendError as error:
            yield Finding("environment", "FAIL", str(error))
        else:
            yield Finding("environment", "ok", f"Ray's sockets fit into {folder}")
    for why in whys:
        yield Finding("environment", "note", why)


def _leads_away(name: str) -> bool:
    """Whether a person would wonder that a variable of Ray has no effect; others, as of usage reports, go unsaid."""
    return name in ("RAY_ADDRESS", "RAY_REDIS_ADDRESS", "RAY_TMPDIR", "RAY_NAMESPACE", "RAY_RUNTIME_ENV_HOOK")


def store(cfg: Tracking, project: Path = Path()) -> Iterator[Finding]:
    """Whether MLflow's server answers, or its file can be written and its files are beside it."""
    try:
        cfg = mlflow_store.resolved(cfg, project.absolute())
        move = mlflow_store.moved(cfg)
    except StyleBlendError as error:
        yield Finding("tracking", "FAIL", str(error))
        return
    if move is not None and move.left_behind:
        yield Finding("tracking", "FAIL", move.refusal)
        return
    if move is not None:
        yield Finding("tracking", "note", f"{move.file} still names {move.old}: the run takes {move.new} in its place")
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
    if not writable:
        yield Finding("tracking", "FAIL", f"MLflow's {file} cannot be written: correct tracking.uri")
        return
    yield Finding("tracking", "ok", f"MLflow's {file} {'is there' if file.exists() else 'is made by the run'}")


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
    """Whether DVC would run, and whether a version could say what made it and could be made again."""
    refused = dvc.refusal(project)
    if refused is not None:
        yield Finding("git", "FAIL", refused)
        return
    why_not, changed = lineage.git_refusal(project), lineage.changed_code(project)
    if why_not is not None:
        yield Finding("git", "note", f"`styleblend reproduce` could not make a version again: {why_not}")
    elif changed:
        yield Finding("git", "note", f"{len(changed)} changed files, as {changed[0]}: commit, to reproduce a version")
    else:
        yield Finding("git", "ok", f"revision {lineage.git_revision(project)[:12]}")
