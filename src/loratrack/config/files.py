"""From a YAML file to a typed config: parents first, then the file, then `--set`; and back.

config = load("projects/clinc/dual.yaml", ["train.epochs=2"])
save(config, folder / "config_copy.yaml")      # load() of that file gives the same config
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from loratrack.config.schema import RunConfig
from loratrack.errors import ConfigError, faults_message

Settings = dict[str, Any]

PATH_SETTINGS = ("raw_data_path", "validation_path", "test_path", "global_label_map")
PROJECTS = "projects"
OTHER_NAMES = {"r": "rank", "lora_alpha": "alpha", "lora_dropout": "dropout"}


class _TextLoader(yaml.SafeLoader):
    """Scalars stay text, null apart: the schema's types decide what they mean."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = sorted({str(key) for key in keys if keys.count(key) > 1})
        if twice:
            line = node.start_mark.line + 1
            raise ConfigError(f"the mapping at line {line} has the same key twice: {twice}")
        return super().construct_mapping(node, deep=deep)


_TextLoader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern)
        for tag, pattern in resolvers
        if tag in ("tag:yaml.org,2002:null", "tag:yaml.org,2002:merge")
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def load(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """The config at `path`, merged with its parents and with `key.path=value` overrides."""
    file = Path(path)
    settings = merged(file)
    for override in overrides:
        settings = merge(settings, _override(override))
    return parse(settings, place=str(path))


def parse(settings: Settings, place: str) -> RunConfig:
    """Settings as a typed config; ConfigError tells all faults of `place` at once."""
    try:
        return RunConfig.model_validate(settings)
    except ValidationError as error:
        faults = [_fault(settings, detail) for detail in _outermost(error.errors())]
        raise ConfigError(faults_message(place, "setting(s)", faults)) from None


def merged(file: Path, children: tuple[Path, ...] = ()) -> Settings:
    """The settings of `file` over those of its parents; paths made absolute."""
    file = file.resolve()
    if file in children:
        cycle = " -> ".join(path.name for path in (*children[children.index(file) :], file))
        raise ConfigError(f"{file}: base_config runs in a circle: {cycle}")
    settings = _absolute_paths(read_yaml(file), file)
    parent = settings.get("base_config")
    if parent is None or _is_whole(file):
        return settings
    if not isinstance(parent, str):
        raise ConfigError(f"{file}: base_config must name one file, got {parent!r}")
    return merge(merged(_find_parent(parent, file), (*children, file)), settings)


def merge(parent: Settings, child: Settings) -> Settings:
    """Mappings merge, everything else is replaced. Names of the same setting are made one first."""
    parent, child = _one_name_each(parent), _one_name_each(child)
    result = dict(parent)
    for key, value in child.items():
        below = result.get(key)
        both_map = isinstance(below, dict) and isinstance(value, dict)
        result[key] = merge(below, value) if both_map else value  # type: ignore[arg-type]
    return result


def read_yaml(file: Path) -> Settings:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        near = _similar_files(file)
        raise ConfigError(f"{file}: no such config file{near}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read as a UTF-8 text file: {error}") from None
    try:
        settings = yaml.load(text, Loader=_TextLoader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{file}: not YAML: {error}") from None
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from None
    if not isinstance(settings, dict):
        raise ConfigError(f"{file}: must hold a mapping of settings, got {type(settings).__name__}")
    return settings


def plain(config: BaseModel) -> Settings:
    """The config as plain lists, mappings and scalars, under the names used in files."""
    settings: Settings = json.loads(config.model_dump_json())
    if isinstance(config, RunConfig):
        settings["register"] = settings.pop("register_as")
    return settings


def flat(settings: Settings, prefix: str = "") -> dict[str, Any]:
    """`{"model": {"lora": {"rank": 8}}}` as `{"model.lora.rank": 8}`; lists stay whole."""
    result: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            result.update(flat(value, f"{prefix}{key}."))
        else:
            result[f"{prefix}{key}"] = value
    return result


def sha256(config: RunConfig) -> str:
    """The same for the same settings on any machine, wherever the project lies."""
    return hashlib.sha256(json.dumps(_portable(plain(config)), sort_keys=True).encode()).hexdigest()


def dump(config: RunConfig) -> str:
    """YAML that `load` reads back to the same config; paths relative to the project's root."""
    text: str = yaml.safe_dump(_portable(plain(config)), allow_unicode=True, sort_keys=False)
    return text


def save(config: RunConfig, file: Path) -> None:
    """Write the frozen copy: read-only, and enough by itself to give the run again."""
    draft = file.with_name(f"{file.name}.{os.getpid()}.draft")
    draft.write_text(f"{FROZEN_MARK}\n{dump(config)}", encoding="utf-8")
    draft.chmod(0o444)
    draft.rename(file)


FROZEN_MARK = "# the frozen settings of one run, all parents merged in"


def project_root(start: Path) -> Path | None:
    """The nearest folder at or above `start` that holds our MLproject file."""
    for folder in (start, *start.parents):
        if (folder / "MLproject").is_file():
            return folder
    return None


def _is_whole(file: Path) -> bool:
    with file.open(encoding="utf-8-sig") as lines:
        return lines.readline().rstrip() == FROZEN_MARK


def _portable(settings: Settings) -> Settings:
    root = project_root(Path.cwd())
    data = dict(settings["data"])
    for key in PATH_SETTINGS:
        path = data.get(key)
        if path is not None and root is not None and Path(path).is_relative_to(root):
            data[key] = Path(path).relative_to(root).as_posix()
    return {**settings, "data": data}


def _absolute_paths(settings: Settings, file: Path) -> Settings:
    data = settings.get("data")
    if not isinstance(data, dict):
        return settings
    found = {
        key: _resolved(value, file) if key in PATH_SETTINGS and isinstance(value, str) else value
        for key, value in data.items()
    }
    return {**settings, "data": found}


def _resolved(path: str, file: Path) -> str:
    """Beside the file that says it; a frozen copy's paths start at the project's root."""
    if "://" in path:
        return path
    beside = Path(os.path.normpath(file.parent / path))
    root = project_root(Path.cwd()) or project_root(file.parent)
    if not beside.exists() and root is not None and (root / path).exists():
        return os.path.normpath(root / path)
    return str(beside)


def _find_parent(name: str, file: Path) -> Path:
    projects = _projects_folder(file) or _projects_folder(Path.cwd() / "config.yaml")
    places = [file.parent / name, *([projects / name] if projects else [])]
    for place in places:
        if place.is_file():
            return place
    looked = ", ".join(str(place) for place in places)
    raise ConfigError(f"{file}: base_config names no file, got {name!r}; looked at {looked}")


def _projects_folder(file: Path) -> Path | None:
    """The nearest `projects/` that `file` lies in, or that stands beside the MLproject above it."""
    for folder in file.parents:
        if folder.name == PROJECTS:
            return folder
        if (folder / "MLproject").is_file():
            return folder / PROJECTS
    return None


def _override(text: str) -> Settings:
    key, equals, value = text.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(f"--set: must be key.path=value, got {text!r}; example: --set train.epochs=2")
    try:
        settings: Any = yaml.load(value, Loader=_TextLoader) if value.strip() else ""
    except (yaml.YAMLError, ConfigError) as error:
        raise ConfigError(f"--set {key}: the value is not YAML, got {value!r}: {error}") from None
    if parts[0] == "data" and parts[-1] in PATH_SETTINGS and isinstance(settings, str):
        settings = _resolved(settings, Path.cwd() / "command line")
    for part in reversed(parts):
        settings = {part: settings}
    return settings  # type: ignore[no-any-return]


def _similar_files(file: Path) -> str:
    folder = file.parent if file.parent.is_dir() else Path.cwd()
    names = sorted(path.name for path in folder.glob("*.yaml"))
    close = difflib.get_close_matches(file.name, names, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; {folder} holds {', '.join(names)}" if names else ""


def _one_name_each(settings: Settings) -> Settings:
    """`r` and `rank` are one setting, so a child's `r` must replace a parent's `rank`."""
    return {OTHER_NAMES.get(key, key): value for key, value in settings.items()}


def _outermost(errors: Iterable[Any]) -> Iterator[Any]:
    """One fault for each setting: the branches of a union each complain of the same value."""
    told: set[tuple[Any, ...]] = set()
    for error in errors:
        place = tuple(part for part in error["loc"] if not _is_branch(part))
        if place not in told:
            told.add(place)
            yield {**error, "loc": place}


def _is_branch(part: object) -> bool:
    if not isinstance(part, str):
        return False
    return part in ("str", "bool") or "[" in part


def _fault(settings: Settings, detail: Any) -> str:
    place = ".".join(str(part) for part in detail["loc"])
    message = str(detail["msg"]).removeprefix("Value error, ")
    if detail["type"] == "extra_forbidden":
        return f"{place}: no such setting{_did_you_mean(detail['loc'])}"
    if detail["type"] == "missing":
        return f"{place}: must be given"
    message = message[:1].lower() + message[1:]
    if not place:
        return message
    return f"{place}: {message}" + ("" if detail["type"] == "value_error" else f", got {detail['input']!r}")


def _did_you_mean(place: tuple[Any, ...]) -> str:
    names = _setting_names(RunConfig)
    full = ".".join(str(part) for part in place)
    by_last = {name.rsplit(".", 1)[-1]: name for name in names}
    close = difflib.get_close_matches(full, names, n=1, cutoff=0.8)
    if close:
        return f"; did you mean {close[0]}?"
    close = difflib.get_close_matches(str(place[-1]), list(by_last), n=1, cutoff=0.7)
    return f"; did you mean {by_last[close[0]]}?" if close else ""


def _setting_names(model: type[BaseModel], prefix: str = "") -> list[str]:
    names: list[str] = []
    for name, field in model.model_fields.items():
        shown = field.alias if name == "register_as" and field.alias else name
        names.append(prefix + shown)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            names += _setting_names(field.annotation, f"{prefix}{name}.")
    return names
