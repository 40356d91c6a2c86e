"""Find and load what a swap needs: the model, the face detector and the identity network."""

from __future__ import annotations

from pathlib import Path

from styleblend.config import catalogue
from styleblend.config.base import Finder
from styleblend.config.params import Config
from styleblend.config.tracking import Tracking
from styleblend.errors import StyleBlendError
from styleblend.face_detector import loader
from styleblend.face_detector.detection import Detector
from styleblend.model import Swapper
from styleblend.perception import bending, identity
from styleblend.registry import mlflow_store, versions
from styleblend.swapping.errors import DetectorMissing, SwapError
from styleblend.weights import frozen
from styleblend.weights.store import SMALL, store_of
from styleblend.weights.weight_files import obtain

NETWORKS = Path("data/pretrained/networks")
STATE = Path(".state")


def find_model(cfg: Tracking, reference: str | None) -> tuple[Swapper, str]:
    """Load a model; returns it with its name for the marks of pictures.

    Args:
        reference: a model folder, or an alias or number of the registry; None is the `champion`, or the `candidate`
            where there is no champion yet.
    Raises:
        StyleBlendError: there is no such model.
    """
    if reference is not None and Path(reference).is_dir():
        return bending.load(Path(reference)), f"model folder {Path(reference).resolve().name}"
    if reference is not None:
        version = versions.find_version(cfg, reference)
    else:
        try:
            version = versions.find_version(cfg, "champion")
        except mlflow_store.TrackingError:
            version = versions.find_version(cfg, "candidate")
            print(f"no version has the alias champion yet: using the candidate, version {version.version}")
    return bending.load(versions.kept_version(cfg, version, STATE / "versions")), version.title


def find_detector(cfg: Config, weights: Path | None, networks: Path = NETWORKS, state: Path = STATE) -> Detector:
    """Load the face detector that align.detector names, YuNet where that is `annotations`.

    It comes from the given file or the run's own networks; a missing YuNet is fetched once, from the mirror or its
    origin.

    Raises:
        DetectorMissing: YuNet is not here and cannot be fetched.
        StyleBlendError: the file is missing, damaged or for another kind of detector.
    """
    kind = _kind(cfg)
    yunet = catalogue.built_in().get("yunet")
    if weights is not None and not weights.is_file():
        raise SwapError(
            f"{weights} does not exist: name the file of the detector that align.detector names "
            f"({kind}; YuNet's is {yunet.file})"
        )
    if kind != "yunet":
        return loader.load(kind, networks, cfg.align.min_score, weights)
    if weights is None and not (networks / f"detector{yunet.suffix}").is_file():
        try:
            weights = obtain(yunet, store_of(cfg.pretrained, state / "weights"))
        except StyleBlendError as error:
            raise DetectorMissing(str(error)) from None
    return loader.load(kind, networks, cfg.align.min_score, weights)


def find_identity(networks: Path = NETWORKS, small: Path = SMALL) -> identity.FaceNetwork:
    """Load the identity network: the run's own, else the committed small one.

    Raises:
        StyleBlendError: neither is there, or it is damaged.
    """
    own = (networks / "identity.json").is_file() or frozen.foreign(networks, "identity") is not None
    return identity.load(networks if own else small, "identity")


def _kind(cfg: Config) -> Finder:
    """The kind of detector: that of the stage align, or for annotations the one that pretrained.detector is for."""
    if cfg.align.detector != "annotations":
        return cfg.align.detector
    chosen = cfg.pretrained.chosen().get("detector")
    return catalogue.load(cfg.pretrained.catalogue).get(chosen).detects[0] if chosen else "yunet"
