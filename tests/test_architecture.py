"""The house's rules about imports: downwards only, no engine in the core, and DVC watches what a stage uses."""

from __future__ import annotations

import ast
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from package_imports import PACKAGE, imports, modules, reached, used

ENGINES = ("ray", "mlflow", "dvc", "prefect", "great_expectations")
CORE = (
    "model",
    "perception",
    "weights.formats",
    "synthetic",
    "evaluation",
    "training.losses",
    "training.steps",
    "training.loop",
    "training.checkpoint",
)
# Lower floors first. A room imports from floors below its own, never from its own floor or from above.
FLOORS = (
    {"errors"},
    {"config", "faces", "synthetic", "system"},
    {"model", "provenance"},
    {"weights.formats"},
    {"weights"},
    {"perception"},
    {"registry"},
    {"evaluation", "face_detector", "training"},
    {"data"},
    {"pretraining", "reporting", "swapping"},
    {"experiments", "serving"},
    {"commands", "stages"},
)
ROOMS_AT_MOST, LINES_AT_MOST = 24, 350
# The only modules that may import an engine at all.
ALLOWED = {
    "ray": {
        "system.ray_address",
        "system.ray_data",
        "training.ray_cluster",
        "training.ray_mailbox",
        "training.ray_trainer",
    },
    "mlflow": {"registry.mlflow_store", "registry.runs", "registry.versions", "registry.pyfunc_model"},
    "great_expectations": {"data.expectations"},
    "dvc": set(),
    "prefect": set(),
}


def room(module: str) -> str:
    """The folder, or loose module, that a module stands in."""
    return "weights.formats" if module.startswith("weights.formats") else module.split(".")[0]


def test_importing_the_core_loads_no_engine(root: Path) -> None:
    """The networks, losses and steps can be used, and tested, with torch and numpy alone."""
    core = [name for name in modules(root) if name.startswith(CORE)]
    assert {name.split(".")[0] for name in core} >= {"model", "perception", "synthetic", "evaluation", "training"}
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
    check = f"import os; from styleblend.commands import cli; os.chdir({str(root)!r}); cli.main(['check'])"
    watch = f"import sys; sys.path.insert(0, {str(root / 'flows')!r}); import watch"
    for program in (check, watch):
        assert loaded(program, ("styleblend.data.folders", "pandas", "pyarrow")) == ["styleblend.data.folders"]


def test_engines_are_imported_where_they_belong(root: Path) -> None:
    """registry talks to MLflow, five modules to Ray, expectations.py to Great Expectations; nobody else."""
    for name, tree in modules(root).items():
        for engine in ENGINES:
            if any(found.split(".")[0] == engine for found in imports(tree)):
                assert name in ALLOWED[engine], f"{name} imports {engine}"


def test_imports_run_downwards(root: Path) -> None:
    """Every room stands on a floor and imports from lower floors alone, inside functions too: so no circle either."""
    trees = modules(root)
    floor = {name: level for level, names in enumerate(FLOORS) for name in names}
    for name, tree in trees.items():
        assert room(name) in floor, f"{name} stands on no floor: add it to FLOORS"
        for found in used(tree, trees):
            # A package's own file, which is empty where another package lies inside it, is no room.
            if room(found) != room(name) and found != "weights":
                assert floor[room(found)] < floor[room(name)], f"{name} imports {found}, which stands no lower"
    assert not trees["weights"].body[1:], "weights/__init__.py holds more than its docstring: weights.formats loads it"


def test_the_house_stays_small(root: Path) -> None:
    """Few rooms, and no file that nobody reads to its end."""
    rooms = {room(name) for name in modules(root)} | {"flows"}
    assert len(rooms) <= ROOMS_AT_MOST
    files = [*(root / "src").rglob("*.py"), *(root / "flows").rglob("*.py")]
    lengths = {file.relative_to(root): len(file.read_text().splitlines()) for file in files}
    assert not {file: lines for file, lines in lengths.items() if lines > LINES_AT_MOST}


@pytest.mark.parametrize("forbidden", ["utils", "common", "helpers", "misc"])
def test_no_module_is_a_drawer(root: Path, forbidden: str) -> None:
    """A module is named after what it is about."""
    assert not [name for name in modules(root) if forbidden in name.split(".")]


UNWATCHED = frozenset(
    {
        # The door refuses a wrong params.yaml; what it lets in, a stage takes from its own section.
        "stages.entry",
        # Words of errors; files, locks and processes; marks of synthetic pictures.
        "errors",
        "system",
        "provenance",
        # Where figures are recorded. The stage register names them itself.
        "config.tracking",
        "registry.mlflow_store",
        "registry.moved_store",
        "registry.outbox",
        "registry.runs",
        "registry.versions",
    }
)
"""What changes no result of a stage that imports it."""


def watched(root: Path) -> dict[str, list[str]]:
    """Stage to the modules and packages of the package that its deps in dvc.yaml name."""
    stages = yaml.safe_load((root / "dvc.yaml").read_text())["stages"]
    source = f"src/{PACKAGE}/"
    found = {}
    for stage, described in stages.items():
        deps = [dep for dep in described["deps"] if dep.startswith(source) and not dep.endswith((".yaml", ".html"))]
        assert not [dep for dep in deps if not (root / dep).exists()], f"{stage} names code that is not there"
        found[stage] = [dep.removeprefix(source).removesuffix(".py").replace("/", ".") for dep in deps]
    return found


def within(module: str, places: list[str] | frozenset[str]) -> bool:
    """Whether one of the places is the module or a package around it."""
    return any(f"{module}.".startswith(f"{place}.") for place in places)


def test_dvc_watches_the_code_that_a_stage_uses(root: Path) -> None:
    """All that a stage imports, lazily too, is among its deps: changed code never leaves old results."""
    trees = modules(root)
    for stage, places in watched(root).items():
        for module in reached(f"stages.{stage}", trees, UNWATCHED):
            if not within(module, UNWATCHED) and len(trees[module].body) > 1:
                assert within(module, places), f"stage {stage} uses {module}, which is not among its deps"


def test_dvc_watches_no_code_that_a_stage_does_not_use(root: Path) -> None:
    """Each dep is imported by its stage, and none stands in another: other code can change and nothing runs again."""
    trees = modules(root)
    for stage, places in watched(root).items():
        # register also keeps the code that draws its pictures and that MLflow runs.
        own = reached(f"stages.{stage}", trees, frozenset({"stages.entry"}))
        for place in places:
            assert any(within(module, [place]) for module in own), f"stage {stage} watches {place} and does not use it"
        for one, other in pairwise(sorted(places)):
            assert not within(other, [one]), f"stage {stage} watches {other} twice"
