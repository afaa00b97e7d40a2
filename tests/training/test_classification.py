"""Scores, confusions and losses of a classification."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from numpy.typing import NDArray

from loratrack.data import TaskLabels
from loratrack.training.objectives.classification import Predictions
from loratrack.training.objectives.single_label import SingleLabel

TRUTH = {"risk": np.array([0, 1, 1, 0]), "taken": np.array([1, 1, 0, 0])}
PREDICTED = {"risk": np.array([0, 1, 0, 0]), "taken": np.array([1, 1, 0, 0])}
CLASSES = {"risk": 3, "taken": 2}

Ids = Mapping[str, NDArray[np.int64]]


def predictions(classes: Mapping[str, int], truth: Ids, predicted: Ids) -> Predictions:
    tasks = []
    for column, (name, count) in enumerate(classes.items()):
        labels = TaskLabels(name, tuple("abc"[:count]), tuple(range(count)))
        tasks.append(SingleLabel(labels, slice(column, column + 1), np.zeros((4, 2), dtype=np.int64)))
    true, told = ({task: ids[:, None] for task, ids in each.items()} for each in (truth, predicted))
    return Predictions(tasks, true, told, loss=0)


def one_task(truth: NDArray[np.int64], predicted: NDArray[np.int64], classes: int) -> Mapping[str, float]:
    return predictions({"label": classes}, {"label": truth}, {"label": predicted}).scores()


def test_each_task_and_the_averages_are_scored() -> None:
    values = predictions(CLASSES, TRUTH, PREDICTED).scores()
    assert values["risk_accuracy"] == 0.75
    assert values["risk_f1"] == pytest.approx((0.8 + 2 / 3) / 2)
    assert values["taken_accuracy"] == values["taken_f1"] == 1
    assert values["avg_accuracy"] == pytest.approx(0.875)
    assert values["avg_f1"] == pytest.approx((values["risk_f1"] + 1) / 2)
    # Validation has no row of the third risk.
    assert values["risk_f1_all_labels"] == pytest.approx((0.8 + 2 / 3 + 0) / 3)
    assert values["taken_f1_all_labels"] == 1
    assert values["avg_f1_all_labels"] == pytest.approx((values["risk_f1_all_labels"] + 1) / 2)
    assert len(values) == 9


def test_one_task_has_plain_names() -> None:
    assert one_task(TRUTH["taken"], PREDICTED["taken"], 2) == {"accuracy": 1.0, "f1": 1.0}


def test_a_perfect_model_has_an_f1_of_1_where_a_label_has_no_row() -> None:
    values = one_task(TRUTH["risk"], TRUTH["risk"], 3)
    assert values == {"accuracy": 1.0, "f1": 1.0, "f1_all_labels": pytest.approx(2 / 3)}


def test_a_label_that_is_predicted_and_never_true_counts_in_macro_f1() -> None:
    values = one_task(TRUTH["risk"], np.array([0, 1, 2, 0]), 3)
    assert values["f1"] == pytest.approx((1 + 2 / 3 + 0) / 3)


def test_the_answers_are_the_true_and_the_predicted_labels() -> None:
    truth, predicted = predictions(CLASSES, TRUTH, PREDICTED).answers()["risk"]
    assert (truth.tolist(), predicted.tolist()) == ([0, 1, 1, 0], [0, 1, 0, 0])
