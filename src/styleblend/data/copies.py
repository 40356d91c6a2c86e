"""Copies of one picture among the faces: the same file, or the same photograph resized, cropped, recoded or brightened.

Are files and crops the same? If not: are the perceptual hashes near, are the embeddings alike (which leaves pictures of
one person), and are the pixels the same once one crop was laid over the other? The last question, which is asked of
those pairs alone that passed the others, tells a copy from the next shot of the same sitting.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from styleblend.config.data import Keep
from styleblend.data.clusters import BLOCK, Numbers, Vectors, connected, likeness
from styleblend.data.quality import HASH, HASH_BITS, hash_bits

Grey = NDArray[np.float32]

_SIDE_PX, _EDGE_PX = 64, 6
_WINDOW_PX = 9
_LOWEST = 0.05
# Keeps the ratio of two flat patches at 1; in units of the picture's own variance.
_FLAT = 0.01
_STEPS = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 30, 1e-4)
_IN_MEMORY = 4096
"""Pictures of 16 kB that are kept, since one that was compared is often compared again."""


def contents(faces: pd.DataFrame) -> list[str]:
    """The same text for faces that were cut alike from files of the same bytes; one file may hold several faces."""
    quads = (" ".join(f"{value:.2f}" for value in quad) for quad in faces["quad"])
    return [f"{sha256} {quad}" for sha256, quad in zip(faces["raw_sha256"], quads, strict=True)]


def pictures(folder: Path, faces: pd.DataFrame, content: pd.Series, cfg: Keep) -> Numbers:
    """Number of each face's picture, the same for its copies, in the order of their first.

    Args:
        folder: in which the column `path` names the faces' files. content: as `contents` gives it.
        faces: rows of the manifest with those of the perceived table, where there are such: others have no near copies.
    """
    numbers, _ = pd.factorize(content)
    _, first = np.unique(numbers, return_index=True)
    places = np.intersect1d(first, np.flatnonzero(faces[HASH].notna().to_numpy()))
    edges = [(np.arange(len(faces)), first[numbers])]
    if len(places) > 1:
        edges.append(_joined(folder, faces.iloc[places], places, cfg))
    return connected(len(faces), edges)


def _joined(folder: Path, faces: pd.DataFrame, places: Numbers, cfg: Keep) -> tuple[Numbers, Numbers]:
    """Pairs of `places` that are copies; those that others join already are not compared."""
    paths = [folder / path for path in faces["path"]]
    known = lru_cache(maxsize=_IN_MEMORY)(lambda place: _small(paths[place]))
    above = list(range(len(paths)))

    def root(place: int) -> int:
        while above[place] != place:
            above[place] = place = above[above[place]]
        return place

    found = []
    bits = hash_bits(faces[HASH].to_list())
    for row, column in _near(bits, vectors_of(faces), metric_of(faces), cfg):
        for one, other in zip(row.tolist(), column.tolist(), strict=True):
            if root(one) == root(other) or (a := known(one)) is None or (b := known(other)) is None:
                continue
            if structure(a, b) >= cfg.duplicate_structure:
                above[root(other)] = root(one)
                found.append((one, other))
    pairs = np.array(found, dtype=np.int64).reshape(-1, 2)
    return places[pairs[:, 0]], places[pairs[:, 1]]


def _near(bits: Vectors, vectors: Vectors, metric: str, cfg: Keep) -> Iterator[tuple[Numbers, Numbers]]:
    """Pairs whose hashes differ in few bits and whose embeddings are alike, by blocks of rows."""
    for start in range(0, len(bits), BLOCK):
        agree = bits[start : start + BLOCK] @ bits[start:].T
        alike = likeness(vectors[start : start + BLOCK], vectors[start:], metric)
        near = (agree >= HASH_BITS - 2 * cfg.duplicate_bits) & (alike >= cfg.duplicate_similarity)
        row, column = np.nonzero(near)
        later = row < column
        yield row[later] + start, column[later] + start


def structure(a: Grey, b: Grey) -> float:
    """How alike two small grey pictures [S, S] are where they are least alike, once one was laid over the other; <= 1.

    b is brought onto a by the affine map that makes them correlate best (the enhanced correlation coefficient,
    Evangelidis and Psarakis 2008). Then the structural similarity (Wang et al. 2004) of their patches is taken, without
    its term of brightness, and its 5 % quantile returned. A mouth that smiles in one picture only lowers it, JPEG
    hardly. -1 where no map was found.
    """
    try:
        everywhere = np.full(a.shape, 255, np.uint8)
        start = np.eye(2, 3, dtype=np.float32)
        _, onto = cv2.findTransformECC(a, b, start, cv2.MOTION_AFFINE, _STEPS, everywhere, 1)
    except cv2.error:
        return -1.0
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    laid = cv2.warpAffine(b, onto, a.shape[::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE).astype(np.float32)
    middle = slice(_EDGE_PX, -_EDGE_PX)
    first, second = (_standard(picture[middle, middle]) for picture in (a, laid))
    size = (_WINDOW_PX, _WINDOW_PX)
    means = cv2.blur(first, size), cv2.blur(second, size)
    squares = cv2.blur(first * first, size) + cv2.blur(second * second, size)
    together = cv2.blur(first * second, size) - means[0] * means[1]
    spread = squares - means[0] ** 2 - means[1] ** 2
    return float(np.quantile((2 * together + _FLAT) / (spread + _FLAT), _LOWEST))


def small(grey: NDArray[np.uint8]) -> Grey:
    """A grey picture [H, W] as `structure` reads it: at 64 px, a little blurred."""
    resized = cv2.resize(grey, (_SIDE_PX, _SIDE_PX), interpolation=cv2.INTER_AREA).astype(np.float32)
    return cv2.GaussianBlur(resized, (0, 0), 1).astype(np.float32)


def _small(path: Path) -> Grey | None:
    """None for a file that cannot be read, which the expectations name."""
    try:
        with Image.open(path) as image:
            return small(np.asarray(image.convert("L")))
    except OSError:
        return None


def _standard(picture: Grey) -> Grey:
    return (picture - picture.mean()) / max(float(picture.std()), 1e-6)


def vectors_of(faces: pd.DataFrame) -> Vectors:
    """The identity embeddings of faces, [n, D]."""
    return np.stack(faces["identity"].to_list()).astype(np.float32)


def metric_of(faces: pd.DataFrame) -> str:
    """How they are compared, as perception.similarity has it."""
    return str(faces["identity_metric"].iloc[0])
