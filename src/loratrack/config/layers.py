"""Settings in layers: a YAML file over its parents, `--set` over all; and how two layers merge."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import yaml

from loratrack.config.schema import LORA_ALIASES
from loratrack.config.yaml_text import fault_of, value_of
from loratrack.errors import ConfigError
from loratrack.places import PROJECT_FILE

Settings = dict[str, Any]

FROZEN_MARK = "# the frozen settings of one run, all parents merged in"
"""First line of a frozen copy: its parents are not read again, its paths start at the project's root."""

PROJECTS = "projects"
PATH_SETTINGS = {
    "data": ("raw_data_path", "validation_path", "test_path", "global_label_map"),
    "model": ("arch",),
}


@dataclass(frozen=True)
class Layer:
    """The settings of one file or of one override, and where they were said."""

    place: str
    settings: Settings


def layers(path: Path, overrides: Sequence[str] = ()) -> list[Layer]:
    """The oldest parent first, then the file at `path`, then each override."""
    return [*_parents_and(path), *(_override(part) for text in overrides for part in _parts(text))]


def merged(found: Sequence[Layer]) -> Settings:
    return reduce(merge, (layer.settings for layer in found), {})


def merge(parent: Settings, child: Settings) -> Settings:
    """Mappings merge, everything else is replaced."""
    result = dict(parent)
    for key, value in child.items():
        below = result.get(key)
        if isinstance(below, dict) and isinstance(value, dict):
            value = merge(below, value)
        result[key] = value
    return result


def project_root(start: Path) -> Path | None:
    """The nearest folder at or above `start` that holds our MLproject file."""
    for folder in (start, *start.parents):
        if (folder / PROJECT_FILE).is_file():
            return folder
    return None


def with_paths(settings: Settings, change: Callable[[str], str]) -> Settings:
    """The settings with `change` applied to each path of a file or folder."""
    result = dict(settings)
    for section, keys in PATH_SETTINGS.items():
        said = settings.get(section)
        if isinstance(said, dict):
            paths = {key: change(said[key]) for key in keys if _is_path(key, said.get(key))}
            result[section] = {**said, **paths}
    return result


def _is_path(key: str, value: object) -> bool:
    if not isinstance(value, str) or not value or "://" in value:
        return False
    return key != "arch" or value.startswith(("./", "../", "/"))  # other bases are names


def _parents_and(path: Path) -> list[Layer]:
    found: dict[Path, Layer] = {}
    file: Path | None = path
    while file is not None:
        text, place, file = _text(file), str(file), file.resolve()
        if file in found:
            raise ConfigError(f"{path}: base_config runs in a circle: {_circle([*found, file])}")
        is_frozen = text.startswith(FROZEN_MARK)
        settings = _named_once(_settings(text, place), place)
        folder = _home_of_frozen_paths(file) if is_frozen else file.parent
        found[file] = Layer(place, _with_absolute_paths(settings, folder))
        file = None if is_frozen else _parent(settings, file, place)
    return [*reversed(found.values())]


def _circle(files: list[Path]) -> str:
    ring = files[files.index(files[-1]) :]
    common = os.path.commonpath([file.parent for file in ring])
    return " -> ".join(os.path.relpath(file, common) for file in ring)


def _home_of_frozen_paths(file: Path) -> Path:
    return project_root(file.parent) or project_root(Path.cwd()) or Path.cwd()


def _with_absolute_paths(settings: Settings, folder: Path) -> Settings:
    return with_paths(settings, lambda path: os.path.normpath(folder / path))


def _parent(settings: Settings, file: Path, place: str) -> Path | None:
    name = settings.get("base_config")
    if name is None:
        return None
    if not isinstance(name, str):
        raise ConfigError(f"{place}: base_config must name one file, got {name!r}")
    projects = _projects_folder(file) or _projects_folder(Path.cwd() / "config.yaml")
    candidates = [file.parent / name, *([projects / name] if projects else [])]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    looked = ", ".join(str(candidate) for candidate in candidates)
    raise ConfigError(f"{place}: base_config must name a file, got {name!r}; looked at {looked}")


def _projects_folder(file: Path) -> Path | None:
    """The nearest `projects/` that `file` lies in, or that stands beside the MLproject above it."""
    for folder in file.parents:
        if folder.name == PROJECTS:
            return folder
        if (folder / PROJECT_FILE).is_file():
            return folder / PROJECTS
    return None


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"{file}: no such config file{_similar_files(file)}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{file}: must be UTF-8 text, got byte 0x{error.object[error.start]:02x} at {error.start};"
            " save it as UTF-8"
        ) from None
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from None


def _similar_files(file: Path) -> str:
    if not file.parent.is_dir():
        return f"; there is no folder {file.parent}"
    names = sorted(path.name for path in file.parent.glob("*.y*ml"))
    close = difflib.get_close_matches(file.name, names, n=1)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; {file.parent} holds {', '.join(names)}" if names else ""


def _settings(text: str, place: str) -> Settings:
    try:
        settings = value_of(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{place}: must be YAML: {fault_of(error)}") from None
    if settings is None:
        raise ConfigError(f"{place}: must hold settings, got an empty file")
    if not isinstance(settings, dict):
        kind = "a list" if isinstance(settings, list) else "one value"
        raise ConfigError(f"{place}: must hold settings (`key: value`), got {kind}")
    return settings


def _named_once(settings: Settings, place: str) -> Settings:
    """`r` and `rank` are one setting, so a child's `r` must replace a parent's `rank`."""
    model = settings.get("model")
    lora = model.get("lora") if isinstance(model, dict) else None
    if not isinstance(model, dict) or not isinstance(lora, dict):
        return settings
    renamed: Settings = {}
    for key, value in lora.items():
        name: Any = LORA_ALIASES.get(key, key)
        if name in renamed:
            raise ConfigError(f"{place}: model.lora says {name} twice, once as {key}; leave one of them")
        renamed[name] = value
    return {**settings, "model": {**model, "lora": renamed}}


def _parts(text: str) -> list[str]:
    """`a=1;b=2` in two; a `;` inside a quoted value stays."""
    quoted = r"""(?<=[=\[,{:\s])(?:"(?:\\.|[^"\\])*"|'(?:''|[^'])*')"""
    return [part.strip() for part in re.findall(rf"(?:{quoted}|[^;])+", text) if part.strip()]


def _override(text: str) -> Layer:
    key, equals, value = (part.strip() for part in text.partition("="))
    names = key.split(".")
    if not equals or not all(names):
        raise ConfigError(f"--set: must be key.path=value, got {text!r}; example: --set train.epochs=2")
    if names[0] == "base_config":
        raise ConfigError("--set base_config: parents are read before --set; name the parent in the file")
    try:
        settings: Any = value_of(value) if value else ""
    except yaml.YAMLError as error:
        raise ConfigError(
            f"--set {key}: must be a YAML value, got {value!r}: {fault_of(error)};"
            f" quotes keep it text: --set '{key}=\"…\"'"
        ) from None
    for name in reversed(names):
        settings = {name: settings}
    place = f"--set {text}"
    return Layer(place, _with_absolute_paths(_named_once(settings, place), Path.cwd()))
