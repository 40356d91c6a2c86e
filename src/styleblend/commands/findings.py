"""What `styleblend doctor` found: one line each, with a verdict."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "note", "FAIL"]


@dataclass(frozen=True)
class Finding:
    """One line of the examination; FAIL: a run would fail."""

    part: str
    verdict: Verdict
    text: str


def text(findings: list[Finding]) -> str:
    """One screen: findings by part, and the sum of them."""
    width = max(len(finding.part) for finding in findings)
    lines = []
    before = ""
    for finding in findings:
        lines.append(f"{finding.part if finding.part != before else '':{width}}  {finding.verdict:4}  {finding.text}")
        before = finding.part
    failures = sum(finding.verdict == "FAIL" for finding in findings)
    verdict = "a run would go through" if not failures else f"a run would fail: {failures} to mend, see FAIL"
    return "\n".join([*lines, verdict])
