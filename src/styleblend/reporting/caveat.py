"""A warning beside figures that small networks, learned from rendered faces, gave of photographs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

# Others count in terms of the training that the paper has not, if at all.
_WEIGHTY = ("identity", "identity_judge", "landmarks", "attributes_judge", "encoder", "decoder")


def caveat(manifest: pd.DataFrame, networks: Mapping[str, Mapping[str, Any]]) -> str:
    """A warning where this project's small networks, learned from rendered faces, judged photographs or were what the
    model learned from; else empty.
    """
    photographs = int(manifest["render_seed"].isna().sum())
    small = [role for role in _WEIGHTY if "this project" in str(networks.get(role, {}).get("origin", ""))]
    if not photographs or not small:
        return ""
    return f"""
> **These figures say little.** {photographs} of the {len(manifest)} faces are photographs, but the networks
> {", ".join(small)} learned from rendered faces only. On real faces they tell people apart badly and misjudge pose and
> expression, so the model that learned under them and the figures they gave show only that the pipeline runs.
"""
