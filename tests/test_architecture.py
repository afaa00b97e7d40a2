"""The floor plan: imports point down, and rooms on one floor do not know each other."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "loratrack"

FLOORS = {
    "cli": 5,
    "mlflow_plugin": 5,
    "conda_stand_in": 5,
    "training": 4,
    "sweep": 4,
    "serving": 4,
    "studio": 4,
    "data": 3,
    "model": 3,
    "tracking": 3,
    "scheduling": 3,
    "config": 2,
    "errors": 1,
    "places": 1,
    "__init__": 1,
}
NARROWER = {
    "conda_stand_in": {"errors", "places"},
    "mlflow_plugin": {"places", "tracking"},
    "training": {"config", "data", "model", "errors", "places"},
    "sweep": {"config", "errors", "places"},
    "serving": {"config", "data", "model", "errors", "places"},
    "studio": {"config", "tracking", "scheduling", "errors", "places"},
}
"""Rooms that may not import all that lies below them."""

KNOWS_MLFLOW = ("tracking/", "mlflow_plugin.py", "serving/pyfunc.py")
OPENS_WITHOUT_TORCH = ("config", "tracking", "scheduling", "studio")

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
    return named & set(FLOORS) | {name for name in named if (SOURCE / name).is_dir()}


def test_the_walk_finds_the_source() -> None:
    assert {"config", "errors", "tracking"} <= {room(module) for module in MODULES}
    assert "places" in rooms_imported(SOURCE / "mlflow_plugin.py")
    assert "tracking" in rooms_imported(SOURCE / "mlflow_plugin.py")  # inside a function


def test_every_room_has_a_floor() -> None:
    assert {room(module) for module in MODULES} <= set(FLOORS)


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_down(module: Path) -> None:
    here = room(module)
    below = {name for name, floor in FLOORS.items() if floor < FLOORS[here]}
    allowed = NARROWER.get(here, below) | {here}
    assert rooms_imported(module) <= allowed


def test_narrower_rooms_look_down_too() -> None:
    for here, allowed in NARROWER.items():
        assert all(FLOORS[name] < FLOORS[here] for name in allowed), here


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_mlflow_is_known_to_tracking_alone(module: Path) -> None:
    if any(name.split(".")[0] == "mlflow" for name in imports(module)):
        assert str(module.relative_to(SOURCE)).startswith(KNOWS_MLFLOW)


def test_light_rooms_open_without_torch() -> None:
    modules = [
        ".".join(["loratrack", *module.relative_to(SOURCE).with_suffix("").parts])
        for module in MODULES
        if room(module) in OPENS_WITHOUT_TORCH
    ]
    assert len(modules) > 3
    program = (
        f"import sys, {', '.join(modules)}; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
