"""What came of a sweep: its best trials, and what mattered."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

SETTINGS = "settings"
"""What a trial's settings are called among its attributes."""
METHOD = "PED-ANOVA"
MIN_TRIALS = 50
"""Importances from fewer finished trials are weak evidence."""
MIN_TRIALS_FOR_IMPORTANCE = 4


@dataclass(frozen=True)
class Report:
    name: str
    metrics: tuple[str, ...]
    counts: dict[str, int]
    """How many trials ended in which way."""
    best: tuple[FrozenTrial, ...]
    """Best first; of several objectives the whole front."""
    settings: tuple[str, ...]
    """The names of what was varied."""
    importances: dict[str, dict[str, float]]
    """For each metric the share of each setting."""
    evidence: str
    """Method and number of trials behind the importances."""


def report(study: optuna.Study) -> Report:
    metrics = tuple(study.metric_names or ["value"])
    trials = study.get_trials(deepcopy=False)
    states = [trial.state.name.lower() for trial in trials]
    finished = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    sign = -1 if study.directions[0].name == "MAXIMIZE" else 1
    candidates = finished if len(study.directions) == 1 else study.best_trials
    importances: dict[str, dict[str, float]] = {}
    if len(finished) < MIN_TRIALS_FOR_IMPORTANCE:
        evidence = f"{len(finished)} finished trials are too few to say what matters"
    else:
        importances = {metric: _importance(study, index) for index, metric in enumerate(metrics)}
        weak = f"; weak evidence, since it is fewer than {MIN_TRIALS}" if len(finished) < MIN_TRIALS else ""
        evidence = f"{METHOD} over {len(finished)} finished trials{weak}"
    return Report(
        name=study.study_name,
        metrics=metrics,
        counts={state: states.count(state) for state in dict.fromkeys(states)},
        best=tuple(sorted(candidates, key=lambda trial: sign * trial.values[0])),
        settings=tuple(dict.fromkeys(name for trial in finished for name in settings_of(trial))),
        importances=importances,
        evidence=evidence,
    )


def settings_of(trial: FrozenTrial) -> dict[str, Any]:
    """What a trial trained with: alpha 16, where Optuna knows that it is twice the rank."""
    settings: dict[str, Any] = trial.user_attrs.get(SETTINGS) or trial.params
    return settings


def _importance(study: optuna.Study, objective: int) -> dict[str, float]:
    """The share of each setting in the differences of this objective."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna calls its importances experimental
        return dict(optuna.importance.get_param_importances(study, target=target_of(study, objective)))


def target_of(study: optuna.Study, objective: int) -> Callable[[FrozenTrial], float] | None:
    """What importances are computed for: PED-ANOVA takes low values of a target for the good ones.

    None with one objective, whose direction it looks up by itself.
    """
    if len(study.directions) == 1:
        return None
    sign = -1 if study.directions[objective].name == "MAXIMIZE" else 1
    return lambda trial: sign * float(trial.values[objective])
