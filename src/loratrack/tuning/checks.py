"""What can be wrong with a sweep beyond its form: reported at the start, all at once."""

from __future__ import annotations

import math
from graphlib import CycleError

from loratrack.config import RunConfig, flat
from loratrack.config.problems import closest_setting, setting_names
from loratrack.config.sweep import Choice, Int, Log, Simplex, Space, SweepConfig, Times, Uniform
from loratrack.config.train import AUTO
from loratrack.errors import ConfigError, counted, problems_message
from loratrack.tuning import objectives
from loratrack.tuning.space import applies, in_order, needs, trial_config

RATE = "train.lr"
MAX_POINTS = 100_000
"""Of a grid; Optuna stores each before the first trial."""
NOT_VARIED = ("exp_id", "description", "project", "register", "base_config", "resources.")


def check(config: SweepConfig, source: str) -> None:
    """One ConfigError reports all problems of the sweep in the file `source`."""
    # The values are tried only where the rest is right: they would repeat its problems.
    problems = _setting_problems(config) or _value_problems(config)
    if problems:
        raise ConfigError(problems_message(source, problems, "invalid setting"))


def _setting_problems(config: SweepConfig) -> list[str]:
    """Names that are no settings, and settings that Optuna cannot combine."""
    sweep, space, problems = config.sweep, config.sweep.space, list[str]()
    names = {name for name in setting_names(RunConfig) if not name.startswith(NOT_VARIED)}
    for key, one in space.items():
        if key.startswith(NOT_VARIED):
            problems.append(f"sweep.space.{key}: must be a setting that changes the training, got {key!r}")
        for name, source in [(key, ""), *((other, f" (in {key})") for other in sorted(needs(one)))]:
            if name not in names and not name.startswith(NOT_VARIED):
                near = closest_setting(name)
                instead = f"; did you mean {near}?" if near else ""
                problems.append(f"sweep.space.{name}: no such setting{instead}{source}")
        if isinstance(one, Times) and one.of in names and one.of not in space:
            base = flat(config.run_settings)[one.of]
            if not _is_number(base):
                problems.append(
                    f"sweep.space.{key}.of: must be a setting that is a number, got {one.of}, which is"
                    f" {base!r}; give it a number, or vary it too"
                )
    try:
        in_order(space)
    except CycleError as error:
        circle = " -> ".join(error.args[1])
        problems.append(f"sweep.space: settings must not depend on each other in a circle: {circle}")

    metrics, directions = objectives.known_metrics(config), objectives.directions(sweep)
    problems += [
        f"sweep.metric: must be one of {', '.join(metrics)}, got {metric!r}"
        for metric in sweep.metrics
        if metric not in metrics
    ]
    count, named = len(sweep.metrics), ", ".join(sweep.metrics)
    if len(set(sweep.metrics)) < count:
        problems.append(f"sweep.metric: must name different metrics, got {named}")
    if len(directions) != count:
        problems.append(
            f"sweep.direction: needs one for each of {counted(count, 'metric')},"
            f" got {len(directions)}: {', '.join(directions)}"
        )
    if count > 1 and sweep.pruner not in ("auto", "none"):
        problems.append(
            f"sweep.pruner: Optuna cannot prune by {count} objectives ({named}),"
            f" got {sweep.pruner!r}; write pruner: none, or name one metric"
        )

    endless = [key for key, one in space.items() if not isinstance(one, Choice | Int | Times)]
    if sweep.sampler == "grid" and endless:
        problems.append(
            "sweep.sampler: a grid needs choice, int or times for every setting,"
            f" got none for {', '.join(endless)}"
        )
    elif sweep.sampler == "grid" and (points := math.prod(map(num_points, space.values()))) > MAX_POINTS:
        problems.append(
            f"sweep.space: a grid has at most {MAX_POINTS:,} points, got {points:,}; list fewer values,"
            " or take sampler: random"
        )
    if sweep.sampler == "cmaes" and not any(isinstance(one, Log | Uniform | Int) for one in space.values()):
        problems.append(
            "sweep.sampler: cmaes needs at least one log, uniform or int setting; take tpe or random"
        )
    if sweep.sampler == "cmaes" and count > 1:
        problems.append(
            "sweep.sampler: cmaes has one objective; take tpe, nsga2 or random, or name one metric"
        )
    for key, one in space.items():
        if isinstance(one, Simplex) and (key != "train.loss_weight" or len(config.tasks) < 2):
            problems.append(
                f"sweep.space.{key}: simplex is for train.loss_weight of two tasks or more;"
                f" the tasks are {', '.join(config.tasks)}"
            )
    return problems


def num_points(space: Space) -> int:
    """How many values a grid tries of a setting."""
    match space:
        case Choice():
            return len(space.choice)
        case Int():
            return int(space.int[1]) - int(space.int[0]) + 1
        case Times():
            return 1 if isinstance(space.times, float) else len(space.times)
        case _:
            return 1


def _value_problems(config: SweepConfig) -> list[str]:
    """Each value alone, on the settings that all trials start from; and how long a trial may train."""
    sweep, problems = config.sweep, list[str]()
    # A rate that is varied is a number in every trial, so what refuses `auto` has nothing to refuse.
    rates = [rate for rate in _examples(sweep.space.get(RATE)) if rate != AUTO]
    start = {RATE: rates[0]} if rates else {}
    for key, space in sweep.space.items():
        given = start | {
            name: condition[0] if isinstance(condition, list) else condition
            for name, condition in space.when.items()
        }
        assert applies(space, given)
        for value in _examples(space):
            try:
                trial_config(config, 0, {**given, key: value})
            except ConfigError as error:
                lines = str(error).splitlines()[1:]
                problems += [f"sweep.space.{key}: with {value!r}: {line.strip()}" for line in lines]
    epochs = most_epochs(config)
    is_pruned = objectives.pruner_name(sweep) != "none"
    if is_pruned and sweep.min_epochs >= epochs and "min_epochs" in sweep.model_fields_set:
        problems.append(
            f"sweep.min_epochs ({sweep.min_epochs}) must be below train.epochs ({epochs}), or nothing is ever"
            " pruned; lower it, or write pruner: none"
        )
    return problems


def most_epochs(config: SweepConfig) -> int:
    space = config.sweep.space.get("train.epochs")
    return config.train.epochs if space is None else max(int(float(str(one))) for one in _examples(space))


def _is_number(value: object) -> bool:
    try:
        float(str(value))
    except ValueError:
        return False
    return True


def _examples(space: Space | None) -> tuple[object, ...]:
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
