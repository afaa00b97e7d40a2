"""What came of a sweep: which settings mattered."""

from __future__ import annotations

import optuna
import pytest

from loratrack.config.sweep import Direction
from loratrack.tuning.report import report


def shares(*directions: Direction) -> dict[str, float]:
    """Of the first objective, by the same 100 trials; the others are noise."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(directions=directions, sampler=optuna.samplers.RandomSampler(seed=0))

    def objective(trial: optuna.Trial) -> tuple[float, ...]:
        a, b = trial.suggest_float("a", 0, 1), trial.suggest_float("b", 0, 1)
        # near its top `a` alone decides, far below it `b` alone
        value = a if a > 0.8 else -1 - b
        return (value if directions[0] == "maximize" else -value, 0.0)[: len(directions)]

    study.optimize(objective, n_trials=100)
    return next(iter(report(study).importances.values()))


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_one_of_two_objectives_has_the_importances_that_it_has_alone(direction: Direction) -> None:
    alone, first_of_two = shares(direction), shares(direction, "minimize")
    assert alone["a"] > 0.8
    assert first_of_two == pytest.approx(alone)
