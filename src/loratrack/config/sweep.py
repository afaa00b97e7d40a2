"""The settings of a sweep: a run's own settings, and what is varied, how, and how long."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)

from loratrack.config.fields import Factor, NotEmpty, Section, Size
from loratrack.config.files import plain
from loratrack.config.layers import Settings, merged, read_layers, with_paths
from loratrack.config.model import LORA_ALIASES
from loratrack.config.problems import problems_of
from loratrack.config.schema import RunConfig
from loratrack.errors import ConfigError, problems_message

KINDS = (
    "{choice: [a, b]}, {log: [low, high]}, {uniform: [low, high]}, {int: [low, high]},"
    " {of: another.setting, times: [1, 2]} or simplex"
)
MAX_NAME_CHARACTERS = 180
"""A trial adds its number to the name of the sweep."""


def _low_below_high(ends: tuple[float, float]) -> tuple[float, float]:
    low, high = ends
    if low >= high:
        raise ValueError(f"the low end must be below the high end, got [{low:g}, {high:g}]")
    return ends


Range = Annotated[tuple[float, float], AfterValidator(_low_below_high)]


class Varied(Section):
    """What all kinds of spaces share."""

    when: dict[NotEmpty, object] = Field(default_factory=dict)
    """Settings and the value, or list of values, with which this one applies."""


class Choice(Varied):
    choice: tuple[object, ...]

    @field_validator("choice")
    @classmethod
    def _different(cls, values: tuple[object, ...]) -> tuple[object, ...]:
        if not values:
            raise ValueError("must list at least one value, got []")
        repeated = sorted({str(value) for value in values if values.count(value) > 1})
        if repeated:
            raise ValueError(f"listed more than once: {', '.join(repeated)}")
        return values


class Log(Varied):
    log: Range

    @field_validator("log")
    @classmethod
    def _above_zero(cls, ends: tuple[float, float]) -> tuple[float, float]:
        if ends[0] <= 0:
            raise ValueError(f"a log scale has no {ends[0]:g}; the low end must be above 0")
        return ends


class Uniform(Varied):
    uniform: Range


class Int(Varied):
    int: Range

    @field_validator("int")
    @classmethod
    def _whole(cls, ends: tuple[float, float]) -> tuple[float, float]:
        # in this class `int` is the field, so the built-in one has to be avoided
        if any(not end.is_integer() for end in ends):
            raise ValueError(f"both ends must be whole numbers, got [{ends[0]:g}, {ends[1]:g}]")
        return ends


class Times(Varied):
    """A multiple of another setting, as alpha is of the rank."""

    of: NotEmpty
    times: Factor | Annotated[tuple[Factor, ...], Field(min_length=1)]


class Simplex(Varied):
    """One weight for each task: none below 0, and together 1."""

    simplex: Literal["tasks"] = "tasks"


def _kind(value: object) -> str | None:
    """The branch of Space that a value of the file belongs to; None when that is not clear."""
    if isinstance(value, Varied):
        return f"<{type(value).__name__}>"
    keys = value if isinstance(value, dict) else {}
    kinds = [name for name in ("choice", "log", "uniform", "int", "times", "simplex") if name in keys]
    if len(kinds) != 1 and "of" in keys:
        return "<Times>"
    return f"<{kinds[0].capitalize()}>" if len(kinds) == 1 else None


Space = Annotated[
    Annotated[Choice, Tag("<Choice>")]
    | Annotated[Log, Tag("<Log>")]
    | Annotated[Uniform, Tag("<Uniform>")]
    | Annotated[Int, Tag("<Int>")]
    | Annotated[Times, Tag("<Times>")]
    | Annotated[Simplex, Tag("<Simplex>")],
    Discriminator(_kind, custom_error_type="shape", custom_error_message=f"must be one of {KINDS}"),
]


Direction = Literal["maximize", "minimize"]


class Sweep(Section):
    name: str
    trials: Size | None = None
    """Trials in all, over all processes and continuations; null: no limit but `max_hours`."""
    max_hours: Factor | None = None
    """After this time a process starts no more trials; those in training go on to their end."""
    metric: NotEmpty | tuple[NotEmpty, ...] = "avg_f1"
    """Of the validation set, at the epoch that the trial keeps. Several: several objectives."""
    direction: Direction | tuple[Direction, ...] | None = None
    """null: scores are maximized, losses and counts minimized."""
    sampler: Literal["tpe", "random", "grid", "nsga2", "cmaes"] = "tpe"
    pruner: Literal["auto", "hyperband", "asha", "median", "none"] = "auto"
    """`auto`: hyperband, and none with several objectives, which Optuna cannot prune by."""
    min_epochs: Size = 1
    """No trial is pruned before it has trained this many epochs."""
    parallel: Literal["auto"] | Annotated[int, Field(gt=0, le=1024)] = "auto"
    """Trials that train at once on one base; `auto` measures the speed, within the memory that is free."""
    keep: Literal["all", "finished", "best"] = "finished"
    """Which trials keep weights: `all`; `finished` (not pruned); `best` (best so far when they ended)."""
    register_best: bool = Field(True, alias="register")
    """Make the best trial a version of the registered model that `register` of the config names, if any."""
    retrain_best: Annotated[int, Field(ge=0, le=1024)] = 0
    """Retrain the best trial with this many other seeds: the best of many is partly luck."""
    storage: NotEmpty | None = None
    """Where Optuna keeps the study; null: optuna.db beside the runs. Any URL of SQLAlchemy."""
    heartbeat_seconds: Annotated[int, Field(gt=0, le=86_400)] = 20
    """A process that misses three heartbeats counts as dead, and its trials are started again."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 42
    space: Annotated[dict[NotEmpty, Space], Field(min_length=1)]

    @property
    def metrics(self) -> tuple[str, ...]:
        return (self.metric,) if isinstance(self.metric, str) else self.metric

    @field_validator("name")
    @classmethod
    def _name_leaves_room_for_a_number(cls, name: str) -> str:
        if not re.fullmatch(rf"\w[\w-]{{0,{MAX_NAME_CHARACTERS - 1}}}", name):
            raise ValueError(
                f"must be at most {MAX_NAME_CHARACTERS} letters, digits, `_` and `-`,"
                f" the first no `-`, got {name!r}"
            )
        return name

    @field_validator("space", mode="before")
    @classmethod
    def _one_spelling(cls, space: object) -> object:
        """`simplex` alone becomes a mapping; `model.lora.r` and `model.lora.rank` become one setting."""
        if not isinstance(space, dict):
            return space
        spelled: dict[str, object] = {}
        for key, value in space.items():
            section, dot, last = str(key).rpartition(".")
            name = f"{section}{dot}{LORA_ALIASES.get(last, last)}" if section == "model.lora" else str(key)
            spelled[name] = {"simplex": "tasks"} if value == "simplex" else value
        return spelled

    @model_validator(mode="after")
    def _fits_together(self) -> Sweep:
        if self.trials is None and self.max_hours is None and self.sampler != "grid":
            raise ValueError("must end: give trials, max_hours or both")
        return self


