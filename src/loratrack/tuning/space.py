"""Spaces: from what a sweep varies to the settings of one trial."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from graphlib import TopologicalSorter
from typing import Any, Protocol

from loratrack.config import RunConfig, flat
from loratrack.config.files import parse
from loratrack.config.layers import Settings
from loratrack.config.sweep import Choice, Int, Log, Simplex, Space, SweepConfig, Times, Uniform

Values = dict[str, Any]
"""Settings by their dotted names."""

WEIGHT_DIGITS = 6


class Suggests(Protocol):
    """What a trial of Optuna offers."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any: ...
    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float: ...
    def suggest_int(self, name: str, low: int, high: int) -> int: ...


def sample(trial: Suggests, config: SweepConfig) -> Values:
    """The settings that this trial varies, without those whose `when` does not hold."""
    known = flat(config.run_settings)
    values: Values = {}
    for key in in_order(config.sweep.space):
        space = config.sweep.space[key]
        if applies(space, known):
            values[key] = known[key] = _suggest(trial, key, space, known, config.tasks)
    return values


def trial_config(config: SweepConfig, number: int, values: Mapping[str, Any]) -> RunConfig:
    """A run like any other; ConfigError where the sampled settings do not fit together."""
    settings = config.run_settings
    for key, value in values.items():
        settings = _replaced(settings, key.split("."), value)
    settings["exp_id"] = f"{config.sweep.name}-{number}"
    return parse(settings, source=f"trial {number} of {config.sweep.name}")


def replay(config: SweepConfig, params: Mapping[str, Any]) -> Values:
    """The settings of a trial of which Optuna kept `params`."""
    return sample(_Recorder(params), config)


def in_order(space: Mapping[str, Space]) -> list[str]:
    """The keys, each behind those that it depends on; graphlib.CycleError when there is no such order."""
    return list(
        TopologicalSorter({key: needs(one) & set(space) for key, one in space.items()}).static_order()
    )


def needs(space: Space) -> set[str]:
    """The settings that have a say in this one."""
    return set(space.when) | ({space.of} if isinstance(space, Times) else set())


def applies(space: Space, known: Mapping[str, Any]) -> bool:
    """Whether `when` holds for the settings known so far."""
    return all(
        any(_same(known.get(key), value) for value in (wanted if isinstance(wanted, list) else [wanted]))
        for key, wanted in space.when.items()
    )


def combinations(config: SweepConfig) -> Iterator[dict[str, Any]]:
    """What Optuna is told for each point of a grid, each point once."""
    seen: set[str] = set()
    space = config.sweep.space
    finite = {key: _points(key, one) for key, one in space.items()}
    names = [name for name, points in finite.values() if len(points) > 1 or name in space]
    for points in itertools.product(*(points for _, points in finite.values())):
        fixed = dict(zip((name for name, _ in finite.values()), points, strict=True))
        used = _Recorder(fixed)
        sample(used, config)
        kept = {name: used.asked[name] for name in names if name in used.asked}
        text = json.dumps(kept, sort_keys=True)
        if text not in seen:
            seen.add(text)
            yield kept


def shown(value: Any) -> Any:
    """A choice as Optuna keeps it: a number where it is one, else text; lists and mappings as JSON."""
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


def _suggest(trial: Suggests, key: str, space: Space, known: Mapping[str, Any], tasks: Sequence[str]) -> Any:
    match space:
        case Choice():
            told = [shown(value) for value in space.choice]
            return space.choice[told.index(trial.suggest_categorical(key, told))]
        case Log():
            return trial.suggest_float(key, *space.log, log=True)
        case Uniform():
            return trial.suggest_float(key, *space.uniform)
        case Int():
            return trial.suggest_int(key, int(space.int[0]), int(space.int[1]))
        case Times():
            return float(known[space.of]) * _factor(trial, key, space)
        case Simplex():
            return _weights(trial, key, tasks)


def _factor(trial: Suggests, key: str, space: Times) -> float:
    if isinstance(space.times, float):
        return space.times
    factor: float = trial.suggest_categorical(f"{key}.times", list(space.times))
    return factor


def _weights(trial: Suggests, key: str, tasks: Sequence[str]) -> dict[str, float]:
    """Evenly spread over all weights that sum to 1: each task but the last takes a share of what is left.

    With two tasks the number that Optuna sees is the first one's weight.
    """
    left = 1.0
    weights: dict[str, float] = {}
    for place, task in enumerate(tasks[:-1]):
        drawn = trial.suggest_float(f"{key}.{task}", 0.0, 1.0)
        share = 1 - (1 - drawn) ** (1 / (len(tasks) - 1 - place))
        weights[task] = round(min(left, left * share), WEIGHT_DIGITS)
        left = max(0.0, round(left - weights[task], WEIGHT_DIGITS))
    weights[tasks[-1]] = left
    return weights


def _points(key: str, space: Space) -> tuple[str, list[Any]]:
    """The name that Optuna knows, and all its values."""
    match space:
        case Choice():
            return key, [shown(value) for value in space.choice]
        case Int():
            return key, list(range(int(space.int[0]), int(space.int[1]) + 1))
        case Times():
            return f"{key}.times", [space.times] if isinstance(space.times, float) else list(space.times)
        case _:
            raise AssertionError("the check lets no other kind into a grid")


class _Recorder:
    """Suggests what is fixed, and notes what was asked for."""

    def __init__(self, fixed: Mapping[str, Any]) -> None:
        self.fixed = fixed
        self.asked: dict[str, Any] = {}

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._note(name)

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        return float(self._note(name))

    def suggest_int(self, name: str, low: int, high: int) -> int:
        return int(self._note(name))

    def _note(self, name: str) -> Any:
        self.asked[name] = self.fixed[name]
        return self.fixed[name]


def _replaced(settings: Settings, path: Sequence[str], value: Any) -> Settings:
    if len(path) == 1:
        return {**settings, path[0]: value}
    return {**settings, path[0]: _replaced(settings[path[0]], path[1:], value)}


def _same(one: Any, other: Any) -> bool:
    """Settings are text in a file and typed in a config: `true` is True, and `1e-3` is 0.001."""
    one, other = (
        shown(str(value).lower()) if not isinstance(value, list | tuple) else value for value in (one, other)
    )
    return bool(one == other)
