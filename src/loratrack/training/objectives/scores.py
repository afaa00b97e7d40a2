"""Scores of one evaluation: accuracy and macro-F1 for each task, and their averages."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score

Predictions = Mapping[str, NDArray[np.int64]]


def scores(truth: Predictions, predicted: Predictions, classes: Mapping[str, int]) -> dict[str, float]:
    """Macro-F1 is over all labels of the task, whether they occur here or not."""
    single = len(classes) == 1
    result: dict[str, float] = {}
    for task, count in classes.items():
        prefix = "" if single else f"{task}_"
        labels = np.arange(count)
        result[f"{prefix}accuracy"] = float(accuracy_score(truth[task], predicted[task]))
        result[f"{prefix}f1"] = float(
            f1_score(truth[task], predicted[task], labels=labels, average="macro", zero_division=0)
        )
    if not single:
        for measure in ("accuracy", "f1"):
            result[f"avg_{measure}"] = float(np.mean([result[f"{task}_{measure}"] for task in classes]))
    return result


def confusions(
    truth: Predictions, predicted: Predictions, classes: Mapping[str, int]
) -> dict[str, NDArray[np.int64]]:
    """For each task a matrix: rows are the true labels, columns the predicted ones."""
    return {
        task: confusion_matrix(truth[task], predicted[task], labels=np.arange(count))
        for task, count in classes.items()
    }
