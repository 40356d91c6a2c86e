"""Who may judge: a model is graded by another identity network than the one that it was trained against."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from styleblend.errors import StyleBlendError


def require_another_judge(training: Mapping[str, Any], judge: Mapping[str, Any], same_allowed: bool = False) -> None:
    """Refuse one and the same network for training and evaluation.

    A generator learns to please the network that it is trained against, also where that network errs, so its
    figures from that network are too good.

    Args:
        training, judge: entries of networks.json, or cards, of the roles `identity` and `identity_judge`: their
            `sha256` is compared.
        same_allowed: somebody said that they want it so (pretrained.same_judge).

    Raises:
        StyleBlendError: the files are the same and nobody said so, or an entry has no sha256 to compare.
    """
    hashes = []
    for role, entry in (("identity", training), ("identity_judge", judge)):
        found = str(entry.get("sha256") or "").lower()
        if not found:
            raise StyleBlendError(f"network '{role}' has no sha256 in its entry: run `dvc repro pretrained` again")
        hashes.append(found)
    if hashes[0] == hashes[1] and not same_allowed:
        raise StyleBlendError(
            f"identity and identity_judge are the same network (sha256 {hashes[0]}), so evaluation would flatter the "
            "model: choose another file for one of them, or set pretrained.same_judge to true"
        )
