"""The floor plan: imports point down, and rooms on one floor do not know each other."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "loratrack"

GROUND = {"errors", "places", "disk", "metrics"}
ROOMS: dict[str, tuple[int, set[str]]] = {
    "__init__": (8, {"api"}),
    "__main__": (8, {"cli"}),
    "cli": (7, set()),
    "api": (7, {"config", "experiments", "index", "registry", "serving", "store", "tuning", "views"}),
    "mlflow_plugin": (7, {"config", "store"}),
    "conda_stand_in": (7, set()),
    "experiments": (6, set()),
    "studio": (6, {"views", "index", "registry", "scheduling", "data", "config", "store"}),
    "views": (5, {"index", "registry", "tracking", "tuning", "scheduling", "config", "store", "checkpoints"}),
    "training": (4, {"config", "data", "model", "bases", "checkpoints"}),
    "serving": (4, {"config", "data", "model", "bases"}),
    "registry": (4, {"index", "store"}),
    "data": (3, {"config"}),
    "model": (3, {"config", "bases", "manifest"}),
    "tuning": (3, {"config"}),
    "tracking": (3, {"store", "manifest", "checkpoints"}),
    "index": (3, {"store"}),
    "scheduling": (3, {"config"}),
    "config": (2, set()),
    "bases": (2, set()),
    "store": (2, set()),
    "manifest": (2, set()),
    "checkpoints": (2, set()),
    "errors": (1, set()),
    "places": (1, set()),
    "disk": (1, set()),
    "metrics": (1, set()),
}
"""Each room's floor, and which rooms above the ground floor it may import."""

IMPORT_ALL_BELOW = {"cli", "experiments"}

KNOWS_MLFLOW = ("store/", "tracking/", "index/", "registry/", "mlflow_plugin.py", "serving/pyfunc.py")
OPENS_WITHOUT_TORCH = ("config", "store", "index", "registry", "views", "scheduling", "studio", "tracking")
OPENS_WITHOUT_MLFLOW = ("config", "index")

MODULES = sorted(SOURCE.rglob("*.py"))


def room(module: Path) -> str:
    return module.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(module: Path) -> Iterator[str]:
    """Dotted names, those inside functions and under TYPE_CHECKING too."""
    for node in ast.walk(ast.parse(module.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: imports are absolute"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms_imported(module: Path) -> set[str]:
    parts = [name.split(".") for name in imports(module)]
    named = {part[1] for part in parts if part[0] == "loratrack" and len(part) > 1}
    return named & set(ROOMS) | {name for name in named if (SOURCE / name).is_dir()}


def test_the_walk_finds_the_source() -> None:
    assert {"config", "errors", "tracking"} <= {room(module) for module in MODULES}
    assert "store" in rooms_imported(SOURCE / "mlflow_plugin.py")  # inside a function


def allowed(here: str) -> set[str]:
    floor, rooms = ROOMS[here]
    below = {name for name, (other, _) in ROOMS.items() if other < floor}
    return (below if here in IMPORT_ALL_BELOW else rooms | (GROUND if floor > 1 else set())) | {here}


def test_every_room_has_a_floor() -> None:
    assert {room(module) for module in MODULES} <= set(ROOMS)


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_down(module: Path) -> None:
    here = room(module)
    assert rooms_imported(module) <= allowed(here)


def test_the_table_points_down() -> None:
    for here, (floor, rooms) in ROOMS.items():
        assert all(ROOMS[name][0] < floor for name in rooms), here


def dotted(module: Path) -> str:
    return ".".join(["loratrack", *module.relative_to(SOURCE).with_suffix("").parts]).removesuffix(
        ".__init__"
    )


def modules_imported(module: Path, names: set[str]) -> set[str]:
    """`from loratrack.cli import screen` imports the module `screen`, not `loratrack.cli`."""
    found = set()
    for node in ast.walk(ast.parse(module.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom):
            parts = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= parts & names | ({node.module or ""} if parts - names else set())
    return found & names


def circle(graph: dict[str, set[str]]) -> list[str]:
    """The modules of one circle of imports; empty where there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_module_imports_itself_in_a_circle() -> None:
    """Imports inside functions count: a circle that is put off is still one."""
    names = {dotted(module) for module in MODULES} - {"loratrack"}  # the lazy door, which all is behind
    graph = {dotted(module): modules_imported(module, names) - {dotted(module)} for module in MODULES}
    assert circle(graph) == []


def test_a_circle_is_found() -> None:
    assert set(circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}})) == {"a", "b", "c"}


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_mlflow_is_known_to_few_rooms(module: Path) -> None:
    if any(name.split(".")[0] == "mlflow" for name in imports(module)):
        assert str(module.relative_to(SOURCE)).startswith(KNOWS_MLFLOW)


@pytest.mark.parametrize(
    ("rooms", "heavy"),
    [(OPENS_WITHOUT_TORCH, ("torch", "transformers")), (OPENS_WITHOUT_MLFLOW, ("mlflow", "torch", "optuna"))],
    ids=["without torch", "without mlflow"],
)
def test_light_rooms_open(rooms: tuple[str, ...], heavy: tuple[str, ...]) -> None:
    modules = [dotted(module) for module in MODULES if room(module) in rooms]
    assert len(modules) > 3
    program = f"import sys, {', '.join(modules)}; print([name for name in {heavy} if name in sys.modules])"
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "[]"
