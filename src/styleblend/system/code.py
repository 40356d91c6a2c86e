"""A hash of Python source that changes with what it does, not with what it says of itself."""

from __future__ import annotations

import ast
import hashlib
from pathlib import Path

from styleblend.system.files import files_below, sha256


def code_fingerprint(*places: Path) -> str:
    """16 hex digits that change with the code of modules, or of all modules below folders, and with their names.

    Comments, docstrings, the strings below attributes and the layout of lines are not part of it. Files that are no
    modules count by their content.
    """
    digest = hashlib.sha256()
    for place in places:
        for file in files_below(place) if place.is_dir() else (place,):
            name = file.relative_to(place) if place.is_dir() else file.name
            content = code_of(file.read_text()) if file.suffix == ".py" else sha256(file)
            digest.update(f"{name}\0{content}\0".encode())
    return digest.hexdigest()[:16]


def code_of(source: str) -> str:
    """The syntax tree of a module as text, without statements that are nothing but a string."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [each for each in body if not _is_text(each)]  # type: ignore[attr-defined]
    return ast.dump(tree)


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
