"""One tree of settings on top of another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def merged(values: Any, overrides: Any) -> Any:
    """`values` with `overrides` on top, section by section.

    Lists, tables with number keys, and what an empty table `{}` stands for, are replaced.
    """
    if not (is_section(values) and is_section(overrides)):
        return overrides
    return {**values, **{key: merged(values.get(key), value) if value else value for key, value in overrides.items()}}


def is_section(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(key, str) for key in value)
