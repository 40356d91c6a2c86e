"""Tables of text in columns of equal width."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def aligned(rows: Sequence[tuple[str, ...]], right: Collection[int] = ()) -> list[str]:
    """A line a row, two spaces between columns; those whose numbers are in `right` end at the same place."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if k in right else cell.ljust(width)
            for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
