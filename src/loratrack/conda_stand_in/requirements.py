"""What a conda.yaml asks for, and what of it the environment we are in lacks."""

from __future__ import annotations

import hashlib
import platform
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet

from loratrack.errors import UserError

CONDA_ONLY = re.compile(r"^(?:[\w-]+::)?(?P<name>[\w.-]+)\s*(?P<version>[^\[]*)$")
COMES_WITH_PYTHON = ("pip", "setuptools", "wheel")


@dataclass(frozen=True)
class Wanted:
    """`pip` is a requirements file in `folder`, line by line; `lines` has the files named in it by -r too."""

    folder: Path
    python: SpecifierSet
    pip: tuple[str, ...]
    lines: tuple[str, ...]

    def faults(self) -> list[str]:
        """What the environment we are in lacks, a line each."""
        version = platform.python_version()
        python = [] if self.python.contains(version) else [f"python{self.python}: this is {version}"]
        each = (_fault(line, self.folder) for line in self.lines)
        return [*python, *(fault for fault in each if fault)]

    def digest(self) -> str:
        """Different for another folder only where a line names a path in it."""
        local = str(self.folder) if any(_is_local(line) for line in self.lines) else ""
        text = "\n".join([platform.python_version(), str(self.python), local, *self.lines])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def read(file: Path) -> Wanted:
    """The wishes of `file`; UserError for one that only conda itself could fulfil."""
    python, pip = SpecifierSet(), []
    for wish in _dependencies(file):
        if isinstance(wish, dict) and list(wish) == ["pip"]:
            pip += [str(line) for line in wish["pip"]]
            continue
        named = CONDA_ONLY.match(str(wish))
        if named and named["name"] == "python":
            python = _python(named["version"], file)
        elif not named or named["name"] not in COMES_WITH_PYTHON:
            raise UserError(
                f"{file}: only python, pip, setuptools, wheel and a list of pip: packages can be had"
                f" without conda, got {wish!r}; install conda, or ask for it under pip:"
            )
    lines = tuple(inner for line in pip for inner in _expanded(line, file.parent))
    return Wanted(file.parent.absolute(), python, tuple(pip), lines)


def _dependencies(file: Path) -> list[Any]:
    try:
        content = yaml.safe_load(file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{file}: cannot be read as YAML: {error}") from None
    wishes = content.get("dependencies") if isinstance(content, dict) else None
    if not isinstance(wishes, list):
        raise UserError(f"{file}: dependencies must be a list, got {wishes!r}")
    return wishes


def _python(version: str, file: Path) -> SpecifierSet:
    """conda's `=3.11` means any 3.11, its `=3.11.7=build` names a build."""
    exact = re.fullmatch(r"=\s*([\d.]+)(=\w+)?", version.strip())
    try:
        return SpecifierSet(f"=={exact[1]}.*" if exact else version.strip())
    except InvalidSpecifier:
        raise UserError(f"{file}: no python version can be read from {version!r}") from None


def _expanded(line: str, folder: Path) -> Iterator[str]:
    line = re.sub(r"(^|\s)#.*$", "", line).strip()
    other = re.fullmatch(r"(?:-r|--requirement)[\s=]+(.+)", line)
    if other:
        file = folder / other[1]
        try:
            text = file.read_text("utf-8")
        except OSError as error:
            raise UserError(f"{file}: cannot be read: {error.strerror}") from None
        for inner in text.splitlines():
            yield from _expanded(inner, file.parent)
    elif line:
        yield line


def _fault(line: str, folder: Path) -> str | None:
    if _is_local(line):
        return _missing(_project_name(folder / line.removeprefix("-e").strip()))
    if line.startswith("-"):  # an option of pip's, such as --find-links
        return None
    try:
        wish = Requirement(line)
    except InvalidRequirement as error:
        raise UserError(f"not a requirement that pip would take: {line!r}: {error}") from None
    if wish.marker is not None and not wish.marker.evaluate():
        return None
    missing = _missing(wish.name)
    if missing or wish.specifier.contains(metadata.version(wish.name), prereleases=True):
        return missing
    return f"{line}: {metadata.version(wish.name)} is installed"


def _is_local(line: str) -> bool:
    return line.startswith(("-e ", ".", "/"))


def _missing(name: str) -> str | None:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return f"{name}: not installed"
    return None


def _project_name(folder: Path) -> str:
    file = folder / "pyproject.toml"
    try:
        return str(tomllib.loads(file.read_text("utf-8"))["project"]["name"])
    except (OSError, tomllib.TOMLDecodeError, KeyError) as error:
        raise UserError(f"{file}: must say the project's name: {error!r}") from None
