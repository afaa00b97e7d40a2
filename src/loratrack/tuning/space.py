"""Spaces: from what a sweep varies to the settings of one trial."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from graphlib import TopologicalSorter
from typing import Any, Protocol

from loratrack.config import RunConfig, flat
from loratrack.config.files import parse
from loratrack.config.sweep import Choice, Int, Log, Simplex, Space, SweepConfig, Times, Uniform

Values = dict[str, Any]
"""Settings by their dotted names."""
Scalar = bool | int | float | str | None
"""What Optuna stores of one parameter."""

WEIGHT_DIGITS = 6


class Suggests(Protocol):
    """What is used of a trial of Optuna."""

    def suggest_categorical(self, name: str, choices: Sequence[Scalar]) -> Scalar: ...
    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float: ...
    def suggest_int(self, name: str, low: int, high: int) -> int: ...


class GivenValues:
    """A trial that suggests the given values, and lists those it was asked for."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self.given = given
        self.asked: Values = {}

    def suggest_categorical(self, name: str, choices: Sequence[Scalar] = ()) -> Any:
        self.asked[name] = self.given[name]
        return self.given[name]

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        return float(self.suggest_categorical(name))

    def suggest_int(self, name: str, low: int, high: int) -> int:
        return int(self.suggest_categorical(name))


def sample(trial: Suggests, config: SweepConfig) -> Values:
    """The settings that this trial varies, without those whose `when` does not hold."""
    settings = flat(config.run_settings)
    values: Values = {}
    for key in in_order(config.sweep.space):
        space = config.sweep.space[key]
        if not applies(space, settings):
            continue
        value: object
        match space:
            case Choice():
                stored = [as_stored(choice) for choice in space.choice]
                value = space.choice[stored.index(trial.suggest_categorical(key, stored))]
            case Log():
                value = trial.suggest_float(key, *space.log, log=True)
            case Uniform():
                value = trial.suggest_float(key, *space.uniform)
            case Int():
                value = trial.suggest_int(key, int(space.int[0]), int(space.int[1]))
            case Times():
                factor: Any = space.times
                if not isinstance(factor, float):
                    factor = trial.suggest_categorical(f"{key}.times", factor)
                value = float(settings[space.of]) * factor
            case Simplex():
                # Evenly spread over all weights that sum to 1: each task but the last takes a share of
                # what is left. With two tasks the number that Optuna sees is the first one's weight.
                left, weights = 1.0, dict[str, float]()
                for index, task in enumerate(config.tasks[:-1]):
                    draw = trial.suggest_float(f"{key}.{task}", 0.0, 1.0)
                    share = 1 - (1 - draw) ** (1 / (len(config.tasks) - 1 - index))
                    weights[task] = round(min(left, left * share), WEIGHT_DIGITS)
                    left = max(0.0, round(left - weights[task], WEIGHT_DIGITS))
                value = {**weights, config.tasks[-1]: left}
        values[key] = settings[key] = value
    return values


def trial_config(config: SweepConfig, number: int, values: Mapping[str, Any]) -> RunConfig:
    """A run like any other; ConfigError where the sampled settings do not fit together."""
    settings = config.run_settings  # a new copy each time, so it may be changed in place
    for key, value in values.items():
        *sections, name = key.split(".")
        section = settings
        for one in sections:
            section = section[one]
        section[name] = value
    settings["exp_id"] = f"{config.sweep.name}-{number}"
    return parse(settings, source=f"trial {number} of {config.sweep.name}")


def replay(config: SweepConfig, params: Mapping[str, Any]) -> Values:
    """The settings of a trial whose parameters Optuna stored as `params`."""
    return sample(GivenValues(params), config)


def in_order(space: Mapping[str, Space]) -> list[str]:
    """The keys, each behind those that it depends on; graphlib.CycleError when there is no such order."""
    return list(
        TopologicalSorter({key: needs(one) & set(space) for key, one in space.items()}).static_order()
    )


def needs(space: Space) -> set[str]:
    """The settings that have a say in this one."""
    return set(space.when) | ({space.of} if isinstance(space, Times) else set())


def applies(space: Space, settings: Mapping[str, Any]) -> bool:
    """Whether `when` holds for these settings, which may still lack some."""
    for key, condition in space.when.items():
        values = condition if isinstance(condition, list) else [condition]
        if _comparable(settings.get(key)) not in [_comparable(value) for value in values]:
            return False
    return True


def _comparable(value: object) -> object:
    """Settings are text in a file and typed in a config: `true` is True, and `1e-3` is 0.001."""
    return value if isinstance(value, list | tuple) else as_stored(str(value).lower())


def parameters(config: SweepConfig) -> list[str]:
    """The names under which Optuna stores what is drawn, whether it applies in each trial or not."""
    names: list[str] = []
    for key, one in config.sweep.space.items():
        match one:
            case Simplex():
                names += [f"{key}.{task}" for task in config.tasks[:-1]]
            case Times():
                names += [] if isinstance(one.times, float) else [f"{key}.times"]
            case _:
                names.append(key)
    return names


def combinations(config: SweepConfig) -> Iterator[Values]:
    """The parameters of each point of a grid as Optuna stores them, each point once."""
    space = config.sweep.space
    points: dict[str, list[Scalar]] = {}
    for key, one in space.items():
        match one:
            case Choice():
                points[key] = [as_stored(value) for value in one.choice]
            case Int():
                points[key] = [*range(int(one.int[0]), int(one.int[1]) + 1)]
            case Times():
                points[f"{key}.times"] = [one.times] if isinstance(one.times, float) else [*one.times]
            case _:
                raise AssertionError("the check lets no other kind into a grid")
    # A single factor of `times` is not suggested, so Optuna knows no parameter for it.
    names = [name for name, values in points.items() if len(values) > 1 or name in space]
    seen: set[str] = set()
    for values in itertools.product(*points.values()):
        trial = GivenValues(dict(zip(points, values, strict=True)))
        sample(trial, config)
        # Points that differ only in settings that do not apply there are one.
        point = {name: trial.asked[name] for name in names if name in trial.asked}
        text = json.dumps(point, sort_keys=True)
        if text not in seen:
            seen.add(text)
            yield point


def as_stored(value: object) -> Scalar:
    """A choice as Optuna stores it: a number where it is one, else text; lists and mappings as JSON."""
    if value is None or isinstance(value, int | float):
        return value
    if not isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value
