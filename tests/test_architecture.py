"""The house's rules about imports: downwards only, and no engine in the core."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

PACKAGE = "styleblend"
ENGINES = ("ray", "mlflow", "dvc", "prefect", "great_expectations")
CORE = (
    "model",
    "perception",
    "pretrained_formats",
    "synthetic",
    "losses",
    "metrics",
    "training.steps",
    "training.loop",
    "training.checkpoint",
)
# Lower floors first. A module imports from its own floor and from those below it.
FLOORS = (
    {"errors", "files", "locking", "pixels", "downloads"},
    {"catalogue", "config", "provenance", "lineage"},
    {
        "weights",
        "weights_content",
        "pretrained_formats",
        "perception",
        "synthetic",
        "losses",
        "metrics",
        "model",
        "licences",
    },
    {"data", "tracking"},
    {"training", "evaluation"},
    {"reporting", "describe"},
    {"swapping", "registered_model", "presets", "overriding", "guard", "comparing", "following", "weights_command"},
    {"ablations", "doctor", "reproducing", "serving"},
    {"stages", "cli"},
)
# The only modules that may import an engine at all.
ALLOWED = {
    "ray": {"training.ray_trainer"},
    "mlflow": {"tracking", "registered_model"},
    "great_expectations": {"data.expectations"},
    "dvc": set(),
    "prefect": set(),
}


def modules(root: Path) -> dict[str, ast.Module]:
    source = root / "src" / PACKAGE
    found = {}
    for file in sorted(source.rglob("*.py")):
        name = ".".join(file.relative_to(source).with_suffix("").parts).removesuffix("__init__").rstrip(".")
        if name:
            found[name] = ast.parse(file.read_text())
    return found


def imports(tree: ast.Module, inside_functions: bool = True) -> set[str]:
    """Full dotted names of all that a module imports, `import_module` aside."""
    names: set[str] = set()
    for node in ast.walk(tree) if inside_functions else tree.body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_importing_the_core_loads_no_engine(root: Path) -> None:
    """The networks, losses and steps can be used, and tested, with torch and numpy alone."""
    core = [name for name in modules(root) if name.startswith(CORE)]
    assert {name.split(".")[0] for name in core} >= {
        "model",
        "perception",
        "synthetic",
        "losses",
        "metrics",
        "training",
    }
    program = f"import importlib\nfor name in {core!r}: importlib.import_module('{PACKAGE}.' + name)\n"
    assert loaded(program, ENGINES) == []


def loaded(program: str, libraries: tuple[str, ...]) -> list[str]:
    """Which of the libraries a new process has loaded after a program."""
    report = f"import sys; print([name for name in {libraries!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", f"{program}\n{report}"], capture_output=True, text=True, check=True)
    return ast.literal_eval(done.stdout.splitlines()[-1])


def test_a_training_worker_loads_no_onnx_runtime() -> None:
    """Networks that run in it judge, and are not trained with; each worker would pay for it in time and memory."""
    program = "import styleblend.training.ray_trainer"
    assert loaded(program, ("torch", "onnxruntime", "scipy.spatial")) == ["torch"]


def test_counting_pictures_loads_no_tables(root: Path) -> None:
    """`styleblend check` and the watcher of photographs do without pandas and pyarrow, which take long to import."""
    check = f"import os; from styleblend import cli; os.chdir({str(root)!r}); cli.main(['check'])"
    watch = f"import sys; sys.path.insert(0, {str(root / 'flows')!r}); import watching"
    for program in (check, watch):
        assert loaded(program, ("styleblend.data.folders", "pandas", "pyarrow")) == ["styleblend.data.folders"]


def test_engines_are_imported_where_they_belong(root: Path) -> None:
    """tracking.py talks to MLflow, ray_trainer.py to Ray Train, expectations.py to Great Expectations; nobody else."""
    for name, tree in modules(root).items():
        for engine in ENGINES:
            if any(found.split(".")[0] == engine for found in imports(tree)):
                assert name in ALLOWED[engine], f"{name} imports {engine}"


def test_imports_run_downwards(root: Path) -> None:
    """No module imports from a floor above its own, and every module stands on a floor."""
    floor = {name: level for level, names in enumerate(FLOORS) for name in names}
    for name, tree in modules(root).items():
        place = name.split(".")[0]
        assert place in floor, f"{name} stands on no floor: add it to FLOORS"
        for found in imports(tree):
            parts = found.split(".")
            if parts[0] == PACKAGE and len(parts) > 1 and parts[1] in floor:
                assert floor[parts[1]] <= floor[place], f"{name} imports {found}, which stands above it"


@pytest.mark.parametrize("forbidden", ["utils", "common", "helpers", "misc"])
def test_no_module_is_a_drawer(root: Path, forbidden: str) -> None:
    """A module is named after what it is about."""
    assert not [name for name in modules(root) if forbidden in name.split(".")]


UNTRACKED = {"downloads", "errors", "files", "provenance", "stages.entry", "tracking", "registered_model"}
"""Modules and packages whose change alters no result of a stage that merely imports them; `register` names the last
two itself.
"""


def module_of(name: str, known: set[str]) -> str | None:
    """The module behind an imported name: `styleblend.losses.identity` is `losses`."""
    parts = name.split(".")[1:]
    for length in range(len(parts), 0, -1):
        if ".".join(parts[:length]) in known:
            return ".".join(parts[:length])
    return None


def reached(start: str, trees: dict[str, ast.Module]) -> set[str]:
    """All modules of the package that are loaded when a module is imported."""
    found, waiting = set(), {start}
    while waiting:
        name = waiting.pop()
        found.add(name)
        names = {each for each in imports(trees[name], inside_functions=False) if each.startswith(f"{PACKAGE}.")}
        waiting |= {module for each in names if (module := module_of(each, set(trees)))} - found
    return found


def test_dvc_watches_the_code_that_a_stage_uses(root: Path) -> None:
    """Every module that a stage loads is among its deps, so that changed code never leaves old results.

    What `download` imports only to render with is watched through download.origin.
    """
    trees = modules(root)
    stages = yaml.safe_load((root / "dvc.yaml").read_text())["stages"]
    for stage, described in stages.items():
        deps = [Path(dep) for dep in described["deps"] if dep.startswith("src/")]
        assert not [dep for dep in deps if not (root / dep).exists()], f"{stage} names code that is not there"
        for module in reached(f"stages.{stage}", trees):
            if any(f"{module}.".startswith(f"{name}.") for name in UNTRACKED):
                continue
            file = Path("src", PACKAGE, *module.split("."))
            watched = [dep for dep in deps if file.with_suffix(".py").is_relative_to(dep) or file.is_relative_to(dep)]
            assert watched, f"stage {stage} uses {module}, which is not among its deps"
