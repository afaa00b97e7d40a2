"""What can be wrong with a sweep beyond its form: told at the start, all at once."""

from __future__ import annotations

from collections.abc import Iterator
from graphlib import CycleError
from typing import Any

from loratrack.config import RunConfig
from loratrack.config.problems import closest_setting, setting_names
from loratrack.config.sweep import Choice, Int, Log, Simplex, Space, SweepConfig, Times, Uniform
from loratrack.errors import ConfigError, problems_message
from loratrack.tuning import objectives
from loratrack.tuning.space import applies, in_order, needs, trial_config

NOT_VARIED = ("exp_id", "description", "project", "register", "base_config", "resources.")


def check(config: SweepConfig, place: str) -> None:
    """ConfigError tells all faults of the sweep at `place`."""
    told = [*_name_faults(config), *_metric_faults(config), *_sampler_faults(config)]
    told = told or [*_value_faults(config), *_pruner_faults(config)]
    if told:
        raise ConfigError(problems_message(place, told, "invalid setting"))


def _name_faults(config: SweepConfig) -> Iterator[str]:
    names = {name for name in setting_names(RunConfig) if not name.startswith(NOT_VARIED)}
    for key, space in config.sweep.space.items():
        if key.startswith(NOT_VARIED):
            yield f"sweep.space.{key}: must be a setting that changes the training, got {key!r}"
        for name, what in [(key, ""), *((other, f" (in {key})") for other in sorted(needs(space)))]:
            if name not in names and not name.startswith(NOT_VARIED):
                close = closest_setting(name)
                instead = f"; did you mean {close}?" if close else ""
                yield f"sweep.space.{name}: no such setting{instead}{what}"
    try:
        in_order(config.sweep.space)
    except CycleError as error:
        yield f"sweep.space: settings must not depend on each other in a circle: {' -> '.join(error.args[1])}"


def _metric_faults(config: SweepConfig) -> Iterator[str]:
    sweep, known = config.sweep, objectives.known_metrics(config)
    for metric in sweep.metrics:
        if metric not in known:
            yield f"sweep.metric: must be one of {', '.join(known)}, got {metric!r}"
    if len(set(sweep.metrics)) < len(sweep.metrics):
        yield f"sweep.metric: must name different metrics, got {', '.join(sweep.metrics)}"
    count, directions = len(sweep.metrics), objectives.directions(sweep)
    if len(directions) != count:
        yield (
            f"sweep.direction: needs one for each of {count} metric(s),"
            f" got {len(directions)}: {', '.join(directions)}"
        )
    if count > 1 and sweep.pruner not in ("auto", "none"):
        yield (
            f"sweep.pruner: Optuna cannot prune by {count} objectives ({', '.join(sweep.metrics)}),"
            f" got {sweep.pruner!r}; write pruner: none, or name one metric"
        )


def _sampler_faults(config: SweepConfig) -> Iterator[str]:
    space = config.sweep.space
    if config.sweep.sampler == "grid":
        endless = [key for key, one in space.items() if not isinstance(one, Choice | Int | Times)]
        if endless:
            yield (
                "sweep.sampler: a grid needs choice, int or times for every setting,"
                f" got none for {', '.join(endless)}"
            )
    if config.sweep.sampler == "cmaes" and not any(
        isinstance(one, Log | Uniform | Int) for one in space.values()
    ):
        yield "sweep.sampler: cmaes needs at least one log, uniform or int setting; take tpe or random"
    if config.sweep.sampler == "cmaes" and len(config.sweep.metrics) > 1:
        yield "sweep.sampler: cmaes has one objective; take tpe, nsga2 or random, or name one metric"
    for key, one in space.items():
        if isinstance(one, Simplex) and (key != "train.loss_weight" or len(config.tasks) < 2):
            tasks = ", ".join(config.tasks)
            yield (
                f"sweep.space.{key}: simplex is for train.loss_weight of two tasks or more;"
                f" the tasks are {tasks}"
            )


def _pruner_faults(config: SweepConfig) -> Iterator[str]:
    sweep, epochs = config.sweep, most_epochs(config)
    if (
        objectives.pruner_name(sweep) != "none"
        and sweep.min_epochs >= epochs
        and "min_epochs" in sweep.model_fields_set
    ):
        yield (
            f"sweep.min_epochs ({sweep.min_epochs}) must be below train.epochs ({epochs}), or nothing is ever"
            " pruned; lower it, or write pruner: none"
        )


def most_epochs(config: SweepConfig) -> int:
    space = config.sweep.space.get("train.epochs")
    values = [config.train.epochs] if space is None else [int(float(value)) for value in _examples(space)]
    return max(values)


def _value_faults(config: SweepConfig) -> Iterator[str]:
    """Each value alone, on the settings that all trials start from."""
    for key, space in config.sweep.space.items():
        given = {
            name: (wanted[0] if isinstance(wanted, list) else wanted) for name, wanted in space.when.items()
        }
        assert applies(space, given)
        for value in _examples(space):
            try:
                trial_config(config, 0, {**given, key: value})
            except ConfigError as error:
                yield from (
                    f"sweep.space.{key}: with {value!r}: {line.strip()}"
                    for line in str(error).splitlines()[1:]
                )


def _examples(space: Space) -> tuple[Any, ...]:
    """All values of a choice, the ends of a range."""
    match space:
        case Choice():
            return space.choice
        case Log():
            return space.log
        case Uniform():
            return space.uniform
        case Int():
            return tuple(int(end) for end in space.int)
        case _:
            return ()
