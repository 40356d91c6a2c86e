"""What the licences of its parts mean for a model: of the networks and of the data that it learned from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    # Most who ask what a text forbids have no table.
    import pandas as pd

MEASURING = ("identity_judge", "attributes_judge", "inception")
"""Roles of networks that only measure. A model learns from all others: through their losses, by starting from their
weights, or from pictures that were cut out with them.
"""

NON_COMMERCIAL = "non-commercial"
FREE = "no part is stated to be non-commercial"
_USE = r"(?:use|uses|purpose|purposes)"
_FORBIDS = re.compile(
    r"non-?\s?commercial|\bnc\b"
    # "no commercial restrictions" forbids nothing.
    rf"|\b(?:no|without) (?:any )?commercial(?: {_USE}| usage|\s*(?:$|[.,;)|]))"
    r"|\bnot (?:to be |be )?(?:used |meant |intended |allowed )?(?:for )?(?:any )?commercial"
    rf"|\bcommercial {_USE} (?:is |are )?(?:strictly )?"
    r"(?:not (?:allowed|permitted|granted|included)|prohibited|forbidden|excluded|disallowed)"
    rf"|\b(?:research|academic)(?: {_USE})? only\b|\b(?:only|solely|exclusively) for (?:\w+ )?(?:research|academic)",
    re.IGNORECASE,
)


def forbids(text: str) -> bool:
    """Whether the statement of a licence, or of terms, forbids commercial use; by its words, as owners put it."""
    return _FORBIDS.search(text) is not None


@dataclass(frozen=True)
class Verdict:
    """What the parts allow.

    because: parts that the model learned from and that forbid commercial use, each with its licence. measured_with: the
    same for networks that only measured it, which binds the figures' makers and not the model.
    """

    licence: str
    because: tuple[str, ...]
    measured_with: tuple[str, ...]

    def tags(self) -> dict[str, str]:
        """Short facts for the registry."""
        facts = {"licence": self.licence}
        if self.because:
            facts["licence_because"] = "; ".join(self.because)
        if self.measured_with:
            facts["measured_with_non_commercial"] = "; ".join(self.measured_with)
        return facts

    def text(self) -> str:
        """A paragraph for the model card."""
        if self.because:
            parts = "; ".join(self.because)
            first = f"**Non-commercial.** The model learned from parts that forbid commercial use: {parts}."
        else:
            first = (
                "No part that the model learned from is stated to be non-commercial. The statements are those of the "
                "tables below, as the owners of the parts made them."
            )
        if self.measured_with:
            first += f" It was measured with {'; '.join(self.measured_with)}, which binds who measures, not the model."
        return first


def of(networks: Mapping[str, Mapping[str, Any]], manifest: pd.DataFrame) -> Verdict:
    """What a model may be used for, by its parts.

    Args:
        networks: of networks.json. manifest: of data/faces, columns source, licence and terms.
    """
    learned: list[str] = []
    measured: list[str] = []
    for role, entry in networks.items():
        licence = str(entry["licence"])
        if not entry.get("commercial", not forbids(licence)):
            part = f"{role} {entry.get('name', entry['file'])} ({licence})"
            (measured if role in MEASURING else learned).append(part)
    for source, rows in manifest.groupby("source"):
        stated = rows[["licence", "terms"]].fillna("").drop_duplicates().to_dict("records")
        forbidding = sorted({row["licence"] for row in stated if forbids(f"{row['licence']} | {row['terms']}")})
        if forbidding:
            learned.append(f"data {source} ({', '.join(forbidding)})")
    return Verdict(NON_COMMERCIAL if learned else FREE, tuple(learned), tuple(measured))
