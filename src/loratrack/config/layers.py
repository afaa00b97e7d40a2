"""Settings in layers: a YAML file over its parents, `--set` over all; and how two layers merge."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import yaml

from loratrack.config.fields import path_problem
from loratrack.config.model import LORA_ALIASES
from loratrack.config.yaml_text import MAX_DEPTH, problem_of, value_of, wrong_colon
from loratrack.errors import ConfigError, closest, did_you_mean
from loratrack.places import PROJECT_FILE

Settings = dict[str, Any]

FROZEN_MARK = "# the frozen settings of one run, all parents merged in"
"""First line of a frozen copy: its parents are not read again, its paths start at the project's root."""

MAX_FILE_BYTES = 10_000_000
PROJECTS = "projects"
CONDA_FILE = "conda.yaml"
DATA_FILES = (".csv", ".tsv", ".jsonl", ".xlsx", ".xls", ".parquet")
SPACE = ("sweep", "space")
SPACE_KINDS = {"choice", "log", "uniform", "int", "of", "simplex"}
SPACE_PARTS = {*SPACE_KINDS, "times", "when"}
PATH_SETTINGS = {
    "data": ("raw_data_path", "validation_path", "test_path", "global_label_map"),
    "model": ("arch",),
}


@dataclass(frozen=True)
class Layer:
    """The settings of one file or of one override, and which one that is."""

    source: str
    settings: Settings

    def holds(self, path: Sequence[object]) -> bool:
        """Whether this layer says what stands at this path of keys, or at a beginning of it."""
        value: object = self.settings
        for key in path:
            if not isinstance(value, dict):
                return True
            if key not in value:
                return False
            value = value[key]
        return True


def read_layers(path: Path, overrides: Sequence[str] = ()) -> list[Layer]:
    """The oldest parent first, then the file at `path`, then each override."""
    files: dict[Path, Layer] = {}
    next_file: Path | None = path
    while next_file is not None:
        source, text = str(next_file), _text(next_file)  # messages name the file as the user wrote it
        file = next_file.resolve()
        if file in files:
            ring = [*files, file]
            ring = ring[ring.index(file) :]
            common = os.path.commonpath([one.parent for one in ring])
            circle = " -> ".join(os.path.relpath(one, common) for one in ring)
            raise ConfigError(f"{path}: circular base_config: {circle}")
        try:
            settings = value_of(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"{source}: must be YAML: {problem_of(error, text)}") from None
        if settings is None:
            raise ConfigError(f"{source}: must hold settings, got an empty file")
        if not isinstance(settings, dict):
            if problem := wrong_colon(text.split("\n")):
                raise ConfigError(f"{source}: must be YAML: {problem}")
            kind = "a list" if isinstance(settings, list) else "one value"
            raise ConfigError(f"{source}: must hold settings (`key: value`), got {kind}")
        if text.startswith(FROZEN_MARK):
            # It lies among a run's artifacts, so its paths cannot start at its own folder.
            folder = project_root(file.parent) or project_root(Path.cwd()) or Path.cwd()
            next_file = None
        else:
            folder = file.parent
            next_file = _parent_file(settings.get("base_config"), file, source)
        files[file] = Layer(source, _one_name_and_whole_paths(settings, folder, source))
    return [*reversed(files.values()), *map(_override, separated(overrides))]


def separated(overrides: Sequence[str]) -> list[str]:
    """`a=1;b=2` are two overrides; a `;` inside a quoted value stays."""
    quoted = r"""(?<=[=\[,{:\s])(?:"(?:\\.|[^"\\])*"|'(?:''|[^'])*')"""
    parts = [part.strip() for text in overrides for part in re.findall(rf"(?:{quoted}|[^;])+", text)]
    return [part for part in parts if part]


def merged(layers: Sequence[Layer]) -> Settings:
    return reduce(merge, (layer.settings for layer in layers), {})


def merge(parent: Settings, child: Settings, path: tuple[object, ...] = ()) -> Settings:
    """Mappings merge, everything else is replaced; so is a space, by one that says of which kind it is."""
    result = dict(parent)
    for key, value in child.items():
        below = result.get(key)
        if isinstance(below, dict) and isinstance(value, dict):
            is_new_space = path == SPACE and not SPACE_KINDS.isdisjoint(value)
            value = value if is_new_space else merge(below, value, (*path, key))
        result[key] = value
    return result


def project_name(file: Path) -> str:
    """The folder below projects/ that the config lies in, else the folder itself."""
    folders = file.resolve().parent.parts
    if "projects" in folders[:-1]:
        return folders[len(folders) - 1 - folders[::-1].index("projects") + 1]
    return folders[-1]


def experiment_name(file: Path, overrides: Sequence[str] = ()) -> str:
    """MLflow's experiment of the config's runs, without a look at its other settings."""
    settings = merged(read_layers(file, overrides))
    return str(settings.get("experiment") or settings.get("project") or project_name(file))


def project_root(start: Path) -> Path | None:
    """The nearest folder at or above `start` that holds our MLproject file."""
    for folder in (start, *start.parents):
        if (folder / PROJECT_FILE).is_file():
            return folder
    return None


