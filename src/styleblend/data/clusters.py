"""Connected components of faces that are alike: the persons of unlabelled faces, and copies of one picture."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

BLOCK = 256
"""Rows that are compared with all others at a time: memory grows with the number of faces, not with its square."""

Vectors = NDArray[np.float32]
Numbers = NDArray[np.int64]


def likeness(a: Vectors, b: Vectors, metric: str = "cosine") -> Vectors:
    """How alike each of a [n, D] and each of b [m, D] are, [n, m], as perception.similarity has it, by one product."""
    products: Vectors = a @ b.T
    if metric == "cosine":  # of unit vectors
        return products
    return 2 * products + (1 - np.square(b).sum(1)[None, :] - np.square(a).sum(1)[:, None])


def cluster(vectors: Vectors, similarity: float, metric: str = "cosine") -> Numbers:
    """Connected component of each vector [n, D]; edges are where the likeness is above `similarity`.

    Components are numbered in the order of their first member. Memory grows with n, not with its square.
    """

    def near() -> Iterator[tuple[Numbers, Numbers]]:
        for start in range(0, len(vectors), BLOCK):
            row, column = np.nonzero(likeness(vectors[start : start + BLOCK], vectors[start:], metric) > similarity)
            yield row + start, column + start

    return connected(len(vectors), near())


def connected(count: int, edges: Iterable[tuple[Numbers, Numbers]]) -> Numbers:
    """Component of each of `count` points, numbered in the order of their first member, over edges that come in parts.

    Args:
        edges: parts, each of two arrays of the same length with the points that an edge joins.
    """
    component = np.arange(count)
    for row, column in edges:
        joined = (component[row], component[column])
        graph = coo_array((np.ones(len(row), dtype=bool), joined), shape=(count, count))
        component = connected_components(graph, directed=False)[1][component]
    _, first, inverse = np.unique(component, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]
