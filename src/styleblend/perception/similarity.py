"""How alike two faces are by the vectors of one identity network: training, evaluation and swaps ask here."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

Metric = Literal["cosine", "distance"]
"""How a network's vectors are compared: by their angle, or by their Euclidean distance where their length counts."""


def similarity(a: Tensor, b: Tensor, metric: Metric, dim: int = 1) -> Tensor:
    """How alike two faces are by their vectors, 1 for the same vector: the cosine, or 1 - |a - b|^2 for `distance`.

    So a distance of 0.6, which dlib's author gives as the limit of one person, is a similarity of 0.64.

    Args:
        a, b: embeddings of one network, which broadcast. dim: along which they lie.
    """
    if metric == "cosine":
        return F.cosine_similarity(a, b, dim=dim)
    return 1 - (a - b).square().sum(dim)
