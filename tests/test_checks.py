"""Hooks of git, checks of the machine and Makefile name the same things; so do the lists of packages."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))


def test_hooks_run_what_the_makefile_has() -> None:
    content = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text("utf-8"))
    (local,) = content["repos"]
    assert local["repo"] == "local"  # nothing is fetched
    entries = {hook["entry"]: hook["stages"] for hook in local["hooks"]}
    assert entries == {"make lint": ["pre-commit"], "make test": ["pre-push"]}
    assert {entry.removeprefix("make ") for entry in entries} <= TARGETS
    assert all(hook["language"] == "system" and not hook["pass_filenames"] for hook in local["hooks"])


def test_the_machine_runs_what_the_makefile_has() -> None:
    asked = re.findall(r"^make ([a-z-]+)$", (ROOT / ".ci" / "run").read_text("utf-8"), re.MULTILINE)
    assert asked == ["setup", "lint", "test", "test-slow"]
    assert set(asked) <= TARGETS


def test_the_lower_bounds_are_the_versions_that_are_tested() -> None:
    lines = (ROOT / "requirements.txt").read_text("utf-8").splitlines()[1:]
    locked = {canonicalize_name(each.name): each.specifier for each in map(Requirement, lines)}
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["dependencies"]
    for dependency in map(Requirement, dependencies):
        bound = str(dependency.specifier).replace(">=", "==")
        assert bound == str(locked[canonicalize_name(dependency.name)]), dependency
