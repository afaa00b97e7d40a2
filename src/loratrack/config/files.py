"""From a YAML file to a typed config, and back.

config = load("projects/clinc/dual.yaml", ["train.epochs=2"])
save(config, folder / "config_copy.yaml")      # load() of that file gives the same config
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import yaml
from pydantic import BaseModel, ValidationError

from loratrack.config.layers import (
    FROZEN_MARK,
    Layer,
    Settings,
    merged,
    project_root,
    read_layers,
    with_paths,
)
from loratrack.config.problems import problems_of
from loratrack.config.schema import RunConfig
from loratrack.disk import write_text
from loratrack.errors import ConfigError, problems_message


def load(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """The config at `path`, merged with its parents and with `key.path=value` overrides.

    An override may hold several, separated by `;`. One ConfigError reports all problems.
    """
    layers = read_layers(Path(path), overrides)
    return parse(merged(layers), source=str(path), layers=layers)


def parse(settings: Settings, source: str, layers: Sequence[Layer] = ()) -> RunConfig:
    """Settings as a typed config; one ConfigError reports all problems of `source`."""
    try:
        return RunConfig.model_validate(settings)
    except ValidationError as error:
        problems = problems_of(settings, error, source, layers)
        raise ConfigError(problems_message(source, problems, "invalid setting")) from None


def plain(config: BaseModel) -> Settings:
    """The config as plain lists, mappings and scalars, under the names used in files."""
    settings: Settings = json.loads(config.model_dump_json(by_alias=True))
    return settings


WHOLE = ("train.class_weight",)
"""Mappings whose keys are labels, which may hold anything; the name of a parameter may not."""


def flat(settings: Settings, prefix: str = "") -> Settings:
    """`{"model": {"lora": {"rank": 8}}}` as `{"model.lora.rank": 8}`; lists stay whole."""
    result: Settings = {}
    for key, value in settings.items():
        if isinstance(value, dict) and value and f"{prefix}{key}" not in WHOLE:
            result.update(flat(value, f"{prefix}{key}."))
        else:
            result[f"{prefix}{key}"] = value
    return result


def sha256(config: RunConfig) -> str:
    """The same for the same settings on any machine, wherever its files lie.

    `project`, `baseline` and `train.checkpoint_minutes` have no part in it.
    """
    settings = portable(plain(config))
    del settings["project"], settings["baseline"]  # where a run is filed and what it is compared with
    del settings["train"]["checkpoint_minutes"]  # what is saved on the way changes no result
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def portable(settings: Settings) -> Settings:
    """The settings with each path written from its project's root on."""
    return with_paths(settings, lambda path: _below(project_root(Path(path).parent), path))


def dump(config: RunConfig) -> str:
    """YAML that `load` reads back to the same config, here or where the project has moved."""
    root = project_root(Path.cwd())
    settings = with_paths(plain(config), lambda path: _below(root, path))
    text: str = yaml.dump(settings, Dumper=ExactDumper, allow_unicode=True, sort_keys=False)
    return f"{FROZEN_MARK}\n{text}"


def save(config: RunConfig, file: Path) -> None:
    """Write the frozen copy: read-only, and enough by itself to give the run again."""
    write_text(file, dump(config), mode=0o444)


class ExactDumper(yaml.SafeDumper):
    """Double quotes for text with Unicode's line breaks, which PyYAML else reads back as spaces."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        style = '"' if set(data) & set("\x85\u2028\u2029") else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


ExactDumper.add_representer(str, ExactDumper.represent_str)


def _below(root: Path | None, path: str) -> str:
    """`path` from the project's root on, where it lies below it."""
    if root is None or not Path(path).is_relative_to(root):
        return path
    return f"./{Path(path).relative_to(root).as_posix()}"
