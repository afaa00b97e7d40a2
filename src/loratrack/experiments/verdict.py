"""Whether a training was worth it: what nobody sees in a score of 0.86 by itself.

    learned_nothing(member.config, member.history, outcome.answers)
    # "learned nothing of is_adopt (61.7 % right, 61.7 % by always giving the same answer)"
    against_baseline(config, metrics)
    # "worse than TF-IDF: f1 0.533 against 0.838"

A task has learned nothing when its answers agree with the labels no better than chance: by Cohen's kappa,
which is 0 for answers that are always the same as well as for answers that are drawn by lot. Neither has a
task whose answers are hardly better than chance and whose loss has hardly moved. The measurements behind the
bounds are in docs/log.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from loratrack.config import RunConfig
from loratrack.data.familiarity import HARDLY_SEEN
from loratrack.metrics import BASELINE
from loratrack.training.objectives.objective import Answers
from loratrack.training.objectives.task import Labels

LEARNED_NOTHING = "learned_nothing"
"""The tag of such a run; it holds the sentence."""
LOWEST_KAPPA = 0.05
"""Of a task that has learned something; on few rows it must be above its standard error, too."""
HARDLY_MOVED, LOW_KAPPA = 0.02, 0.2
"""A loss that fell by less than this share, in a task that agrees with its labels no better than this."""
ALIKE = 0.005
"""Scores that differ by less are as good: another seed or other rows would differ by more."""
RATES_ALIKE = (0.5, 4)
"""Times the rate to try: nothing is said of rates between."""
MANY_CUT = 0.1
"""Share of the texts."""


def learned_nothing(
    config: RunConfig, history: Sequence[Mapping[str, float]], answers: Mapping[str, Answers]
) -> str | None:
    """What was not learned; None for a training that has learned all its tasks.

    `history`: the metrics of each epoch; `answers`: those of the epoch that is kept.
    """
    losses = [values["train/loss"] for values in history]
    has_moved = len(losses) < 2 or losses[-1] < (1 - HARDLY_MOVED) * losses[0]
    tasks = []
    for task, (truth, predicted) in answers.items():
        kappa, error = agreement(truth, predicted)
        bound = max(LOWEST_KAPPA, error) if has_moved else LOW_KAPPA
        if kappa < bound and config.loss_weights[task] > 0:
            of_task = f" of {task}" if len(answers) > 1 else ""
            by_label = "" if truth.ndim == 1 else " of the decisions on single labels"
            right, constant = np.mean(truth == predicted), np.mean(_most_frequent_shares(truth))
            tasks.append(
                f"{of_task} ({100 * right:.1f} %{by_label} right, {100 * constant:.1f} % by always giving the"
                " same answer)"
            )
    if not tasks:
        return None
    loss = "" if has_moved else f"; the loss hardly moved, from {losses[0]:.3f} to {losses[-1]:.3f}"
    return f"learned nothing{' and'.join(tasks)}{loss}"


def against_baseline(config: RunConfig, metrics: Mapping[str, float]) -> str | None:
    """The kept epoch beside the baseline, and the tasks that are worse; None where there is no baseline."""
    metric = config.main_metric
    if f"{BASELINE}{metric}" not in metrics:
        return None
    own, other = metrics[f"best_{metric}"], metrics[f"{BASELINE}{metric}"]
    if is_worse(config, metrics):
        text = f"worse than TF-IDF: {metric} {own:.3f} against {other:.3f}"
    elif abs(own - other) < ALIKE:
        text = f"as good as TF-IDF: {metric} {own:.3f} against {other:.3f}"
    else:
        text = f"beats TF-IDF by {100 * (own - other):.1f} points ({metric} {own:.3f} against {other:.3f})"
    if len(config.tasks) > 1:
        names = [f"{task}_f1" for task in config.tasks]
        pairs = {name: (metrics[f"best_{name}"], metrics[f"{BASELINE}{name}"]) for name in names}
        worse = [
            f"{name} {own:.3f} against {other:.3f}"
            for name, (own, other) in pairs.items()
            if own <= other - ALIKE
        ]
        text += f"; worse: {', '.join(worse)}" if worse else ""
    return text


def is_worse(config: RunConfig, metrics: Mapping[str, float]) -> bool:
    """Whether the kept epoch is worse than the baseline, by its main metric."""
    metric = config.main_metric
    return metrics[f"best_{metric}"] <= metrics.get(f"{BASELINE}{metric}", -math.inf) - ALIKE


def remedies(config: RunConfig, best_epoch: int, rate_to_try: float, report: Mapping[str, Any]) -> str:
    """What to try, the likeliest first; `report`: what `data_report.json` holds."""
    rate, tries = config.train.peak_rate, []
    is_foreign = report.get("vocabulary", {}).get("broken_share", 0.0) >= HARDLY_SEEN
    if is_foreign:
        tries.append("a base that knows the language of the texts")
    if not RATES_ALIKE[0] <= rate / rate_to_try <= RATES_ALIKE[1]:
        tries.append(f"train.lr={rate_to_try:g} (now {rate:g})")
    cut = report.get("tokens", {}).get("train", {}).get("truncated_share", 0.0)
    if cut > MANY_CUT:
        tries.append(
            f"a larger data.max_len (now {config.data.max_len}, which cuts {100 * cut:.0f} % of the texts)"
        )
    epochs = config.train.epochs
    if best_epoch > epochs / 2:
        tries.append(f"more train.epochs (now {epochs})")
    else:
        tries.append(f"more rows (the best epoch was {best_epoch} of {epochs})")
    if not is_foreign:
        tries.append("another base")
    return f"try {', '.join(tries[:-1])} or {tries[-1]}"


def agreement(truth: Labels, predicted: Labels) -> tuple[float, float]:
    """Cohen's kappa and its standard error under chance; infinite where all rows have one label.

    Of a multi-label task over all its labels, chance being counted for each: to know that one is frequent and
    another is rare is no agreement.
    """
    by_label = [
        (one, other)
        for one, other in zip(_columns(truth), _columns(predicted), strict=True)
        if (one != one[0]).any()
    ]
    if not by_label:
        return math.inf, 0.0
    size = int(max(truth.max(), predicted.max())) + 1
    counts = [[np.bincount(ids, minlength=size) / len(ids) for ids in pair] for pair in by_label]
    by_chance = float(np.mean([one @ other for one, other in counts]))
    right = float(np.mean([np.mean(one == other) for one, other in by_label]))
    error = math.sqrt(by_chance * (1 - by_chance) / (len(truth) * len(by_label)))
    return (right - by_chance) / (1 - by_chance), error / (1 - by_chance)


def _most_frequent_shares(truth: Labels) -> list[float]:
    return [np.bincount(column).max() / len(column) for column in _columns(truth)]


def _columns(labels: Labels) -> Labels:
    """One for a task with one label a row, else one for each label."""
    return labels.reshape(len(labels), -1).T
