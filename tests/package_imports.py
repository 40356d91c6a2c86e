"""What imports what in the package, read from its source: the ground on which the tests of structure stand."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = "styleblend"


def modules(root: Path) -> dict[str, ast.Module]:
    """Dotted name inside the package to syntax tree; a package's own file goes by the name of its folder."""
    source = root / "src" / PACKAGE
    found = {}
    for file in sorted(source.rglob("*.py")):
        name = ".".join(file.relative_to(source).with_suffix("").parts).removesuffix("__init__").rstrip(".")
        if name:
            found[name] = ast.parse(file.read_text())
    return found


def imports(tree: ast.AST) -> set[str]:
    """Full dotted names of all that a module imports, inside functions too; not what only a type checker reads."""
    names: set[str] = set()
    for node in _nodes(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def _nodes(tree: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING":
            continue
        yield child
        yield from _nodes(child)


def used(tree: ast.Module, known: dict[str, ast.Module]) -> set[str]:
    """Modules of the package that a module imports: `styleblend.training.losses.identity` is `training.losses`."""
    found = set()
    for name in imports(tree):
        parts = name.split(".")
        if parts[0] != PACKAGE:
            continue
        for length in range(len(parts), 1, -1):
            if (module := ".".join(parts[1:length])) in known:
                found.add(module)
                break
    # Importing a module runs the files of the packages around it.
    return found | {parent for name in found for parent in _parents(name) if parent in known}


def _parents(name: str) -> Iterator[str]:
    while "." in name:
        name = name.rpartition(".")[0]
        yield name


def reached(start: str, known: dict[str, ast.Module], stop: frozenset[str] = frozenset()) -> set[str]:
    """All modules that a module can load, lazily too; the search does not go on from those below a name in `stop`."""
    found, waiting = set(), {start}
    while waiting:
        name = waiting.pop()
        found.add(name)
        if not any(f"{name}.".startswith(f"{each}.") for each in stop):
            waiting |= used(known[name], known) - found
    return found
