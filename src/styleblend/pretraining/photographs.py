"""The photographs of the starter's recipe: gathered, aligned, perceived, and dealt by persons, some for no training."""

from __future__ import annotations

import hashlib
import os
import shutil
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

from styleblend.config.data import WHERE, Perceive
from styleblend.config.face_pretraining import PretrainFaces
from styleblend.config.sources import FolderSource
from styleblend.data import folders, selection, sources, splits
from styleblend.data.align import align_faces
from styleblend.data.forgotten import Forgotten
from styleblend.data.manifest import read_manifest
from styleblend.data.perceived import perceive_folder
from styleblend.data.quality import COVERED, HASH
from styleblend.errors import StyleBlendError
from styleblend.pretraining import sittings
from styleblend.system.files import fingerprint
from styleblend.weights.run_folder import collect

FEWEST = 2
"""Persons to train on, and for the probe: a swap needs two."""


@dataclass(frozen=True)
class Photographs:
    """Folders and tables as the pipeline's stages leave theirs; `key` changes with what they were made from."""

    key: str
    networks: Path
    faces: Path
    perceived: Path


def prepare(cfg: PretrainFaces, small: Path, state: Path, device: str, without: Forgotten | None = None) -> Photographs:
    """Gather, align and perceive the photographs of the sources; what an earlier call finished is not done again.

    Args:
        small: folder of this project's own networks. state: of the recipe; the folder data-<key> in it is filled.
        without: what is left out; where an earlier call prepared some of it, all of that folder is prepared again.
    Raises:
        StyleBlendError: there is no source, or one is missing, or a network is not to be had, or no face is found.
    """
    if not cfg.sources:
        raise StyleBlendError(
            "pretrain_faces.sources is empty: name folders with photographs of your own, with their licence and terms"
            " (presets/starter.yaml shows how)"
        )
    without = without or Forgotten()
    if sittings.forget(state, without):
        print("pretrain_faces: what was prepared of pictures to be forgotten is removed", flush=True)
    key = fingerprint(*_made_from(cfg))
    place = state / f"data-{key}"
    raw, networks, faces, perceived = (place / name for name in ("raw", "networks", "faces", "perceived.parquet"))
    if not networks.is_dir():
        collect(small, networks, cfg.networks)
    if not faces.is_dir():
        if not raw.is_dir():
            sources.gather(cfg, raw, state, without)
        aligned, refused = align_faces(raw, networks, faces, cfg.align, state)
        print(f"pretrain_faces: {len(aligned)} faces, {len(refused)} pictures in quarantine", flush=True)
    # Training reads the aligned faces alone; the copies took as much room as the originals.
    shutil.rmtree(raw, ignore_errors=True)
    # A table of an earlier version lacks what the selection asks for.
    if not perceived.is_file() or not {HASH, COVERED} <= set(pq.read_schema(perceived).names):
        perceive_folder(faces, networks, perceived, Perceive(workers=cfg.workers), device, state)
    return Photographs(key, networks, faces, perceived)


def _made_from(cfg: PretrainFaces) -> list[str]:
    listed = [str(path) for source in cfg.sources if isinstance(source, FolderSource) for path in _pictures(source)]
    settings = [source.model_dump_json() for source in cfg.sources]
    return [*settings, cfg.align.model_dump_json(exclude=WHERE), cfg.networks.model_dump_json(), *listed]


def _pictures(source: FolderSource) -> list[Path]:
    """Pictures of a folder; a missing one is said in the words of this section."""
    if not source.path.is_dir():
        raise StyleBlendError(
            f"{source.path} of pretrain_faces.sources '{source.name}' is no folder: lay the photographs down there, or"
            " name another"
        )
    return folders.list_pictures(source.path)


def person_of(source: str, label: str | None, face_id: str) -> str:
    """Whom a face shows: the label in its source, or, without one, somebody of whom there is no other picture."""
    return f"{source}/{label or face_id}"


def part_of(person: str, held_out: float, val: float) -> str:
    """`test`, `val` or `train`, by a hash of the person's name: new persons move nobody, wherever this is computed.

    Args:
        held_out, val: shares of the persons of the source.
    """
    place = zlib.crc32(os.fsencode(person)) % 100
    if place < round(100 * held_out):
        return "test"
    return "val" if place >= 100 - round(100 * val) else "train"


def named_by_hash(persons: Iterable[str]) -> list[str]:
    """Persons as 12 digits of the SHA-256 of their names, sorted: only whoever has the pictures can tell."""
    return sorted({hashlib.sha256(os.fsencode(person)).hexdigest()[:12] for person in persons})


def chosen(cfg: PretrainFaces, photographs: Photographs) -> pd.DataFrame:
    """The rows of the manifest that are used: within the limits of `cfg.keep`, and of copies of one picture one."""
    manifest = read_manifest(photographs.faces)
    decided = selection.select(photographs.faces, manifest, pd.read_parquet(photographs.perceived), cfg.keep)
    if len(left_out := decided[~decided["kept"]]):
        copies = int((left_out["missed"] == "").sum())
        limits = len(left_out) - copies
        print(f"pretrain_faces: {copies} copies of one picture and {limits} faces beyond limits left out", flush=True)
    return manifest[decided["kept"].to_numpy()].reset_index(drop=True)


def deal(cfg: PretrainFaces, faces: pd.DataFrame) -> splits.Splits:
    """Faces for training, for the probe and for no training, no person in two, and pairs of the latter two.

    Args:
        faces: rows of the manifest.
    Raises:
        StyleBlendError: too few persons to train on or for the probe.
    """
    columns = (faces[name] for name in ("source", "person", "face_id"))
    persons = [
        person_of(source, None if pd.isna(label) else label, face_id)
        for source, label, face_id in zip(*columns, strict=True)
    ]
    parts = [
        part_of(person, cfg.held_out.get(source, 0.0), cfg.val)
        for person, source in zip(persons, faces["source"], strict=True)
    ]
    table = pd.DataFrame({"face_id": faces["face_id"], "person": persons})
    dealt = {name: table[pd.Series(parts) == name].reset_index(drop=True) for name in ("train", "val", "test")}
    for name in ("train", "val"):
        if (found := dealt[name]["person"].nunique()) < FEWEST:
            raise StyleBlendError(
                f"pretrain_faces has {found} of {len(set(persons))} persons for {name}, {FEWEST} are needed: add"
                f" pictures of more people, or change val {cfg.val:g} and held_out {cfg.held_out}"
            )
    pairs = {name: splits.draw_pairs(dealt[name], cfg.val_pairs, seed=0) for name in ("val", "test")}
    return splits.Splits(**dealt, val_pairs=pairs["val"], test_pairs=pairs["test"])
