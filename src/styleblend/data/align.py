"""From raw pictures to aligned faces: every input ends in the manifest, or in quarantine with a reason."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import pandas as pd
from PIL import Image

from styleblend.config.base import Finder
from styleblend.config.data import Align
from styleblend.data.index import read_index, write_rows
from styleblend.data.manifest import MANIFEST, QUARANTINE, face_id, read_manifest, read_quarantine
from styleblend.errors import StyleBlendError
from styleblend.face_detector import loader
from styleblend.face_detector.detection import Detection, annotated
from styleblend.face_detector.finder import FaceFinder, Found, confirmed
from styleblend.faces.alignment import AlignedFace, AlignmentError, align_face
from styleblend.faces.pictures import UnusablePicture, open_picture
from styleblend.provenance import save_picture
from styleblend.system.files import sha256, whole_folder
from styleblend.system.parallel import spread

if TYPE_CHECKING:
    from styleblend.perception.mesh import FaceMesh


@dataclass(frozen=True)
class AlignTask:
    """One raw picture: its row of the index, and where to read and write; `networks` holds the detector."""

    row: dict[str, Any]
    raw: Path
    out: Path
    networks: Path
    cfg: Align


@dataclass(frozen=True)
class AlignedPicture:
    """What became of one raw picture: manifest rows, or the reason why there are none."""

    faces: list[dict[str, Any]]
    reason: str | None


def align_faces(raw: Path, networks: Path, out: Path, cfg: Align) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Write aligned faces, manifest.parquet and quarantine.parquet to `out`; return both tables.

    Raises:
        StyleBlendError: there is no index, the detector's file is missing, or no picture gives a face.
    """
    index = read_index(raw)
    _finder.cache_clear()
    _mesh.cache_clear()
    # A missing or wrong file is reported once, before any process starts.
    if cfg.detector == "annotations":
        _mesh(networks)
    else:
        _finder(cfg.detector, networks, cfg.min_score, cfg.min_face_px)
    with whole_folder(out) as partial:
        (partial / "images").mkdir()
        rows: list[dict[str, Any]] = index.astype(object).where(index.notna(), None).to_dict("records")  # type: ignore[assignment]
        tasks = [AlignTask(row, raw, partial, networks, cfg) for row in rows]
        faces: list[dict[str, Any]] = []
        refused: list[dict[str, Any]] = []
        for row, outcome in zip(rows, spread(align_picture, tasks, cfg.workers, "align"), strict=True):
            faces += outcome.faces
            if outcome.reason is not None:
                refused.append({"source": row["source"], "raw_path": row["path"], "reason": outcome.reason})
        if not faces:
            raise StyleBlendError(
                f"no face found in any of the {len(rows)} pictures of {raw} (the first, "
                f"{refused[0]['raw_path']}: {refused[0]['reason']}): give photographs that show faces, "
                f"or lower align.min_score {cfg.min_score} or align.min_face_px {cfg.min_face_px}"
            )
        write_rows(faces, MANIFEST, partial / "manifest.parquet")
        write_rows(refused, QUARANTINE, partial / "quarantine.parquet")
    return read_manifest(out), read_quarantine(out)


def align_picture(task: AlignTask) -> AlignedPicture:
    """Find, crop and save the faces of one raw picture."""
    row, cfg = task.row, task.cfg
    cv2.setNumThreads(1)  # the processes are the parallelism
    try:
        image = open_picture(task.raw / row["path"], cfg.max_pixels).opaque()
        if sha256(task.raw / row["path"]) != row["sha256"]:
            raise UnusablePicture("changed since the download: its SHA-256 is not the index's")
        found = enumerate(_choose(task, image))
        aligned = [(number, each, align_face(image, each.points_px, cfg.size_px)) for number, each in found]
        faces = [_save_face(task, image, *each) for each in aligned]
    except (UnusablePicture, AlignmentError) as reason:
        return AlignedPicture([], " ".join(str(reason).split()))
    return AlignedPicture(faces, None)


@lru_cache(maxsize=1)
def _finder(kind: Finder, networks: Path, min_score: float, min_face_px: int) -> FaceFinder:
    return loader.load_finder(kind, networks, min_score, threads=1, min_face_px=min_face_px)


@lru_cache(maxsize=1)
def _mesh(networks: Path) -> FaceMesh | None:
    return loader.load_mesh(networks)


def _found(task: AlignTask, image: Image.Image) -> Found:
    """The faces of a picture, checked; what is no face in the eyes of the run's mesh no stage can use."""
    cfg = task.cfg
    if cfg.detector != "annotations":
        return _finder(cfg.detector, task.networks, cfg.min_score, cfg.min_face_px).find(image)
    if task.row["landmarks"] is None:
        raise UnusablePicture("no annotated landmarks: set align.detector to yunet")
    return confirmed(_mesh(task.networks), image, [annotated(task.row["landmarks"])])


def _choose(task: AlignTask, image: Image.Image) -> list[Detection]:
    """The faces to use, the largest first; at least one."""
    cfg = task.cfg
    found = _found(task, image)
    if not found.faces:
        raise UnusablePicture(found.problem or f"no face found with a score of at least {cfg.min_score}")
    large = [face for face in found.faces if face.side_px >= cfg.min_face_px]
    if not large:
        side_px = max(face.side_px for face in found.faces)
        raise UnusablePicture(f"largest face is {side_px:.0f} px, under align.min_face_px {cfg.min_face_px}")
    if cfg.several_faces == "quarantine" and len(large) > 1:
        raise UnusablePicture(f"{len(large)} faces, and align.several_faces is quarantine")
    return large if cfg.several_faces == "all" else large[:1]


def _save_face(
    task: AlignTask, image: Image.Image, number: int, found: Detection, aligned: AlignedFace
) -> dict[str, Any]:
    row, size_px = task.row, task.cfg.size_px
    name = face_id(row["source"], row["path"], number)
    face = aligned.picture
    path = Path("images") / f"{name}.png"
    if row["render_seed"] is not None:
        save_picture(face, task.out / path, model="styleblend.synthetic", kind="rendered")
    else:
        face.save(task.out / path)
    kept = ("source", "url", "licence", "terms", "person", "author", "weight")
    return {
        **{key: row[key] for key in (*kept, "render_seed", "render_person", "render_picture")},
        "face_id": name,
        "path": path.as_posix(),
        "raw_path": row["path"],
        "raw_sha256": row["sha256"],
        "raw_width": image.width,
        "raw_height": image.height,
        "detector": task.cfg.detector,
        "score": found.score,
        "quad": aligned.quad.flatten().tolist(),
        "size_px": size_px,
    }