class SweepConfig(RunConfig):
    """A run's settings with those of the sweep; a trial is this without `sweep`, and with sampled values."""

    sweep: Sweep

    @property
    def run_settings(self) -> Settings:
        """What every trial starts from."""
        settings = plain(self)
        del settings["sweep"]
        return settings


def load_sweep(path: str | Path, overrides: Sequence[str] = ()) -> SweepConfig:
    """The sweep at `path`, merged with its parents and with `key.path=value` overrides.

    One ConfigError reports all problems.
    """
    layers = read_layers(Path(path), overrides)
    settings = merged(layers)
    sweep = settings.get("sweep")
    if not isinstance(sweep, dict):
        raise ConfigError(
            f"{path}: must have a `sweep` section with name, trials, metric and space;"
            " to train it once: loratrack run"
        )
    space = sweep.get("space")
    if isinstance(space, dict):
        # Paths among the choices start where the file lies, as all its paths do.
        folder = Path(path).resolve().parent
        space = {key: _with_whole_paths(str(key), value, folder) for key, value in space.items()}
        settings = {**settings, "sweep": {**sweep, "space": space}}
    settings.setdefault("exp_id", sweep.get("name"))
    try:
        return with_known_metrics(SweepConfig.model_validate(settings))
    except ValidationError as error:
        problems = problems_of(settings, error, str(path), layers, SweepConfig)
        raise ConfigError(problems_message(str(path), problems, "invalid setting")) from None


def with_known_metrics(config: SweepConfig) -> SweepConfig:
    """With one task `avg_f1` is its `f1`, so that a parent may say it for any number of tasks."""
    if len(config.tasks) != 1:
        return config
    names = tuple(name.removeprefix("avg_") for name in config.sweep.metrics)
    metric = names[0] if isinstance(config.sweep.metric, str) else names
    return config.model_copy(update={"sweep": config.sweep.model_copy(update={"metric": metric})})


def _with_whole_paths(key: str, value: object, folder: Path) -> object:
    section, _, name = key.partition(".")
    if not isinstance(value, dict) or not isinstance(value.get("choice"), list):
        return value
    choices = []
    for choice in value["choice"]:
        whole = with_paths({section: {name: choice}}, lambda path: os.path.normpath(folder / path))
        choices.append(whole[section][name])
    return {**value, "choice": choices}
