"""What is wrong with a form, in the one line that the interface documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_SHOWN = 60


def of_form(problems: Sequence[Mapping[str, Any]]) -> str:
    """One line for what the fields of a request lack, all of them.

    Args:
        problems: as pydantic lists them; the last part of `loc` is the field.
    """
    told = dict.fromkeys(_of_field(str(problem["loc"][-1]), problem) for problem in problems)
    return f"{'; '.join(told)}: /docs describes the form"


def _of_field(field: str, problem: Mapping[str, Any]) -> str:
    if problem["type"] == "missing":
        return f"the field {field} is missing"
    if "UploadFile" in problem["msg"]:
        return f"the field {field} must be a file"
    given = problem.get("input")
    if given == "":
        return f"the field {field} is empty"
    if not isinstance(given, str | int | float):
        return f"the field {field} must be a text, not a file"
    value = str(given)
    shown = value if len(value) <= _SHOWN else f"{value[:_SHOWN]}..."
    return f"the field {field} is {shown!r}, {_lower(problem['msg'])}"


def _lower(message: str) -> str:
    return message[:1].lower() + message[1:]