def with_paths(settings: Settings, change: Callable[[str], str]) -> Settings:
    """The settings with `change` applied to each path of a file or folder; URLs are none."""
    result = dict(settings)
    for section, keys in PATH_SETTINGS.items():
        values = settings.get(section)
        if not isinstance(values, dict):
            continue
        result[section] = dict(values)
        for key in keys:
            value = values.get(key)
            if not isinstance(value, str) or not value or "://" in value:
                continue
            if key != "arch" or value.startswith(("./", "../", "/")):  # other bases are names
                result[section][key] = change(value)
    return result


def _text(file: Path) -> str:
    try:
        status = file.stat()
        if stat.S_ISREG(status.st_mode) and status.st_size > MAX_FILE_BYTES:
            raise ConfigError(
                f"{file}: must be a config of at most {MAX_FILE_BYTES:,} bytes, got {status.st_size:,}"
            )
        if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):  # it may never end
            raise ConfigError(f"{file}: must be a regular file, got a pipe or a device")
        if file.suffix.lower() in DATA_FILES:
            raise ConfigError(f"{file}: is data, not a config; write a config for it: loratrack init {file}")
        return file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        if not file.parent.is_dir():
            raise ConfigError(f"{file}: no such config file; there is no folder {file.parent}") from None
        names = sorted(path.name for path in file.parent.glob("*.y*ml") if path.name != CONDA_FILE)
        listed = f"; its folder has {', '.join(names)}" if names else ""
        raise ConfigError(f"{file}: no such config file{did_you_mean(file.name, names) or listed}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{file}: must be UTF-8 text, got byte 0x{error.object[error.start]:02x} at {error.start};"
            " save it as UTF-8"
        ) from None
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from None
    except ValueError as error:  # a NUL byte in its name
        raise ConfigError(f"{str(file)!r}: cannot be read: {error}") from None


def _parent_file(name: object, child: Path, source: str) -> Path | None:
    """The file that `base_config: NAME` means: beside the child, else below `projects/`."""
    if name is None:
        return None
    if not isinstance(name, str):
        raise ConfigError(f"{source}: base_config must name one file, got {name!r}")
    if problem := path_problem(name):
        raise ConfigError(f"{source}: base_config {problem}")
    candidates, others = [child.parent / name], {path.stem: path.name for path in child.parent.glob("*.y*ml")}
    # The nearest `projects/` that the child lies in, or that stands beside the MLproject above it;
    # for a file outside of any project, the one of the current folder.
    for folder in (*child.parents, Path.cwd(), *Path.cwd().parents):
        if folder.name == PROJECTS or (folder / PROJECT_FILE).is_file():
            projects = folder if folder.name == PROJECTS else folder / PROJECTS
            candidates.append(projects / name)
            others |= {path.stem: f"{path.parent.name}/{path.name}" for path in projects.glob("*/*.y*ml")}
            break
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    looked = ", ".join(str(candidate) for candidate in candidates)
    near = closest(Path(name).stem, others, cutoff=0.8)
    hint = "" if near is None else f"; did you mean {others[near]!r}?"
    raise ConfigError(f"{source}: base_config must name a file, got {name!r}{hint}; looked at {looked}")


def _override(text: str) -> Layer:
    key, equals, value = (part.strip() for part in text.partition("="))
    names = key.split(".")
    if tuple(names[:2]) == SPACE and len(names) > 2:  # what is varied has dots in its name
        parts = [names.pop()] if names[-1] in SPACE_PARTS and len(names) > 3 else []
        names = [*SPACE, ".".join(names[2:]), *parts]
    if len(names) > MAX_DEPTH:
        raise ConfigError(f"--set: must be a key of at most {MAX_DEPTH} parts, got {len(names)}")
    if not equals or not all(names):
        raise ConfigError(f"--set: must be key.path=value, got {text!r}; example: --set train.epochs=2")
    if names[0] == "base_config":
        raise ConfigError("--set base_config: parents are read before --set; name the parent in the file")
    try:
        settings: Any = value_of(value) if value else ""
    except yaml.YAMLError as error:
        raise ConfigError(
            f"--set {key}: must be a YAML value, got {value!r}: {problem_of(error)};"
            f" quotes keep it text: --set '{key}=\"…\"'"
        ) from None
    for name in reversed(names):
        settings = {name: settings}
    source = f"--set {text}"
    return Layer(source, _one_name_and_whole_paths(settings, Path.cwd(), source))


def _one_name_and_whole_paths(settings: Settings, folder: Path, source: str) -> Settings:
    """Paths become absolute, from `folder` on. `r` and `rank` are one setting: a child's `r` must replace a
    parent's `rank`."""
    settings = with_paths(settings, lambda path: os.path.normpath(folder / path))
    model = settings.get("model")
    lora = model.get("lora") if isinstance(model, dict) else None
    if not isinstance(lora, dict):
        return settings
    renamed: Settings = {}
    for key, value in lora.items():
        name = LORA_ALIASES.get(key) or key
        if name in renamed:
            raise ConfigError(f"{source}: model.lora says {name} twice, once as {key}; leave one of them")
        renamed[name] = value
    return {**settings, "model": {**settings["model"], "lora": renamed}}
