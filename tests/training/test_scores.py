from __future__ import annotations

import numpy as np
import pytest

from loratrack.training.objectives.scores import confusions, scores

TRUTH = {"risk": np.array([0, 1, 1, 0]), "taken": np.array([1, 1, 0, 0])}
SAID = {"risk": np.array([0, 1, 0, 0]), "taken": np.array([1, 1, 0, 0])}
CLASSES = {"risk": 3, "taken": 2}


def test_each_task_and_the_averages_are_scored() -> None:
    values = scores(TRUTH, SAID, CLASSES)
    assert values["risk_accuracy"] == 0.75
    assert values["risk_f1"] == pytest.approx((0.8 + 2 / 3 + 0) / 3)
    assert values["taken_accuracy"] == values["taken_f1"] == 1
    assert values["avg_accuracy"] == pytest.approx(0.875)
    assert values["avg_f1"] == pytest.approx((values["risk_f1"] + 1) / 2)
    assert len(values) == 6


def test_one_task_has_plain_names() -> None:
    values = scores({"label": TRUTH["taken"]}, {"label": SAID["taken"]}, {"label": 2})
    assert values == {"accuracy": 1.0, "f1": 1.0}


def test_a_label_that_never_occurs_counts_in_macro_f1() -> None:
    with_all = scores({"label": TRUTH["risk"]}, {"label": SAID["risk"]}, {"label": 3})
    without = scores({"label": TRUTH["risk"]}, {"label": SAID["risk"]}, {"label": 2})
    assert with_all["f1"] == pytest.approx(without["f1"] * 2 / 3)


def test_confusion_rows_are_the_truth() -> None:
    assert confusions(TRUTH, SAID, CLASSES)["risk"].tolist() == [[2, 0, 0], [1, 1, 0], [0, 0, 0]]
