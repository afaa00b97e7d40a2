"""Whether a training has learned anything at all: what nobody sees in a score of 0.86 by itself.

    learned_nothing(member.config, member.history, outcome.answers)
    # "learned nothing of is_adopt (61.7 % right, 61.7 % by always giving the most frequent label); try …"

A task has learned nothing when its answers agree with the labels no better than chance: by Cohen's kappa,
which is 0 for answers that are always the same as well as for answers that are drawn by lot. Neither has a
task whose answers are hardly better than chance and whose loss has hardly moved. The measurements behind the
bounds are in docs/log.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from loratrack.config import RunConfig
from loratrack.training.objectives.objective import Answers

LEARNED_NOTHING = "learned_nothing"
"""The tag of such a run; it holds the sentence."""
LOWEST_KAPPA = 0.05
"""Of a task that has learned something; on few rows it must be above its standard error, too."""
HARDLY_MOVED, LOW_KAPPA = 0.02, 0.2
"""A loss that fell by less than this share, in a task that agrees with its labels no better than this."""


def learned_nothing(
    config: RunConfig, history: Sequence[Mapping[str, float]], answers: Mapping[str, Answers]
) -> str | None:
    """What was not learned and what to try; None for a training that has learned all its tasks.

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
            right, most_frequent = np.mean(truth == predicted), np.bincount(truth).max() / len(truth)
            tasks.append(
                f"{of_task} ({100 * right:.1f} % right, {100 * most_frequent:.1f} % by always giving the most"
                " frequent label)"
            )
    if not tasks:
        return None
    loss = "" if has_moved else f"; the loss hardly moved, from {losses[0]:.3f} to {losses[-1]:.3f}"
    return (
        f"learned nothing{' and'.join(tasks)}{loss}; try a higher train.lr (now {config.train.lr:g}), more"
        f" train.epochs (now {config.train.epochs}), or a base that knows the language of the texts"
    )


def agreement(truth: NDArray[np.int64], predicted: NDArray[np.int64]) -> tuple[float, float]:
    """Cohen's kappa and its standard error under chance; infinite where all rows have one label."""
    if (truth == truth[0]).all():
        return math.inf, 0.0
    size = int(max(truth.max(), predicted.max())) + 1
    shares = [np.bincount(labels, minlength=size) / len(truth) for labels in (truth, predicted)]
    by_chance = float(shares[0] @ shares[1])
    right = float(np.mean(truth == predicted))
    error = math.sqrt(by_chance * (1 - by_chance) / len(truth))
    return (right - by_chance) / (1 - by_chance), error / (1 - by_chance)
